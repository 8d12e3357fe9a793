"""Engines and contexts of the TensorRT stand-in: what NVIDIA's runtime would refuse, they refuse.

What it leaves undefined, or lets happen and computes wrongly, is noted as a violation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from srtrt.graph_spec import read_spec
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.key import EngineOptions, EngineShape, InputSize
from srtrt.runtime.layouts import TensorLayout, form_layouts
from srtrt.twin import float32_twin

Range = tuple[int, int]

BYTES_PER_PIXEL = 16
"""Working memory of an engine for each LR pixel."""


class Machine(Protocol):
    """What computes: memory and streams by their numbers, as a driver knows them."""

    def view(self, address: int, nbytes: int) -> NDArray[np.uint8] | None:
        """The device memory at an address; None if not all of it is allocated."""

    def enqueue(self, stream: int, work: Callable[[], None], uses: Sequence[Range]) -> str | None:
        """Gives a stream work that uses memory; why it is refused, or None."""

    def hold(self, stream: int, what: str) -> Callable[[], None]:
        """Notes that something needs a stream; returns the function that ends it."""

    def dead(self) -> str | None:
        """The error that every call gives since something failed for good; None if nothing did."""

    def fault(self, what: str) -> Exception:
        """What work on the device raises for an error that nothing survives."""

    def is_capturing(self, stream: int) -> bool:
        """Whether what the stream is given is recorded."""


@dataclass(frozen=True)
class Plan:
    """What a serialized engine of the stand-in stands for."""

    graph: bytes
    takes: EngineShape
    targets: tuple[str, ...] = ()
    """Compute capabilities; empty for the default of TensorRT-RTX."""
    gpu: GpuFacts | None = None
    """The only kind of GPU it is for."""
    own_memory: bool = False
    """Whether it allocates by itself, which cannot be captured."""
    way: EngineOptions = field(default_factory=EngineOptions)
    """At which level, of which kernels and with which fusions it was built."""


@dataclass
class Rules:
    """What the runtime did, and what it is to do.

    Attributes:
        violations: what a real runtime would have answered with undefined behaviour.
        machine: where engines compute.
    """

    gpu: GpuFacts
    machine: Machine
    violations: list[str] = field(default_factory=list)
    shift: int = 0
    """Added to every output sample, as a wrong engine would."""
    wrong_for: Callable[[Plan], int] = lambda _: 0
    """The same for some engines."""
    sticky_for: Callable[[Plan], bool] = lambda _: False
    """Whether computing some engines makes the GPU unusable."""
    speed_for: Callable[[Plan], float] = lambda _: 100.0
    """What measuring frames per second of some engines gives."""
    failure: str | None = None
    """What computing fails with."""
    sticky: str | None = None
    """What the next computation fails with, and every call after it."""
    memory_for: int = 1 << 62
    """Most LR pixels that fit into memory."""
    contexts_for: int = 1 << 62
    """How many contexts may still be opened before memory runs out."""
    capturable: bool = True
    """Whether work may be captured."""
    working_memory: bool = True
    """Whether engines need any."""
    computed: int = 0
    """Batches computed."""
    contexts: int = 0
    """Contexts that were opened."""
    compiled: list[bytes] = field(default_factory=list)
    """Runtime caches that were loaded."""
    log: list[str] = field(default_factory=list)
    """What was logged as an error."""
    alive: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    """Engines and contexts that were not freed."""
    streams: dict[int, int] = field(default_factory=dict)
    """The stream that each piece of working memory in use is for, by address."""

    def violated(self, what: str) -> None:
        self.violations.append(what)

    def fail(self, logger: Any, trt: Any, message: str) -> None:
        """Logs an error as TensorRT does, by the base class's own signature."""
        self.log.append(message)
        logger.log(trt.ILogger.ERROR, message)


class Runtime:
    """``Runtime`` with deserialization of the stand-in's plans."""

    def __init__(
        self, trt: Any, rules: Rules, find: Callable[[bytes], Plan | None], logger: Any
    ) -> None:
        self._trt, self._rules, self._find = trt, rules, find
        # TensorRT itself keeps the bare address of its logger.
        self._logger = weakref.ref(logger)

    def logger_of(self) -> Any:
        logger = self._logger()
        if logger is None:
            self._rules.violated("the logger was freed before what logs to it")
            return SimpleNamespace(log=lambda *_: None)
        return logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        plan, gpu = self._find(bytes(serialized_engine)), self._rules.gpu
        problem = None
        if plan is None:
            problem = "the plan is of another version"
        elif plan.gpu not in (None, gpu) or not _serves(plan, gpu):
            problem = (
                "The engine plan file is generated on an incompatible device, expecting compute "
                f"{gpu.compute_capability} got {', '.join(plan.targets) or 'another'}, "
                "please rebuild."
            )
        if problem is not None or plan is None:
            message = f"IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error ({problem})"
            self._rules.fail(self.logger_of(), self._trt, message)
            return None
        return ICudaEngine(self._trt, self._rules, self, plan)


