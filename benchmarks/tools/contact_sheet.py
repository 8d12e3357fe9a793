"""Draws crops of pictures side by side, to be looked at: LR, bicubic, models, original.

``python -m srtrt.benchmarks.tools.contact_sheet SHEET.png PICTURE...`` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from srtrt.benchmarks.quality import Upscale, open_upscalers
from srtrt.datasets import lr_hr_pair
from srtrt.files import replace_when_complete
from srtrt.weights import PURPOSES

Picture = NDArray[np.uint8]
"""``[H, W, 3]`` RGB."""

AROUND = 40
"""LR pixels beside a crop that the models see, too: as far as the bundled ones look."""

_LINE = 18
_GAP = 6


@click.command()
@click.argument("sheet", type=click.Path(path_type=Path))
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, default=tuple(PURPOSES), show_default=True)
@click.option("--engine", default=None, help="By default the fastest in float32.")
@click.option("--side", default=96, show_default=True, type=click.IntRange(16), help="HR pixels.")
@click.option("--zoom", default=3, show_default=True, type=click.IntRange(1), help="Of HR pixels.")
@click.option("--crops", default=1, show_default=True, type=click.IntRange(1), help="Of a picture.")
def contact_sheet(
    sheet: Path, pictures: tuple[Path, ...], models: tuple[str, ...], engine: str | None,
    side: int, zoom: int, crops: int,
) -> None:  # fmt: skip
    """Writes SHEET, a PNG with a row for each crop: the parts of a PICTURE that change most.

    Raises:
        InputError, ModelError: if a picture or model is unusable.
        OutputError: if the sheet cannot be written.
    """
    side -= side % 4
    with open_upscalers(models, engine, fast=True) as (upscalers, _):
        rows = [
            (f"{path.parent.name}/{path.stem}", row)
            for path in pictures
            for row in _rows(path, upscalers, side, crops)
        ]
    heads = ["LR", *upscalers, "HR"]
    with replace_when_complete(sheet) as part:
        _drawn(heads, rows, side * zoom).save(part, "PNG")


def _rows(
    path: Path, upscalers: Mapping[str, Upscale], side: int, crops: int
) -> list[list[Picture]]:
    """For each crop of a picture LR, enlargements and HR, each ``side`` square but the first."""
    lr, hr = lr_hr_pair(path)
    rows = []
    for top, left in busiest(hr, side, crops):
        row, column, small = top // 4, left // 4, side // 4
        first_row, first_column = max(row - AROUND, 0), max(column - AROUND, 0)
        near = lr[first_row : row + small + AROUND, first_column : column + small + AROUND]
        y, x = 4 * (row - first_row), 4 * (column - first_column)
        enlarged = [
            upscale(np.ascontiguousarray(near))[y : y + side, x : x + side]
            for upscale in upscalers.values()
        ]
        original = hr[top : top + side, left : left + side]
        rows.append([lr[row : row + small, column : column + small], *enlarged, original])
    return rows


def busiest(hr: Picture, side: int, count: int) -> list[tuple[int, int]]:
    """Top and left of the squares with the most change, multiples of 4 that do not overlap."""
    level = hr.astype(np.float32).mean(axis=2)
    change = np.abs(np.diff(level, axis=0, append=level[-1:]))
    change += np.abs(np.diff(level, axis=1, append=level[:, -1:]))
    sums = np.pad(change.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    whole = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    score, found = whole[::4, ::4].copy(), []
    for _ in range(count):
        row, column = map(int, np.unravel_index(score.argmax(), score.shape))
        if score[row, column] < 0:
            break
        found.append((4 * row, 4 * column))
        apart = side // 4 - 1
        score[
            max(row - apart, 0) : row + apart + 1, max(column - apart, 0) : column + apart + 1
        ] = -1
    return found


def _drawn(
    heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Picture]]], side: int
) -> Image.Image:
    """The sheet; every crop is enlarged to ``side`` without smoothing."""
    step, high = side + _GAP, side + _GAP + _LINE
    sheet = Image.new("RGB", (step * len(heads) + _GAP, high * len(rows) + _LINE), (128, 128, 128))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, head in enumerate(heads):
        pen.text((_GAP + column * step, 0), head, (255, 255, 255), font)
    for index, (name, crops) in enumerate(rows):
        top = _LINE + index * high
        pen.text((_GAP, top), name, (255, 255, 0), font)
        for column, crop in enumerate(crops):
            shown = Image.fromarray(crop).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(shown, (_GAP + column * step, top + _LINE))
    return sheet


if __name__ == "__main__":
    contact_sheet()
