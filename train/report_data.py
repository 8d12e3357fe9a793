"""The pictures of the report's experiment: DIV2K, Flickr2K, both together, and for validation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from srtrt.errors import InputError
from srtrt.train.layouts import Dataset, find_pictures

ORIGINAL = {"DIV2K": 800, "Flickr2K": 2650, "DF2K": 3450}
"""Training pictures of the original datasets."""

_TRAINING_FOLDER = re.compile(r"(DIV2K_)train(_HR)", re.IGNORECASE)
_LAYOUTS = {
    "DIV2K": "a folder with DIV2K_train_HR in it, or one called DIV2K with pictures",
    "Flickr2K": "a folder with Flickr2K_HR in it, or one called Flickr2K with pictures",
}


@dataclass(frozen=True)
class ReportData:
    """The three datasets by name, in the report's order, and the validation pictures."""

    training: dict[str, Dataset]
    validation: tuple[Path, ...]

    def notes(self) -> list[str]:
        """What differs from the original datasets, a sentence each."""
        counts = {name: len(each.files) for name, each in self.training.items()}
        return [
            f"{name} has {counts[name]} training pictures here, the original {number}"
            for name, number in ORIGINAL.items()
            if counts[name] != number
        ]

    def fingerprints(self) -> dict[str, str]:
        """A checksum over names and sizes of the files of each dataset and of the validation.

        Raises:
            InputError: if a file is gone.
        """
        sets = {name: each.files for name, each in self.training.items()}
        return {
            n: _fingerprint(files) for n, files in {**sets, "validation": self.validation}.items()
        }


def find_report_data(div2k: Path, flickr2k: Path, validation: Sequence[Path]) -> ReportData:
    """Finds the pictures of the experiment.

    Args:
        div2k: DIV2K as it unpacks, its training half, or a plain folder of that name in any case.
        flickr2k: Flickr2K likewise.
        validation: folders of HR pictures; without any, DIV2K's own validation half is looked for
            in ``div2k`` and beside it.

    Raises:
        InputError: if a folder holds another dataset, a layout that is not known, or no pictures,
            or there are no validation pictures.
    """
    first, second = _known(div2k, "DIV2K"), _known(flickr2k, "Flickr2K")
    both = Dataset(
        name="DF2K", files=(*first.files, *second.files), ignored=(*first.ignored, *second.ignored)
    )
    if validation:
        judged = find_pictures(validation, split="valid").files
    else:
        judged = _validation_half(div2k, {*first.files})
    return ReportData({"DIV2K": first, "Flickr2K": second, "DF2K": both}, judged)


def _known(folder: Path, name: str) -> Dataset:
    found = find_pictures([folder])
    if found.name == name:
        return found
    if found.name in ORIGINAL:
        raise InputError(
            f"{folder}: holds {found.name}, and {name} is expected here: give DIV2K first, then "
            f"Flickr2K. Expected {_LAYOUTS[name]}."
        )
    count = f"{len(found.files)} picture{'s' * (len(found.files) > 1)}"
    raise InputError(
        f"{folder}: holds {count} in a layout that is not known as {name}. Expected "
        f"{_LAYOUTS[name]}, in any case; rename the folder, or make a link of that name."
    )


def _validation_half(div2k: Path, training: set[Path]) -> tuple[Path, ...]:
    match = _TRAINING_FOLDER.fullmatch(div2k.absolute().name)
    places = [div2k]
    if match:
        beside = div2k.absolute().parent
        places = [p for p in sorted(beside.iterdir()) if _is_validation(p.name)]
    for place in places:
        try:
            found = find_pictures([place], split="valid")
        except InputError:
            continue
        if found.name == "DIV2K" and not training.intersection(found.files):
            return found.files
    raise InputError(
        f"{div2k}: has no validation pictures, neither DIV2K_valid_HR in it or beside it nor "
        "numbers 0801 to 0900 in a plain folder; add them, or name a folder of HR pictures with "
        "--val."
    )


def _is_validation(name: str) -> bool:
    return re.fullmatch(r"DIV2K_valid_HR", name, re.IGNORECASE) is not None


def _fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode(errors="surrogateescape"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    return digest.hexdigest()
