"""What is drawn by lot for a picture: numbers, colours, points.

Everything comes from :meth:`random.Random.random`, whose values Python promises to keep for a
seed; the other methods of that class may change.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from srtrt.train.rendered.canvas import Colour, Point

_Item = TypeVar("_Item")

_CONTRAST = 90
"""Least difference in brightness, of 255, between ink and paper."""


class Chance:
    """Draws by lot; the same ones for the same seed."""

    def __init__(self, seed: str) -> None:
        self._random: Callable[[], float] = random.Random(seed).random

    def between(self, low: float, high: float) -> float:
        """A number, each equally likely."""
        return low + (high - low) * self._random()

    def scaled(self, low: float, high: float) -> float:
        """A positive number whose logarithm is drawn: as many from 1 to 2 as from 2 to 4."""
        return float(low * (high / low) ** self._random())

    def whole(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + int(self._random() * (high - low + 1))

    def happens(self, share: float) -> bool:
        """True in a share of the cases."""
        return self._random() < share

    def one_of(self, items: Sequence[_Item]) -> _Item:
        """One item, each equally likely."""
        return items[int(self._random() * len(items))]

    def point(self, side: float, margin: float = 0) -> Point:
        """A point of a square, at least ``margin`` from its border."""
        return self.between(margin, side - margin), self.between(margin, side - margin)

    def colour(self, saturation: tuple[float, float] = (0, 1)) -> Colour:
        """Any colour whose saturation, 0 to 1, lies in a range."""
        red, green, blue = colorsys.hsv_to_rgb(
            self._random(), self.between(*saturation), self.between(0.05, 1)
        )
        return round(255 * red), round(255 * green), round(255 * blue)

    def grey(self, low: int, high: int) -> Colour:
        """A neutral grey."""
        level = self.whole(low, high)
        return level, level, level

    def pastel(self) -> Colour:
        """A light colour of little saturation, as flat fills have."""
        red, green, blue = self.colour((0.0, 0.6))
        most = max(red, green, blue, 1)
        gain = self.between(190, 255) / most
        return round(red * gain), round(green * gain), round(blue * gain)

    def ink_and_paper(self) -> tuple[Colour, Colour]:
        """Two colours that can be told apart, the first to be drawn on the second.

        Black and white in a quarter of the cases each way round, else with colours.
        """
        kind = self.whole(0, 7)
        if kind < 4:
            dark, light = self.grey(0, 40), self.grey(225, 255)
            if self.happens(0.6):
                dark, light = (0, 0, 0), (255, 255, 255)
            return (dark, light) if kind < 2 else (light, dark)
        paper = self.colour()
        return self.against(brightness(paper)), paper

    def against(self, level: float) -> Colour:
        """A colour that can be read on something of a brightness, 0 to 255."""
        for _ in range(40):
            colour = self.colour()
            if abs(brightness(colour) - level) >= _CONTRAST:
                return colour
        return (0, 0, 0) if level > 127 else (255, 255, 255)

    def blob(self, centre: Point, radius: float, *, corners: int, rough: float) -> list[Point]:
        """A closed smooth line around a point, its distance changing by a share ``rough``."""
        turn = self.between(0, 2 * math.pi)
        knots = []
        for index in range(corners):
            angle = turn + 2 * math.pi * index / corners
            far = radius * self.between(1 - rough, 1 + rough)
            knots.append((centre[0] + far * math.cos(angle), centre[1] + far * math.sin(angle)))
        return smooth(knots, closed=True)

    def mesh(self, count: int, colours: Sequence[Colour]) -> NDArray[np.uint8]:
        """``count`` x ``count`` colours, each mixed of two of those given: ``[N, N, 3]``."""
        cells = []
        for _ in range(count * count):
            share, first, second = self._random(), self.one_of(colours), self.one_of(colours)
            cells.append([round(a + (b - a) * share) for a, b in zip(first, second, strict=True)])
        return np.array(cells, np.uint8).reshape(count, count, 3)


def brightness(colour: Colour) -> float:
    """Luma of BT.601, 0 to 255."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """The colour that lies a share of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def smooth(knots: Sequence[Point], *, closed: bool = False, steps: int = 10) -> list[Point]:
    """A Catmull-Rom spline through points."""
    count = len(knots)
    pieces = count if closed else count - 1
    found = []
    for index in range(pieces):
        around = [
            knots[(index + k) % count] if closed else knots[min(max(index + k, 0), count - 1)]
            for k in (-1, 0, 1, 2)
        ]
        found += [_between_knots(around, step / steps) for step in range(steps)]
    return found if closed else [*found, knots[-1]]


def _between_knots(around: Sequence[Point], t: float) -> Point:
    """The point at ``t``, 0 to 1, between the second and the third of four knots."""
    weights = (
        (-t + 2 * t**2 - t**3) / 2,
        (2 - 5 * t**2 + 3 * t**3) / 2,
        (t + 4 * t**2 - 3 * t**3) / 2,
        (-(t**2) + t**3) / 2,
    )
    x, y = (sum(w * knot[k] for w, knot in zip(weights, around, strict=True)) for k in (0, 1))
    return x, y
