"""cuda-python and PyCUDA in front of the simulated GPU of ``tests/cuda_simulator.py``.

Arguments are checked as the real packages check them: number, types, ranges. Handles come back as
the real package's own types.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pycuda_names
import pytest
from cuda_simulator import BAD_HANDLE, NO_MEMORY, Executable, Gpu, Graph, RefusedError

__all__ = ["CudaRuntime", "Gpu", "PyCudaDriver"]


@functools.cache
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


class CudaRuntime:
    """``cuda.bindings.runtime``, as far as srtrt uses it.

    Attributes:
        gpu: the GPU behind it.
        calls: the names of the functions that were called.
        devices: how many GPUs it pretends to see; only the first can be used.
    """

    def __init__(self, gpu: Gpu | None = None) -> None:
        self.real = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
        self.gpu = gpu or Gpu()
        self.calls: list[str] = []
        self._local = threading.local()
        real, device = self.real, self.gpu
        modes = real.cudaStreamCaptureMode
        names = {
            modes.cudaStreamCaptureModeGlobal: "global",
            modes.cudaStreamCaptureModeThreadLocal: "thread",
            modes.cudaStreamCaptureModeRelaxed: "relaxed",
        }
        inward = real.cudaMemcpyKind.cudaMemcpyHostToDevice
        outward = real.cudaMemcpyKind.cudaMemcpyDeviceToHost

        def copy(target: int, source: int, nbytes: int, kind: Any, stream: int) -> None:
            if kind not in (inward, outward):
                device.violate(f"a copy of kind {kind}")
            device.copy(target, source, nbytes, kind == inward, stream)

        untimed = real.cudaEventDisableTiming
        self._functions: dict[str, tuple[Callable[..., Any], Callable[[int], Any] | None]] = {
            "cudaSetDevice": (self._set_device, None),
            "cudaMalloc": (lambda n: device.allocate("device", n), int),
            "cudaHostAlloc": (lambda n, _: device.allocate("host", n), int),
            "cudaFree": (lambda a: device.free("device", a) if a else device.check_alive(), None),
            "cudaGetLastError": (self._last_error, None),
            "cudaFreeHost": (lambda a: device.free("host", a), None),
            "cudaHostRegister": (lambda a, n, _: device.register(a, n), None),
            "cudaHostUnregister": (device.unregister, None),
            "cudaMemcpyAsync": (copy, None),
            "cudaStreamCreateWithFlags": (self._stream, real.cudaStream_t),
            "cudaStreamDestroy": (device.end_stream, None),
            "cudaStreamSynchronize": (device.synchronize, None),
            "cudaEventCreateWithFlags": (
                lambda flags: device.new_event(not flags & untimed),
                real.cudaEvent_t,
            ),
            "cudaEventDestroy": (device.end_event, None),
            "cudaEventRecord": (device.record, None),
            "cudaEventSynchronize": (device.wait, None),
            "cudaEventElapsedTime": (device.elapsed, float),
            "cudaStreamBeginCapture": (lambda s, m: device.begin_capture(s, names[m]), None),
            "cudaStreamEndCapture": (device.end_capture, real.cudaGraph_t),
            "cudaGraphInstantiate": (lambda g, _: device.instantiate(g), real.cudaGraphExec_t),
            "cudaGraphDestroy": (lambda g: device.end_graph(g, Graph), None),
            "cudaGraphExecDestroy": (lambda g: device.end_graph(g, Executable), None),
            "cudaGraphLaunch": (device.launch, None),
        }

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)  # a name that does not exist fails here
        if not callable(real) or isinstance(real, type) or name == "cudaGetErrorString":
            return real
        act, wrap = self._functions[name]
        names = _parameters(real)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if len(arguments) != len(names):
                raise TypeError(f"{name} takes {names}, and was given {arguments}")
            taken = [
                self._checked(name, key, value) for key, value in zip(names, arguments, strict=True)
            ]
            if name not in ("cudaSetDevice", "cudaGetLastError") and not hasattr(
                self._local, "device"
            ):
                self.gpu.violate(f"{name} before cudaSetDevice in its thread")
            try:
                result = act(*taken)
            except RefusedError as refused:
                error = getattr(self.real.cudaError_t, str(refused))
                if name != "cudaGetLastError":
                    self._local.error = str(refused)
                return (error,) if wrap is None else (error, None)
            success = self.real.cudaError_t.cudaSuccess
            return (success,) if wrap is None else (success, wrap(result))

        return call

    def _checked(self, function: str, name: str, value: Any) -> Any:
        """An argument as the real function would see it. Raises TypeError where that would."""
        enums = {
            "kind": self.real.cudaMemcpyKind,
            "mode": self.real.cudaStreamCaptureMode,
        }
        if name in enums:
            if not isinstance(value, enums[name]):
                raise TypeError(f"{function}: {name} is {value!r}")
            return value
        handles = {
            "stream": "cudaStream_t",
            "event": "cudaEvent_t",
            "start": "cudaEvent_t",
            "end": "cudaEvent_t",
            "graph": "cudaGraph_t",
            "graphExec": "cudaGraphExec_t",
        }
        if name in handles and isinstance(value, getattr(self.real, handles[name])):
            return int(value)
        if isinstance(value, (bool, float)) or value is None:
            raise TypeError(f"{function}: {name} is {value!r}")
        number = operator.index(value)  # refuses strings, arrays and handles of another kind
        if not (-(2**31) <= number < 2**31 if name == "device" else 0 <= number < 2**64):
            raise OverflowError(f"{function}: {name} is {number}")
        return number

    def left_error(self) -> str | None:
        """What this thread's next asker, such as PyTorch, would be told of an earlier call."""
        return getattr(self._local, "error", None)

    def _last_error(self) -> None:
        error, self._local.error = self.left_error(), None
        if error is not None:
            raise RefusedError(error)

    def _set_device(self, index: int) -> None:
        self.gpu.check_alive()
        if index:
            raise RefusedError("cudaErrorInvalidDevice")
        self._local.device = index

    def _stream(self, flags: int) -> int:
        if flags != self.real.cudaStreamNonBlocking:
            self.gpu.violate("a stream that waits for the legacy stream")
        return self.gpu.new_stream()


