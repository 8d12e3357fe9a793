"""Cutting a picture into tiles whose results join without a seam.

A tile is computed with a margin of the network's receptive radius, and the margin's output is
thrown away, so every kept pixel sees what it would have seen in the whole picture. Borders of the
picture stay borders of a tile, so the network's zero padding falls in the same place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import UsageError
from srtrt.runtime.layouts import IMAGE_AXES
from srtrt.spec import Form

LEAST_KEPT = 16
"""A tile that keeps fewer LR pixels a side than this wastes nearly all its work."""

_CHROMA_REACH = 2
"""LR luma pixels that the chroma interpolation of ``yuv420p8`` sees beyond the network."""

_SAMPLED_TILE = 1 << 16
"""LR pixels of the tiles of frames that are sampled whole."""


@dataclass(frozen=True)
class Window:
    """A stretch of one axis, in LR pixels: computed ``[start, stop)``, kept ``[first, last)``."""

    start: int
    stop: int
    first: int
    last: int


Cut = tuple[Window, Window]
"""Rows and columns of a tile."""


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

    def __iter__(self) -> Iterator[Cut]:
        return ((row, column) for row in self.rows for column in self.columns)


def alignment(form: Form) -> int:
    """What starts and sides of tiles are multiples of, in LR pixels."""
    return 2 if form == "yuv420p8" else 1


def margin_for(radius: int, form: Form) -> int:
    """LR pixels around a tile that are computed and thrown away.

    Args:
        radius: the network's receptive radius in LR pixels.
        form: of the frames.
    """
    reach = radius + (_CHROMA_REACH if form == "yuv420p8" else 0)
    return round_up(reach, alignment(form))


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
    smallest = 2 * margin + LEAST_KEPT
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
    smallest = 2 * margin + LEAST_KEPT
    most = max(1, (width - 2 * margin) // LEAST_KEPT)
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
    return min(length, round_up(kept + 2 * margin, align))


def round_up(value: int, align: int) -> int:
    """The next multiple of ``align``."""
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


def cut_inputs(
    inputs: Mapping[str, NDArray[Any]], form: Form, row: Window, column: Window
) -> dict[str, NDArray[Any]]:
    """The inputs of a tile, C-contiguous.

    Args:
        inputs: of whole frames.
        form: their form.
        row: rows of the tile.
        column: columns of the tile.
    """
    axes = IMAGE_AXES[form]
    found = {name: array for name, array in inputs.items() if name not in axes}
    for name, (axis, part) in axes.items():
        tile = inputs[name][region(axis, part, row, column, 1, computed=True)]
        found[name] = np.ascontiguousarray(tile)
    return found


def kept_outputs(
    outputs: Mapping[str, NDArray[Any]], form: Form, row: Window, column: Window, scale: int
) -> dict[str, NDArray[Any]]:
    """What is kept of the outputs of a tile; the arguments of :func:`cut_inputs`."""
    return {
        f"{name}_x4": outputs[f"{name}_x4"][kept(axis, part, row, column, scale)]
        for name, (axis, part) in IMAGE_AXES[form].items()
    }


def whole_outputs(
    outputs: Mapping[str, NDArray[Any]], form: Form, row: Window, column: Window, scale: int
) -> dict[str, NDArray[Any]]:
    """The same part of the outputs of whole frames."""
    return {
        f"{name}_x4": outputs[f"{name}_x4"][region(axis, part, row, column, scale, computed=False)]
        for name, (axis, part) in IMAGE_AXES[form].items()
    }


def sampled_windows(
    height: int,
    width: int,
    *,
    margin: int,
    align: int,
    most: int,
    points: Sequence[tuple[int, int]] = (),
) -> list[Cut]:
    """Tiles in which a frame is to be compared, without computing all of a large one.

    A frame of up to ``most`` pixels is covered whole. Of a larger one the four corners, the middle
    of each border and the middle are, each with its whole margin, and so are points in none of
    them. The choice depends on nothing but the arguments.

    Args:
        height: rows of the frame in LR pixels.
        width: columns.
        margin: see :func:`plan_tiles`.
        align: likewise.
        most: LR pixels to compute in all, margins included. Where the margins alone take more, it
            is the corners of the least useful size.
        points: row and column of what is to be in one of the windows.
    """
    if height * width <= most:
        limit = max(_SAMPLED_TILE, (4 * margin) ** 2)
        return list(plan_tiles(height, width, margin=margin, align=align, max_pixels=limit))
    for_points = len(points) * (2 * margin + LEAST_KEPT + align) ** 2
    side = math.isqrt(max(1, most - for_points))
    # What a short axis leaves over, the long one takes.
    down = max(side, side * side // width) if width < side else side
    across = max(side, side * side // height) if height < side else side
    rows = _ends_and_middle(height, down, margin, align)
    columns = _ends_and_middle(width, across, margin, align)
    windows = [(row, column) for row in rows for column in columns]
    for y, x in points:
        if not any(r.first <= y < r.last and c.first <= x < c.last for r, c in windows):
            windows.append((_around(y, height, margin, align), _around(x, width, margin, align)))
    return windows


def _ends_and_middle(length: int, total: int, margin: int, align: int) -> list[Window]:
    """Up to three windows of one axis of ``length``, that take ``total`` in all."""
    if length <= total:
        return [Window(0, length, 0, length)]
    kept = (total - 4 * margin) // 3 // align * align
    middle = kept >= LEAST_KEPT
    if not middle:
        kept = max(LEAST_KEPT, (total - 2 * margin) // 2 // align * align)
    if 2 * (kept + margin) >= length:
        return [Window(0, length, 0, length)]
    centre = (length - kept) // 2 // align * align
    firsts = [0, centre, length - kept] if middle else [0, length - kept]
    return [_window(first, first + kept, length, margin) for first in firsts]


def _around(position: int, length: int, margin: int, align: int) -> Window:
    """A window of the least useful size around a position."""
    first = max(0, min(position - LEAST_KEPT // 2, length - LEAST_KEPT)) // align * align
    return _window(first, min(length, first + LEAST_KEPT), length, margin)


def _window(first: int, last: int, length: int, margin: int) -> Window:
    return Window(max(0, first - margin), min(length, last + margin), first, last)
