"""Locks between processes: one at a time builds a cache, one at a time writes an output.

They are the system's own (through the package filelock), so they end with the process that holds
them, however it ends. Who holds one is written into the lock file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import lock_descriptor

from srtrt.errors import InputError, OutputError
from srtrt.files import cache_folder, make_own_folder, stale_parts
from srtrt.plain_data import read_json_object
from srtrt.reading import read_plain
from srtrt.text import printable

_HINT = "Set SRTRT_CACHE to a folder on a local disk that can be written."
_LONGEST_COMMAND = 160
_LONGEST_LOCK = 1 << 22
_TRIES, _PAUSE_SECONDS = 10, 0.05


@contextmanager
def locked(
    path: Path, *, wait: bool = True, on_wait: Callable[[], None] | None = None
) -> Iterator[bool]:
    """Holds a lock file against other processes and threads.

    Args:
        path: the lock file; it is made if missing and stays.
        wait: wait for whoever holds it; else go on without it.
        on_wait: called once before waiting.

    Returns:
        Whether the lock is held; always True if ``wait``.

    Raises:
        OutputError: if it cannot be made or locked.
    """
    try:
        descriptor = _acquired(path, wait, on_wait)
    except OSError as error:
        reason = f"cannot be written and locked ({error.strerror or error})"
        raise OutputError(f"{path}: {reason}. {_HINT}") from error
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)


@contextmanager
def output_claimed(path: Path) -> Iterator[None]:
    """Keeps other runs of srtrt from writing an output, and clears what killed ones left of it.

    The lock files lie in a folder of their own, so that none is ever seen beside the output, and
    are named by the output's folder itself rather than by a path to it: so links and relative
    paths lead to the same lock. Runs of other users, or on other machines, are not seen; against
    those only :meth:`srtrt.files.PartFile.publish` stands, which replaces nothing unasked.

    Args:
        path: a file, or a folder whose files one run writes.

    Raises:
        OutputError: if another run is writing it, which is named.
    """
    lock, descriptor = _claimed(path)
    try:
        for each in (path, *(p for p in _entries(path) if p.is_dir())):
            stale_parts(each, remove=True)
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _claimed(path: Path) -> tuple[Path, int]:
    name, problem = f"{_identity(path)}.lock", ""
    for folder in (_cached_locks, _temporary_locks):
        try:
            lock = make_own_folder(folder()) / name
            holder = ""
            for _ in range(_TRIES):
                descriptor = _acquired(lock, wait=False, on_wait=None)
                if descriptor is not None:
                    _sign(descriptor)
                    return lock, descriptor
                if holder := _holder(lock):
                    break
                time.sleep(_PAUSE_SECONDS)  # it may be about to sign
        except (OSError, OutputError) as error:
            problem = str(error)
            continue
        raise OutputError(
            f"Another srtrt{holder} is writing {path}. "
            "Wait until it is done, end it, or choose another output."
        )
    raise OutputError(
        f"{path}: no lock can be made that keeps other runs from writing it ({problem}). {_HINT}"
    )


def _identity(path: Path) -> str:
    """The same for all names of a file or folder, whether it exists or not."""
    try:
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # refuses names that are too long
        if path.is_dir():
            path = path.resolve()
        folder = path.parent.stat()
    except FileNotFoundError as error:
        raise OutputError(
            f"{path}: the folder {path.parent} does not exist; create it first."
        ) from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}).") from error
    name = os.fsencode(path.name)
    key = b"%d:%d:%s" % (folder.st_dev, folder.st_ino, name)
    return hashlib.sha256(key).hexdigest()[:32]


def _cached_locks() -> Path:
    return cache_folder("locks")


def _temporary_locks() -> Path:
    return Path(tempfile.gettempdir()) / f"srtrt-{os.geteuid()}"


def _acquired(path: Path, wait: bool, on_wait: Callable[[], None] | None) -> int | None:
    """A descriptor that holds the lock; None if somebody else does and ``wait`` is False."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            if not lock_descriptor(descriptor, blocking=False):
                if not wait:
                    os.close(descriptor)
                    return None
                if on_wait is not None:
                    on_wait()
                    on_wait = None
                lock_descriptor(descriptor)
            # Whoever held it may have removed the file: then the lock is on no name.
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    """Writes into a lock file who holds it."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    holder = {"process": os.getpid(), "started": time.time(), "command": command}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(lock: Path) -> str:
    """Who holds a lock, in brackets; nothing if that cannot be told."""
    try:
        holder = read_json_object(read_plain(lock, "a lock file", most=_LONGEST_LOCK))
        process = int(holder["process"])
        if not psutil.pid_exists(process):
            return ""
        started = time.localtime(float(holder["started"]))
        today = time.localtime()[:3] == started[:3]
        since = time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", started)
        command = printable(str(holder["command"]))
        if len(command) > _LONGEST_COMMAND:
            command = f"{command[:_LONGEST_COMMAND]}..."
        return f" (process {process}, started {since}: {command})"
    except (InputError, OSError, OverflowError, ValueError, KeyError, TypeError):
        return ""


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir()) if path.is_dir() else []
    except OSError:
        return []
