"""Building TensorRT and TensorRT-RTX engines from exported graphs."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from srtrt.errors import (
    BackendError,
    DeviceMemoryError,
    ModelError,
    OutputError,
    first_line,
    forget_frames,
)
from srtrt.graph import layer_name
from srtrt.graph_check import check_model
from srtrt.graph_spec import read_spec
from srtrt.runtime.engines.exclusions import exclude_tactics, keep_additions_apart
from srtrt.runtime.engines.flavour import (
    Flavour,
    load_timing_cache,
    opened,
    require_user_memory,
    save_timing_cache,
    set_targets,
    typed_network_flags,
    wants_less,
)
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.key import USUAL_LEVEL, EngineOptions, EngineShape, InputSize
from srtrt.runtime.engines.monitor import LOG_NAME, Listener, Progress
from srtrt.runtime.engines.record import BuiltEngine
from srtrt.runtime.layouts import dimensions
from srtrt.runtime.memory import memory_limit
from srtrt.spec import ModelSpec
from srtrt.text import foreign

Note = Callable[[str], None]

TYPE_NAMES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8", "fp8": "FP8"}
"""TensorRT's name of the type in which a precision convolves."""

_LONGEST_MESSAGE = 200


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
    job = _Job(
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
    shape.require_form(job.spec.form)
    asked, steps = _Rung(shape, options), list[str]()
    for rung in _rungs(asked, job.spec, flavour, may_shrink):
        if steps:
            job.tell(f"{flavour.label} cannot build {steps[-1]}; trying {rung}.")
        started = time.monotonic()
        attempt = job.attempt(rung)
        if isinstance(attempt, _Success):
            if steps:
                steps.append(f"built {rung} instead of {asked}")
                job.tell(f"{flavour.label} {steps[-1]}.")
            facts = {
                "shape": str(rung.shape),
                "asked_shape": str(shape),
                "level": rung.options.level,
                **attempt.facts,
                "seconds": round(time.monotonic() - started, 3),
                "steps": steps,
            }
            return BuiltEngine(plan=attempt.plan, spec=job.spec, facts=facts)
        steps.append(f"{rung}: {attempt.reason}")
        if not attempt.out_of_memory:
            raise BackendError(
                f"{_what(flavour, job.spec)}: {'; '.join(steps)}. "
                f"TensorRT's own log is in Python's logger {LOG_NAME!r}."
            )
    more = f" The last of {len(steps)} attempts: {steps[-1]}." if len(steps) > 1 else ""
    raise DeviceMemoryError(
        f"{_what(flavour, job.spec)}: {steps[0]}.{more} "
        "Free GPU memory, allow a larger workspace, or ask for a smaller shape."
    )


def _what(flavour: Flavour, spec: ModelSpec) -> str:
    return f"{flavour.label} cannot build {spec.name} ({spec.form}, {spec.precision})"


@dataclass(frozen=True)
class _Rung:
    """One attempt of the ladder."""

    shape: EngineShape
    options: EngineOptions

    def __str__(self) -> str:
        return f"{self.shape} at level {self.options.level}"


@dataclass(frozen=True)
class _Failure:
    """Why an attempt gave no engine."""

    reason: str
    out_of_memory: bool


@dataclass(frozen=True)
class _Success:
    plan: bytes
    facts: Mapping[str, Any]


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


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What all attempts at one engine share."""

    graph: bytes
    model: onnx.ModelProto
    flavour: Flavour
    trt: Any
    device: str | None
    """None without a GPU."""
    timing_cache: Path | None
    own_timings: Path | None
    on_progress: Progress
    tell: Note

    @property
    def spec(self) -> ModelSpec:
        return read_spec(self.model, foreign(self.model.graph.name))

    def attempt(self, rung: _Rung) -> _Success | _Failure:
        """Parses and builds once, and leaves no object of TensorRT behind."""
        try:
            return self._attempt(rung)
        except BaseException as error:
            forget_frames(error)
            raise

    def _attempt(self, rung: _Rung) -> _Success | _Failure:
        listener = Listener(self.trt, self.on_progress)
        builder = opened(lambda: self.trt.Builder(listener.logger))
        if builder is None:
            raise BackendError(
                f"{self.flavour.label} {self.trt.__version__} cannot start building: "
                f"{_reasons(listener.problems)}. `srtrt doctor` looks at driver and libraries."
            )
        network = builder.create_network(typed_network_flags(self.trt))
        self._parse(network, listener)
        convolutions = self._require_types(network)
        apart = rung.options.fusion is False and keep_additions_apart(self.trt, network)
        config = builder.create_builder_config()
        workspace = self._configure(config, rung.options)
        self._set_shapes(builder, network, config, rung.shape)
        config.progress_monitor = listener.monitor
        self._load_timings(config)
        listener.problems.clear()
        with listener.listening():
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            messages = listener.problems
            return _Failure(_reasons(messages), wants_less(" ".join(messages)))
        self._save_timings(config)
        facts = {
            "workspace_bytes": workspace,
            "tactics": rung.options.tactics or "all",
            "fusion": rung.options.fusion is not False,
            "kept_apart": int(apart),
            "convolutions": dict(convolutions),
            "inputs": _tensors(network.get_input, network.num_inputs),
            "outputs": _tensors(network.get_output, network.num_outputs),
        }
        return _Success(bytes(plan), facts)

    def _load_timings(self, config: Any) -> None:
        """Attaches stored timings, rather those of this engine than those of all."""
        own = self.own_timings
        path = own if own is not None and own.exists() else self.timing_cache
        problem = load_timing_cache(self.flavour, config, path) if path is not None else None
        if problem:
            self.tell(f"The stored kernel timings were discarded: {problem}.")

    def _save_timings(self, config: Any) -> None:
        try:
            # First those of this engine: saving takes in what the file holds already.
            for path in (self.own_timings, self.timing_cache):
                if path is not None:
                    save_timing_cache(self.flavour, config, path)
        except OutputError as error:  # the engine itself is good
            self.tell(f"The kernel timings were not kept: {error}")

    def _parse(self, network: Any, listener: Listener) -> None:
        parser = self.trt.OnnxParser(network, listener.logger)
        with listener.listening():
            parsed = parser.parse(self.graph) and not parser.num_errors
        if parsed:
            return
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        shown = "; ".join(_parser_error(error) for error in errors[:5])
        more = f"; and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise ModelError(
            f"{self.flavour.label} {self.trt.__version__} cannot read the graph "
            f"{foreign(self.model.graph.name)}: {shown or 'it gave no reason'}{more}. "
            "Export the model again with this version of srtrt."
        )

    def _require_types(self, network: Any) -> Counter[str]:
        """Counts convolutions by type; all must have that of the graph's precision.

        But those that the spec names as kept are float32.
        """
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        dequantised = {
            layer.get_output(0).name: layer.get_input(0).dtype.name
            for layer in layers
            if layer.type == self.trt.LayerType.DEQUANTIZE
        }
        convolutions = Counter(
            _convolution_type(layer, dequantised)
            for layer in layers
            if layer.type == self.trt.LayerType.CONVOLUTION
        )
        kept, wanted = self._kept_convolutions(), TYPE_NAMES[self.spec.precision]
        others = Counter({"FLOAT": kept} if kept else {})
        expected = Counter({wanted: sum(convolutions.values()) - kept}) + others
        if convolutions != expected or not convolutions[wanted]:
            found = ", ".join(f"{count} in {name}" for name, count in convolutions.items())
            raise ModelError(
                f"{foreign(self.model.graph.name)}: its spec says {self.spec.precision}, so all "
                f"convolutions {f'but {kept} in FLOAT ' if kept else ''}should compute in "
                f"{wanted}; found {found or 'none'}. Export it again."
            )
        return convolutions

    def _kept_convolutions(self) -> int:
        """How many convolutions are not in the graph's precision, as its spec tells."""
        quality = self.spec.quality
        facts = quality.get("typed") or quality.get("quantisation") or {}
        kept = facts.get("kept") if isinstance(facts, dict) else None
        kept = kept if isinstance(kept, list | tuple | dict) else ()
        nodes = self.model.graph.node
        return sum(node.op_type == "Conv" and layer_name(node) in kept for node in nodes)

    def _configure(self, config: Any, options: EngineOptions) -> int | None:
        """Sets the options; returns the workspace limit in bytes, None for the builder's own."""
        trt = self.trt
        config.builder_optimization_level = options.level
        if options.tf32:
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)
        require_user_memory(trt, config)
        if options.aux_streams is not None:
            config.max_aux_streams = options.aux_streams
        if options.tactics == "plain":
            exclude_tactics(trt, config)
        set_targets(self.flavour, trt, config, options.compute_capabilities)
        workspace = options.workspace_bytes
        if workspace is None and self.device is not None:
            workspace = memory_limit(self.device)
        if workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        return workspace

    def _set_shapes(self, builder: Any, network: Any, config: Any, shape: EngineShape) -> None:
        """Fixes the inputs to the one size, or adds a profile of the three sizes."""
        profile = builder.create_optimization_profile()
        symbolic = {value.name: value for value in self.model.graph.input}
        for tensor in map(network.get_input, range(network.num_inputs)):
            sizes = (shape.least, shape.best, shape.most)
            least, best, most = (dimensions(symbolic[tensor.name], size) for size in sizes)
            if shape.is_static:
                tensor.shape = best
            else:
                profile.set_shape(tensor.name, least, best, most)
        if not shape.is_static:
            config.add_optimization_profile(profile)


