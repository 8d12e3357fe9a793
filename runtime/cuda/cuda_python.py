"""The device layer on cuda-python, NVIDIA's own bindings of the CUDA runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, DeviceLostError, DeviceMemoryError, MissingPackageError
from srtrt.runtime.cuda.device import (
    Device,
    DeviceMemory,
    Event,
    Graph,
    HostMemory,
    Resource,
    Stream,
    is_lost,
)


class CudaPythonDevice(Device):
    """A GPU through ``cuda.bindings.runtime``."""

    label = "cuda-python"
    captures = True
    locks_memory = True

    def __init__(self, index: int) -> None:
        """Opens GPU number ``index``.

        Raises:
            MissingPackageError: if cuda-python is not installed.
            BackendError: if there is no such GPU, or its driver does not serve it.
        """
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise MissingPackageError("cuda-python", "gpu", "calling CUDA from Python") from error
        self._cuda = _Calls(runtime)
        self._index = index
        with self.current():
            self._cuda.Free(0)  # makes the context, so that failures show here

    @contextmanager
    def current(self) -> Iterator[None]:
        """See :meth:`Device.current`."""
        self._cuda.SetDevice(self._index)
        yield

    def stream(self) -> Stream:
        """See :meth:`Device.stream`."""
        return _Stream(self._cuda)

    def event(self, *, timed: bool = False) -> Event:
        """See :meth:`Device.event`."""
        return _Event(self._cuda, timed)

    def device_memory(self, nbytes: int) -> DeviceMemory:
        """See :meth:`Device.device_memory`."""
        return _DeviceMemory(self._cuda, nbytes)

    def host_memory(self, nbytes: int, *, write_combined: bool = False) -> HostMemory:
        """See :meth:`Device.host_memory`."""
        return _HostMemory(self._cuda, nbytes, write_combined)

    def lock_memory(self, array: NDArray[np.uint8]) -> Resource:
        """See :meth:`Device.lock_memory`."""
        return _LockedMemory(self._cuda, array)

    def copy_in(self, target: int, source: NDArray[np.uint8], stream: Stream) -> None:
        """See :meth:`Device.copy_in`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda.MemcpyAsync(target, source.ctypes.data, source.nbytes, kind, stream.handle)

    def copy_out(self, target: NDArray[np.uint8], source: int, stream: Stream) -> None:
        """See :meth:`Device.copy_out`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda.MemcpyAsync(target.ctypes.data, source, target.nbytes, kind, stream.handle)

    def submit(self, stream: Stream, work: Callable[[], None]) -> None:
        """See :meth:`Device.submit`."""
        work()

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """See :meth:`Device.capture`."""
        # Thread-local, so that another thread may allocate meanwhile.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda.StreamBeginCapture(stream.handle, mode)
        try:
            work()
        except BaseException:
            self._abandon(stream)
            raise
        graph = self._cuda.StreamEndCapture(stream.handle)
        try:
            return _Graph(self._cuda, self._cuda.GraphInstantiate(graph, 0))
        finally:
            self._cuda.GraphDestroy(graph)

    def _abandon(self, stream: Stream) -> None:
        """Ends a capture whose work failed: that error is the real one."""
        error, graph = self._cuda.quietly("StreamEndCapture", stream.handle)
        if not int(error):
            self._cuda.quietly("GraphDestroy", graph)

    def close(self) -> None:
        """See :meth:`Device.close`; the context belongs to the process and stays."""


class _Calls:
    """The functions of the CUDA runtime without their prefix, with errors raised.

    Attributes that start with ``cuda`` are its enumerations.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        if name.startswith("cuda"):
            return getattr(self._runtime, name)
        function = getattr(self._runtime, f"cuda{name}")

        def call(*arguments: Any) -> Any:
            error, *results = function(*arguments)
            if int(error):
                self._fail(name, error)
            return results[0] if results else None

        return call

    def quietly(self, name: str, *arguments: Any) -> Any:
        """Calls a function whose failure changes nothing, and returns all that it returns."""
        result = getattr(self._runtime, f"cuda{name}")(*arguments)
        if int(result[0]):
            self._forget_error()
        return result

    def _forget_error(self) -> None:
        """CUDA keeps the last error for whoever asks next, such as PyTorch after its kernels."""
        self._runtime.cudaGetLastError()

    def _fail(self, name: str, error: Any) -> None:
        self._forget_error()
        _, text = self._runtime.cudaGetErrorString(error)
        message = f"cuda{name}: {text.decode() if isinstance(text, bytes) else text}"
        if error == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            raise DeviceMemoryError(f"GPU memory ran out ({message}).")
        raise (DeviceLostError if is_lost(message) else BackendError)(f"CUDA failed ({message}).")


class _Owned:
    """A handle that is given back once, by one function of the CUDA runtime."""

    def __init__(self, cuda: _Calls, free: str, handle: Any) -> None:
        self._cuda, self._free, self._raw = cuda, free, handle

    def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            # After a failure of the device every call fails; the first error is the one to see.
            self._cuda.quietly(self._free, raw)


class _Stream(_Owned):
    def __init__(self, cuda: _Calls) -> None:
        flags = cuda.cudaStreamNonBlocking
        super().__init__(cuda, "StreamDestroy", cuda.StreamCreateWithFlags(flags))
        self.handle = int(self._raw)

    def synchronize(self) -> None:
        self._cuda.StreamSynchronize(self.handle)


class _Event(_Owned):
    def __init__(self, cuda: _Calls, timed: bool) -> None:
        # Blocking: a waiting thread leaves its core to the decoder and the encoder.
        flags = cuda.cudaEventBlockingSync | (0 if timed else cuda.cudaEventDisableTiming)
        super().__init__(cuda, "EventDestroy", cuda.EventCreateWithFlags(flags))

    def record(self, stream: Stream) -> None:
        self._cuda.EventRecord(self._raw, stream.handle)

    def wait(self) -> None:
        self._cuda.EventSynchronize(self._raw)

    def milliseconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, _Event)
        return float(self._cuda.EventElapsedTime(earlier._raw, self._raw))


class _DeviceMemory(_Owned):
    def __init__(self, cuda: _Calls, nbytes: int) -> None:
        super().__init__(cuda, "Free", cuda.Malloc(nbytes))
        self.address, self.nbytes = int(self._raw), nbytes


class _HostMemory(_Owned):
    def __init__(self, cuda: _Calls, nbytes: int, write_combined: bool) -> None:
        flags = cuda.cudaHostAllocWriteCombined if write_combined else cuda.cudaHostAllocDefault
        super().__init__(cuda, "FreeHost", cuda.HostAlloc(nbytes, flags))
        buffer = (ctypes.c_uint8 * nbytes).from_address(int(self._raw))
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(buffer)


class _LockedMemory(_Owned):
    def __init__(self, cuda: _Calls, array: NDArray[np.uint8]) -> None:
        address = array.ctypes.data
        cuda.HostRegister(address, array.nbytes, cuda.cudaHostRegisterDefault)
        super().__init__(cuda, "HostUnregister", address)
        self._array = array


class _Graph(_Owned):
    def __init__(self, cuda: _Calls, executable: Any) -> None:
        super().__init__(cuda, "GraphExecDestroy", executable)

    def launch(self, stream: Stream) -> None:
        self._cuda.GraphLaunch(self._raw, stream.handle)
