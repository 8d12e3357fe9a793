"""Dividing pictures into tiles that fit into memory, and that a backend computes right."""

from __future__ import annotations

import math
from dataclasses import dataclass

from srtrt.errors import UsageError
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.memory import MEMORY_VARIABLE, memory_limit
from srtrt.runtime.tiling import (
    LEAST_KEPT,
    TilePlan,
    alignment,
    margin_for,
    plan_tiles,
    round_up,
)
from srtrt.spec import UNBOUNDED

_ENGINE_SIDE = 512
"""LR pixels a side of the tiles of one engine for pictures of all sizes."""

_ENGINE_STEP = 64
"""What the side is a multiple of, so that somewhat less free memory asks for no other engine."""


@dataclass(frozen=True)
class TileWish:
    """What was asked for."""

    side: int | None = None
    """Longest side of a tile in LR pixels; None leaves it open."""
    untiled: bool = False
    """Whether pictures are to be computed whole."""

    @classmethod
    def parse(cls, tile: str | int) -> TileWish:
        """Reads ``auto``, ``none``, or a side in LR pixels.

        Raises:
            UsageError: if it is none of these.
        """
        if tile in ("auto", "none"):
            return cls(untiled=tile == "none")
        try:
            side = int(tile)
        except ValueError:
            side = 0
        if side < 1:
            raise UsageError(
                f"tile is {tile!r}: expected auto, none, or a side in pixels such as 256."
            )
        return cls(side=side)


class TilePlanner:
    """Plans tiles for one backend.

    Attributes:
        margin: LR pixels that are computed around a tile and thrown away.
    """

    def __init__(self, backend: Backend, *, radius: int, wish: TileWish, any_size: bool) -> None:
        """Asks how much memory there is.

        Args:
            backend: what computes the tiles; told the side of its engine, if one engine is to
                serve all sizes.
            radius: the network's receptive radius in LR pixels.
            wish: what was asked for.
            any_size: whether one engine is to serve pictures of all sizes, where one is built.
        """
        self._backend = backend
        self._align = alignment(backend.form)
        self.margin = margin_for(radius, backend.form)
        self._side, self._untiled = wish.side, wish.untiled
        self._pixel_bytes = backend.frame_bytes_per_pixel
        self._memory_limit = memory_limit(backend.device)
        self._max_pixels = max(1, self._memory_limit // self._pixel_bytes)
        ring = getattr(backend.options, "ring", None)
        self._batch = 1 if ring is None else ring.batch
        if any_size and backend.takes_ranges and radius < UNBOUNDED and not wish.untiled:
            self._side = backend.engine_side = wish.side or self._engine_side()

    def plan(self, frames: int, height: int, width: int) -> TilePlan:
        """The tiles of pictures of a size.

        Args:
            frames: how many are computed together.
            height: in LR pixels.
            width: likewise.

        Raises:
            UsageError: if what was asked for cannot be computed, or not computed right.
        """
        pixels = 1 << 62 if self._untiled else self._max_pixels // max(1, frames)
        countable = self._countable(frames)
        if not self._untiled and countable is not None:
            pixels = min(pixels, countable)
        plan = plan_tiles(
            height,
            width,
            margin=self.margin,
            align=self._align,
            max_pixels=pixels,
            side=self._side,
        )
        self._require_room(plan)
        if countable is not None:
            self._require_countable(plan, countable)
        return plan

    def _countable(self, frames: int) -> int | None:
        """Most pixels of a tile that the backend computes right; None without a limit."""
        most = self._backend.max_pixels
        return None if most is None else most // max(frames, self._batch, 1)

    def _require_countable(self, plan: TilePlan, most: int) -> None:
        """Refuses tiles that the backend would compute wrong."""
        rows, columns = plan.tile_size
        if rows * columns > most:
            raise UsageError(
                f"{columns}x{rows} pixels at once make tensors of {self._backend.model.name} with "
                f"2^31 elements or more, which {self._backend.description} does not compute; "
                f"expected at most {most} pixels. Use --tile auto, or --tile {math.isqrt(most)} or "
                f"less{', or a smaller batch' if self._batch > 1 else ''}."
            )

    def _require_room(self, plan: TilePlan) -> None:
        """Refuses frames in flight that would take the host's memory, which cannot say no."""
        rows, columns = plan.tile_size
        needed, limit = rows * columns * self._pixel_bytes, self._memory_limit
        ring = getattr(self._backend.options, "ring", None)
        if ring is not None and self._backend.device == "cpu" and needed > limit:
            raise UsageError(
                f"{ring.slots} batches of {ring.batch} frames on {ring.streams} streams take about "
                f"{needed / 2**30:.1f} GiB with {columns}x{rows} pixels at once, and the network "
                f"may use {limit / 2**30:.1f} GiB; give a smaller batch, fewer slots or streams, "
                f"smaller tiles, or more memory with {MEMORY_VARIABLE} (in MiB)."
            )

    def shrink(self, plan: TilePlan, frames: int, height: int, width: int) -> bool:
        """Plans tiles of half the size, as memory ran out; False if there are none."""
        if self._backend.engine_side is not None:
            return self._shrink_engine(self._backend.engine_side)
        smaller = plan.tile_size[0] * plan.tile_size[1] * frames // 2
        self._side, self._untiled, self._max_pixels = None, False, smaller
        found = self.plan(frames, height, width).tile_size
        if found == plan.tile_size:
            return False
        self._backend.notes.append(
            f"Memory ran out; went on with tiles of at most {found[1]}x{found[0]} pixels."
        )
        return True

    def _shrink_engine(self, side: int) -> bool:
        """Halves the side of one engine for all sizes, as each try takes minutes."""
        self._max_pixels = side * side // 4
        smaller = self._engine_side()
        if smaller >= side:
            return False
        self._side = self._backend.engine_side = smaller
        self._backend.notes.append(
            f"Memory ran out; went on with tiles of at most {smaller}x{smaller} pixels."
        )
        return True

    def _engine_side(self) -> int:
        """Side of the tiles of one engine for pictures of all sizes, as far as memory allows."""
        useful = 2 * self.margin + LEAST_KEPT
        wanted = max(_ENGINE_SIDE, round_up(3 * useful, _ENGINE_STEP))
        pixels = min(self._max_pixels, self._countable(1) or self._max_pixels)
        fitting = math.isqrt(pixels) // _ENGINE_STEP * _ENGINE_STEP
        return max(min(wanted, fitting), round_up(useful, self._align))
