"""The boundary every inference engine stands behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, ClassVar

from numpy.typing import NDArray

from srtrt.errors import (
    BackendError,
    DeviceLostError,
    DeviceMemoryError,
    ModelError,
    SrtrtError,
    UsageError,
    first_line,
)
from srtrt.packages import untried
from srtrt.runtime.cuda.device import is_lost
from srtrt.runtime.layouts import form_layouts, input_size
from srtrt.runtime.models import Model
from srtrt.runtime.ring import Arrays, Pending, RingOptions, StageTimes
from srtrt.runtime.rings import FrameRings
from srtrt.runtime.tensor_limit import TensorLimit, limit_of, tensor_limit
from srtrt.spec import Form, ModelSpec, Precision

_SLOT_BYTES = 2 * 3 * (1 + 16)
"""Bytes per LR pixel of a frame and its result, in host and device memory."""

_MEMORY_SIGNS = (
    *("bad_alloc", "bad alloc", "out of memory", "allocate memory", "failed to allocate"),
    "status_alloc_failed",  # of cuDNN and cuBLAS
)


@dataclass(frozen=True, kw_only=True)
class Capability:
    """What one backend can do on this machine with one device."""

    device: str
    """``cpu`` or ``cuda:N``."""
    precisions: tuple[Precision, ...]
    """Usable precisions, the preferred one first; empty if the device cannot be used."""
    reason: str
    """Why it can be used, or why not and what to do."""
    because: str = ""
    """Why the first precision is preferred, in few words; empty if nothing is to be said."""

    @property
    def usable(self) -> bool:
        """Whether a model can be opened there."""
        return bool(self.precisions)


def gpu_of(device: str) -> str:
    """The GPU, as ``cuda:N``, that a device means: the first where it names no other."""
    return device if device.startswith("cuda:") else "cuda:0"


def require_at_least(**limits: tuple[int, int]) -> None:
    """Refuses options that are too small.

    Args:
        limits: by the option's name its value and the least that it may be.

    Raises:
        UsageError: for the first that is less.
    """
    for name, (value, least) in limits.items():
        if value < least:
            raise UsageError(f"{name} is {value}; expected at least {least}.")


class Backend(ABC):
    """One opened network on one engine.

    A backend is a context manager. Its methods may be called from any one thread at a time.

    Attributes:
        notes: sentences worth telling the user, such as why an engine was built again.
        on_build: if set, told how far the building of an engine is: share 0..1, and what goes on.
        trust_engine: whether to load engines that another user may have written. An engine is
            code.
        engine_side: if set, one engine computes frames of all sizes up to so many LR pixels a side,
            rather than one for each size; for a backend that :attr:`takes_ranges`.
    """

    name: ClassVar[str]
    builds_engines: ClassVar[bool] = False
    """Whether :meth:`prepare` may build an engine, which takes minutes."""
    takes_ranges: ClassVar[bool] = False
    """Whether one engine can compute frames of many sizes."""
    options_type: ClassVar[type[Any]]
    """Frozen keyword-only dataclass of its settings, all of which have defaults."""
    usual_ring: ClassVar[RingOptions | None] = None
    """Frames in flight where the settings leave it open; None is one after the other."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions it stands on; their versions are noted where they were never tried."""
    bytes_per_pixel: ClassVar[int]
    """Peak memory of one stream per LR pixel, measured with the 64-feature generator in float32,
    rounded up."""

    gates_itself: ClassVar[bool] = False
    """Whether it compares each engine with float32 before it is used."""

    failures: ClassVar[tuple[type[Exception], ...]] = (RuntimeError,)
    """What the engine raises when it fails."""

    def __init__(
        self,
        model: Model,
        *,
        form: Form,
        device: str,
        precision: Precision,
        options: Any | None = None,
    ) -> None:
        """Opens the network.

        Args:
            model: the network.
            form: what its inputs and outputs look like.
            device: ``cpu`` or ``cuda:N``.
            precision: its arithmetic.
            options: an instance of :attr:`options_type`; None is the defaults.

        Raises:
            BackendError: if the engine refuses it.
            UsageError: if an option cannot be met.
        """
        self.model, self.form, self.device, self.precision = model, form, device, precision
        self.options = self.options_type() if options is None else options
        self.spec = self._read_spec(model)
        self.notes: list[str] = [note for note in map(untried, self.packages) if note]
        self.on_build: Callable[[float, str], None] | None = None
        self.trust_engine = False
        self.engine_side: int | None = None
        self._closed = False
        self._rings: FrameRings | None = None
        """Where frames are computed, for a backend that computes several at the same time."""

    def _read_spec(self, model: Model) -> ModelSpec:
        return model.spec

    @classmethod
    @abstractmethod
    def capabilities(cls, gpu: str = "cuda:0") -> Sequence[Capability]:
        """What this backend can do on the CPU and on one GPU, as GPUs of a machine may differ.

        Imports its package and raises nothing.

        Args:
            gpu: ``cuda:N``; it need not be there.
        """

    @property
    def description(self) -> str:
        """Engine, precision and device in a few words."""
        return f"{self.name} {self.precision} ({self.device})"

    @cached_property
    def tensor_limit(self) -> TensorLimit:
        """How large its tensors become."""
        if self.model.graph_path is None and self.model.loaded is None:
            channels = int(self.spec.config.get("features", 64))
            return limit_of(channels=channels, scale=self.spec.scale)
        return tensor_limit(self.model.graph(self.form, self.precision), self.spec.scale)

    @property
    def max_pixels(self) -> int | None:
        """Most LR pixels of all frames of a batch that it computes right; None without a limit.

        On GPUs, TensorRT, cuDNN and kernels of ONNX Runtime count elements in 32 bits.
        """
        return None if self.device == "cpu" else self.tensor_limit.most_pixels

    def must_build(self, width: int, height: int) -> bool:
        """Whether :meth:`prepare` will build an engine, for a backend that :attr:`builds_engines`.

        Args:
            width: of the frames, in LR pixels.
            height: likewise.
        """
        return self.builds_engines

    @property
    def network_bytes_per_pixel(self) -> int:
        """Peak memory of one stream per LR pixel of a batch."""
        features = int(self.spec.config.get("features", 64))
        return max(1, self.bytes_per_pixel * features // 64)

    @property
    def frame_bytes_per_pixel(self) -> int:
        """Peak memory per LR pixel of a frame, with all that is computed beside it."""
        network = self.network_bytes_per_pixel
        ring: RingOptions | None = getattr(self.options, "ring", None) or self.usual_ring
        if ring is None:
            return network
        return network * ring.streams * ring.batch + _SLOT_BYTES * ring.slots * ring.batch

    @property
    def in_flight(self) -> int:
        """How many frames may be submitted before one must be collected."""
        return self._rings.capacity if self._rings else 1

    def times(self) -> list[StageTimes]:
        """When copies and computing of each batch ran; empty unless a ring traces them."""
        return self._rings.times() if self._rings else []

    def prepare(self, width: int, height: int) -> None:
        """Does what must be done before the first frame of a size, so that it is not in the way.

        Args:
            width: of the frames, in LR pixels.
            height: likewise.

        Raises:
            DeviceMemoryError: if memory ran out; a smaller tile may fit.
            BackendError: if the backend is closed or the engine fails.
        """
        with self._translated():
            if self._rings is not None:
                self._rings.prepare(width, height)

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Computes one batch.

        Args:
            inputs: every input of the form, C-contiguous.

        Returns:
            New arrays that belong to the caller, every output of the form.

        Raises:
            DeviceMemoryError: if memory ran out; a smaller tile may fit.
            BackendError: if the backend is closed or the engine fails.
        """
        return self.submit(inputs)()

    def submit(self, inputs: Arrays) -> Pending:
        """Starts a batch; up to :attr:`in_flight` frames may be uncollected.

        Args:
            inputs: as for :meth:`infer`; they may be changed as soon as it returns.

        Returns:
            A function that waits for the outputs and returns them, with the same errors.

        Raises:
            DeviceMemoryError, BackendError: see :meth:`infer`.
        """
        with self._translated():
            if self._rings is None:
                outputs = self._infer(inputs)
                self._require_shapes(inputs, outputs)
                return lambda: outputs
            pending = self._rings.submit(inputs)

        def collect() -> dict[str, NDArray[Any]]:
            with self._translated():
                return pending()

        return collect

    def _require_shapes(self, inputs: Arrays, outputs: Arrays) -> None:
        """Refuses a graph that computes something else than its spec says."""
        for layout in form_layouts(self.form, input_size(inputs)):
            if layout.is_input:
                continue
            found = outputs[layout.name]
            if found.shape != layout.shape or found.dtype != layout.dtype:
                raise ModelError(
                    f"{self.model.name}: its output {layout.name} is {found.dtype} "
                    f"{list(found.shape)} where its form {self.form} is {layout.dtype} "
                    f"{list(layout.shape)}; export it again."
                )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if self._closed:
            raise BackendError(f"{self.description} was closed; open it again.")
        try:
            yield
        except SrtrtError:
            raise
        except MemoryError as error:
            raise DeviceMemoryError(f"{self.description}: out of memory.") from error
        except self.failures as error:
            text = str(error)
            if any(sign in text.lower() for sign in _MEMORY_SIGNS):
                raise DeviceMemoryError(f"{self.description}: out of memory.") from error
            failed = DeviceLostError if self.device != "cpu" and is_lost(text) else BackendError
            raise failed(
                f"{self.description} failed: {first_line(error) or 'no message'}"
            ) from error

    def close(self) -> None:
        """Releases the engine; harmless when repeated."""
        if not self._closed:
            self._closed = True
            if self._rings is not None:
                self._rings.close()
            self._release()

    @abstractmethod
    def _infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Computes one batch without rings."""

    @abstractmethod
    def _release(self) -> None:
        """Releases the engine."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
