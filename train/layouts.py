"""Finds the training pictures in folders as the archives of DIV2K and Flickr2K unpack them.

DIV2K (Agustsson and Timofte, NTIRE 2017) has 800 pictures for training and 100 for validation,
Flickr2K (Lim et al., EDSR, 2017) has 2650 for training; both together are called DF2K. Beside the
originals (HR) lie reduced copies (LR), which must never be taken for originals.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from srtrt.datasets import IMAGE_SUFFIXES
from srtrt.errors import InputError
from srtrt.reading import require_folder

Split = Literal["train", "valid"]

_NAMES = {"div2k": "DIV2K", "flickr2k": "Flickr2K", "df2k": "DF2K"}
_HR = re.compile(r"(div2k|flickr2k|df2k)(?:_(train|valid|test))?_hr", re.IGNORECASE)
_LR = re.compile(r"(.*_)?LR(_.*)?|lr|.*LRbicx?\d+")
_VALIDATION = re.compile(r"08\d[1-9]|08[1-9]0|0900")
"""Numbers of DIV2K's pictures for validation: 0801 to 0900."""
_SCALE = re.compile(r"x\d+", re.IGNORECASE)
_MOST_PARTS = 200
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
_EXPECTED = {
    "train": "a folder of pictures, or one that holds DIV2K_train_HR, Flickr2K_HR or DF2K_HR",
    "valid": "a folder of pictures, or one that holds DIV2K_valid_HR",
}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The pictures of one or more folders.

    Attributes:
        name: ``DIV2K``, ``Flickr2K``, ``DF2K`` or the folder's own name, joined with ``+``.
        files: HR pictures, sorted, each once.
        ignored: folders left out: LR copies, the other split, and, where a known dataset was
            found, folders of other pictures beside it.
    """

    name: str
    files: tuple[Path, ...]
    ignored: tuple[Path, ...]


def find_pictures(folders: Sequence[Path], *, split: Split = "train") -> Dataset:
    """Finds the HR pictures of a split below the folders.

    Each folder may be the one with the pictures or any above it. If ``DIV2K_train_HR``,
    ``Flickr2K_HR`` or ``DF2K_HR`` (for validation ``DIV2K_valid_HR``) is in it, their pictures are
    taken and nothing else. Else pictures below a folder called DIV2K, Flickr2K or DF2K, in any
    case, are of that dataset; in such a DIV2K numbers 0801 to 0900 are for validation, where there
    are others. Else it is all pictures below it, except LR copies. Hidden files and folders are
    passed over, links are followed.

    Raises:
        InputError: if one of the folders holds no such picture.
    """
    names: list[str] = []
    files: dict[Path, Path] = {}
    ignored: set[Path] = set()
    for folder in folders:
        found = _Finds(split)
        check_folder(folder)
        _walk(folder, found, set(), None)
        name, pictures = _choose(folder, found)
        names += name
        files |= {_real(path): path for path in pictures if _real(path) not in files}
        ignored |= found.ignored
    names = list(dict.fromkeys(names))
    if {"DIV2K", "Flickr2K"} <= {*names}:
        names[names.index("DIV2K")] = "DF2K"
        names.remove("Flickr2K")
    return Dataset(
        name="+".join(dict.fromkeys(names)),
        files=tuple(sorted(files.values())),
        ignored=tuple(sorted(ignored)),
    )


@dataclass
class _Finds:
    """What one walk through a folder met."""

    split: Split
    known: dict[str, list[Path]] = field(default_factory=dict)
    roots: dict[str, list[Path]] = field(default_factory=dict)
    plain: list[Path] = field(default_factory=list)
    reduced: set[Path] = field(default_factory=set)
    other_split: set[Path] = field(default_factory=set)
    archives: list[Path] = field(default_factory=list)
    others: int = 0
    ignored: set[Path] = field(default_factory=set)


def check_folder(folder: Path) -> None:
    """Refuses what is no folder.

    Raises:
        InputError: with what is there instead.
    """
    # Not Path.is_file and the like: they raise for a name that is too long.
    for end in _ARCHIVES:
        if not os.path.lexists(folder) and os.path.isfile(f"{folder}{end}"):  # noqa: PTH113
            raise InputError(f"{folder}: no such folder, but {folder}{end} is there; unpack it.")
        if folder.name.lower().endswith(end) and os.path.isfile(folder):  # noqa: PTH113
            raise InputError(f"{folder}: an archive; unpack it and give the folder.")
    require_folder(folder, "a folder of pictures")


def _real(path: Path) -> Path:
    """The path without links; not Path.resolve, which raises where they turn in a circle."""
    return Path(os.path.realpath(path))


def _is_reduced(folder: Path) -> bool:
    """Whether a folder is known to hold LR copies, or is the X4 of one that does."""
    folder = folder.absolute()
    inner = _SCALE.fullmatch(folder.name) and _LR.fullmatch(folder.parent.name)
    return bool(inner or _LR.fullmatch(folder.name))


def _walk(folder: Path, found: _Finds, seen: set[Path], dataset: str | None) -> None:
    """Sorts what is below a folder; ``dataset`` is the known one it belongs to."""
    here = _real(folder)  # a link may lead back up
    if here in seen:
        return
    seen.add(here)
    if _is_reduced(folder):
        found.reduced.add(folder)
        return
    match = _HR.fullmatch(folder.absolute().name)
    if match:
        # Flickr2K_HR and DF2K_HR, without a split in their names, are for training.
        split = match[2] or (found.split if dataset else "train")
        if split.lower() != found.split:
            found.other_split.add(folder)
            return
        if dataset is None:
            dataset = _NAMES[match[1].lower()]
            found.known.setdefault(dataset, [])
            found.roots.setdefault(dataset, []).append(folder)
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}).") from error
    for path in inside:
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        if os.path.isdir(path):  # noqa: PTH112
            if len(path.parts) > _MOST_PARTS:
                raise InputError(
                    f"{folder}: lies more than {_MOST_PARTS} folders deep; give a folder that is "
                    "nearer to the pictures."
                )
            _walk(path, found, seen, dataset)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            (found.plain if dataset is None else found.known[dataset]).append(path)
        elif path.name.lower().endswith(_ARCHIVES):
            found.archives.append(path)
        else:
            found.others += 1


def _choose(folder: Path, found: _Finds) -> tuple[list[str], list[Path]]:
    """Names and pictures of one folder, after its walk; notes what is left out."""
    found.ignored |= found.reduced | found.other_split
    _sort_by_name(folder, found)
    for name, pictures in found.known.items():
        if not pictures:
            raise InputError(
                f"{found.roots[name][0]}: holds no picture; expected those of {name}. "
                "Unpack its archive again, or remove the folder."
            )
    if found.known:
        found.ignored |= {path.parent for path in found.plain}
        if "DF2K" in found.known:  # it holds the pictures of the two others
            for name in found.known.keys() - {"DF2K"}:
                found.ignored |= {*found.roots[name]}
            return ["DF2K"], found.known["DF2K"]
        return list(found.known), [path for known in found.known.values() for path in known]
    if found.plain:
        return [folder.name or folder.resolve().name or str(folder)], found.plain
    raise InputError(_nothing(folder, found))


def _sort_by_name(folder: Path, found: _Finds) -> None:
    """Gives plain pictures to the dataset that a folder above them is called, if it has no own."""
    with_own, plain = {*found.known}, found.plain
    found.plain = []
    for path in plain:
        home = _called_like_a_dataset(path, folder)
        name = _NAMES[home.absolute().name.lower()] if home else ""
        if home is None or name in with_own:
            found.plain.append(path)
            continue
        found.known.setdefault(name, []).append(path)
        if home not in found.roots.setdefault(name, []):
            found.roots[name].append(home)
    if "DIV2K" not in with_own and "DIV2K" in found.known:
        halves: dict[bool, list[Path]] = {True: [], False: []}
        for path in found.known["DIV2K"]:
            halves[bool(_VALIDATION.fullmatch(path.stem))].append(path)
        if all(halves.values()):
            found.known["DIV2K"] = halves[found.split == "valid"]


def _called_like_a_dataset(path: Path, top: Path) -> Path | None:
    """The nearest folder above a picture, not above ``top``, with the name of a dataset."""
    for above in path.parents:
        if above.absolute().name.lower() in _NAMES:
            return above
        if above == top:
            break
    return None


def _nothing(folder: Path, found: _Finds) -> str:
    """Why a folder is of no use, for people."""
    what = []
    if found.reduced:
        what.append(f"LR copies ({_listed(found.reduced)})")
    if found.other_split:
        what.append(f"another split ({_listed(found.other_split)})")
    if found.archives:
        what.append(f"packed archives ({_listed(found.archives)}; unpack what you need)")
    if found.others:
        what.append(f"{found.others} file{'s' * (found.others > 1)} of other kinds")
    holds = f"holds no picture to use, only {' and '.join(what)}" if what else "an empty folder"
    return f"{folder}: {holds}. Expected {_EXPECTED[found.split]}."


def _listed(paths: Iterable[Path]) -> str:
    names = [path.absolute().name for path in sorted(paths)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
