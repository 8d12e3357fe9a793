"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

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
