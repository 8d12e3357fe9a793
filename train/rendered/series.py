"""Series of rendered pictures, drawn once and kept as PNG files in the cache folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
from PIL import Image, features

from srtrt.errors import OutputError
from srtrt.files import cache_folder, replace_when_complete
from srtrt.locks import locked
from srtrt.train.rendered import SIDE, VERSION, kind_of, render
from srtrt.train.rendered.fonts import TRAINING_FACES, Face

TRAINING_SEED = 0
"""Of the pictures that networks are trained on; whoever measures takes another one."""

Progress = Callable[[int, int], None]
"""Called with pictures done and in all."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Some pictures of a seed.

    Attributes:
        files: PNG files, ``00000-text.png`` and so on.
        facts: what they were drawn with: seed, version, fonts with licences, libraries.
    """

    files: tuple[Path, ...]
    facts: dict[str, Any]


def training_series(count: int, *, on_progress: Progress | None = None) -> Series:
    """The first pictures for training, drawn where they are not there yet.

    Raises:
        MissingPackageError: if the package of the fonts is not installed.
        OutputError: if they cannot be written.
    """
    facts = facts_of(TRAINING_SEED, TRAINING_FACES)
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder("rendered") / key
    make_folder(folder)
    with locked(folder / "lock"):
        files = draw(folder, count, seed=TRAINING_SEED, on_progress=on_progress)
    return Series(files=files, facts={"pictures": count, **facts})


def draw(
    folder: Path,
    count: int,
    *,
    seed: int,
    faces: Sequence[Face] = TRAINING_FACES,
    on_progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Draws the first pictures of a seed into a folder; those that are there stay.

    Raises:
        MissingPackageError: if the package of a font is not installed.
        OutputError: if they cannot be written.
    """
    files = tuple(folder / f"{number:05d}-{kind_of(number)}.png" for number in range(count))
    for number, file in enumerate(files):
        if not file.is_file():
            picture = Image.fromarray(render(kind_of(number), f"{seed}/{number}", faces))
            with replace_when_complete(file) as part:
                picture.save(part, "PNG", compress_level=1)
        if on_progress is not None:
            on_progress(number + 1, count)
    return files


def facts_of(seed: int, faces: Sequence[Face]) -> dict[str, Any]:
    """Everything that the pictures of a seed depend on, as plain values."""
    fonts = [{"name": f.name, "licence": f.licence, "sha256": f.sha256} for f in faces]
    return {
        "seed": seed,
        "version": VERSION,
        "side": SIDE,
        "pillow": PIL.__version__,
        "freetype": features.version("freetype2"),
        "fonts": fonts,
    }


def make_folder(folder: Path) -> None:
    """Makes a folder for pictures.

    Raises:
        OutputError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror}); choose a folder that can be written, "
            "or set SRTRT_CACHE to one."
        ) from error
