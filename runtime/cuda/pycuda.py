"""The device layer on PyCUDA, which is built on the user's machine against a CUDA toolkit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, DeviceMemoryError, MissingPackageError
from srtrt.runtime.cuda.device import Device, DeviceMemory, Event, Graph, HostMemory, Stream


class PyCudaDevice(Device):
    """A GPU through ``pycuda.driver``; it has no calls for CUDA graphs."""

    label = "PyCUDA"
    captures = False

    def __init__(self, index: int) -> None:
        """Opens GPU number ``index``.

        Raises:
            MissingPackageError: if PyCUDA is not installed.
            BackendError: if there is no such GPU, or its driver does not serve it.
        """
        try:
            import pycuda.driver as driver
        except ImportError as error:
            raise MissingPackageError("pycuda", "pycuda", "calling CUDA through PyCUDA") from error
        self._driver = driver
        self._context: Any = None
        with _translated(driver):
            driver.init()
            # The primary context is the one that TensorRT, PyTorch and ONNX Runtime use.
            self._context = driver.Device(index).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """See :meth:`Device.current`."""
        if self._context is None:
            raise BackendError("the GPU was closed; open it again.")
        with _translated(self._driver):
            self._context.push()
            try:
                yield
            finally:
                self._driver.Context.pop()

    def stream(self) -> Stream:
        """See :meth:`Device.stream`."""
        return _Stream(self._driver)

    def event(self, *, timed: bool = False) -> Event:
        """See :meth:`Device.event`."""
        return _Event(self._driver, timed)

    def device_memory(self, nbytes: int) -> DeviceMemory:
        """See :meth:`Device.device_memory`."""
        return _DeviceMemory(self._driver, nbytes)

    def host_memory(self, nbytes: int, *, write_combined: bool = False) -> HostMemory:
        """See :meth:`Device.host_memory`."""
        return _HostMemory(self._driver, nbytes, write_combined)

    def copy_in(self, target: int, source: NDArray[np.uint8], stream: Stream) -> None:
        """See :meth:`Device.copy_in`."""
        self._driver.memcpy_htod_async(target, source, _own(stream))

    def copy_out(self, target: NDArray[np.uint8], source: int, stream: Stream) -> None:
        """See :meth:`Device.copy_out`."""
        self._driver.memcpy_dtoh_async(target, source, _own(stream))

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
            context.detach()


@contextmanager
def _translated(driver: Any) -> Iterator[None]:
    try:
        yield
    except driver.MemoryError as error:
        raise DeviceMemoryError(f"GPU memory ran out ({error}).") from error
    except driver.Error as error:
        raise BackendError(f"CUDA failed ({error}).") from error


class _Owned:
    """A handle of PyCUDA, which gives it back when nothing refers to it any more."""

    _raw: Any

    def close(self) -> None:
        self._raw = None


class _Stream(_Owned):
    def __init__(self, driver: Any) -> None:
        self._raw = driver.Stream(driver.stream_flags.NON_BLOCKING)
        self.handle = int(self._raw.handle)

    def synchronize(self) -> None:
        self._raw.synchronize()


class _Event(_Owned):
    def __init__(self, driver: Any, timed: bool) -> None:
        flags = driver.event_flags
        # Blocking: a waiting thread leaves its core to the decoder and the encoder.
        self._raw = driver.Event(flags.BLOCKING_SYNC | (0 if timed else flags.DISABLE_TIMING))

    def record(self, stream: Stream) -> None:
        self._raw.record(_own(stream))

    def wait(self) -> None:
        self._raw.synchronize()

    def milliseconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, _Event)
        return float(self._raw.time_since(earlier._raw))


class _DeviceMemory(_Owned):
    def __init__(self, driver: Any, nbytes: int) -> None:
        self._raw = driver.mem_alloc(nbytes)
        self.address, self.nbytes = int(self._raw), nbytes

    def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.free()


class _HostMemory(_Owned):
    def __init__(self, driver: Any, nbytes: int, write_combined: bool) -> None:
        flags = driver.host_alloc_flags.WRITECOMBINED if write_combined else 0
        self.array: NDArray[np.uint8] = driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
        self._raw = self.array.base

    def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.free()


def _own(stream: Stream) -> Any:
    assert isinstance(stream, _Stream)
    return stream._raw
