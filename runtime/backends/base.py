"""The boundary every inference engine stands behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar

from numpy.typing import NDArray

from srtrt.errors import BackendError, DeviceMemoryError
from srtrt.runtime.models import Model
from srtrt.spec import Form, ModelSpec, Precision

Arrays = Mapping[str, NDArray[Any]]
"""Named tensors of a form, see :mod:`srtrt.forms`; uint8 images and small float32 tables."""

_MEMORY_SIGNS = ("bad_alloc", "out of memory", "allocate memory", "failed to allocate", "bad alloc")


@dataclass(frozen=True, kw_only=True)
class Capability:
    """What one backend can do on this machine with one device."""

    device: str
    """``cpu`` or ``cuda:N``."""
    precisions: tuple[Precision, ...]
    """Usable precisions, the preferred one first; empty if the device cannot be used."""
    reason: str
    """Why it can be used, or why not and what to do."""

    @property
    def usable(self) -> bool:
        """Whether a model can be opened there."""
        return bool(self.precisions)


class Backend(ABC):
    """One opened network on one engine.

    A backend is a context manager. :meth:`infer` may be called from any one thread at a time.
    """

    name: ClassVar[str]
    bytes_per_pixel: ClassVar[int]
    """Peak memory per LR pixel, measured with the 64-feature generator in float32, rounded up."""

    failures: ClassVar[tuple[type[Exception], ...]] = (RuntimeError,)
    """What the engine raises when it fails."""

    def __init__(self, model: Model, *, form: Form, device: str, precision: Precision) -> None:
        """Opens the network; use the backend's own options for finer control.

        Raises:
            BackendError: if the engine refuses it.
        """
        self.model, self.form, self.device, self.precision = model, form, device, precision
        self.spec = self._read_spec(model)
        self._closed = False

    def _read_spec(self, model: Model) -> ModelSpec:
        return model.spec

    @classmethod
    @abstractmethod
    def capabilities(cls) -> Sequence[Capability]:
        """What this backend can do here; imports its package and raises nothing."""

    @property
    def description(self) -> str:
        """Engine, precision and device in a few words."""
        return f"{self.name} {self.precision} ({self.device})"

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
        if self._closed:
            raise BackendError(f"{self.description} was closed; open it again.")
        try:
            return self._infer(inputs)
        except MemoryError as error:
            raise DeviceMemoryError(f"{self.description}: out of memory.") from error
        except self.failures as error:
            text = str(error)
            if any(sign in text.lower() for sign in _MEMORY_SIGNS):
                raise DeviceMemoryError(f"{self.description}: out of memory.") from error
            raise BackendError(f"{self.description} failed: {_first_line(text)}") from error

    def close(self) -> None:
        """Releases the engine; harmless when repeated."""
        if not self._closed:
            self._closed = True
            self._release()

    @abstractmethod
    def _infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]: ...

    @abstractmethod
    def _release(self) -> None: ...

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "no message"
