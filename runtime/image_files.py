"""Which picture files are read and written, from what the user named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from srtrt.errors import InputError, OutputError, UsageError
from srtrt.image_writing import FORMAT_OF_SUFFIX
from srtrt.paths import local_path

_PATTERN_CHARACTERS = frozenset("*?[")


def identity(path: Path) -> str:
    """The same for all names of a file."""
    return os.path.realpath(path)  # Path.resolve raises for a link that leads to itself


def find_images(inputs: Sequence[str | os.PathLike[str]]) -> tuple[list[Path], bool]:
    """Turns files, folders and patterns into a list of files without repetition.

    A folder stands for the pictures directly in it, by their endings, without hidden files and
    without the results of earlier runs (``a_x4.png`` beside ``a.png``); a pattern such as ``*.png``
    is expanded in the same way where the shell has not done so. ``**`` descends into subfolders.

    Returns:
        The files, and whether there may be several (more than one input, a folder or a pattern).

    Raises:
        InputError: if a folder or a pattern holds no picture, or an input is no local path.
    """
    found: list[Path] = []
    several = len(inputs) > 1
    for item in inputs:
        path = local_path(item)
        try:
            folder = path.is_dir()
            is_pattern = not os.path.lexists(path) and not _PATTERN_CHARACTERS.isdisjoint(str(path))
            if folder or is_pattern:
                found += _pictures_in(path, is_pattern)
                several = True
            else:
                found.append(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    return list(dict.fromkeys(found)), several


def _pictures_in(place: Path, is_pattern: bool) -> list[Path]:
    """The pictures directly in a folder, or those that match a pattern."""
    if is_pattern:
        candidates = Path(place.anchor).glob(str(place.relative_to(place.anchor)))
    else:
        candidates = place.iterdir()
    pictures = _pictures_among(list(candidates))
    if not pictures:
        hint = "no picture matches" if is_pattern else "no picture directly in this folder"
        raise InputError(f"{place}: {hint} (expected {', '.join(FORMAT_OF_SUFFIX)}).")
    return pictures


def _pictures_among(candidates: list[Path]) -> list[Path]:
    names = set(candidates)
    return sorted(
        path
        for path in candidates
        if path.suffix.lower() in FORMAT_OF_SUFFIX
        and not path.name.startswith(".")
        and path.is_file()
        and path.with_name(path.stem.removesuffix("_x4") + path.suffix) not in names - {path}
    )


def plan_targets(
    sources: Sequence[Path], output: Path | None, *, several: bool, into_folder: bool = False
) -> list[Path]:
    """The output file of every source.

    Args:
        sources: the pictures to enlarge.
        output: None puts ``NAME_x4.EXT`` beside each source; an existing folder, or any path if
            there may be several sources, takes the same names; else it is the output file.
        several: whether there may be more than one source.
        into_folder: whether ``output`` is a folder even if it does not exist yet.

    Raises:
        UsageError: if two sources would be written to the same file.
        OutputError: if ``output`` is a file where a folder is needed.
    """
    if output is not None and not several and not into_folder and not os.path.isdir(output):  # noqa: PTH112
        return [output]
    # Not those of Path: they raise for a name that is too long.
    is_file = output is not None and os.path.isfile(output)  # noqa: PTH113
    if output is not None and (is_file or output.suffix.lower() in FORMAT_OF_SUFFIX):
        raise OutputError(f"{output}: several pictures need a folder as output, not a file.")
    targets = [
        (source.parent if output is None else output) / f"{source.stem}_x4{source.suffix}"
        for source in sources
    ]
    taken: dict[str, Path] = {}
    for source, target in zip(sources, targets, strict=True):
        other = taken.setdefault(identity(target), source)
        if other != source:
            raise UsageError(
                f"{other} and {source} would both be written to {target}; "
                "give them to separate commands with separate output folders."
            )
    return targets
