"""What a TensorRT builder says, and how far it is."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from srtrt.signals import interrupt

Progress = Callable[[float, str], None]
"""Called with the share that is done, 0..1 and never less than before, and what is going on."""

LOG_NAME = "srtrt.tensorrt"
"""Python's logger that gets TensorRT's log."""

_log = logging.getLogger(LOG_NAME)


class Listener:
    """Hears a builder through its ``ILogger`` and ``IProgressMonitor``.

    TensorRT prints exceptions of those two away. They are kept here instead, stop the build at
    its next step, and are raised at the end of :meth:`listening`.

    Attributes:
        logger: hands TensorRT's log to Python's logger :data:`LOG_NAME`.
        monitor: reports progress.
        problems: messages of errors, oldest first.
        error: what was raised while TensorRT called.
    """

    def __init__(self, trt: Any, report: Progress) -> None:
        self.problems: list[str] = []
        self.error: BaseException | None = None
        self._phases = _Phases(report)
        self._lock = threading.Lock()  # it calls from several threads
        self.logger = _make_logger(trt, self)
        self.monitor = _make_monitor(trt, self)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, TensorRT may be called; at its end, what was kept is raised.

        Ctrl-C is kept as well. Python would raise it in whatever TensorRT calls next, before the
        first line of it, where it would be lost.
        """
        usual = signal.getsignal(signal.SIGINT)
        ours = usual in (signal.default_int_handler, interrupt) and (
            threading.current_thread() is threading.main_thread()
        )
        if ours:
            signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, usual)
        if self.error is not None:
            raise self.error

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        self.error = KeyboardInterrupt()

    def hear(self, message: str, level: int) -> None:
        """Takes one line of the log; errors are raised by whoever asked, so they are not logged."""
        try:
            if level == logging.ERROR:
                self.problems.append(message)
            _log.log(min(level, logging.INFO), "%s", message)
        except BaseException as error:
            self.error = error

    def phase(self, event: str, name: str, *details: Any) -> bool:
        """Takes one event of a phase; False stops the build."""
        try:
            with self._lock:
                if self.error is None:
                    getattr(self._phases, event)(name, *details)
        except BaseException as error:
            self.error = error
        return self.error is None


def _make_logger(trt: Any, listener: Listener) -> Any:
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.INFO,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]  # of a package unknown to the type checker
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            listener.hear(message, levels.get(severity, logging.DEBUG))

    return Logger()


def _make_monitor(trt: Any, listener: Listener) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            listener.phase("start", name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            return listener.phase("complete", name, step)

        def phase_finish(self, name: str) -> None:
            listener.phase("finish", name)

    return Monitor()


class _Phases:
    """Nested phases of a build, and what share of all they have reached."""

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._done: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._parents: dict[str, str | None] = {}
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        self._steps[name], self._done[name] = max(1, steps), 0
        self._parents[name] = parent
        self._tell(name)

    def complete(self, name: str, step: int) -> None:
        """A step, counted from 0, ends."""
        self._done[name] = step + 1
        self._tell(name)

    def finish(self, name: str) -> None:
        """A phase ends."""
        self._done[name] = self._steps.get(name, 1)
        self._tell(name)
        for known in (self._steps, self._done, self._parents):
            known.pop(name, None)

    def _tell(self, name: str) -> None:
        share, phase = 0.0, name
        while True:
            share = min(1.0, (self._done.get(phase, 0) + share) / self._steps.get(phase, 1))
            parent = self._parents.get(phase)
            if parent is None or parent not in self._steps:
                break
            phase = parent
        if share > self._share:
            self._share = share
            self._report(share, name)
