"""Files that are run after they are read: written for this user alone, checked when read.

An engine, a timing cache and a runtime cache are code or decide which code runs. So none is
read that another user could have written, unless the caller trusts it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srtrt.errors import OutputError
from srtrt.files import replace_when_complete, stale_parts
from srtrt.plain_data import DataError, read_json_object

MAX_ENGINE_BYTES = 1 << 32
"""Largest file that is read."""

_MAX_RECORD_BYTES = 1 << 23
_SEAL = "sha256"
_DIGEST_BYTES = 32
_HINT = "Set SRTRT_CACHE to a folder on a local disk that can be written."


class UnusableError(Exception):
    """A file that must not or cannot be used; the text is a clause for people."""


def read_own(path: Path, *, trust: bool = False, most: int = MAX_ENGINE_BYTES) -> bytes:
    """Reads a file that only this user can have written.

    Owner and rights are those of the opened file, so it cannot be exchanged in between.

    Args:
        path: the file; a symbolic link is followed.
        trust: read it whoever wrote it.
        most: size in bytes of the largest file that is read.

    Raises:
        UnusableError: if it is missing, too large, cannot be read, or others may have written it.
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
            if status.st_size > most:
                raise UnusableError(
                    f"{path.name} has {status.st_size} bytes; at most {most} are read"
                )
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

    A pipe or device that has the name gives way: the folder is the cache's own.

    Raises:
        OutputError: if it cannot be written.
    """
    if path.exists() and not path.is_file():
        discard(path)
    with replace_when_complete(path, private=True) as part:
        part.write_bytes(data)


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Stores plain values as JSON with their checksum, for this user alone.

    Raises:
        OutputError: if it cannot be written.
    """
    sealed = {**values, _SEAL: _checksum(values)}
    write_own(path, (json.dumps(sealed, indent=2) + "\n").encode())


def read_record(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """The values that :func:`write_record` stored; see :func:`read_own`.

    Raises:
        UnusableError: also if it is damaged.
    """
    try:
        values = read_json_object(read_own(path, trust=trust, most=_MAX_RECORD_BYTES))
    except DataError as error:
        raise UnusableError(f"{path.name} is damaged: {error}") from error
    if values.pop(_SEAL, None) != _checksum(values):
        raise UnusableError(f"{path.name} is damaged: its checksum is wrong")
    return values


def _checksum(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
    stale_parts(path, remove=True)
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
