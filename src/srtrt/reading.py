"""Files and folders that are read, whatever lies under their names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from srtrt.errors import InputError, system_reason


@contextmanager
def open_plain(path: Path, expected: str) -> Iterator[BinaryIO]:
    """Opens a file for reading; a folder, pipe or device is refused without waiting for it.

    Args:
        path: a symbolic link is followed.
        expected: what it should be, for messages: ``a picture``.

    Raises:
        InputError: if it is missing, no plain file, or cannot be opened.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected {expected}.") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = system_reason(error)
        raise InputError(f"{path}: cannot be opened ({reason}); expected {expected}.") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path}: this is a folder; expected {expected}.")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: not a plain file; expected {expected}.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def require_folder(path: Path, expected: str) -> None:
    """Refuses what is no folder.

    Args:
        path: a symbolic link is followed.
        expected: what it should be, for messages: ``a folder of pictures``.

    Raises:
        InputError: with what is there instead, or why it cannot be reached.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such folder; expected {expected}.") from error
    except (OSError, ValueError) as error:
        reason = system_reason(error)
        raise InputError(f"{path}: cannot be opened ({reason}); expected {expected}.") from error
    if not stat.S_ISDIR(mode):
        raise InputError(f"{path}: a file; expected {expected}.")


def read_plain(path: Path, expected: str, *, most: int) -> bytes:
    """The whole contents of a file; see :func:`open_plain`.

    Args:
        path: a symbolic link is followed.
        expected: what it should be, for messages.
        most: size in bytes of the largest file that is read.

    Raises:
        InputError: also if it is larger, or cannot be read to its end.
    """
    with open_plain(path, expected) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise InputError(
                f"{path}: has {size} bytes; expected {expected} of at most {most} bytes."
            )
        try:
            return file.read()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
