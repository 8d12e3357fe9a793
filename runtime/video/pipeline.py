"""Three stages in three threads, joined by short queues, that stop together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")

_JOIN_SECONDS = 5.0
_THREAD = "srtrt-"


def threads_are_running() -> bool:
    """Whether a thread of a pipeline that has ended is still inside a call."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())


class Stopped(Exception):  # noqa: N818 - a signal between threads, not an error
    """Another stage failed or the user interrupted; this stage just ends."""


@dataclass
class StageTime:
    """Where the seconds of one stage went."""

    name: str
    busy: float = 0.0
    """Seconds of work."""
    waiting: float = 0.0
    """Seconds spent waiting for another stage."""


class Channel(Generic[A]):
    """A bounded queue between two threads that can be closed and stopped."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[A] = deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._closed = False
        self._stopped = False

    def put(self, item: A) -> None:
        """Waits for room. Raises :class:`Stopped` when the pipeline stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._capacity)
            if self._stopped:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> A | None:
        """Waits for an item; None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._items or self._closed)
            if self._stopped:
                raise Stopped
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """No more items will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Wakes and ends everyone who waits."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()


class Pipeline(Generic[A, B]):
    """``source`` -> ``work`` -> ``write``, each in its own thread.

    The first exception in any stage stops the others and is raised by :meth:`run`.
    """

    def __init__(
        self,
        source: Callable[[], Iterator[A]],
        work: Callable[[A], Callable[[], B]],
        write: Callable[[B], None],
        *,
        capacity: int,
        in_flight: int = 1,
        names: tuple[str, str, str] = ("decode", "network", "encode"),
    ) -> None:
        """Args:
        source: gives an iterator; it runs in the first thread.
        work: starts turning one item into another, in the second thread, and returns a function
            that waits for it.
        write: consumes one item, in the third thread.
        capacity: items that may wait between two stages.
        in_flight: items that are worked on at the same time.
        names: what the stages are called in the report.
        """
        self._source, self._work, self._write = source, work, write
        self._in_flight = in_flight
        self._inputs: Channel[A] = Channel(capacity)
        self._results: Channel[B] = Channel(capacity)
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.times = tuple(StageTime(name) for name in names)
        self.seconds = 0.0

    def run(self) -> None:
        """Runs all stages to the end. Raises the first error of any stage."""
        stages = (self._read_stage, self._work_stage, self._write_stage)
        started = time.perf_counter()
        self._threads = [
            threading.Thread(
                target=self._guarded, args=(stage,), name=f"{_THREAD}{t.name}", daemon=True
            )
            for stage, t in zip(stages, self.times, strict=True)
        ]
        try:
            for thread in self._threads:
                thread.start()
            for thread in self._threads:
                while thread.is_alive():
                    # A join without a limit would hold back Ctrl-C on some systems.
                    thread.join(0.2)
        except BaseException:
            self._stop()
            self._join()
            raise
        self.seconds = time.perf_counter() - started
        if self._error is not None:
            raise self._error

    @property
    def is_running(self) -> bool:
        """Whether a thread is still inside a call that cannot be interrupted."""
        return any(thread.is_alive() for thread in self._threads)

    def _join(self) -> None:
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            if thread.is_alive():  # Ctrl-C may come before it is started
                thread.join(max(0.0, deadline - time.monotonic()))

    def _stop(self) -> None:
        self._inputs.stop()
        self._results.stop()

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except Stopped:
            pass
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._stop()

    def _read_stage(self) -> None:
        clock = _Clock(self.times[0])
        for item in self._source():
            clock.worked()
            self._inputs.put(item)
            clock.waited()
        clock.worked()
        self._inputs.close()

    def _work_stage(self) -> None:
        clock = _Clock(self.times[1])
        pending: deque[Callable[[], B]] = deque()

        def deliver() -> None:
            result = pending.popleft()()
            clock.worked()
            self._results.put(result)
            clock.waited()

        while (item := self._inputs.get()) is not None:
            clock.waited()
            pending.append(self._work(item))
            clock.worked()
            if len(pending) >= self._in_flight:
                deliver()
        clock.waited()
        while pending:
            deliver()
        self._results.close()

    def _write_stage(self) -> None:
        clock = _Clock(self.times[2])
        while (item := self._results.get()) is not None:
            clock.waited()
            self._write(item)
            clock.worked()
        clock.waited()


class _Clock:
    """Adds the time since the last call to one side or the other of a stage."""

    def __init__(self, stage: StageTime) -> None:
        self._stage = stage
        self._mark = time.perf_counter()

    def worked(self) -> None:
        self._stage.busy += self._lap()

    def waited(self) -> None:
        self._stage.waiting += self._lap()

    def _lap(self) -> float:
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before
