"""Photographs that training never sees, so that a release can be judged by them.

Which they are depends on their names alone, not on the folder, its order, or what else is in it: a
photograph on the private side stays there for good. Crops of one photograph, which are called
``photograph_0.jpg``, ``photograph_1.jpg`` and so on, are on one side.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from srtrt.errors import InputError
from srtrt.train.layouts import find_pictures

ONE_IN = 10
"""One photograph of so many is private, on average."""

_CROP = re.compile(r"_\d+$")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The two sides of some folders of pictures, sorted."""

    training: tuple[Path, ...]
    private: tuple[Path, ...]


def photograph(path: Path) -> str:
    """The name of the photograph that a file is a crop of."""
    return _CROP.sub("", path.stem)


def is_private(path: Path) -> bool:
    """Whether a picture is kept from training."""
    return int(hashlib.sha256(photograph(path).encode()).hexdigest(), 16) % ONE_IN == 0


def split_pictures(folders: Sequence[Path]) -> Split:
    """Divides the pictures below some folders.

    Raises:
        InputError: if there is none, or one side is empty.
    """
    files = find_pictures(folders).files
    private = tuple(path for path in files if is_private(path))
    training = tuple(path for path in files if not is_private(path))
    if not (private and training):
        raise InputError(
            f"{', '.join(map(str, folders))}: of {len(files)} pictures {len(private)} are private "
            f"and {len(training)} to train on; expected some of each, as one photograph in "
            f"{ONE_IN} is private by its name. Give more photographs."
        )
    return Split(training=training, private=private)


def link_folder(files: Sequence[Path], folder: Path) -> Path:
    """A folder of links to files, for what takes folders only; made anew, in the same order."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index, path in enumerate(files):
        (folder / f"{index:05d}-{path.name}").symlink_to(path.resolve())
    return folder
