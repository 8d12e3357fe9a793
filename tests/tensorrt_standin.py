"""TensorRT-RTX with a runtime that needs no GPU, for tests of what runs engines.

Builder and parser are the real ones, so engines are really built. Only deserializing and
computing are replaced: an engine is computed by ONNX Runtime from the graph it was built from,
between addresses of a plain device, when its stream gets to it.
"""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from engine_support import GPU, RTX

from srtrt.graph_spec import read_spec
from srtrt.runtime.backends import tensorrt as backend_module
from srtrt.runtime.cuda.plain import PlainDevice
from srtrt.runtime.engines import gpu as gpu_module
from srtrt.runtime.engines import provide
from srtrt.runtime.engines.flavour import Flavour
from srtrt.runtime.engines.key import EngineShape, InputSize
from srtrt.runtime.engines.record import BuiltEngine
from srtrt.runtime.layouts import TensorLayout, form_layouts
from srtrt.twin import float32_twin


@dataclass
class StandIn:
    """What the stand-in did, and what it is to do."""

    devices: list[PlainDevice] = field(default_factory=list)
    builds: list[str] = field(default_factory=list)
    """Shapes that were built, in order."""
    shift: int = 0
    """Added to every output sample, as a wrong engine would."""
    failure: str | None = None
    """What computing fails with."""
    memory_for: int = 1 << 62
    """Most LR pixels that fit into memory."""
    computed: int = 0
    """Batches computed."""
    compiled: list[bytes] = field(default_factory=list)
    """Runtime caches that were loaded."""
    graphs: dict[str, tuple[bytes, EngineShape]] = field(default_factory=dict)
    """Graph and sizes of each plan by its hash."""


def install(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Puts the stand-in where TensorRT-RTX, the GPU and the device layer were."""
    real = RTX.load()
    standin = StandIn()
    build = provide.build_engine

    def recorded_build(graph: bytes, shape: EngineShape, *arguments: Any, **named: Any) -> Any:
        built: BuiltEngine = build(graph, shape, *arguments, **named)
        takes = EngineShape.parse(built.facts["shape"])
        standin.builds.append(str(takes))
        key = hashlib.sha256(built.plan).hexdigest()
        standin.graphs[key] = (graph, takes)
        return built

    def load(flavour: Flavour) -> Any:
        if flavour.name != RTX.name:
            return plain(flavour)
        return module

    def device(*_: Any) -> PlainDevice:
        standin.devices.append(PlainDevice())
        return standin.devices[-1]

    module = _Module(real, standin)
    plain = Flavour.load
    monkeypatch.setattr(Flavour, "load", load)
    monkeypatch.setattr(provide, "build_engine", recorded_build)
    for place in (backend_module, gpu_module):
        monkeypatch.setattr(place, "gpu_facts", lambda *_: GPU)
    monkeypatch.setattr("srtrt.export.engines.gpu_facts", lambda *_: GPU)
    monkeypatch.setattr(backend_module, "open_device", device)
    monkeypatch.setattr(backend_module, "installed_binding", lambda: "cuda-python")
    return standin


class _Module:
    """The module ``tensorrt_rtx`` with another ``Runtime``."""

    def __init__(self, real: Any, standin: StandIn) -> None:
        self._real, self._standin = real, standin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        def deserialize(plan: bytes) -> Any:
            key = hashlib.sha256(plan).hexdigest()
            if key not in self._standin.graphs:
                logger.log(self._real.ILogger.ERROR, "Error Code 6: the plan is of another version")
                return None
            return _Engine(self._real, self._standin, logger, *self._standin.graphs[key])

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class _Engine:
    device_memory_size_v2 = 4096

    def __init__(
        self, trt: Any, standin: StandIn, logger: Any, graph: bytes, takes: EngineShape
    ) -> None:
        self.trt, self.standin, self.logger, self.takes = trt, standin, logger, takes
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        spec = read_spec(model := onnx.load_model_from_string(graph), "graph")
        self.form, self.layouts = spec.form, form_layouts(spec.form, takes.best)
        if spec.precision == "bf16":
            graph = float32_twin(model).SerializeToString()  # ONNX Runtime has none on the CPU
        self.session = onnxruntime.InferenceSession(
            graph, settings, providers=["CPUExecutionProvider"]
        )
        self.num_io_tensors = len(self.layouts)

    def get_tensor_name(self, index: int) -> str:
        return self.layouts[index].name

    def get_tensor_dtype(self, name: str) -> Any:
        types = {"uint8": self.trt.DataType.UINT8, "float32": self.trt.DataType.FLOAT}
        return types[next(each.dtype.name for each in self.layouts if each.name == name)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        least, most = (
            next(each.shape for each in form_layouts(self.form, size) if each.name == name)
            for size in (self.takes.least, self.takes.most)
        )
        return tuple(a if a == b else -1 for a, b in zip(least, most, strict=True))

    def create_runtime_config(self) -> Any:
        return _RuntimeConfig(self.standin)

    def create_execution_context(self, config: Any) -> Any:
        assert config.strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return _Context(self)


class _RuntimeConfig:
    def __init__(self, standin: StandIn) -> None:
        self.standin, self.cache, self.strategy = standin, None, None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Any:
        def deserialize(data: bytes) -> bool:
            self.standin.compiled.append(bytes(data))
            return True

        return SimpleNamespace(deserialize=deserialize, serialize=lambda: b"compiled kernels")

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = cache

    def get_runtime_cache(self) -> Any:
        return self.cache


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine, self.addresses, self.memory = engine, dict[str, int](), 0
        self.layouts = engine.layouts

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name in ("rgb", "y"):
            height, width = shape[1:3] if name == "rgb" else shape[2:]
            size = InputSize(width=width, height=height, batch=shape[0])
            self.layouts = form_layouts(self.engine.form, size)
            if not self.engine.takes.covers(EngineShape.of(size)):
                return False
        return tuple(shape) == next(each.shape for each in self.layouts if each.name == name)

    def update_device_memory_size_for_shapes(self) -> int:
        return self.engine.device_memory_size_v2

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        assert size >= self.engine.device_memory_size_v2
        self.memory = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def is_stream_capturable(self, _stream: int) -> bool:
        return True

    def execute_async_v3(self, _stream: int) -> bool:
        standin = self.engine.standin
        first = next(each for each in self.layouts if each.is_input)
        pixels = int(np.prod(first.shape)) // (3 if first.name == "rgb" else 1)
        failure = standin.failure
        if pixels > standin.memory_for:
            failure = "Error Code 2: OutOfMemory (Requested size was 123 bytes.)"
        if failure is not None:
            self.engine.logger.log(self.engine.trt.ILogger.ERROR, failure)
            return False
        assert self.memory, "it has no working memory"
        standin.computed += 1
        arrays = {each.name: self._array(each) for each in self.layouts}
        inputs = {each.name: arrays[each.name] for each in self.layouts if each.is_input}
        names = [each.name for each in self.layouts if not each.is_input]
        results = self.engine.session.run(names, inputs)
        for name, result in zip(names, results, strict=True):
            shifted = result.astype(int) + standin.shift
            arrays[name][...] = np.clip(shifted, 0, 255)
        return True

    def _array(self, layout: TensorLayout) -> Any:
        memory = (ctypes.c_uint8 * layout.nbytes).from_address(self.addresses[layout.name])
        return np.ctypeslib.as_array(memory).view(layout.dtype).reshape(layout.shape)
