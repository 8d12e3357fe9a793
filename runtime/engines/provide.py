"""The engine of a graph: from the cache, or built, judged and put there."""

from __future__ import annotations

from onnx import ModelProto

from srtrt.errors import DeviceMemoryError
from srtrt.graph import read_spec
from srtrt.runtime.engines.build import Note, build_engine
from srtrt.runtime.engines.cache import BuiltEngine, CachedEngine, EngineCache, Verify
from srtrt.runtime.engines.flavour import Flavour
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.key import EngineKey, EngineOptions, EngineShape, engine_key
from srtrt.runtime.engines.monitor import Progress


def engine_key_of(
    graph: ModelProto,
    shape: EngineShape,
    options: EngineOptions,
    *,
    flavour: Flavour,
    gpu: GpuFacts | None,
) -> EngineKey:
    """The key of a graph's engine; see :func:`srtrt.runtime.engines.key.engine_key`."""
    spec = read_spec(graph, graph.graph.name)
    data = graph.SerializeToString()
    return engine_key(data, spec, shape, options, flavour=flavour, gpu=gpu)


def provide_engine(
    graph: ModelProto,
    shape: EngineShape,
    options: EngineOptions | None = None,
    *,
    flavour: Flavour,
    gpu: GpuFacts | None = None,
    cache: EngineCache | None = None,
    verify: Verify | None = None,
    trust_engine: bool = False,
    may_shrink: bool = True,
    because: str | None = None,
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> CachedEngine:
    """The engine of a graph, built if the cache has none that fits this machine.

    Args:
        graph: an ONNX graph written by srtrt.
        shape: sizes the engine is to take.
        options: how it is built.
        flavour: TensorRT or TensorRT-RTX.
        gpu: facts about the GPU of this machine, None without one.
        cache: where it is kept; by default in the user's cache folder.
        verify: judges it, see :func:`srtrt.runtime.engines.gate.engine_gate`; None where it
            cannot run.
        trust_engine: use an engine that another user may have written.
        may_shrink: take an engine for single frames or smaller tiles if none of this shape can be
            built.
        because: builds it anew for this reason (a clause), even if there is one.
        on_progress: see :func:`srtrt.runtime.engines.build.build_engine`.
        on_note: is told in sentences what is done and why.

    Raises:
        ModelError: if the graph is unusable.
        UsageError: if the shape or an option does not fit.
        DeviceMemoryError: if memory does not suffice.
        BackendError: if TensorRT fails otherwise.
        MissingPackageError: if it is not installed.
        ParityError: if the engine is under its gate; it is not kept.
        OutputError: if it cannot be written.
    """
    options, cache = options or EngineOptions(), cache or EngineCache()
    data = graph.SerializeToString()
    spec = read_spec(graph, graph.graph.name)
    key = engine_key(data, spec, shape, options, flavour=flavour, gpu=gpu)
    timings = cache.timing_cache_path(flavour.name, key.flavour_version, key.gpu)

    def build() -> BuiltEngine:
        return build_engine(
            data,
            shape,
            options,
            flavour=flavour,
            gpu=gpu,
            timing_cache=timings,
            may_shrink=may_shrink,
            on_progress=on_progress,
            on_note=on_note,
        )

    found = cache.get_or_build(
        key, build, verify, trust_engine=trust_engine, because=because, on_note=on_note
    )
    size = EngineShape.parse(found.record.built["shape"]).most
    if not may_shrink and size.pixels < shape.most.pixels:
        raise DeviceMemoryError(
            f"{flavour.label}: the engine that was built for {shape} takes {size} only, for want "
            f"of memory. To try again, remove it: srtrt engines prune --all"
        )
    return found
