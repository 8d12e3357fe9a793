"""One case: a damaged file, and the command that reads it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_UNTOUCHED = 0.02


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The valid files that cases are made of."""

    folder: Path
    extra: tuple[Path, ...] = ()
    """Further files, which the user gave."""

    def files(self, kind: str, *endings: str) -> list[Path]:
        """The seeds of a kind, by name; with the further files of these endings after them."""
        own = sorted(path for path in (self.folder / kind).iterdir() if path.is_file())
        return own + [path for path in self.extra if path.suffix.lower() in endings]


@dataclass(kw_only=True)
class Case:
    """What is run, in a folder of its own, and what it may leave there."""

    folder: Path
    """Where the command is run; the files that it is given are there."""
    corpus: Corpus
    rng: random.Random
    words: list[str] = field(default_factory=list)
    """The command without ``srtrt``."""
    seed_file: str = ""
    """The valid file that was damaged."""
    outputs: tuple[str, ...] = ()
    """Names of what a good run writes, none of which may be there after a bad one."""
    keeps: tuple[str, ...] = ()
    """Names of folders in which a run may write whatever becomes of it."""
    stand_ins: tuple[str, ...] = ()
    """Names of what is replaced before it runs, see :mod:`fuzz.stand_ins`."""

    whole: bool = False
    """Whether the file was left as it is."""

    def spared(self) -> bool:
        """Decides whether the file is left as it is: a few must be, to see that they work."""
        self.whole = self.rng.random() < _UNTOUCHED
        return self.whole

    def pick(self, files: Sequence[Path]) -> tuple[Path, bytes, list[bytes]]:
        """A seed, its bytes, and the bytes of a few others of its kind."""
        path = self.rng.choice(files)
        others = [self.rng.choice(files).read_bytes() for _ in range(2)]
        self.seed_file = path.name
        return path, path.read_bytes(), others

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name


Make = Callable[[Case], None]
"""Fills a case: writes its files and sets its command."""


def seeded(kind: str, seed: int, index: int) -> random.Random:
    """The generator of a case, which decides everything about it."""
    return random.Random(f"{kind}/{seed}/{index}")
