from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtrt.errors import UsageError
from srtrt.runtime import tiling
from srtrt.runtime.tiling import TilePlan, Window, plan_tiles, split_axis


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


def every_plan(height: int, width: int, margin: int, align: int, limit: int) -> list[TilePlan]:
    """All cuts into columns, each with the fewest rows that memory allows."""
    plans = []
    smallest = 2 * margin + 16
    for count in range(1, max(1, (width - 2 * margin) // 16) + 1):
        columns = split_axis(width, count, margin, align)
        tile_width = columns[0].stop - columns[0].start
        side = max(smallest, limit // tile_width // align * align)
        step = max(align, (side - 2 * margin) // align * align)
        number = 1 if height <= side else -(-(height - 2 * margin) // step)
        plans.append(TilePlan(split_axis(height, number, margin, align), columns))
    return plans


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 1500),
    width=st.integers(1, 1500),
    half_margin=st.integers(0, 25),
    align=st.sampled_from([1, 2]),
    limit=st.integers(1, 1 << 20),
)
def test_no_plan_is_cheaper(
    height: int, width: int, half_margin: int, align: int, limit: int
) -> None:
    if align == 2:
        height, width = 2 * height, 2 * width
    margin = 2 * half_margin
    plan = plan_tiles(height, width, margin=margin, align=align, max_pixels=limit)
    check_cover(plan, height, width, margin, align)
    if height * width <= limit:
        assert plan.count == 1
        return
    plans = every_plan(height, width, margin, align, limit)
    fitting = [p for p in plans if p.tile_size[0] * p.tile_size[1] <= limit]
    if fitting:
        assert plan == min(fitting, key=lambda p: (p.pixels, p.count))
    else:
        assert plan == min(plans, key=lambda p: p.tile_size[0] * p.tile_size[1])


@pytest.mark.parametrize(
    ("height", "width"),
    [(300, 65_000), (65_000, 300), (16, 500_000), (500_000, 16), (1, 10_000_000), (30_000, 30_000)],
)
@pytest.mark.parametrize("limit", [1, 10_000, 100_000, 2_000_000])
def test_long_pictures_are_planned_without_building_every_plan(
    height: int, width: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def counted(length: int, count: int, margin: int, align: int) -> tuple[Window, ...]:
        built.append(count)
        return split_axis(length, count, margin, align)

    monkeypatch.setattr(tiling, "split_axis", counted)
    plan = plan_tiles(height, width, margin=40, align=1, max_pixels=limit)
    assert len(built) == 2
    for windows, length in ((plan.rows, height), (plan.columns, width)):
        assert windows[0].first == 0
        assert windows[-1].last == length
        assert all(a.last == b.first for a, b in itertools.pairwise(windows))
    if limit > 100_000:
        assert plan.tile_size[0] * plan.tile_size[1] <= limit
