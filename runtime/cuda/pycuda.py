"""The device layer on PyCUDA, which is built on the user's machine against a CUDA toolkit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, DeviceLostError, DeviceMemoryError
from srtrt.packages import unusable
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

_NON_BLOCKING = 1
"""CUDA's flag of streams that do not wait for the legacy stream; PyCUDA has no name for it."""


class PyCudaDevice(Device):
    """A GPU through ``pycuda.driver``; it has no calls for CUDA graphs."""

    label = "PyCUDA"
    captures = False
    locks_memory = False  # its `register_host_memory` crashes

    def __init__(self, index: int) -> None:
        """Opens GPU number ``index``.

        Raises:
            PackageError: if PyCUDA is not installed, or does not load.
            BackendError: if there is no such GPU, or its driver does not serve it.
        """
        try:
            import pycuda.driver as driver
        except ImportError as error:
            raise unusable("pycuda", error, "pycuda", "calling CUDA through PyCUDA") from error
        self._calls = _Calls(driver)
        self._context: Any = None
        with self._calls.translated():
            driver.init()
            # The primary context is the one that TensorRT, PyTorch and ONNX Runtime use.
            self._context = driver.Device(index).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """See :meth:`Device.current`."""
        if self._context is None:
            raise BackendError("the GPU was closed; open it again.")
        with self._calls.translated():
            self._context.push()
        try:
            yield
        finally:
            with self._calls.translated():
                self._calls.driver.Context.pop()

    def stream(self) -> Stream:
        """See :meth:`Device.stream`."""
        return _Stream(self._calls)

    def event(self, *, timed: bool = False) -> Event:
        """See :meth:`Device.event`."""
        return _Event(self._calls, timed)

    def device_memory(self, nbytes: int) -> DeviceMemory:
        """See :meth:`Device.device_memory`."""
        return _DeviceMemory(self._calls, nbytes)

    def host_memory(self, nbytes: int, *, write_combined: bool = False) -> HostMemory:
        """See :meth:`Device.host_memory`."""
        return _HostMemory(self._calls, nbytes, write_combined)

    def lock_memory(self, array: NDArray[np.uint8]) -> Resource:
        """Not possible: see :attr:`locks_memory`."""
        raise BackendError("PyCUDA cannot lock memory of numpy's; use cuda-python for that.")

    def copy_in(self, target: int, source: NDArray[np.uint8], stream: Stream) -> None:
        """See :meth:`Device.copy_in`."""
        with self._calls.translated():
            self._calls.driver.memcpy_htod_async(target, source, _own(stream))

    def copy_out(self, target: NDArray[np.uint8], source: int, stream: Stream) -> None:
        """See :meth:`Device.copy_out`."""
        with self._calls.translated():
            self._calls.driver.memcpy_dtoh_async(target, source, _own(stream))

    def submit(self, stream: Stream, work: Callable[[], None]) -> None:
        """See :meth:`Device.submit`."""
        work()

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Not possible: see :attr:`captures`."""
        raise BackendError("PyCUDA cannot record CUDA graphs; use cuda-python for them.")

    def close(self) -> None:
        """See :meth:`Device.close`."""
        context, self._context = self._context, None
        if context is not None:
            with suppress(self._calls.driver.Error):
                # In another thread than the one that opened it, only a current context is left.
                context.push()
                context.detach()


class _Calls:
    """The driver, whose errors are translated around each call that can fail."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    @contextmanager
    def translated(self) -> Iterator[None]:
        try:
            yield
        except self.driver.MemoryError as error:
            raise DeviceMemoryError(f"GPU memory ran out ({error}).") from error
        except self.driver.Error as error:
            failed = DeviceLostError if is_lost(str(error)) else BackendError
            raise failed(f"CUDA failed ({error}).") from error


class _Owned:
    """A handle of PyCUDA, which gives it back when nothing refers to it any more."""

    _raw: Any
    _calls: _Calls

    def close(self) -> None:
        self._raw = None


class _Freed(_Owned):
    """Memory, which PyCUDA can give back while it is referred to."""

    def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            with self._calls.translated():
                raw.free()


class _Stream(_Owned):
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls
        with calls.translated():
            self._raw = calls.driver.Stream(_NON_BLOCKING)
        self.handle = int(self._raw.handle)

    def synchronize(self) -> None:
        with self._calls.translated():
            self._raw.synchronize()


class _Event(_Owned):
    def __init__(self, calls: _Calls, timed: bool) -> None:
        self._calls = calls
        flags = calls.driver.event_flags
        # Blocking: a waiting thread leaves its core to the decoder and the encoder.
        wanted = flags.BLOCKING_SYNC | (0 if timed else flags.DISABLE_TIMING)
        with calls.translated():
            self._raw = calls.driver.Event(wanted)

    def record(self, stream: Stream) -> None:
        with self._calls.translated():
            self._raw.record(_own(stream))

    def wait(self) -> None:
        with self._calls.translated():
            self._raw.synchronize()

    def milliseconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, _Event)
        with self._calls.translated():
            return float(self._raw.time_since(earlier._raw))


class _DeviceMemory(_Freed):
    def __init__(self, calls: _Calls, nbytes: int) -> None:
        self._calls = calls
        with calls.translated():
            self._raw = calls.driver.mem_alloc(nbytes)
        self.address, self.nbytes = int(self._raw), nbytes


class _HostMemory(_Freed):
    def __init__(self, calls: _Calls, nbytes: int, write_combined: bool) -> None:
        self._calls = calls
        driver = calls.driver
        flags = driver.host_alloc_flags.WRITECOMBINED if write_combined else 0
        with calls.translated():
            self.array: NDArray[np.uint8] = driver.pagelocked_empty(
                nbytes, np.uint8, mem_flags=flags
            )
        self._raw = self.array.base


def _own(stream: Stream) -> Any:
    assert isinstance(stream, _Stream)
    return stream._raw
