"""TensorRT and TensorRT-RTX on an NVIDIA GPU, with engines built when they are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from srtrt.errors import BackendError, EngineLoadError, ParityError
from srtrt.runtime.backends.base import Backend, Capability
from srtrt.runtime.cuda import Binding, open_device
from srtrt.runtime.engines.cache import EngineCache, not_loaded
from srtrt.runtime.engines.execution import LoadedEngine, run_engine
from srtrt.runtime.engines.flavour import FLAVOURS, Flavour
from srtrt.runtime.engines.gate import engine_gate
from srtrt.runtime.engines.gpu import GpuFacts, gpu_facts
from srtrt.runtime.engines.identity import EngineKey, engine_key
from srtrt.runtime.engines.key import USUAL_LEVEL, EngineOptions, EngineShape, InputSize
from srtrt.runtime.engines.ladder import says_how
from srtrt.runtime.engines.products import (
    precisions_of,
    require_precision,
    require_target,
    unusable_because,
    usable_flavours,
)
from srtrt.runtime.engines.provide import EngineProvider
from srtrt.runtime.engines.record import BuiltEngine, CachedEngine
from srtrt.runtime.engines.tuning import engine_speed, read_choice
from srtrt.runtime.models import Model
from srtrt.runtime.nvidia import no_gpu
from srtrt.runtime.parity import read_pictures, require_reference
from srtrt.runtime.ring import Arrays, RingOptions
from srtrt.runtime.rings import FrameRings
from srtrt.runtime.tiling import alignment
from srtrt.spec import Form, Precision

_SMALL_TENSORS = 192
"""Elements per LR pixel beside the largest tensor, where that is hardly larger than others."""


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions:
    """Settings of the engine."""

    product: Literal["auto", "tensorrt", "tensorrt-rtx"] = "auto"
    """What builds and runs engines; auto is the first that can be used."""
    build: EngineOptions = field(default_factory=EngineOptions)
    """How engines are built."""
    ring: RingOptions | None = None
    """Frames in flight, as soon as one of these is given; by default as ``srtrt tune`` found, else
    with these defaults."""
    binding: Binding = "auto"
    """Package through which CUDA is called."""
    cache_folder: Path | None = None
    """Where engines are kept; None is the user's cache folder."""


