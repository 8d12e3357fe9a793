"""Files that are run after they are read: written for this user alone, checked when read.

An engine, a timing cache and a runtime cache are code or decide which code runs. So none is
read that another user could have written, unless the caller trusts it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from srtrt.errors import OutputError
from srtrt.files import part_path, replace_when_complete

_DIGEST_BYTES = 32
_HINT = "Set SRTRT_CACHE to a folder on a local disk that can be written."


class UnusableError(Exception):
    """A file that must not or cannot be used; the text is a clause for people."""


def read_own(path: Path, *, trust: bool = False) -> bytes:
    """Reads a file that only this user can have written.

    Owner and rights are those of the opened file, so it cannot be exchanged in between.

    Args:
        path: the file; a symbolic link is followed.
        trust: read it whoever wrote it.

    Raises:
        UnusableError: if it is missing, cannot be read, or others may have written it.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnusableError(f"{path.name} is not a plain file")
            if not trust:
                _require_own(path, status)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise UnusableError(f"{path.name} is missing") from error
    except OSError as error:
        raise UnusableError(f"{path.name} cannot be read ({error.strerror or error})") from error


def _require_own(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise UnusableError(
            f"{path.name} belongs to user {status.st_uid}, not to you ({os.geteuid()}), "
            "and an engine is code"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnusableError(
            f"{path.name} can be written by others (mode {stat.S_IMODE(status.st_mode):o}), "
            "and an engine is code"
        )


def write_own(path: Path, data: bytes) -> None:
    """Writes a file, flushed to disk and then renamed, that only this user can read and write.

    Raises:
        OutputError: if it cannot be written.
    """
    with replace_when_complete(path) as part:
        part.unlink(missing_ok=True)  # of a process that was killed
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    with contextlib.suppress(OSError):  # some file systems cannot flush a folder
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_blob(path: Path) -> tuple[bytes, str | None]:
    """The data that :func:`write_blob` stored, or nothing and why.

    A missing file is no problem: the result is ``(b"", None)``. A damaged or foreign one is
    removed where that is possible and explained: ``(b"", reason)``.
    """
    if not path.exists():
        return b"", None
    try:
        stored = read_own(path)
        digest, data = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            raise UnusableError(f"{path.name} is damaged")
    except UnusableError as error:
        discard(path)
        return b"", str(error)
    return data, None


def write_blob(path: Path, data: bytes) -> None:
    """Stores data with its checksum, for this user alone.

    Raises:
        OutputError: if it cannot be written.
    """
    write_own(path, hashlib.sha256(data).digest() + data)


def discard(path: Path) -> bool:
    """Removes a file and what an interrupted writer left of it; True if the file is gone."""
    with contextlib.suppress(OSError):
        part_path(path).unlink(missing_ok=True)
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def make_folder(folder: Path) -> None:
    """Makes a folder that others can neither read nor write, if it does not exist.

    Raises:
        OutputError: if it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: the folder for engines cannot be made ({error.strerror or error}). {_HINT}"
        ) from error


@contextmanager
def locked(
    path: Path, *, wait: bool = True, on_wait: Callable[[], None] | None = None
) -> Iterator[bool]:
    """Holds a lock file against other processes and threads; the system frees it if we die.

    Args:
        path: the lock file; it is made if missing and stays.
        wait: wait for whoever holds it; else go on without it.
        on_wait: called once before waiting.

    Returns:
        Whether the lock is held; always True if ``wait``.

    Raises:
        OutputError: if it cannot be made or locked.
    """
    while True:
        with _opened(path) as descriptor:
            if not _flock(path, descriptor, wait, on_wait):
                yield False
                return
            if _is_still(path, descriptor):
                yield True
                return


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _no_lock(path, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _flock(path: Path, descriptor: int, wait: bool, on_wait: Callable[[], None] | None) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        if not wait:
            return False
    except OSError as error:
        raise _no_lock(path, error) from error
    if on_wait is not None:
        on_wait()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise _no_lock(path, error) from error
    return True


def _no_lock(path: Path, error: OSError) -> OutputError:
    reason = f"cannot be written and locked ({error.strerror or error})"
    return OutputError(f"{path}: {reason}. {_HINT}")


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the path still leads to the locked file; pruning may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