def _serves(plan: Plan, gpu: GpuFacts) -> bool:
    if plan.gpu is not None:
        return True
    usual = float(gpu.compute_capability) >= 8.0
    return gpu.compute_capability in plan.targets or (not plan.targets and usual)


@cache
def session_of(graph: bytes) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime, opened once."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    model = onnx.load_model_from_string(graph)
    if read_spec(model, "graph").precision == "bf16":
        graph = float32_twin(model).SerializeToString()  # ONNX Runtime has none on the CPU
    return onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])


class ICudaEngine:
    """An engine computed by ONNX Runtime from the graph it was built from."""

    num_aux_streams = 0

    def __init__(self, trt: Any, rules: Rules, runtime: Runtime, plan: Plan) -> None:
        self.trt, self.rules, self.runtime, self.plan = trt, rules, runtime, plan
        self.form = read_spec(onnx.load_model_from_string(plan.graph), "graph").form
        self.session = session_of(plan.graph)
        self.layouts = form_layouts(self.form, plan.takes.best)
        self.num_io_tensors = len(self.layouts)
        rules.alive.add(self)

    @property
    def device_memory_size_v2(self) -> int:
        return self.working_bytes(self.plan.takes.most.pixels)

    def working_bytes(self, pixels: int) -> int:
        return -(-BYTES_PER_PIXEL * pixels // 256) * 256 if self.rules.working_memory else 0

    def fail(self, message: str) -> None:
        self.rules.fail(self.runtime.logger_of(), self.trt, message)

    def get_tensor_name(self, index: int) -> str:
        return self.layouts[index].name

    def get_tensor_dtype(self, name: str) -> Any:
        types = {"uint8": self.trt.DataType.UINT8, "float32": self.trt.DataType.FLOAT}
        return types[next(each.dtype.name for each in self.layouts if each.name == name)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        least, most = (
            next(each.shape for each in form_layouts(self.form, size) if each.name == name)
            for size in (self.plan.takes.least, self.plan.takes.most)
        )
        return tuple(a if a == b else -1 for a, b in zip(least, most, strict=True))

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self.rules, self.trt)

    def create_execution_context(self, how: Any = None) -> IExecutionContext | None:
        by_hand = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        strategy = how.strategy if isinstance(how, IRuntimeConfig) else how
        assert strategy == by_hand, "contexts are to use the memory they are given"
        if (error := self.rules.machine.dead()) is not None:
            self.fail(f"Error Code 1: Cuda Runtime ({error})")
            return None
        if self.rules.contexts_for <= 0:
            self.fail(
                "[executionContext.cpp::initializeExecutionContext::625] Error Code 2: OutOfMemory "
                "(Requested size was 301989888 bytes.)"
            )
            return None
        self.rules.contexts_for -= 1
        self.rules.contexts += 1
        return IExecutionContext(self)


class IRuntimeCache:
    """What was compiled on first use."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def deserialize(self, blob: bytes) -> bool:
        self._rules.compiled.append(bytes(blob))
        return True

    def serialize(self) -> IHostMemory:
        return IHostMemory(b"compiled kernels")


class IHostMemory:
    """A buffer of TensorRT."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data


class IRuntimeConfig:
    """``IRuntimeConfig`` of TensorRT-RTX."""

    def __init__(self, rules: Rules, trt: Any) -> None:
        self._rules, self._cache = rules, None
        self.strategy = trt.ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._rules)

    def set_runtime_cache(self, cache: Any) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self) -> Any:
        return self._cache


