"""Writes pictures made by a program, to measure with.

Each kind becomes a folder, and so a set for ``srtrt benchmark quality --data``. Seed and fonts are
others than those of training. ``python -m srtrt.benchmarks.tools.rendered OUT`` runs it.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from PIL import Image

from srtrt.errors import UsageError
from srtrt.files import replace_when_complete, write_text
from srtrt.terminal import put
from srtrt.train.rendered import KINDS, render
from srtrt.train.rendered.fonts import EVALUATION_FACES, TRAINING_FACES
from srtrt.train.rendered.series import TRAINING_SEED, facts_of, make_folder

FACTS = "rendered.json"
"""File beside the folders that says what the pictures were drawn with."""

_FONTS = {"measure": EVALUATION_FACES, "train": TRAINING_FACES}


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=1, show_default=True, help=f"Not {TRAINING_SEED}, training's own.")
@click.option("--count", default=8, show_default=True, type=click.IntRange(1), help="Of each kind.")
@click.option("--kind", "kinds", multiple=True, help="One of these alone; repeatable.")
@click.option("--fonts", default="measure", show_default=True, type=click.Choice(list(_FONTS)))
def rendered(out: Path, seed: int, count: int, kinds: tuple[str, ...], fonts: str) -> None:
    """Draws COUNT pictures of each kind into OUT/KIND, 640x640 PNG.

    Raises:
        UsageError: if a kind is unknown or the seed is training's.
        MissingPackageError: if a font is not installed.
        OutputError: if something cannot be written.
    """
    if seed == TRAINING_SEED:
        raise UsageError(f"--seed is {seed}, of the pictures for training; take another one.")
    faces = _FONTS[fonts]
    facts = facts_of(seed, faces)
    for kind in kinds or KINDS:
        pictures = [(number, render(kind, f"{seed}/{number}", faces)) for number in range(count)]
        make_folder(out / kind)
        for number, picture in pictures:
            with replace_when_complete(out / kind / f"{number:03d}.png") as part:
                Image.fromarray(picture).save(part, "PNG")
        put(f"{out / kind}: {count} pictures")
    write_text(out / FACTS, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    rendered()
