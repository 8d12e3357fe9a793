"""One attempt at building an engine: parsing, types, options, sizes, building."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from srtrt.errors import BackendError, ModelError, OutputError, forget_frames
from srtrt.graph import layer_name
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
from srtrt.runtime.engines.key import EngineOptions, EngineShape
from srtrt.runtime.engines.monitor import Listener, Progress
from srtrt.runtime.layouts import dimensions
from srtrt.runtime.memory import memory_limit
from srtrt.spec import ModelSpec
from srtrt.text import foreign

Note = Callable[[str], None]

TYPE_NAMES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8", "fp8": "FP8"}
"""TensorRT's name of the type in which a precision convolves."""

_LONGEST_MESSAGE = 200


@dataclass(frozen=True)
class Failure:
    """Why an attempt gave no engine."""

    reason: str
    out_of_memory: bool


@dataclass(frozen=True)
class Success:
    """An engine, and facts about its build."""

    plan: bytes
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """What all attempts at one engine share."""

    graph: bytes
    model: onnx.ModelProto
    """The same, parsed."""
    flavour: Flavour
    trt: Any
    """The product's module."""
    device: str | None
    """The GPU as ``cuda:N``, None without one."""
    timing_cache: Path | None
    """File of kernel timings to use and extend."""
    own_timings: Path | None
    """That of this engine alone, which is used instead if it exists."""
    on_progress: Progress
    tell: Note

    @property
    def spec(self) -> ModelSpec:
        """That of the graph."""
        return read_spec(self.model, foreign(self.model.graph.name))

    def attempt(self, shape: EngineShape, options: EngineOptions) -> Success | Failure:
        """Parses and builds once, and leaves no object of TensorRT behind."""
        try:
            return self._attempt(shape, options)
        except BaseException as error:
            forget_frames(error)
            raise

    def _attempt(self, shape: EngineShape, options: EngineOptions) -> Success | Failure:
        started = time.monotonic()
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
        apart = options.fusion is False and keep_additions_apart(self.trt, network)
        config = builder.create_builder_config()
        workspace = self._configure(config, options)
        self._set_shapes(builder, network, config, shape)
        config.progress_monitor = listener.monitor
        self._load_timings(config)
        listener.problems.clear()
        with listener.listening():
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            messages = listener.problems
            return Failure(_reasons(messages), wants_less(" ".join(messages)))
        self._save_timings(config)
        facts = {
            "shape": str(shape),
            "level": options.level,
            "workspace_bytes": workspace,
            "tactics": options.tactics or "all",
            "fusion": options.fusion is not False,
            "kept_apart": int(apart),
            "convolutions": dict(convolutions),
            "inputs": _tensors(network.get_input, network.num_inputs),
            "outputs": _tensors(network.get_output, network.num_outputs),
            "seconds": round(time.monotonic() - started, 3),
        }
        return Success(bytes(plan), facts)

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
