"""PyTorch on the simulated GPU of ``tests/cuda_simulator.py``.

Calls must fit the signatures of the installed PyTorch. Its kernels for the CPU are seen one by one,
and given to the stream that is current: they run when the GPU comes to them, between the addresses
that they were given. ``torch.cuda.graph`` is the real one, with what it leaves behind when it
fails.
"""

from __future__ import annotations

import ctypes
import inspect
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cuda_simulator import Executable, Gpu, RefusedError
from cuda_simulator import Graph as Captured
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_local = threading.local()
_PRODUCTS = ("convolution", "conv2d", "einsum", "mm", "bmm", "addmm", "baddbmm")
_MODES = {"global": "global", "thread_local": "thread", "relaxed": "relaxed"}


@dataclass
class TorchGpu:
    """What was done with it."""

    gpu: Gpu
    events: list[str] = field(default_factory=list)
    """Casts of weights, waiting for all of the device, kernels, graphs and memory freed."""
    modes: list[str] = field(default_factory=list)
    """Modes of recording."""
    pools: dict[int, set[Any]] = field(default_factory=dict)
    """Pools of memory that graphs used, by the handle of their stream."""
    settings: list[tuple[Any, ...]] = field(default_factory=list)
    """Of each product: its precision, and whether cuDNN tries its algorithms."""
    ended: list[Any] = field(default_factory=list)
    """Pools for which allocating was ended by hand."""
    graphs: weakref.WeakSet[Graph] = field(default_factory=weakref.WeakSet)
    uploading: bool = False
    """Whether weights may still be on their way, on the default stream."""
    kept_pools: int = 0
    """Graphs that were freed, whose memory PyTorch still keeps from others."""
    external: dict[int, int] = field(default_factory=dict)
    """Memory that is not PyTorch's: bytes by address."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RefusedError as refused:
        raise RuntimeError(f"CUDA error: {refused}") from refused


class ExternalStream:
    """``torch.cuda.ExternalStream``."""

    def __init__(self, stream_ptr: int, device: Any = None) -> None:
        assert isinstance(stream_ptr, int)
        self.cuda_stream, self.device = stream_ptr, torch.device(device)

    def synchronize(self) -> None:
        with _translated():
            _machine().gpu.synchronize(self.cuda_stream)


class OnStream:
    """What ``torch.cuda.stream`` gives."""

    def __init__(self, stream: ExternalStream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        self.before = current()
        set_current(self.stream)

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                flush()
        finally:
            if current() is not None:
                _local.kernels.waiting = []
            set_current(self.before)


def current() -> ExternalStream | None:
    """The current stream of this thread; None is the default one."""
    return getattr(_local, "stream", None)


def set_current(stream: ExternalStream | None) -> None:
    if stream is not None and current() is None:
        _local.kernels = Kernels()
        _local.kernels.__enter__()
    if stream is None and current() is not None:
        _local.kernels.__exit__(None, None, None)
    _local.stream = stream


class Kernels(TorchDispatchMode):
    """Sees each kernel of this thread; what it writes to memory of others waits for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if getattr(_local, "on_gpu", False):
            return func(*args, **named)
        if func.overloadpacket.__name__ in _PRODUCTS:
            note_settings()
        _machine().events.append("kernel")
        written = func.overloadpacket.__name__ == "copy_"
        results = args[0] if written else func(*args, **named)
        self.waiting.append((func, args, named, None if written else results))
        return results


@contextmanager
def _on_gpu() -> Iterator[None]:
    """Around what the GPU does, in whatever thread: nothing of it is given to a stream again."""
    before, _local.on_gpu = getattr(_local, "on_gpu", False), True
    try:
        yield
    finally:
        _local.on_gpu = before


def flush() -> None:
    """Gives the kernels seen so far to the current stream, as one."""
    stream, machine = current(), _machine()
    kernels = _local.kernels.waiting if stream is not None else []
    if stream is None or not kernels:
        return
    _local.kernels.waiting = []
    if machine.uploading:
        machine.gpu.violate("kernels read weights that nobody waited for")
    tensors = [each for _, args, _, _ in kernels for each in args if isinstance(each, torch.Tensor)]
    found = {each.data_ptr() for each in tensors} & machine.external.keys()
    uses = [(address, machine.external[address]) for address in found]

    def run() -> None:
        for address, nbytes in uses:
            machine.gpu.view(address, nbytes)
        with torch.inference_mode(), _on_gpu():
            for function, arguments, named, results in kernels:
                again = function(*arguments, **named)
                for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    with _translated():
        machine.gpu.enqueue(stream.cuda_stream, run, uses)