def _convolution_type(layer: Any, dequantised: Mapping[str, str]) -> str:
    """The type in which a convolution multiplies.

    With 8 bits its own tensors are floats that come from dequantising, which TensorRT moves into
    the convolution.

    Args:
        layer: the convolution.
        dequantised: stored type of each tensor that is a dequantised one, by name.
    """
    tensors = [layer.get_input(index) for index in range(layer.num_inputs)]
    stored = [dequantised.get(tensor.name) for tensor in tensors[:2] if tensor is not None]
    if len(stored) == 2 and stored[0] == stored[1] and stored[0] is not None:
        return stored[0]
    return str(layer.get_output(0).dtype.name)


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


def _tensors(get: Callable[[int], Any], count: int) -> dict[str, str]:
    """Inputs or outputs by name, as ``UINT8[1, 64, 64, 3]``."""
    tensors = [get(index) for index in range(count)]
    return {each.name: f"{each.dtype.name}{list(each.shape)}" for each in tensors}


def _parser_error(error: Any) -> str:
    where = error.node_name() or (f"number {error.node()}" if error.node() >= 0 else "")
    operator = f" ({error.node_operator()})" if error.node_operator() else ""
    return (
        f"{f'node {where}{operator}: ' if where else ''}{error.code().name}, {_short(error.desc())}"
    )


def _reasons(messages: Sequence[str]) -> str:
    """The first few messages of a log."""
    return " / ".join(map(_short, messages[:3])) or "it gave no reason"


def _short(message: str) -> str:
    """One line without the places in TensorRT's own source."""
    line = re.sub(r"^.*?Error Code \d+: |\[[\w.]+:\d+: \w+\] ", "", " ".join(message.split()))
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."