class IExecutionContext:
    """A context as strict as the documentation of the real one."""

    def __init__(self, engine: ICudaEngine) -> None:
        self.engine, self.rules = engine, engine.rules
        self.layouts, self.addresses = engine.layouts, dict[str, int]()
        self.memory, self.stream = 0, 0
        self.captured = self.ran = False
        self.pending = 0
        """How much of its work was started and is not done."""
        self.rules.alive.add(self)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._change(f"the shape of {name}")
        self.ran = False
        if name in ("rgb", "y"):
            height, width = shape[1:3] if name == "rgb" else shape[2:]
            size = InputSize(width=width, height=height, batch=shape[0])
            self.layouts = form_layouts(self.engine.form, size)
            if not self.engine.plan.takes.covers(EngineShape.of(size)):
                return self._refused(
                    "IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter "
                    "check failed, condition: engineDims.d[i] == dims.d[i]. Static dimension "
                    "mismatch while setting input shape.)"
                )
        return tuple(shape) == next(each.shape for each in self.layouts if each.name == name)

    def update_device_memory_size_for_shapes(self) -> int:
        return self.engine.working_bytes(self._pixels())

    def set_device_memory(self, memory: int, size: int) -> None:
        self._change("the working memory")
        needed = self.update_device_memory_size_for_shapes()
        if not memory or memory % 256 or size < needed:
            self._refused(
                "IExecutionContext::setDeviceMemoryV2: Error Code 3: API Usage Error (Parameter "
                f"check failed: {size} bytes at {memory:#x}; {needed} are needed, aligned to 256)"
            )
            return
        self.memory = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._change(f"the address of {name}")
        if name not in (each.name for each in self.layouts):
            return self._refused(
                f"Error Code 3: API Usage Error (Given invalid tensor name: {name})"
            )
        self.addresses[name] = memory
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self.rules.capturable and not self.engine.plan.own_memory

    def execute_async_v3(self, stream_handle: int) -> bool:
        capturing = self.rules.machine.is_capturing(stream_handle)
        problem = self._problem(capturing)
        if problem is not None:
            return self._refused(problem)
        self._use(stream_handle)
        work = _Work(self, started=not capturing)
        self.pending += not capturing
        problem = self.rules.machine.enqueue(stream_handle, work.run, work.uses)
        if problem is not None:
            self.pending -= not capturing
            return self._refused(f"Error Code 1: Cuda Runtime ({problem})")
        self.captured, self.ran = self.captured or capturing, True
        return True

    def _refused(self, message: str) -> bool:
        self.engine.fail(message)
        return False

    def _change(self, what: str) -> None:
        if self.captured:
            self.rules.violated(f"{what} changes after the context was captured")
        if self.pending:
            self.rules.violated(f"{what} changes while the context has work under way")

    def _pixels(self) -> int:
        first = next(each for each in self.layouts if each.is_input)
        return int(np.prod(first.shape)) // (3 if first.name == "rgb" else 1)

    def _problem(self, capturing: bool) -> str | None:
        """Why the work is not taken."""
        rules = self.rules
        if rules.failure is not None:
            return rules.failure
        if self._pixels() > rules.memory_for:
            return "Error Code 2: OutOfMemory (Requested size was 123 bytes.)"
        missing = [each.name for each in self.layouts if not self.addresses.get(each.name)]
        if missing:
            return (
                "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (Neither address or "
                f"allocator is set for tensor {missing[0]}. Call setTensorAddress.)"
            )
        if not self.memory:
            return "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (no device memory)"
        if capturing and not (self.ran and rules.capturable):
            # Kernels are loaded by the first computation, which cannot be recorded.
            return (
                "[executionContext.cpp::handleTrainStationRunnerPhase1::146] Error Code 1: Cuda "
                "Runtime (operation not permitted when stream is capturing)"
            )
        return None

    def _use(self, stream: int) -> None:
        """Notes which stream the context and its working memory are for."""
        streams = self.rules.streams
        if self.stream not in (0, stream):
            self.rules.violated("a context is used on two streams")
        if streams.get(self.memory, stream) != stream:
            self.rules.violated("two streams compute in the same working memory")
        if not self.stream:
            weakref.finalize(self, streams.pop, self.memory, None).atexit = False
            release = self.rules.machine.hold(stream, "an execution context on it")
            weakref.finalize(self, release).atexit = False
        self.stream = streams[self.memory] = stream


class _Work:
    """One computation as a stream or a graph holds it: its addresses cannot change any more."""

    def __init__(self, context: IExecutionContext, *, started: bool) -> None:
        self._context, self._engine = weakref.ref(context), context.engine
        self._layouts, self._addresses = context.layouts, dict(context.addresses)
        self._memory = (context.memory, context.update_device_memory_size_for_shapes())
        self._started = started
        self.uses: list[Range] = [
            self._memory,
            *((self._addresses[each.name], each.nbytes) for each in self._layouts),
        ]

    def run(self) -> None:
        rules, context = self._engine.rules, self._context()
        if context is None:
            rules.violated("a context was freed before its work was done")
        elif self._started:
            context.pending -= 1
        if rules.sticky is not None or rules.sticky_for(self._engine.plan):
            raise rules.machine.fault(rules.sticky or "an illegal memory access was encountered")
        if rules.machine.view(*self._memory) is None:
            rules.violated("working memory was freed before the work was done")
        arrays = {each.name: self._array(each) for each in self._layouts}
        if any(array is None for array in arrays.values()):
            rules.violated("a tensor was freed before the work was done")
            return
        rules.computed += 1
        wrong = rules.shift + rules.wrong_for(self._engine.plan)
        inputs = {each.name: np.array(arrays[each.name]) for each in self._layouts if each.is_input}
        names = [each.name for each in self._layouts if not each.is_input]
        results = self._engine.session.run(names, inputs)
        for name, result in zip(names, results, strict=True):
            arrays[name][...] = np.clip(result.astype(int) + wrong, 0, 255)  # type: ignore[index]

    def _array(self, layout: TensorLayout) -> NDArray[Any] | None:
        memory = self._engine.rules.machine.view(self._addresses[layout.name], layout.nbytes)
        return None if memory is None else memory.view(layout.dtype).reshape(layout.shape)
