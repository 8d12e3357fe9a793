"""What FFmpeg says when it fails, in words for people."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import av
import av.logging

from srtrt.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def captured_log(level: int = av.logging.ERROR) -> Iterator[list[str]]:
    """Collects FFmpeg's own messages of at least ``level`` from this thread.

    PyAV silences FFmpeg by default, and its exceptions alone rarely say what was wrong.
    """
    before = av.logging.get_level()
    logger = logging.getLogger("libav")
    messages: list[str] = []
    av.logging.set_level(level)
    try:
        with av.logging.Capture(local=True) as logs:
            try:
                yield messages
            finally:
                messages.extend(message.strip() for _, _, message in logs)
    finally:
        av.logging.set_level(before)
        logger.setLevel(logging.WARNING)


def reason(error: BaseException, messages: list[str] | None = None) -> str:
    """FFmpeg's last message if there is one, else the system's words for the error."""
    for message in reversed(messages or []):
        if message:
            return message.rstrip(".")
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns errors of FFmpeg and of the system into :class:`OutputError`, disk full included."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        if getattr(error, "errno", None) in _FULL:
            raise OutputError(
                f"No space left to write {path} (disk full or file size limit); "
                "free some space or choose another place with -o. Nothing was kept."
            ) from error
        raise OutputError(f"{path} cannot be written ({reason(error)}).") from error