class TensorRtBackend(Backend):
    """An exported graph as an engine of each size that is needed.

    An engine is built on first use, compared with PyTorch on real pictures, and kept.
    """

    name = "tensorrt"
    options_type = TensorRtOptions
    options: TensorRtOptions
    usual_ring = RingOptions()
    gates_itself = True
    builds_engines = True
    takes_ranges = True
    bytes_per_pixel = 6_000
    packages = ("tensorrt", "tensorrt-rtx", "cuda-python")

    def __init__(
        self,
        model: Model,
        *,
        form: Form,
        device: str,
        precision: Precision,
        options: TensorRtOptions | None = None,
    ) -> None:
        super().__init__(model, form=form, device=device, precision=precision, options=options)
        gpu = gpu_facts(device)
        self._flavours = usable_flavours(self.options.product, gpu)
        self._flavour = self._flavours[0]
        assert gpu is not None
        require_target(self.options.build, gpu)
        require_precision(precision, gpu, device)
        if self.options.build.level not in (None, USUAL_LEVEL) and not self._flavour.levels:
            self.notes.append(
                f"{self._flavour.label} has no optimisation levels, so level="
                f"{self.options.build.level} changes nothing."
            )
        self._gpu = gpu
        self._graph = model.graph(form, precision)
        self._cache = EngineCache(self.options.cache_folder)
        self._device = open_device(device, self.options.binding)
        self._rings = FrameRings(
            self._device, form, self._network_for, self.ring_options, self.notes.append
        )

    @property
    def description(self) -> str:
        """Engine, precision and device in a few words."""
        return f"{self._flavour.name} {self.precision} ({self.device})"

    @classmethod
    def capabilities(cls, gpu: str = "cuda:0") -> Sequence[Capability]:
        """See :meth:`Backend.capabilities`: one for each flavour."""
        try:
            facts = gpu_facts(gpu)
        except BackendError as error:
            return [Capability(device=gpu, precisions=(), reason=str(error))]
        if facts is None:
            return [Capability(device=gpu, precisions=(), reason=f"TensorRT: {no_gpu()}")]
        return [flavour_capability(flavour, facts, gpu) for flavour in FLAVOURS.values()]

    def ring_options(self, size: InputSize) -> RingOptions:
        """How frames of a size are computed: as asked for, as tuned, or the defaults."""
        choice, problem = read_choice(self._cache, self.key(size))
        if self.options.ring is not None:
            if choice not in (None, self.options.ring):
                problem = "other frames in flight were asked for"
            choice = self.options.ring
        if problem:
            self.notes.append(f"The result of `srtrt tune` is not used: {problem}.")
        return choice or self.usual_ring

    def key(self, size: InputSize) -> EngineKey:
        """The key of the engine for batches of a size."""
        return engine_key(
            self._graph,
            self._shape_for(size),
            self.options.build,
            flavour=self._flavour,
            gpu=self._gpu,
        )

    @property
    def network_bytes_per_pixel(self) -> int:
        """See there; estimated from the largest tensor, and half of that for what is beside it."""
        element = 2 if self.precision in ("fp16", "bf16") else 4
        return math.ceil(1.5 * self.tensor_limit.per_pixel * element) + _SMALL_TENSORS * element

    def must_build(self, width: int, height: int) -> bool:
        """See :meth:`Backend.must_build`."""
        size = InputSize(width=width, height=height)
        return self.lacks_engine(replace(size, batch=self.ring_options(size).batch))

    def lacks_engine(self, size: InputSize) -> bool:
        """Whether there is no engine yet for batches of a size."""
        return self._cache.find(self.key(size), trust_engine=self.trust_engine) is None

    @property
    def captures(self) -> bool:
        """Whether frames can be recorded as CUDA graphs."""
        return self._device.captures

    def _shape_for(self, size: InputSize) -> EngineShape:
        """The sizes of the engine for batches of a size."""
        side = self.engine_side
        if side is None or max(size.width, size.height) > side:
            return EngineShape.of(size)
        least, most = (replace(size, width=s, height=s) for s in (alignment(self.form), side))
        return EngineShape(least=least, best=most, most=most)

    def _network_for(self, size: InputSize) -> LoadedEngine:
        engine = self._provided(size)
        try:
            return self._loaded(engine, size)
        except EngineLoadError as error:
            if engine.note is not None:  # it was built just now
                raise
            # The error holds on to the frames in which TensorRT was started.
            reason = not_loaded(error)
        return self._loaded(self._provided_by(self._flavour, size, reason, engine), size)

    def _loaded(self, engine: CachedEngine, size: InputSize) -> LoadedEngine:
        return LoadedEngine(
            engine.plan,
            form=self.form,
            size=size,
            flavour=self._flavour,
            device=self._device,
            takes=engine.record.takes if self.engine_side else None,
            runtime_cache=self._cache.runtime_cache_path(engine.path, self._gpu),
            on_note=self.notes.append,
        )

    def _provided(self, size: InputSize) -> CachedEngine:
        """The engine of the first product that builds a right one, which is used from then on.

        Raises:
            ParityError: if none does, with what was tried.
        """
        build, first = self.options.build, self._flavour
        alone = says_how(build) or build.compute_capabilities
        others = [] if alone else [each for each in self._flavours if each is not first]
        problems: list[str] = []
        for self._flavour in (first, *others):
            if problems:
                self.notes.append(f"{problems[-1]} Trying {self._flavour.label} in its place.")
            try:
                return self._provided_by(self._flavour, size)
            except ParityError as error:
                problems.append(f"{self._flavour.label}: {error}.")
        self._flavour = first
        raise ParityError(" ".join(problems))

    def _provided_by(
        self,
        flavour: Flavour,
        size: InputSize,
        because: str | None = None,
        instead_of: CachedEngine | None = None,
    ) -> CachedEngine:
        provider = EngineProvider(
            flavour=flavour,
            gpu=self._gpu,
            device=self.device,
            cache=self._cache,
            verify=engine_gate(self.model, self._run, read_pictures()),
            measure=self._speed,
            trust_engine=self.trust_engine,
            # What does not fit is divided by the session, which needs tiles of the size it asks.
            may_shrink=False,
            before_build=partial(require_reference, self.model),
            on_progress=self.on_build,
            on_note=self.notes.append,
        )
        return provider.provide(
            self._graph,
            self._shape_for(size),
            self.options.build,
            limit=self.tensor_limit,
            because=because,
            instead_of=instead_of,
        )

    def _run(
        self, built: BuiltEngine, frames: Sequence[Mapping[str, NDArray[Any]]]
    ) -> list[dict[str, Any]]:
        return run_engine(built, frames, flavour=self._flavour, device=self._device)

    def _speed(self, built: BuiltEngine) -> float:
        return engine_speed(built, read_pictures(), flavour=self._flavour, device=self._device)

    def _infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        raise AssertionError("frames are computed by the rings")

    def _release(self) -> None:
        del self._graph


def flavour_capability(flavour: Flavour, gpu: GpuFacts | None, device: str) -> Capability:
    """What engines of a flavour can compute on a GPU.

    Args:
        flavour: TensorRT or TensorRT-RTX.
        gpu: facts about the GPU, None if there is none.
        device: that GPU as ``cuda:N``.
    """
    problem = unusable_because(flavour, gpu)
    if gpu is None or problem is not None:
        return Capability(device=device, precisions=(), reason=problem or no_gpu())
    reason = f"{flavour.label} {flavour.version()} on {gpu.name}"
    return Capability(device=device, precisions=precisions_of(gpu), reason=reason)