class PyCudaDriver:
    """``pycuda.driver``, as far as srtrt uses it; see ``tests/pycuda_names.py``.

    Attributes:
        gpu: the GPU behind it.
        retained: how often the primary context was retained and not released.
    """

    class Error(Exception):
        """Base of its errors."""

    class MemoryError(Error):  # noqa: A001 - PyCUDA's name
        """No memory."""

    class LogicError(Error):
        """A wrong call, or a context that is dead."""

    class LaunchError(Error):
        """A kernel that failed."""

    class RuntimeError(Error):  # noqa: A001 - PyCUDA's name
        """Something of the machine."""

    event_flags = SimpleNamespace(**pycuda_names.FLAGS["event_flags"])
    host_alloc_flags = SimpleNamespace(**pycuda_names.FLAGS["host_alloc_flags"])

    def __init__(self, gpu: Gpu | None = None) -> None:
        self.gpu = gpu or Gpu()
        self.retained = 0
        self.initialised = False
        self.stacks = threading.local()
        self.Device, self.Context = _device_classes(self)
        self.Stream, self.Event, self.DeviceAllocation, self.PagelockedHostAllocation = (
            _resource_classes(self)
        )

    @property
    def depth(self) -> int:
        """How many contexts are pushed in this thread."""
        return len(self._stack)

    @property
    def _stack(self) -> list[Any]:
        if not hasattr(self.stacks, "contexts"):
            self.stacks.contexts = []
        found: list[Any] = self.stacks.contexts
        while found and not found[-1].valid:
            found.pop()
        return found

    def init(self, flags: int = 0) -> None:
        self.initialised = True

    def mem_alloc(self, bytes: int) -> Any:  # noqa: A002 - PyCUDA's name
        return self.DeviceAllocation(_integer(bytes))

    def pagelocked_empty(self, shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        """An array whose ``base`` owns the memory."""
        dims = (shape,) if isinstance(shape, int) else tuple(shape)
        allocation = self.PagelockedHostAllocation(dims, np.dtype(dtype), _integer(mem_flags))
        array = np.asarray(allocation)
        assert array.base is allocation
        return array

    def memcpy_htod_async(self, dest: Any, src: Any, stream: Any = None) -> None:
        view = memoryview(src)
        with self.told("cuMemcpyHtoDAsync"):
            address = np.frombuffer(view, np.uint8).ctypes.data
            self.gpu.copy(self._address(dest), address, view.nbytes, True, self._stream(stream))

    def memcpy_dtoh_async(self, dest: Any, src: Any, stream: Any = None) -> None:
        view = memoryview(dest)
        if view.readonly:
            raise BufferError("the destination is read-only")
        with self.told("cuMemcpyDtoHAsync"):
            address = np.frombuffer(view, np.uint8).ctypes.data
            self.gpu.copy(address, self._address(src), view.nbytes, False, self._stream(stream))

    def _address(self, value: Any) -> int:
        return int(value) if isinstance(value, self.DeviceAllocation) else _integer(value)

    def _stream(self, stream: Any) -> int:
        if not isinstance(stream, self.Stream):
            raise TypeError(f"stream is {stream!r}")
        handle: int = stream.handle
        return handle

    def told(self, routine: str) -> _Told:
        """Within it, a refusal is raised as PyCUDA raises it; a context must be current."""
        return _Told(self, routine)


class _Told:
    def __init__(self, driver: PyCudaDriver, routine: str) -> None:
        self._driver, self._routine = driver, routine

    def __enter__(self) -> None:
        if not self._driver.initialised or not self._driver.depth:
            raise self._driver.LogicError(f"{self._routine} failed: invalid device context")

    def __exit__(self, _kind: Any, error: Any, _traceback: Any) -> None:
        if isinstance(error, RefusedError):
            raise _pycuda_error(self._driver, self._routine, str(error)) from None


def _pycuda_error(driver: PyCudaDriver, routine: str, name: str) -> Exception:
    kinds = {
        NO_MEMORY: driver.MemoryError,
        "cudaErrorLaunchFailure": driver.LaunchError,
        "cudaErrorLaunchTimeout": driver.LaunchError,
        "cudaErrorNotReady": driver.RuntimeError,
        "cudaErrorECCUncorrectable": driver.RuntimeError,
        "cudaErrorUnknown": driver.Error,
    }
    words = {NO_MEMORY: "out of memory", BAD_HANDLE: "invalid resource handle"}
    text = words.get(name, name.removeprefix("cudaError"))
    return kinds.get(name, driver.LogicError)(f"{routine} failed: {text}")


def _integer(value: Any) -> int:
    """A number as Boost.Python takes it: Python's own integers, and no others."""
    if not isinstance(value, int):
        raise TypeError(f"Python argument types did not match the C++ signature: {value!r}")
    if value < 0:
        raise OverflowError("can't convert negative value to unsigned")
    return value


def _device_classes(driver: PyCudaDriver) -> tuple[Any, Any]:
    class Context:
        def __init__(self) -> None:
            self.valid, self.thread = True, threading.get_ident()

        def push(self) -> None:
            if not self.valid:
                raise driver.LogicError("cuCtxPushCurrent failed: context is destroyed")
            driver._stack.append(self)

        @staticmethod
        def pop() -> None:
            if not driver._stack:
                raise driver.LogicError(
                    "context::pop failed: invalid device context - cannot pop non-current context"
                )
            driver._stack.pop()

        def detach(self) -> None:
            if not self.valid:
                raise driver.LogicError(
                    "context::detach failed: invalid device context - "
                    "cannot detach from invalid context"
                )
            stack = driver._stack
            current = bool(stack) and stack[-1] is self
            # Elsewhere than where it was retained, only a current context is released.
            if current or self.thread == threading.get_ident():
                driver.retained -= 1
            self.valid = False

    class Device:
        def __init__(self, dev: int) -> None:
            if not driver.initialised:
                raise driver.LogicError("cuDeviceGet failed: initialization error")
            if _integer(dev):
                raise driver.LogicError("cuDeviceGet failed: invalid device ordinal")

        def retain_primary_context(self) -> Any:
            driver.retained += 1
            return Context()

    return Device, Context


class _Kept:
    """What keeps a context and needs it when it is given back, as a destructor at the latest."""

    def __init__(self, driver: PyCudaDriver) -> None:
        if not driver.depth:
            raise driver.LogicError(
                "explicit_context_dependent failed: invalid device context - "
                "no currently active context?"
            )
        self._driver, self._context = driver, driver._stack[-1]

    def _given_back(self, what: str, end: Callable[[], None]) -> None:
        context, stack = self._context, self._driver._stack
        if not context.valid:
            self._driver.gpu.violate(f"{what} is leaked, as its context was detached before")
            return
        current = bool(stack) and stack[-1] is context
        if not current and context.thread != threading.get_ident():
            self._driver.gpu.violate(f"{what} is leaked in a thread without its context")
            return
        with contextlib.suppress(RefusedError):  # PyCUDA prints it
            end()


def _resource_classes(driver: PyCudaDriver) -> tuple[Any, Any, Any, Any]:
    gpu = driver.gpu

    class Stream(_Kept):
        def __init__(self, flags: int = 0) -> None:
            super().__init__(driver)
            if _integer(flags) != 1:
                gpu.violate("a stream that waits for the legacy stream")
            with driver.told("cuStreamCreate"):
                self.handle = gpu.new_stream()

        def synchronize(self) -> None:
            with driver.told("cuStreamSynchronize"):
                gpu.synchronize(self.handle)

        def __del__(self) -> None:
            if hasattr(self, "handle"):
                self._given_back("a stream", lambda: gpu.end_stream(self.handle))

    class Event(_Kept):
        def __init__(self, flags: int = 0) -> None:
            super().__init__(driver)
            timed = not _integer(flags) & pycuda_names.FLAGS["event_flags"]["DISABLE_TIMING"]
            with driver.told("cuEventCreate"):
                self._handle = gpu.new_event(timed)

        def record(self, stream: Any = None) -> Event:
            with driver.told("cuEventRecord"):
                gpu.record(self._handle, driver._stream(stream))
            return self

        def synchronize(self) -> Event:
            with driver.told("cuEventSynchronize"):
                gpu.wait(self._handle)
            return self

        def time_since(self, event: Event) -> float:
            with driver.told("cuEventElapsedTime"):
                return gpu.elapsed(event._handle, self._handle)

        def __del__(self) -> None:
            if hasattr(self, "_handle"):
                self._given_back("an event", lambda: gpu.end_event(self._handle))

    class Memory(_Kept):
        def __init__(self, kind: str, nbytes: int) -> None:
            super().__init__(driver)
            self._kind = kind
            routine = "cuMemAlloc" if kind == "device" else "cuMemHostAlloc"
            with driver.told(routine):
                self._address: int | None = gpu.allocate(kind, nbytes)

        def free(self) -> None:
            address, self._address = self._address, None
            if address is None:
                raise driver.LogicError("free failed: invalid resource handle")
            self._given_back(f"{self._kind} memory", lambda: gpu.free(self._kind, address))

        def __del__(self) -> None:
            if getattr(self, "_address", None) is not None:
                self.free()

    class DeviceAllocation(Memory):
        def __init__(self, nbytes: int) -> None:
            super().__init__("device", nbytes)

        def __int__(self) -> int:
            assert self._address is not None
            return self._address

        __index__ = __int__

    class PagelockedHostAllocation(Memory):
        def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], _flags: int) -> None:
            super().__init__("host", int(np.prod(shape)) * dtype.itemsize)
            self.__array_interface__ = {
                "shape": shape,
                "typestr": dtype.str,
                "data": (self._address, False),
                "version": 3,
            }

    return Stream, Event, DeviceAllocation, PagelockedHostAllocation
