"""PyTorch on a GPU that is not there: ``torch.cuda`` over host memory, every call as CUDA has it.

Calls must fit the signatures of the installed PyTorch. Kernels are its own for the CPU, seen one by
one: what is recorded is not done, a graph does it again between the same addresses, and recording
can be refused. ``torch.cuda.graph`` is the real one, with what it leaves behind when it fails.
"""

from __future__ import annotations

import ctypes
import inspect
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_local = threading.local()
_PRODUCTS = ("convolution", "conv2d", "einsum", "mm", "bmm", "addmm", "baddbmm")


@dataclass
class TorchGpu:
    """What was done with it."""

    refuses: str = ""
    """When recording fails: at its ``begin``, at a ``kernel`` or at its ``end``."""
    events: list[str] = field(default_factory=list)
    """Casts of weights, waiting for all of the device, first kernels, graphs and memory freed."""
    modes: list[str] = field(default_factory=list)
    """Modes of recording."""
    pools: dict[int, set[Any]] = field(default_factory=dict)
    """Pools of memory that graphs used, by the handle of their stream."""
    settings: list[tuple[Any, ...]] = field(default_factory=list)
    """Of each product on a stream or the default one: its precision, and whether cuDNN tries."""
    ended: list[Any] = field(default_factory=list)
    """Pools for which allocating was ended by hand."""
    graphs: weakref.WeakSet[Graph] = field(default_factory=weakref.WeakSet)
    recording: Graph | None = None
    replays: int = 0

    def streams_in_use(self) -> set[int]:
        """Streams of graphs that are still there."""
        return {graph.stream.cuda_stream for graph in self.graphs if graph.stream}


class ExternalStream:
    """``torch.cuda.ExternalStream``."""

    def __init__(self, stream_ptr: int, device: Any = None) -> None:
        assert isinstance(stream_ptr, int)
        self.cuda_stream, self.device = stream_ptr, torch.device(device)

    def synchronize(self) -> None:
        assert current() is not self or _machine().recording is None, "cannot be recorded"


class OnStream:
    """What ``torch.cuda.stream`` gives."""

    def __init__(self, stream: ExternalStream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        self.before = current()
        set_current(self.stream)

    def __exit__(self, *_: Any) -> None:
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


class Graph:
    """``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self.kernels: list[tuple[Any, ...]] = []
        self.stream: ExternalStream | None = None
        self.failed = False
        machine = _machine()
        machine.graphs.add(self)
        weakref.finalize(self, machine.events.append, "graph freed")

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global", **_: Any) -> None:
        machine, self.stream = _machine(), current()
        assert self.stream is not None, "the default stream cannot be recorded"
        if machine.refuses == "begin":
            raise RuntimeError("CUDA error: operation not permitted")
        machine.modes.append(capture_error_mode)
        machine.pools.setdefault(self.stream.cuda_stream, set()).add(pool)
        machine.recording = self

    def capture_end(self) -> None:
        machine = _machine()
        recording, machine.recording = machine.recording, None
        if self.failed or recording is not self or machine.refuses == "end":
            raise RuntimeError(
                "CUDA error: operation failed due to a previous error during capture"
            )

    def replay(self) -> None:
        assert current() is self.stream, "launched on another stream"
        _machine().replays += 1
        with torch.inference_mode(), _unseen():
            for function, arguments, named, results in self.kernels:
                again = function(*arguments, **named)
                for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


@contextmanager
def _unseen() -> Iterator[None]:
    """Settings were those of the recording, whatever they are now."""
    _local.unseen = True
    try:
        yield
    finally:
        _local.unseen = False


class Kernels(TorchDispatchMode):
    """Sees each kernel of this thread."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        machine, named = _machine(), kwargs or {}
        if getattr(_local, "unseen", False):
            return func(*args, **named)
        if func.overloadpacket.__name__ in _PRODUCTS:
            note_settings()
        graph = machine.recording
        if graph is None or current() is not graph.stream:
            machine.events.append("kernel")
            return func(*args, **named)
        if machine.refuses == "kernel":
            graph.failed = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        external = func.overloadpacket.__name__ == "copy_"
        results = args[0] if external else func(*args, **named)
        graph.kernels.append((func, args, named, None if external else results))
        return results


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


def install(monkeypatch: pytest.MonkeyPatch, view: Callable[[int, int], Any]) -> TorchGpu:
    """Gives PyTorch a GPU called ``cuda:0``.

    Args:
        monkeypatch: undoes it.
        view: the bytes at an address of the GPU's memory; raises if there are none.
    """
    machine = TorchGpu()
    monkeypatch.setattr(_Installed, "machine", machine)
    pools = itertools.count(1)
    acts: dict[str, Callable[..., Any]] = {
        "ExternalStream": ExternalStream,
        "stream": OnStream,
        "CUDAGraph": Graph,
        "graph_pool_handle": lambda: (0, next(pools)),
        "empty_cache": lambda: machine.events.append("empty_cache"),
        "synchronize": lambda device=None: machine.events.append("synchronize"),
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
    _place_on_host(monkeypatch, machine, view)
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


def _place_on_host(
    monkeypatch: pytest.MonkeyPatch, machine: TorchGpu, view: Callable[[int, int], Any]
) -> None:
    """Takes what is meant for the GPU to the host."""
    real = SimpleNamespace(
        to=torch.nn.Module.to, tensor=torch.tensor, empty=torch.empty, as_tensor=torch.as_tensor
    )

    def on_host(named: dict[str, Any]) -> dict[str, Any]:
        return named | ({"device": "cpu"} if str(named.get("device")).startswith("cuda") else {})

    def to(self: Any, *arguments: Any, **named: Any) -> Any:
        if any(str(each).startswith("cuda") for each in arguments):
            machine.events.append("cast")
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
        view(address, nbytes)
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
