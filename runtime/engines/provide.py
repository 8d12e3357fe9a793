"""The engine of a graph: from the cache, or built, judged and put there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from onnx import ModelProto

from srtrt.errors import DeviceMemoryError
from srtrt.runtime.engines.attempt import Note
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.flavour import Flavour
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.identity import EngineKey, engine_key
from srtrt.runtime.engines.key import EngineOptions, EngineShape
from srtrt.runtime.engines.ladder import Build, Measure, ladder_for
from srtrt.runtime.engines.monitor import Progress
from srtrt.runtime.engines.record import BuiltEngine, CachedEngine, Verify
from srtrt.runtime.tensor_limit import TensorLimit, require_countable, tensor_limit


@dataclass(frozen=True, kw_only=True)
class EngineProvider:
    """Where the engines of one product come from: its cache, or a build on this machine."""

    flavour: Flavour
    """TensorRT or TensorRT-RTX."""
    gpu: GpuFacts | None = None
    """The GPU of this machine, None without one."""
    device: str = "cuda:0"
    """That GPU as ``cuda:N``; it must be current."""
    cache: EngineCache = field(default_factory=EngineCache)
    """Where engines are kept; by default in the user's cache folder."""
    verify: Verify | None = None
    """Judges them, see :func:`srtrt.runtime.engines.gate.engine_gate`; None where they cannot
    run."""
    measure: Measure | None = None
    """Frames per second of an engine that passes, see
    :func:`srtrt.runtime.engines.tuning.engine_speed`; None where it is not measured."""
    trust_engine: bool = False
    """Use engines that another user may have written."""
    may_shrink: bool = True
    """Take an engine for single frames or smaller tiles if none of a shape can be built."""
    exact_shape: bool = False
    """Do not take an engine for further sizes, too, in place of another."""
    before_build: Callable[[], None] | None = None
    """Called before one is built, which takes minutes; what it raises ends the work."""
    on_progress: Progress | None = None
    """See :func:`srtrt.runtime.engines.build.build_engine`."""
    on_note: Note | None = None
    """Told in sentences what is done and why."""

    def provide(
        self,
        graph: ModelProto,
        shape: EngineShape,
        options: EngineOptions | None = None,
        *,
        limit: TensorLimit | None = None,
        because: str | None = None,
        instead_of: CachedEngine | None = None,
    ) -> CachedEngine:
        """The engine of a graph, built if the cache has none that fits this machine.

        Where it is wrong, or slower than the last one, other ways of building are tried, see
        :func:`srtrt.runtime.engines.ladder.ladder_for`; each is told and remembered.

        Args:
            graph: an ONNX graph written by srtrt.
            shape: sizes the engine is to take.
            options: what is asked of its build; an engine that was built otherwise serves where
                nothing is asked.
            limit: how large tensors of the graph become, where that is known already.
            because: builds it anew for this reason (a clause), even if there is one.
            instead_of: the engine that the reason is about, see :meth:`EngineCache.get_or_build`.

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
        flavour = self.flavour
        key = engine_key(graph, shape, options or EngineOptions(), flavour=flavour, gpu=self.gpu)
        key = replace(key, exact_shape=self.exact_shape)
        limit = limit or tensor_limit(graph, key.spec.scale)
        require_countable(limit, shape, flavour.label, graph.graph.name)
        found = self.cache.get_or_build(
            key,
            self._build_of(graph, key),
            self.verify,
            ladder=ladder_for(key.options, flavour, key.flavour_version, self.measure),
            trust_engine=self.trust_engine,
            because=because,
            instead_of=instead_of,
            on_note=self.on_note,
        )
        size = found.record.takes.most
        if not self.may_shrink and size.pixels < shape.most.pixels:
            raise DeviceMemoryError(
                f"{flavour.label}: the engine that was built for {shape} takes {size} only, for "
                "want of memory. To try again, remove it: srtrt engines prune --all"
            )
        return found

    def _build_of(self, graph: ModelProto, key: EngineKey) -> Build:
        """What builds the engine of a key in the way it is told."""
        data = graph.SerializeToString()
        timings = self.cache.timing_cache_path(key.flavour, key.flavour_version, key.gpu)

        def build(options: EngineOptions) -> BuiltEngine:
            if self.before_build is not None:
                self.before_build()
            return build_engine(
                data,
                key.shape,
                options,
                flavour=self.flavour,
                gpu=self.gpu,
                device=self.device,
                timing_cache=timings,
                own_timings=self.cache.own_timings_path(replace(key, options=options)),
                may_shrink=self.may_shrink,
                on_progress=self.on_progress,
                on_note=self.on_note,
            )

        return build
