"""TensorRT and TensorRT-RTX on an NVIDIA GPU, with engines built when they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from srtrt.errors import BackendError, EngineLoadError, ParityError, SrtrtError, UsageError
from srtrt.runtime.backends.base import Backend, Capability
from srtrt.runtime.cuda import Binding, installed_binding, open_device
from srtrt.runtime.cuda_packages import beyond_driver, cuda_python_line
from srtrt.runtime.engines.cache import EngineCache, not_loaded
from srtrt.runtime.engines.execution import LoadedEngine, run_engine
from srtrt.runtime.engines.flavour import CURRENT, FLAVOURS, Flavour, flavour_of
from srtrt.runtime.engines.gate import engine_gate, mosaics
from srtrt.runtime.engines.gpu import GpuFacts, gpu_facts
from srtrt.runtime.engines.identity import EngineKey, engine_key
from srtrt.runtime.engines.key import USUAL_LEVEL, EngineOptions, EngineShape, InputSize
from srtrt.runtime.engines.ladder import Measure, says_how
from srtrt.runtime.engines.provide import provide_engine
from srtrt.runtime.engines.record import BuiltEngine, CachedEngine, Verify
from srtrt.runtime.engines.tuning import (
    Measured,
    best_of,
    candidates,
    engine_speed,
    frames_per_second,
    read_choice,
    write_choice,
)
from srtrt.runtime.models import Model
from srtrt.runtime.nvidia import no_gpu
from srtrt.runtime.parity import form_inputs, read_pictures, require_reference
from srtrt.runtime.ring import Arrays, RingOptions
from srtrt.runtime.rings import FrameRings
from srtrt.runtime.tensor_limit import require_countable, tensor_limit
from srtrt.runtime.tiling import alignment
from srtrt.spec import Form, Precision

USUAL_PRECISION: Precision = "fp16"
"""Arithmetic of engines where none is asked for: what every tensor core computes, exactly enough.
Both exporting and upscaling take it from here."""

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
        _require_target(self.options.build, gpu)
        _require_precision(precision, gpu, device)
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
        batch = replace(size, batch=self.ring_options(size).batch)
        return self._cache.find(self.key(batch), trust_engine=self.trust_engine) is None

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
        return provide_engine(
            self._graph,
            self._shape_for(size),
            self.options.build,
            flavour=flavour,
            gpu=self._gpu,
            device=self.device,
            cache=self._cache,
            verify=engine_gate(self.model, self._run, read_pictures()),
            measure=self._speed,
            trust_engine=self.trust_engine,
            # What does not fit is divided by the session, which needs tiles of the size it asks.
            may_shrink=False,
            because=because,
            instead_of=instead_of,
            before_build=partial(require_reference, self.model),
            on_progress=self.on_build,
            on_note=self.notes.append,
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


def tune_backend(
    model: Model,
    size: InputSize,
    *,
    form: Form,
    device: str,
    precision: Precision,
    seconds: float,
    options: TensorRtOptions | None = None,
    on_measured: Callable[[Measured], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> tuple[RingOptions, Path]:
    """Measures every ring for frames of a size, and stores the fastest beside the engine.

    Args:
        model: the model.
        size: of single frames.
        form: of the frames.
        device: ``cuda:N``.
        precision: arithmetic of the network.
        seconds: how long each ring is measured.
        options: of the backend; its ring is not looked at.
        on_measured: told each figure.
        on_note: told in sentences what is built and why.

    Returns:
        The fastest ring, and the file it is stored in.

    Raises:
        BackendError: if no engine can run here.
        ParityError: if an engine is under its gate.
    """
    given, tell = options or TensorRtOptions(), on_note or (lambda _: None)
    (picture,) = mosaics(read_pictures()[:1], size)
    frame = form_inputs(picture, form)

    def opened(ring: RingOptions) -> TensorRtBackend:
        chosen = replace(given, ring=ring)
        return TensorRtBackend(model, form=form, device=device, precision=precision, options=chosen)

    def measure(ring: RingOptions) -> float:
        with opened(ring) as backend:
            try:
                backend.prepare(size.width, size.height)
            finally:
                for note in backend.notes:
                    tell(note)
            return frames_per_second(backend.submit, backend.in_flight, frame, seconds)

    graph = model.graph(form, precision)
    require_countable(graph, EngineShape.of(size), "TensorRT")
    most = tensor_limit(graph, model.spec.scale).most_pixels
    with open_device(device, given.binding) as gpu:
        offered = candidates(graphs=gpu.captures, pixels=size.pixels)
        rings = [ring for ring in offered if ring.batch * size.pixels <= most]

    def must_build(batch: int) -> bool:
        with opened(RingOptions(batch=batch)) as backend:
            return backend.must_build(size.width, size.height)

    batches = [batch for batch in sorted({ring.batch for ring in rings}) if must_build(batch)]
    if batches:
        counts = " and ".join(map(str, batches))
        tell(f"Engines that will be built, minutes each: {len(batches)}, for {counts} at once.")
    best, measured = best_of(measure, rings, on_measured)
    with opened(best) as backend:
        assert isinstance(backend, TensorRtBackend)
        cache = EngineCache(given.cache_folder)
        return best, write_choice(cache, backend.key(size), best, measured)


def unusable_because(flavour: Flavour, gpu: GpuFacts | None) -> str | None:
    """Why engines of a flavour cannot run here, as a clause that says what to do; None if they can.

    Args:
        flavour: TensorRT or TensorRT-RTX.
        gpu: the GPU of this machine, None if there is none.
    """
    if gpu is None:
        return f"{flavour.label}: {no_gpu()}"
    try:
        problem = flavour.refusal(gpu)
    except SrtrtError as error:
        return str(error).rstrip(".")
    if problem is None and installed_binding() is None:
        problem = f"{flavour.label} needs cuda-python or PyCUDA: {cuda_python_line(gpu)}"
    return problem or beyond_driver(flavour.label, flavour.cuda(), gpu)


def engine_judge(
    model: Model,
    flavour: Flavour,
    gpu: GpuFacts | None,
    *,
    device: str = "cuda:0",
    binding: Binding = "auto",
) -> Verify | None:
    """The judge of a model's engines on a GPU; None if they cannot run there.

    Args:
        model: what the engines are made from.
        flavour: what builds them.
        gpu: facts about the GPU, None if there is none.
        device: the GPU as ``cuda:N``.
        binding: package through which CUDA is called.
    """
    if unusable_because(flavour, gpu) is not None:
        return None

    def run(
        built: BuiltEngine, frames: Sequence[Mapping[str, NDArray[Any]]]
    ) -> list[dict[str, Any]]:
        with open_device(device, binding) as opened:
            return run_engine(built, frames, flavour=flavour, device=opened)

    return engine_gate(model, run, read_pictures())


def engine_meter(
    flavour: Flavour,
    gpu: GpuFacts | None,
    *,
    device: str = "cuda:0",
    binding: Binding = "auto",
) -> Measure | None:
    """Measures frames per second of engines; None if they cannot run. See :func:`engine_judge`."""
    if unusable_because(flavour, gpu) is not None:
        return None

    def measure(built: BuiltEngine) -> float:
        with open_device(device, binding) as opened:
            return engine_speed(built, read_pictures(), flavour=flavour, device=opened)

    return measure


def usable_flavour(name: str, gpu: GpuFacts | None) -> Flavour:
    """The first of :func:`usable_flavours`."""
    return usable_flavours(name, gpu)[0]


def usable_flavours(name: str, gpu: GpuFacts | None) -> list[Flavour]:
    """What builds and runs engines on a GPU, the first the usual one.

    Args:
        name: ``tensorrt``, ``tensorrt-rtx``, or ``auto`` for all that can be used.
        gpu: the GPU, None if there is none.

    Raises:
        BackendError: if none can, with what each lacks.
    """
    wanted = FLAVOURS.values() if name == "auto" else [flavour_of(name)]
    problems = {flavour.name: unusable_because(flavour, gpu) for flavour in wanted}
    found = [flavour for flavour in wanted if problems[flavour.name] is None]
    if not found:
        raise BackendError(f"no engine can run here: {'; '.join(filter(None, problems.values()))}.")
    return found


def _require_target(build: EngineOptions, gpu: GpuFacts) -> None:
    """Refuses, before it is built, an engine that is only for other GPUs."""
    targets = build.compute_capabilities
    if targets and not {CURRENT, gpu.compute_capability} & set(targets):
        raise UsageError(
            f"compute_capabilities is {', '.join(targets)}, and {gpu.name} has "
            f"{gpu.compute_capability}; an engine that is to run here must be for that or "
            f"{CURRENT!r}. To make one for another machine, use `srtrt export`."
        )


def _require_precision(precision: Precision, gpu: GpuFacts, device: str) -> None:
    """Refuses what the tensor cores of a GPU do not compute; GPUs of one machine may differ."""
    if precision not in (computed := _precisions(gpu)):
        raise BackendError(
            f"{gpu.name} ({device}, compute capability {gpu.compute_capability}) does not compute "
            f"in {precision}; expected --precision {' or '.join(computed)}."
        )


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
    return Capability(device=device, precisions=_precisions(gpu), reason=reason)


def _precisions(gpu: GpuFacts) -> tuple[Precision, ...]:
    """What tensor cores of a compute capability compute, the fastest exact enough first."""
    capability = tuple(map(int, gpu.compute_capability.split(".")))
    precisions: list[Precision] = [USUAL_PRECISION]
    if capability >= (8, 0):
        precisions.append("bf16")
    precisions += ["fp32", "int8"]
    if capability >= (8, 9):
        precisions.append("fp8")
    return tuple(precisions)
