"""What NVIDIA leaves undefined, or TensorRT refuses, does not go through the stand-in."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_support import GPU

pytest.importorskip("onnxruntime")
pytest.importorskip("cuda.bindings.runtime")
pytest.importorskip("tensorrt_rtx")

from cuda_simulator import Gpu
from tensorrt_standin import SimulatedMachine, StandIn, install

from srtrt.errors import BackendError
from srtrt.runtime.cuda.device import Device, DeviceMemory, Stream
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.key import EngineOptions, EngineShape
from srtrt.runtime.engines.monitor import Listener
from srtrt.runtime.layouts import form_layouts

SIZE = EngineShape.static(32, 24)
PLAIN = FLAVOURS["tensorrt"]


class Bench:
    """A context of plain TensorRT by hand, on a stream of the simulated GPU."""

    def __init__(self, patch: pytest.MonkeyPatch, graph: bytes) -> None:
        self.gpu = Gpu(3)
        self.gpu._eagerness = 0.0  # nothing is done before it is waited for
        self.machine = SimulatedMachine(self.gpu)
        self.standin: StandIn = install(patch, "tensorrt 11.4", machine=self.machine)
        self.device: Device = self.machine.open()
        trt = PLAIN.load()
        self.by_hand = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.listener = Listener(trt, lambda _share, _phase: None)
        self.built = build_engine(graph, SIZE, flavour=PLAIN)
        self.runtime = trt.Runtime(self.listener.logger)
        self.engine = self.runtime.deserialize_cuda_engine(self.built.plan)
        self.layouts = form_layouts("rgb8", SIZE.best)
        self.memory: DeviceMemory = self.device.device_memory(1 << 16)

    def context(self, memory: DeviceMemory | None = None) -> tuple[Any, dict[str, DeviceMemory]]:
        made = self.engine.create_execution_context(self.by_hand)
        memory = memory or self.memory
        made.set_device_memory(memory.address, memory.nbytes)
        tensors = {each.name: self.device.device_memory(each.nbytes) for each in self.layouts}
        for name, tensor in tensors.items():
            assert made.set_tensor_address(name, tensor.address)
        return made, tensors

    def said(self) -> list[str]:
        return [*self.standin.violations, *self.gpu.violations]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, graph: Path) -> Iterator[Bench]:
    yield Bench(monkeypatch, graph.read_bytes())
    gc.collect()


@pytest.fixture
def stream(bench: Bench) -> Stream:
    return bench.device.stream()


def captured(bench: Bench, context: Any, stream: Stream) -> Any:
    assert context.execute_async_v3(stream.handle)
    stream.synchronize()

    def work() -> None:
        assert context.execute_async_v3(stream.handle)

    return bench.device.capture(stream, work)


def test_addresses_may_not_change_after_a_capture(bench: Bench, stream: Stream) -> None:
    context, _ = bench.context()
    captured(bench, context, stream)
    assert bench.said() == []
    context.set_tensor_address("rgb", bench.memory.address)
    assert bench.said() == ["the address of rgb changes after the context was captured"]


def test_addresses_may_not_change_under_way(bench: Bench, stream: Stream) -> None:
    context, tensors = bench.context()
    context.execute_async_v3(stream.handle)
    context.set_tensor_address("rgb", tensors["rgb"].address)
    assert "while the context has work under way" in bench.said()[0]


def test_a_graph_may_not_outlive_its_context(bench: Bench, stream: Stream) -> None:
    context, tensors = bench.context()
    graph = captured(bench, context, stream)
    del context
    graph.launch(stream)
    stream.synchronize()
    assert bench.said() == ["a context was freed before its work was done"]
    del tensors


@pytest.mark.parametrize("what", ["working memory", "tensor"])
def test_memory_may_not_be_freed_under_way(what: str, bench: Bench, stream: Stream) -> None:
    context, tensors = bench.context()
    context.execute_async_v3(stream.handle)
    (bench.memory if what == "working memory" else tensors["rgb"]).close()
    assert bench.said() == ["memory is freed before the work that uses it is done"]


def test_streams_do_not_share_contexts_or_their_memory(bench: Bench, stream: Stream) -> None:
    other = bench.device.stream()
    (first, _), (second, _) = bench.context(), bench.context()
    first.execute_async_v3(stream.handle)
    second.execute_async_v3(other.handle)
    assert bench.said() == ["two streams compute in the same working memory"]
    first.execute_async_v3(other.handle)
    assert "a context is used on two streams" in bench.said()


def test_a_context_does_not_outlive_its_stream(bench: Bench, stream: Stream) -> None:
    context, _ = bench.context()
    context.execute_async_v3(stream.handle)
    stream.synchronize()
    stream.close()
    assert bench.said() == ["a stream is destroyed before an execution context on it"]


def test_the_logger_outlives_what_logs(bench: Bench, stream: Stream) -> None:
    context, _ = bench.context()
    del bench.listener
    gc.collect()
    bench.standin.failure = "anything"
    assert not context.execute_async_v3(stream.handle)
    assert bench.said() == ["the logger was freed before what logs to it"]


def test_the_first_computation_cannot_be_captured(bench: Bench, stream: Stream) -> None:
    context, _ = bench.context()

    def work() -> None:
        if not context.execute_async_v3(stream.handle):
            raise BackendError("refused")

    with pytest.raises(BackendError, match="refused"):
        bench.device.capture(stream, work)
    assert "not permitted when stream is capturing" in bench.listener.problems[-1]


def test_what_is_missing_or_too_small_is_refused(bench: Bench, stream: Stream) -> None:
    context = bench.engine.create_execution_context(bench.by_hand)
    assert not context.execute_async_v3(stream.handle)
    assert "Neither address or allocator is set" in bench.listener.problems[-1]
    context.set_device_memory(bench.memory.address, 256)
    assert "bytes at" in bench.listener.problems[-1]
    context.set_device_memory(bench.memory.address + 1, bench.memory.nbytes - 1)
    assert "aligned to 256" in bench.listener.problems[-1]
    assert not context.set_tensor_address("other", 4096)
    assert not context.set_input_shape("rgb", (1, 24, 30, 3))
    for wrong in ("4096", None, 1.5, True):
        with pytest.raises(TypeError):
            context.set_tensor_address("rgb", wrong)
    with pytest.raises(AttributeError):
        context.is_stream_capturable(stream.handle)


def test_an_engine_of_another_gpu_or_target_is_not_loaded(bench: Bench, graph: Path) -> None:
    bench.standin.gpu = replace(GPU, name="NVIDIA Other")
    assert bench.runtime.deserialize_cuda_engine(bench.built.plan) is None
    assert "incompatible device" in bench.listener.problems[-1]


def test_only_tensorrt_rtx_chooses_targets(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    rtx, standin = FLAVOURS["tensorrt-rtx"], install(monkeypatch)
    listener = Listener(module := rtx.load(), lambda _share, _phase: None)
    built = build_engine(
        graph.read_bytes(), SIZE, EngineOptions(compute_capabilities=("12.0",)), flavour=rtx
    )
    assert module.Runtime(listener.logger).deserialize_cuda_engine(built.plan) is None
    assert "got 12.0" in listener.problems[-1]
    standin.gpu = replace(GPU, compute_capability="12.0")
    assert module.Runtime(listener.logger).deserialize_cuda_engine(built.plan) is not None
