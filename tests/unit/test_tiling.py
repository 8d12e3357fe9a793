from __future__ import annotations

import itertools

import numpy as np
import pytest

from srtrt.errors import UsageError
from srtrt.runtime.tiling import TilePlan, plan_tiles


def check_cover(plan: TilePlan, height: int, width: int, margin: int, align: int) -> None:
    kept = np.zeros((height, width), int)
    sizes = set()
    for row, column in plan:
        kept[row.first : row.last, column.first : column.last] += 1
        for window, length in ((row, height), (column, width)):
            assert 0 <= window.start <= window.first < window.last <= window.stop <= length
            assert window.start == 0 or window.first - window.start >= margin
            assert window.stop == length or window.stop - window.last >= margin
            assert window.start % align == 0
            assert window.first % align == 0
        sizes.add((row.stop - row.start, column.stop - column.start))
    assert (kept == 1).all()
    assert len(sizes) == 1


@pytest.mark.parametrize("margin", [0, 6, 40])
@pytest.mark.parametrize("align", [1, 2])
def test_tiles_keep_every_pixel_once_with_its_margin(margin: int, align: int) -> None:
    sizes = [2, 98, 240, 402]
    for height, width, limit in itertools.product(sizes, sizes, (12_000, 30_000, 1 << 40)):
        plan = plan_tiles(height, width, margin=margin, align=align, max_pixels=limit)
        check_cover(plan, height, width, margin, align)
        assert plan.tile_size[0] * plan.tile_size[1] <= limit


def test_odd_sizes_are_covered() -> None:
    plan = plan_tiles(301, 1, margin=40, align=1, max_pixels=1 << 40, side=97)
    check_cover(plan, 301, 1, 40, 1)
    assert plan.count > 1


def test_the_cheapest_cut_wins() -> None:
    strips = plan_tiles(960, 540, margin=40, align=2, max_pixels=540 * 560)
    assert strips.tile_size == (520, 540)
    columns = plan_tiles(540, 960, margin=40, align=2, max_pixels=540 * 560)
    assert columns.tile_size == (540, 520)
    grid = plan_tiles(540, 960, margin=40, align=2, max_pixels=960 * 200)
    four_strips = 4 * 196 * 960
    assert grid.pixels < four_strips


def test_a_side_bounds_both_sides() -> None:
    plan = plan_tiles(540, 960, margin=40, align=2, max_pixels=1, side=256)
    assert max(plan.tile_size) <= 256
    check_cover(plan, 540, 960, 40, 2)


def test_a_side_without_use_is_refused() -> None:
    with pytest.raises(UsageError, match="smallest useful tile is 96"):
        plan_tiles(540, 960, margin=40, align=2, max_pixels=1, side=64)


def test_a_hopeless_limit_gives_the_smallest_tiles() -> None:
    plan = plan_tiles(540, 960, margin=40, align=2, max_pixels=1)
    assert plan.tile_size[0] <= 96
    check_cover(plan, 540, 960, 40, 2)
