"""CUDA in host memory behind the interfaces of cuda-python and PyCUDA.

Both device layers can so be run without a GPU: every call must exist in the real cuda-python, is
done at once or recorded while a stream is captured, and everything allocated is counted.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


class CudaRuntime:
    """``cuda.bindings.runtime``, as far as srtrt uses it."""

    def __init__(self) -> None:
        self.real = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
        self.success = self.real.cudaError_t.cudaSuccess
        self.alive: dict[int, tuple[str, Any]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.memory_left = 1 << 40
        self.calls: list[str] = []
        self._handles = itertools.count(1000)
        self._clock = itertools.count()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)  # a name that does not exist fails here
        if not callable(real) or isinstance(real, type):
            return real
        act = getattr(self, f"_{name.removeprefix('cuda')}", None)
        assert act is not None, f"{name} is not expected"

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            result = act(*arguments)
            if isinstance(result, self.real.cudaError_t):
                return (result, None)
            return (self.success,) if result is None else (self.success, result)

        return call

    def _new(self, kind: str, value: Any = None) -> int:
        handle = next(self._handles)
        self.alive[handle] = (kind, value)
        return handle

    def _end(self, kind: str, handle: Any) -> None:
        assert self.alive.pop(int(handle))[0] == kind

    def _memory(self, kind: str, nbytes: int) -> Any:
        if nbytes > self.memory_left:
            return self.real.cudaError_t.cudaErrorMemoryAllocation
        self.memory_left -= nbytes
        buffer = np.zeros(nbytes, np.uint8)
        self.alive[buffer.ctypes.data] = (kind, buffer)
        return buffer.ctypes.data

    def _do(self, work: Callable[[], None]) -> None:
        if self.recording is not None:
            self.recording.append(work)
        else:
            work()

    def _SetDevice(self, index: int) -> Any:  # noqa: N802 - the names are CUDA's
        return None if index == 0 else self.real.cudaError_t.cudaErrorInvalidDevice

    def _Free(self, address: int) -> None:  # noqa: N802
        if address:
            self._end("device", address)

    def _FreeHost(self, address: int) -> None:  # noqa: N802
        self._end("host", address)

    def _Malloc(self, nbytes: int) -> Any:  # noqa: N802
        return self._memory("device", nbytes)

    def _HostAlloc(self, nbytes: int, _flags: int) -> Any:  # noqa: N802
        return self._memory("host", nbytes)

    def _StreamCreateWithFlags(self, _flags: int) -> int:  # noqa: N802
        return self._new("stream")

    def _StreamDestroy(self, handle: int) -> None:  # noqa: N802
        self._end("stream", handle)

    def _StreamSynchronize(self, handle: int) -> None:  # noqa: N802
        assert self.alive[handle][0] == "stream"

    def _EventCreateWithFlags(self, _flags: int) -> int:  # noqa: N802
        return self._new("event", [0])

    def _EventDestroy(self, handle: int) -> None:  # noqa: N802
        self._end("event", handle)

    def _EventRecord(self, handle: int, _stream: int) -> None:  # noqa: N802
        assert self.recording is None, "events must not become part of a graph"
        self.alive[handle][1][0] = next(self._clock)

    def _EventSynchronize(self, handle: int) -> None:  # noqa: N802
        assert self.alive[handle][0] == "event"

    def _EventElapsedTime(self, start: int, end: int) -> float:  # noqa: N802
        return float(self.alive[end][1][0] - self.alive[start][1][0])

    def _MemcpyAsync(  # noqa: N802
        self, target: int, source: int, nbytes: int, _kind: Any, stream: int
    ) -> None:
        assert self.alive[stream][0] == "stream"
        self._do(lambda: ctypes.memmove(target, source, nbytes) and None)

    def _StreamBeginCapture(self, _stream: int, _mode: Any) -> None:  # noqa: N802
        self.recording = []

    def _StreamEndCapture(self, _stream: int) -> int:  # noqa: N802
        recorded, self.recording = self.recording, None
        return self._new("graph", recorded)

    def _GraphInstantiate(self, graph: int, _flags: int) -> int:  # noqa: N802
        return self._new("executable", self.alive[graph][1])

    def _GraphDestroy(self, graph: int) -> None:  # noqa: N802
        self._end("graph", graph)

    def _GraphExecDestroy(self, graph: int) -> None:  # noqa: N802
        self._end("executable", graph)

    def _GraphLaunch(self, graph: int, _stream: int) -> None:  # noqa: N802
        for work in self.alive[graph][1]:
            work()

    def _GetErrorString(self, error: Any) -> bytes:  # noqa: N802
        return str(error.name).encode()


class PyCudaDriver:
    """``pycuda.driver``, as far as srtrt uses it (PyCUDA 2026.1's documentation)."""

    class Error(Exception):
        """Its own base of errors."""

    class MemoryError(Error):  # noqa: A001 - PyCUDA's name
        """No memory."""

    stream_flags = SimpleNamespace(NON_BLOCKING=1)
    event_flags = SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2)
    host_alloc_flags = SimpleNamespace(WRITECOMBINED=4)

    def __init__(self) -> None:
        self.depth = 0
        self.attached = 0
        self.memory_left = 1 << 40
        self.alive: set[int] = set()
        driver = self

        class Context:
            def push(self) -> None:
                driver.depth += 1

            def detach(self) -> None:
                driver.attached -= 1

            @staticmethod
            def pop() -> None:
                driver.depth -= 1

        class Device:
            def __init__(self, index: int) -> None:
                if index:
                    raise driver.Error("cuDeviceGet failed: invalid device ordinal")

            def retain_primary_context(self) -> Context:
                driver.attached += 1
                return Context()

        class Stream:
            def __init__(self, _flags: int) -> None:
                assert driver.depth
                self.handle = 7

            def synchronize(self) -> None:
                assert driver.depth

        class Event:
            clock = itertools.count()

            def __init__(self, _flags: int) -> None:
                self.time = 0

            def record(self, stream: Stream) -> None:
                assert isinstance(stream, Stream)
                self.time = next(self.clock)

            def synchronize(self) -> None:
                assert driver.depth

            def time_since(self, other: Event) -> float:
                return float(self.time - other.time)

        self.Context, self.Device, self.Stream, self.Event = Context, Device, Stream, Event

    def init(self) -> None:
        pass

    def mem_alloc(self, nbytes: int) -> Any:
        return self._allocation(nbytes)

    def pagelocked_empty(self, shape: int, dtype: Any, mem_flags: int = 0) -> Any:
        return self._allocation(shape).view(dtype)

    def _allocation(self, nbytes: int) -> Any:
        assert self.depth
        if nbytes > self.memory_left:
            raise self.MemoryError("cuMemAlloc failed: out of memory")
        self.memory_left -= nbytes
        alive = self.alive

        class Allocation(np.ndarray):  # type: ignore[type-arg]
            def free(self) -> None:
                alive.remove(int(self))

            def __int__(self) -> int:
                return int(self.ctypes.data)

        buffer = np.zeros(nbytes, np.uint8)
        self.alive.add(buffer.ctypes.data)
        return buffer.view(Allocation)

    def memcpy_htod_async(self, target: int, source: Any, _stream: Any) -> None:
        ctypes.memmove(target, source.ctypes.data, source.nbytes)

    def memcpy_dtoh_async(self, target: Any, source: int, _stream: Any) -> None:
        ctypes.memmove(target.ctypes.data, source, target.nbytes)
