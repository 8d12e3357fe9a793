"""The engine of a graph: from the cache, or built, judged and put there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnx import ModelProto

from srtrt.errors import DeviceMemoryError
from srtrt.runtime.engines.build import Note, build_engine
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.flavour import Flavour
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.identity import engine_key
from srtrt.runtime.engines.key import EngineOptions, EngineShape
from srtrt.runtime.engines.ladder import Measure, ladder_for
from srtrt.runtime.engines.monitor import Progress
from srtrt.runtime.engines.record import BuiltEngine, CachedEngine, Verify
from srtrt.runtime.tensor_limit import require_countable


def provide_engine(
    graph: ModelProto,
    shape: EngineShape,
    options: EngineOptions | None = None,
    *,
    flavour: Flavour,
    gpu: GpuFacts | None = None,
    device: str = "cuda:0",
    cache: EngineCache | None = None,
    verify: Verify | None = None,
    measure: Measure | None = None,
    trust_engine: bool = False,
    may_shrink: bool = True,
    exact_shape: bool = False,
    because: str | None = None,
    instead_of: CachedEngine | None = None,
    before_build: Callable[[], None] | None = None,
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> CachedEngine:
    """The engine of a graph, built if the cache has none that fits this machine.

    Where it is wrong, or slower than the last one, other ways of building are tried, see
    :func:`srtrt.runtime.engines.ladder.ladder_for`; each is told and remembered.

    Args:
        graph: an ONNX graph written by srtrt.
        shape: sizes the engine is to take.
        options: what is asked of its build; an engine that was built otherwise serves where
            nothing is asked.
        flavour: TensorRT or TensorRT-RTX.
        gpu: facts about the GPU of this machine, None without one.
        device: that GPU as ``cuda:N``; it must be current.
        cache: where it is kept; by default in the user's cache folder.
        verify: judges it, see :func:`srtrt.runtime.engines.gate.engine_gate`; None where it
            cannot run.
        measure: frames per second of an engine that passes, see
            :func:`srtrt.runtime.engines.tuning.engine_speed`; None where it is not measured.
        trust_engine: use an engine that another user may have written.
        may_shrink: take an engine for single frames or smaller tiles if none of this shape can be
            built.
        exact_shape: do not take an engine for further sizes, too, in its place.
        because: builds it anew for this reason (a clause), even if there is one.
        instead_of: the engine that the reason is about, see :meth:`EngineCache.get_or_build`.
        before_build: called before one is built, which takes minutes; what it raises ends the work.
        on_progress: see :func:`srtrt.runtime.engines.build.build_engine`.
        on_note: is told in sentences what is done and why.

    Raises:
        ModelError: if the graph is unusable.
        UsageError: if the shape or an option does not fit.
        DeviceMemoryError: if memory does not suffice.
        EngineLoadError: if what was just built cannot be loaded.
        BackendError: if TensorRT fails otherwise.
        MissingPackageError: if it is not installed.
        ParityError: if every engine is under its gate; none is kept.
        OutputError: if it cannot be written.
    """
    options, cache = options or EngineOptions(), cache or EngineCache()
    require_countable(graph, shape, flavour.label)
    data = graph.SerializeToString()
    key = engine_key(graph, shape, options, flavour=flavour, gpu=gpu)
    key = replace(key, exact_shape=exact_shape)
    timings = cache.timing_cache_path(flavour.name, key.flavour_version, key.gpu)

    def build(options: EngineOptions) -> BuiltEngine:
        if before_build is not None:
            before_build()
        return build_engine(
            data,
            shape,
            options,
            flavour=flavour,
            gpu=gpu,
            device=device,
            timing_cache=timings,
            own_timings=cache.own_timings_path(replace(key, options=options)),
            may_shrink=may_shrink,
            on_progress=on_progress,
            on_note=on_note,
        )

    found = cache.get_or_build(
        key,
        build,
        verify,
        ladder=ladder_for(key.options, flavour, key.flavour_version, measure),
        trust_engine=trust_engine,
        because=because,
        instead_of=instead_of,
        on_note=on_note,
    )
    size = found.record.takes.most
    if not may_shrink and size.pixels < shape.most.pixels:
        raise DeviceMemoryError(
            f"{flavour.label}: the engine that was built for {shape} takes {size} only, for want "
            f"of memory. To try again, remove it: srtrt engines prune --all"
        )
    return found
