"""Files that appear under their final name only when complete, and where caches are kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srtrt.errors import OutputError


def part_path(path: Path) -> Path:
    """The hidden name, in the same folder, under which ``path`` is written."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replace_when_complete(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside ``path``; renames it at a good end, else deletes it.

    The data is flushed to disk before the rename, so a crash leaves the old file or the new one.

    Raises:
        OutputError: if the folder is missing or the file cannot be put in place.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist; create it first.")
    part = part_path(path)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        part.unlink(missing_ok=True)


def cache_folder(kind: str) -> Path:
    """Where caches of a kind are kept.

    ``$SRTRT_CACHE/kind``, else ``$XDG_CACHE_HOME/srtrt/kind``, else ``~/.cache/srtrt/kind``.

    Raises:
        OutputError: if no home folder is known.
    """
    own, common = os.environ.get("SRTRT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser() / kind
        if common and Path(common).is_absolute():  # the XDG specification ignores relative ones
            return Path(common) / "srtrt" / kind
        return Path.home() / ".cache" / "srtrt" / kind
    except RuntimeError as error:
        raise OutputError(
            f"no folder for caches is known ({error}). "
            "Set SRTRT_CACHE to a folder on a local disk that can be written."
        ) from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
