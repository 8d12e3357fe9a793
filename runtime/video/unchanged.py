"""Whether a file stays as it is while it is read."""

from __future__ import annotations

import os
from pathlib import Path


class WatchedFile:
    """A file as it was when this was made; held open until :meth:`close`."""

    def __init__(self, path: Path) -> None:
        """Remembers size, time of the last change and identity of the file ``path``."""
        self._path = path
        self._file = path.open("rb")
        self._before = os.fstat(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def change(self, *, may_grow: bool = False) -> str | None:
        """What happened to the file since, as the end of a sentence; None if nothing did.

        A file that was moved or deleted stays whole for those who have it open.

        Args:
            may_grow: what is appended does not count.
        """
        before, now = self._before, os.fstat(self._file.fileno())
        if now.st_size < before.st_size:
            return f"it shrank from {before.st_size:,} to {now.st_size:,} bytes while it was read"
        if now.st_size > before.st_size:
            if may_grow:
                return None
            return (
                f"it grew from {before.st_size:,} to {now.st_size:,} bytes while it was read, as "
                "a recording or download in progress does"
            )
        if now.st_mtime_ns != before.st_mtime_ns:
            return "it was changed while it was read"
        return "it was replaced by another file while it was read" if self._replaced() else None

    def _replaced(self) -> bool:
        try:
            there = self._path.stat()
        except OSError:
            return False
        return (there.st_dev, there.st_ino) != (self._before.st_dev, self._before.st_ino)
