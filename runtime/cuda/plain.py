"""The device layer in the host's own memory, with a thread for each stream.

It does what a GPU does as far as order is concerned: work is only queued, streams run beside one
another, failures show when someone waits. So the code above it can be tested without a GPU, and
whatever computes on the CPU can be driven by it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, SrtrtError
from srtrt.runtime.cuda.device import (
    Device,
    DeviceMemory,
    Event,
    Graph,
    HostMemory,
    Resource,
    Stream,
)

Work = Callable[[], None]

_ALIGNMENT = 256
_handles = itertools.count(1)


class PlainDevice(Device):
    """Host memory and threads.

    Attributes:
        open_resources: how many of the things it made have not been closed.
    """

    label = "plain"
    captures = True
    locks_memory = True

    def __init__(self) -> None:
        self.open_resources = 0
        self._memories: dict[int, NDArray[np.uint8]] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        """See :meth:`Device.current`."""
        yield

    def stream(self) -> Stream:
        """See :meth:`Device.stream`."""
        return _Stream(self)

    def event(self, *, timed: bool = False) -> Event:
        """See :meth:`Device.event`."""
        return _Event(self)

    def device_memory(self, nbytes: int) -> DeviceMemory:
        """See :meth:`Device.device_memory`."""
        return _Memory(self, nbytes)

    def host_memory(self, nbytes: int, *, write_combined: bool = False) -> HostMemory:
        """See :meth:`Device.host_memory`."""
        return _Memory(self, nbytes)

    def lock_memory(self, array: NDArray[np.uint8]) -> Resource:
        """See :meth:`Device.lock_memory`; nothing has to be done."""
        return _Counted(self)

    def view(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """The bytes at an address that :meth:`device_memory` gave.

        Raises:
            BackendError: if they are not all inside one piece of memory that is still open.
        """
        for start, array in self._memories.items():
            if start <= address and address + nbytes <= start + array.nbytes:
                return array[address - start : address - start + nbytes]
        raise BackendError(f"{nbytes} bytes at {address:#x} are not memory of this device.")

    def copy_in(self, target: int, source: NDArray[np.uint8], stream: Stream) -> None:
        """See :meth:`Device.copy_in`."""
        self.submit(stream, lambda: np.copyto(self.view(target, source.nbytes), source))

    def copy_out(self, target: NDArray[np.uint8], source: int, stream: Stream) -> None:
        """See :meth:`Device.copy_out`."""
        self.submit(stream, lambda: np.copyto(target, self.view(source, target.nbytes)))

    def submit(self, stream: Stream, work: Work) -> None:
        """See :meth:`Device.submit`; ``work`` is called later, in the stream's thread."""
        assert isinstance(stream, _Stream)
        stream.put(work)

    def capture(self, stream: Stream, work: Work) -> Graph:
        """See :meth:`Device.capture`."""
        assert isinstance(stream, _Stream)
        stream.recorded = []
        try:
            work()
            return _Graph(self, stream.recorded)
        finally:
            stream.recorded = None

    def close(self) -> None:
        """See :meth:`Device.close`."""


class _Counted:
    def __init__(self, device: PlainDevice) -> None:
        self._device: PlainDevice | None = device
        device.open_resources += 1

    def close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.open_resources -= 1
            self._end(device)

    def _end(self, device: PlainDevice) -> None:
        """Gives back what the resource holds."""


class _Stream(_Counted):
    def __init__(self, device: PlainDevice) -> None:
        super().__init__(device)
        self.handle = next(_handles)
        self.failure: BaseException | None = None
        self.recorded: list[Work] | None = None
        self._queue: SimpleQueue[tuple[Work, bool] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"stream-{self.handle}", daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        if self.recorded is not None:
            self.recorded.append(work)
        else:
            self._queue.put((work, False))

    def mark(self, work: Work) -> None:
        """As :meth:`put`, but done even after a failure."""
        self._queue.put((work, True))

    def synchronize(self) -> None:
        reached = threading.Event()
        self.mark(reached.set)
        reached.wait()
        self.raise_failure()

    def raise_failure(self) -> None:
        if isinstance(self.failure, SrtrtError):
            raise self.failure
        if self.failure is not None:
            raise BackendError(f"work on a stream failed: {self.failure}") from self.failure

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            work, always = item
            if self.failure is None or always:
                try:
                    work()
                except BaseException as error:
                    self.failure = error

    def _end(self, device: PlainDevice) -> None:
        self._queue.put(None)
        self._thread.join()


class _Event(_Counted):
    def __init__(self, device: PlainDevice) -> None:
        super().__init__(device)
        self._reached = threading.Event()
        self._stream: _Stream | None = None
        self._seconds = 0.0

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, _Stream)
        reached = self._reached = threading.Event()
        self._stream = stream

        def reach() -> None:
            self._seconds = time.perf_counter()
            reached.set()

        stream.mark(reach)

    def wait(self) -> None:
        if self._stream is not None:
            self._reached.wait()
            self._stream.raise_failure()

    def milliseconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, _Event)
        return 1000 * (self._seconds - earlier._seconds)


class _Memory(_Counted):
    def __init__(self, device: PlainDevice, nbytes: int) -> None:
        super().__init__(device)
        padded = np.zeros(nbytes + _ALIGNMENT, np.uint8)
        start = -padded.ctypes.data % _ALIGNMENT
        self.array = padded[start : start + nbytes]
        self.address, self.nbytes = self.array.ctypes.data, nbytes
        device._memories[self.address] = self.array

    def _end(self, device: PlainDevice) -> None:
        del device._memories[self.address]


class _Graph(_Counted):
    def __init__(self, device: PlainDevice, work: list[Work]) -> None:
        super().__init__(device)
        self._work = work

    def launch(self, stream: Stream) -> None:
        assert isinstance(stream, _Stream)
        for each in self._work:
            stream.put(each)
