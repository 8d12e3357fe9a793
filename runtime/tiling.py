"""Cutting a picture into tiles whose results join without a seam.

A tile is computed with a margin of the network's receptive radius, and the margin's output is
thrown away, so every kept pixel sees what it would have seen in the whole picture. Borders of the
picture stay borders of a tile, so the network's zero padding falls in the same place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from srtrt.errors import UsageError

_MIN_KEPT = 16
"""A tile that keeps fewer LR pixels a side than this wastes nearly all its work."""


@dataclass(frozen=True)
class Window:
    """A stretch of one axis, in LR pixels: computed ``[start, stop)``, kept ``[first, last)``."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class TilePlan:
    """Windows over the rows and columns of a picture; all tiles have the same size."""

    rows: tuple[Window, ...]
    columns: tuple[Window, ...]

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows) * len(self.columns)

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width of a tile in LR pixels, margins included."""
        row, column = self.rows[0], self.columns[0]
        return row.stop - row.start, column.stop - column.start

    @property
    def pixels(self) -> int:
        """LR pixels computed in all, margins included."""
        height, width = self.tile_size
        return self.count * height * width

    def __iter__(self) -> Iterator[tuple[Window, Window]]:
        return ((row, column) for row in self.rows for column in self.columns)


def split_axis(length: int, count: int, margin: int, align: int) -> tuple[Window, ...]:
    """Covers ``length`` with ``count`` equal windows that overlap by at least two margins.

    Starts and sizes are multiples of ``align``, as long as ``length`` is.
    """
    if count == 1:
        return (Window(0, length, 0, length),)
    size = _size(length, count, margin, align)
    step = size - 2 * margin
    starts = [min(k * step, length - size) for k in range(count)]
    firsts = [0] + [start + margin for start in starts[1:]]
    return tuple(
        Window(start, start + size, first, last)
        for start, first, last in zip(starts, firsts, [*firsts[1:], length], strict=True)
    )


def plan_tiles(
    height: int, width: int, *, margin: int, align: int, max_pixels: int, side: int | None = None
) -> TilePlan:
    """The cheapest cut in which no tile exceeds ``max_pixels``, or ``side`` where it is given.

    Strips overlap along one axis only, so where memory allows them they win over a grid.

    Args:
        height: rows of the picture.
        width: columns of the picture.
        margin: LR pixels computed around a tile and thrown away; a multiple of ``align``.
        align: 2 for 4:2:0 planes, else 1.
        max_pixels: most LR pixels a tile may have.
        side: longest side of a tile in LR pixels instead.

    Raises:
        UsageError: if ``side`` is too small to keep anything of a tile.
    """
    smallest = 2 * margin + _MIN_KEPT
    if side is not None:
        if side < smallest and side < max(height, width):
            raise UsageError(
                f"tile of {side} pixels: this model needs {margin} pixels around a tile, so the "
                f"smallest useful tile is {smallest}. Choose --tile {smallest} or more, or auto."
            )
        rows = _windows_for(height, side, margin, align)
        columns = _windows_for(width, side, margin, align)
        return TilePlan(rows, columns)
    down, across = _cheapest_cut(height, width, margin, align, max_pixels)
    return TilePlan(
        split_axis(height, down, margin, align), split_axis(width, across, margin, align)
    )


def _cheapest_cut(
    height: int, width: int, margin: int, align: int, max_pixels: int
) -> tuple[int, int]:
    """Numbers of rows and columns of the plan that computes fewest pixels, then has fewest tiles.

    Costs follow from the numbers alone, so only the plan that wins is ever built. With ``c``
    columns at least ``height * (width + 2 * margin * (c - 1))`` pixels are computed: the search
    ends where that exceeds what was found.
    """
    if height * width <= max_pixels:
        return 1, 1
    smallest = 2 * margin + _MIN_KEPT
    most = max(1, (width - 2 * margin) // _MIN_KEPT)
    # With fewer columns even the lowest tile would be too large.
    widest = max_pixels // min(height, 2 * margin + 1)
    fewest = 1 if widest >= width else _ratio(width - 2 * margin, widest - 2 * margin, most)
    best: tuple[int, int, int, int] | None = None
    for columns in range(fewest, most + 1):
        least = height * (width + 2 * margin * (columns - 1))
        if best is not None and (least, columns) > best[:2]:
            break
        tile_width = _size(width, columns, margin, align)
        tile_height = max(smallest, max_pixels // tile_width // align * align)
        rows = _fewest(height, tile_height, margin, align)
        area = tile_width * _size(height, rows, margin, align)
        cost = (rows * columns * area, rows * columns, rows, columns)
        if area <= max_pixels and (best is None or cost[:2] < best[:2]):
            best = cost
    if best is not None:
        return best[2:]
    # Nothing fits: the narrowest tiles of the lowest height, in as few columns as they take.
    rows = _fewest(height, smallest, margin, align)
    kept = _size(width, most, margin, align) - 2 * margin
    return rows, 1 if most == 1 else _ratio(width - 2 * margin, kept, most)


def _ratio(length: int, part: int, most: int) -> int:
    """Parts that cover a length, at most ``most``."""
    return most if part < 1 else min(most, -(-length // part))


def _windows_for(length: int, size: int, margin: int, align: int) -> tuple[Window, ...]:
    """The fewest windows over ``length`` that are no longer than ``size``."""
    return split_axis(length, _fewest(length, size, margin, align), margin, align)


def _fewest(length: int, size: int, margin: int, align: int) -> int:
    """How many windows no longer than ``size`` cover ``length`` at least."""
    if length <= size:
        return 1
    step = max(align, (size - 2 * margin) // align * align)
    return math.ceil((length - 2 * margin) / step)


def _size(length: int, count: int, margin: int, align: int) -> int:
    """Length of each of ``count`` equal windows over ``length``."""
    if count == 1:
        return length
    kept = math.ceil((length - 2 * margin) / count)
    return min(length, _up(kept + 2 * margin, align))


def _up(value: int, align: int) -> int:
    return -(-value // align) * align


def region(
    axis: int, part: int, row: Window, column: Window, scale: int, *, computed: bool
) -> tuple[slice, ...]:
    """Index of a tile in a whole plane: what is computed, or what is kept of it.

    Args:
        axis: of the rows; the columns are the next.
        part: LR luma pixels per sample of the plane.
        row: rows of the tile.
        column: columns of the tile.
        scale: 1 for a plane of the source, the enlargement for one of the result.
        computed: whether margins belong to it.
    """
    spans = [(w.start, w.stop) if computed else (w.first, w.last) for w in (row, column)]
    cut = [slice(a * scale // part, b * scale // part) for a, b in spans]
    return (slice(None),) * axis + tuple(cut)


def kept(axis: int, part: int, row: Window, column: Window, scale: int) -> tuple[slice, ...]:
    """Index of the kept samples in a tile's own result; the arguments of :func:`region`."""
    spans = [(w.first - w.start, w.last - w.start) for w in (row, column)]
    cut = [slice(a * scale // part, b * scale // part) for a, b in spans]
    return (slice(None),) * axis + tuple(cut)