class Graph:
    """``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self.stream: ExternalStream | None = None
        self.executable: int | None = None
        self.machine = machine = _machine()
        machine.graphs.add(self)
        self.release: Callable[[], None] = lambda: None

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global", **_: Any) -> None:
        machine, self.stream = _machine(), current()
        assert self.stream is not None, "the default stream cannot be recorded"
        with _translated():
            machine.gpu.begin_capture(self.stream.cuda_stream, _MODES[capture_error_mode])
        machine.modes.append(capture_error_mode)
        machine.pools.setdefault(self.stream.cuda_stream, set()).add(pool)

    def capture_end(self) -> None:
        gpu, stream = _machine().gpu, self.stream
        assert stream is not None
        assert current() is stream
        with _translated():
            captured = gpu.end_capture(stream.cuda_stream)
            try:
                self.executable = gpu.instantiate(captured)
            finally:
                gpu.end_graph(captured, Captured)
            self.release = gpu.hold(stream.cuda_stream, "a graph of PyTorch's on it")

    def replay(self) -> None:
        assert current() is self.stream, "launched on another stream"
        assert self.stream is not None
        assert self.executable is not None
        with _translated():
            _machine().gpu.launch(self.executable, self.stream.cuda_stream)

    def __del__(self) -> None:
        machine = self.machine
        machine.events.append("graph freed")
        self.release()
        if self.executable is not None:
            machine.kept_pools += 1
            with suppress(RefusedError):
                machine.gpu.end_graph(self.executable, Executable)


def note_settings() -> None:
    backends = torch.backends
    found = [backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()]
    if hasattr(backends.cudnn, "conv"):
        found += [backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision]
    _machine().settings.append((*found, backends.cudnn.benchmark))


class _Installed:
    machine: TorchGpu | None = None


def _machine() -> TorchGpu:
    assert _Installed.machine is not None
    return _Installed.machine


def install(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> TorchGpu:
    """Gives PyTorch a GPU called ``cuda:0``."""
    machine = TorchGpu(gpu)
    monkeypatch.setattr(_Installed, "machine", machine)
    pools = itertools.count(1)

    def synchronize(device: Any = None) -> None:
        machine.events.append("synchronize")
        machine.uploading = False

    def empty_cache() -> None:
        machine.events.append("empty_cache")
        machine.kept_pools = 0

    def graph_pool_handle() -> tuple[int, int]:
        if machine.kept_pools:
            gpu.violate("memory of graphs that are gone is kept from those that come")
        return 0, next(pools)

    acts: dict[str, Callable[..., Any]] = {
        "ExternalStream": ExternalStream,
        "stream": OnStream,
        "CUDAGraph": Graph,
        "graph_pool_handle": graph_pool_handle,
        "empty_cache": empty_cache,
        "synchronize": synchronize,
    }
    for name, act in acts.items():
        monkeypatch.setattr(torch.cuda, name, _checked(getattr(torch.cuda, name), act))
    monkeypatch.setattr(Graph, "capture_begin", _checked_method("capture_begin"))
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)

    def end_allocating(device: int, mempool_id: tuple[int, int]) -> None:
        assert isinstance(device, int)
        assert len(mempool_id) == 2
        machine.ended.append(mempool_id)
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end_allocating)
    _place_on_host(monkeypatch, machine)
    return machine


def _checked(real: Any, act: Callable[..., Any]) -> Callable[..., Any]:
    """A call that must fit the real one's signature."""
    signature = inspect.signature(real.__new__ if inspect.isclass(real) else real)
    first = (None,) if inspect.isclass(real) else ()

    def call(*arguments: Any, **named: Any) -> Any:
        signature.bind(*first, *arguments, **named)
        return act(*arguments, **named)

    return call


def _checked_method(name: str) -> Callable[..., Any]:
    signature = inspect.signature(getattr(torch.cuda.graphs.CUDAGraph, name))
    act = getattr(Graph, name)

    def call(self: Graph, *arguments: Any, **named: Any) -> Any:
        signature.bind(self, *arguments, **named)
        return act(self, *arguments, **named)

    return call


def _place_on_host(monkeypatch: pytest.MonkeyPatch, machine: TorchGpu) -> None:
    """Takes what is meant for the GPU to the host."""
    real = SimpleNamespace(
        to=torch.nn.Module.to, tensor=torch.tensor, empty=torch.empty, as_tensor=torch.as_tensor
    )

    def on_host(named: dict[str, Any]) -> dict[str, Any]:
        return named | ({"device": "cpu"} if str(named.get("device")).startswith("cuda") else {})

    def to(self: Any, *arguments: Any, **named: Any) -> Any:
        if any(str(each).startswith("cuda") for each in arguments):
            machine.events.append("cast")
            machine.uploading = True
        arguments = tuple("cpu" if str(each).startswith("cuda") else each for each in arguments)
        return real.to(self, *arguments, **named)

    def as_tensor(data: Any, **named: Any) -> Any:
        about = getattr(data, "__cuda_array_interface__", None)
        if about is None:
            return real.as_tensor(data, **on_host(named))
        assert str(named["device"]).startswith("cuda")
        assert (about["version"], about["strides"]) == (3, None)
        address, read_only = about["data"]
        assert not read_only
        kind = np.dtype(about["typestr"])
        nbytes = int(np.prod(about["shape"])) * kind.itemsize
        machine.gpu.view(address, nbytes)
        machine.external[address] = nbytes
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        array = np.ctypeslib.as_array(memory).view(kind).reshape(about["shape"])
        return torch.from_numpy(array)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(torch, "as_tensor", as_tensor)
    for name in ("tensor", "empty"):
        make = getattr(real, name)
        monkeypatch.setattr(
            torch, name, lambda *a, _make=make, **named: _make(*a, **on_host(named))
        )
