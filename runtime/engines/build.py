"""Building TensorRT and TensorRT-RTX engines from exported graphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from srtrt.errors import BackendError, DeviceMemoryError, ModelError, first_line
from srtrt.graph_check import check_model
from srtrt.runtime.engines.attempt import Attempts, Note, Success
from srtrt.runtime.engines.flavour import Flavour
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.key import USUAL_LEVEL, EngineOptions, EngineShape, InputSize
from srtrt.runtime.engines.monitor import LOG_NAME, Progress
from srtrt.runtime.engines.record import BuiltEngine
from srtrt.spec import ModelSpec
from srtrt.text import foreign


def build_engine(
    graph: bytes,
    shape: EngineShape,
    options: EngineOptions | None = None,
    *,
    flavour: Flavour,
    gpu: GpuFacts | None = None,
    device: str = "cuda:0",
    timing_cache: Path | None = None,
    own_timings: Path | None = None,
    may_shrink: bool = True,
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> BuiltEngine:
    """Builds an engine that computes in the types of its graph.

    If it cannot be built as asked for want of memory, or no kernel fits, less is tried: a fixed
    size instead of a range, a lower optimisation level, one frame at a time, smaller tiles. What
    was done is told, and is in the result's facts under ``steps``.

    Args:
        graph: bytes of an ONNX graph written by srtrt.
        shape: sizes it is to take.
        options: how to build it.
        flavour: TensorRT or TensorRT-RTX.
        gpu: facts about the GPU on which it is built; None if there is none, which only
            TensorRT-RTX can do with.
        device: that GPU as ``cuda:N``; it must be current.
        timing_cache: file of kernel timings to use and extend, see
            :meth:`srtrt.runtime.engines.folder.EngineFolder.timing_cache_path`; None for none.
        own_timings: file of the timings of this engine alone. They are used instead if it exists,
            so that the same kernels are chosen, and written to it.
        may_shrink: whether single frames and smaller tiles may be tried.
        on_progress: is told how far a build is. Its exceptions stop the build.
        on_note: is told in a sentence when a build is tried again, or a timing cache discarded.

    Raises:
        ModelError: if the graph carries no spec, cannot be parsed, or convolves in another type
            than its spec says.
        UsageError: if the shape does not fit the graph, or a target is unknown.
        DeviceMemoryError: if even the smallest attempt needs too much memory.
        BackendError: if TensorRT fails otherwise, or is too old.
        MissingPackageError: if it is not installed.
    """
    attempts = Attempts(
        graph=graph,
        model=_parsed_proto(graph),
        flavour=flavour,
        trt=flavour.load(),
        device=None if gpu is None else device,
        timing_cache=timing_cache,
        own_timings=own_timings,
        on_progress=on_progress or (lambda _share, _phase: None),
        tell=on_note or (lambda _text: None),
    )
    options = options or EngineOptions()
    options = replace(options, level=USUAL_LEVEL if options.level is None else options.level)
    shape.require_form(attempts.spec.form)
    return _built(attempts, _Rung(shape, options), may_shrink)


def _built(attempts: Attempts, asked: _Rung, may_shrink: bool) -> BuiltEngine:
    """The engine of the first attempt that gives one."""
    spec, label, steps = attempts.spec, attempts.flavour.label, list[str]()
    what = f"{label} cannot build {spec.name} ({spec.form}, {spec.precision})"
    for rung in _rungs(asked, spec, attempts.flavour, may_shrink):
        if steps:
            attempts.tell(f"{label} cannot build {steps[-1]}; trying {rung}.")
        attempt = attempts.attempt(rung.shape, rung.options)
        if isinstance(attempt, Success):
            if steps:
                steps.append(f"built {rung} instead of {asked}")
                attempts.tell(f"{label} {steps[-1]}.")
            facts = {**attempt.facts, "asked_shape": str(asked.shape), "steps": steps}
            return BuiltEngine(plan=attempt.plan, spec=spec, facts=facts)
        steps.append(f"{rung}: {attempt.reason}")
        if not attempt.out_of_memory:
            raise BackendError(
                f"{what}: {'; '.join(steps)}. "
                f"TensorRT's own log is in Python's logger {LOG_NAME!r}."
            )
    more = f" The last of {len(steps)} attempts: {steps[-1]}." if len(steps) > 1 else ""
    raise DeviceMemoryError(
        f"{what}: {steps[0]}.{more} "
        "Free GPU memory, allow a larger workspace, or ask for a smaller shape."
    )


@dataclass(frozen=True)
class _Rung:
    """One attempt of the ladder."""

    shape: EngineShape
    options: EngineOptions

    def __str__(self) -> str:
        return f"{self.shape} at level {self.options.level}"


def _rungs(asked: _Rung, spec: ModelSpec, flavour: Flavour, may_shrink: bool) -> Iterator[_Rung]:
    """What was asked for, then less and less.

    Tiles keep their full width as long as they can, since strips waste least. They end where a
    tile would hardly keep more than its margins, which are the network's receptive radius.
    """
    yield asked
    shape, options = asked.shape, asked.options
    if not shape.is_static:
        shape = EngineShape.of(shape.best)
        yield _Rung(shape, options)
    if flavour.levels and options.level not in (0, 1):
        options = replace(options, level=1)
        yield _Rung(shape, options)
    if not may_shrink:
        return
    size = shape.best
    if size.batch > 1:
        size = replace(size, batch=1)
        yield _Rung(EngineShape.of(size), options)
    least = 2 * spec.receptive_radius + 32
    while (smaller := _smaller(size, least)) != size:
        size = smaller
        yield _Rung(EngineShape.of(size), options)


def _smaller(size: InputSize, least: int) -> InputSize:
    """Half the height, or half the width once the height is at its least; the same at the end."""
    for side in ("height", "width"):
        length = getattr(size, side)
        half = max(least, -(-length // 2))
        half += half % 2
        if half < length:
            return replace(size, **{side: half})
    return size


def _parsed_proto(graph: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(graph)
    except (DecodeError, ValueError) as error:
        raise ModelError(
            f"the graph is no ONNX model ({first_line(error)}); expected a file written by "
            "`srtrt export`."
        ) from error
    check_model(model, foreign(model.graph.name) or "the graph")
    return model
