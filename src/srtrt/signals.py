"""Signals that end a run: Ctrl-C (SIGINT), SIGTERM, and SIGHUP of a terminal that was closed.

Those that are ignored when srtrt is started, as ``nohup`` ignores SIGHUP, stay ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a run."""

EXIT_STATUS = 130
"""Of a run that was interrupted."""

_IMPORT = "<frozen importlib._bootstrap>"
_PAUSE_SECONDS = 0.02

Handler = Callable[[int, FrameType | None], Any]


def interrupt(_number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, but after an import where one is going on.

    Within an import it would be lost: packages take it for a fault of what they import, and say
    that this is not installed.
    """
    if _imports(frame):
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, _PAUSE_SECONDS)  # asks again
        return
    _is_held_back()
    raise KeyboardInterrupt


def _is_held_back() -> bool:
    """Whether :func:`interrupt` waits for the end of an import; it no longer does then."""
    if signal.getsignal(signal.SIGALRM) is not interrupt:
        return False
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return True


def end_at_once(_number: int, _frame: FrameType | None) -> None:
    """Ends the process: for the time in which there is nothing to clean up."""
    with contextlib.suppress(OSError):
        os.write(2, b"srtrt: interrupted.\n")
    os._exit(EXIT_STATUS)


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Lets a handler answer the signals that end a run, for a while.

    Handlers of a program that srtrt is a part of are left alone.

    Raises:
        KeyboardInterrupt: at the end, if :func:`interrupt` still waits.
    """
    earlier: dict[int, Any] = {}
    try:
        earlier = take(handler)
        yield
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)
        if handler is interrupt and earlier and _is_held_back():
            raise KeyboardInterrupt


def take(handler: Handler) -> dict[int, Any]:
    """Lets a handler answer the signals that end a run; returns the handlers before."""
    usual = (signal.SIG_DFL, signal.default_int_handler, interrupt, end_at_once)
    earlier: dict[int, Any] = {}
    for number in ENDING:
        before = signal.getsignal(number)
        if before in usual:
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(number, handler)
                earlier[number] = before
    return earlier


def _imports(frame: FrameType | None) -> bool:
    """Whether a frame is part of an import."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False
