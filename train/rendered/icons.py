"""Sheets of icons: simple signs in one or two colours, with and without a tile behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from srtrt.train.rendered import backgrounds
from srtrt.train.rendered.canvas import Canvas, Colour, Lettering, Point
from srtrt.train.rendered.chance import Chance, brightness, mixed
from srtrt.train.rendered.fonts import Face


@dataclass(frozen=True)
class Sign:
    """Where an icon stands and how it is drawn."""

    centre: Point
    radius: float
    ink: Colour
    line: float


def icons(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """A grid of icons of one size and one manner."""
    level = 0.0
    if chance.happens(0.7):
        paper = chance.grey(225, 255) if chance.happens(0.5) else chance.colour()
        backgrounds.plain(canvas, paper)
        level = brightness(paper)
    else:
        level = backgrounds.any_of_them(canvas, chance)
    cell = chance.scaled(40, 180)
    tiles, one_ink = chance.whole(0, 3), chance.against(level)
    filled = chance.between(0.3, 0.45)
    y = cell / 2
    while y < canvas.side:
        x = cell / 2
        while x < canvas.side:
            ink = one_ink if chance.happens(0.5) else chance.against(level)
            if tiles:
                colour = chance.colour((0.3, 1))
                radius = cell * (0, 0.1, 0.44)[tiles - 1]
                half = cell * 0.44
                canvas.box((x - half, y - half, x + half, y + half), colour, None, 1, radius)
                ink = chance.against(brightness(colour))
            sign = Sign((x, y), cell * filled * 0.8, ink, cell * chance.between(0.03, 0.09))
            draw_icon(canvas, chance, sign, faces)
            x += cell
        y += cell


def draw_icon(canvas: Canvas, chance: Chance, sign: Sign, faces: Sequence[Face]) -> None:
    """One icon, whichever."""
    if chance.happens(0.12):
        style = Lettering(chance.one_of(faces), sign.radius * 1.6, sign.ink)
        canvas.text(sign.centre, chance.one_of("ABGKQRSXZ?!&@#37%+"), style, "mm")
        return
    chance.one_of(_ICONS)(canvas, chance, sign)


def _at(sign: Sign, *places: Point) -> list[Point]:
    """Points given in radii from the middle of a sign."""
    x, y = sign.centre
    return [(x + sign.radius * across, y + sign.radius * down) for across, down in places]


def _star(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    count, depth = chance.whole(3, 9), chance.between(0.4, 0.9)
    points = []
    for index in range(2 * count):
        angle, far = math.pi * index / count - math.pi / 2, depth if index % 2 else 1.0
        points.append((far * math.cos(angle), far * math.sin(angle)))
    fill = sign.ink if chance.happens(0.6) else None
    canvas.polygon(_at(sign, *points), fill, sign.ink, sign.line)


def _gear(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    teeth = chance.whole(6, 12)
    points = []
    for index in range(4 * teeth):
        angle, far = 2 * math.pi * index / (4 * teeth), 1.0 if index % 4 < 2 else 0.76
        points.append((far * math.cos(angle), far * math.sin(angle)))
    canvas.polygon(_at(sign, *points), sign.ink)
    hole = mixed(sign.ink, (255, 255, 255), 1) if brightness(sign.ink) < 128 else (0, 0, 0)
    canvas.disc(sign.centre, sign.radius * chance.between(0.25, 0.5), hole)


def _magnifier(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    (middle, start, end) = _at(sign, (-0.2, -0.2), (0.25, 0.25), (0.95, 0.95))
    canvas.ellipse(middle, (sign.radius * 0.6,) * 2, None, sign.ink, sign.line)
    canvas.line([start, end], sign.ink, sign.line * 1.5)


def _arrow(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    turn = chance.whole(0, 7) * math.pi / 4
    cos, sin = math.cos(turn), math.sin(turn)
    shape = [(-1, -0.2), (0.2, -0.2), (0.2, -0.7), (1, 0), (0.2, 0.7), (0.2, 0.2), (-1, 0.2)]
    turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in shape]
    if chance.happens(0.5):
        canvas.polygon(_at(sign, *turned), sign.ink)
    else:
        canvas.polygon(_at(sign, *turned), None, sign.ink, sign.line)


def _bars(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    for row in (-0.6, 0.0, 0.6):
        right = 1.0 if chance.happens(0.6) else chance.between(0, 1)
        canvas.line(_at(sign, (-1, row), (right, row)), sign.ink, sign.line)


def _envelope(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    canvas.polygon(_at(sign, (-1, -0.7), (1, -0.7), (1, 0.7), (-1, 0.7)), None, sign.ink, sign.line)
    canvas.line(_at(sign, (-1, -0.7), (0, 0.15), (1, -0.7)), sign.ink, sign.line)


def _house(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    canvas.polygon(_at(sign, (-1, 0), (0, -0.95), (1, 0)), sign.ink)
    walls = _at(sign, (-0.7, 0.05), (0.7, 0.05), (0.7, 0.9), (-0.7, 0.9))
    canvas.polygon(walls, None, sign.ink, sign.line)
    canvas.line(_at(sign, (0, 0.4), (0, 0.9)), sign.ink, sign.line * 2)


def _clock(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    canvas.ellipse(sign.centre, (sign.radius,) * 2, None, sign.ink, sign.line)
    for far in (0.5, 0.75):
        angle = chance.between(0, 2 * math.pi)
        hand = _at(sign, (0, 0), (far * math.cos(angle), far * math.sin(angle)))
        canvas.line(hand, sign.ink, sign.line)


def _check(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    if chance.happens(0.5):
        canvas.line(_at(sign, (-0.8, 0), (-0.2, 0.6), (0.9, -0.7)), sign.ink, sign.line * 1.5)
        return
    canvas.line(_at(sign, (-0.8, -0.8), (0.8, 0.8)), sign.ink, sign.line * 1.5)
    canvas.line(_at(sign, (-0.8, 0.8), (0.8, -0.8)), sign.ink, sign.line * 1.5)


def _rings(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    """Waves from a point, as signs of wireless networks have."""
    for share in (0.35, 0.7, 1.05):
        centre = _at(sign, (0, 0.6))[0]
        canvas.arc(centre, sign.radius * share * 1.3, (225, 315), sign.ink, sign.line)
    canvas.disc(_at(sign, (0, 0.6))[0], sign.line, sign.ink)


def _dots(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    for x in (-0.7, 0.0, 0.7):
        for y in (-0.7, 0.0, 0.7):
            canvas.disc(_at(sign, (x, y))[0], sign.radius * 0.2, sign.ink)


def _heart(canvas: Canvas, chance: Chance, sign: Sign) -> None:
    points = []
    for step in range(40):
        angle = 2 * math.pi * step / 40
        x = math.sin(angle) ** 3
        y = -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle)) / 16
        points.append((x, y))
    canvas.polygon(_at(sign, *points), sign.ink)


_Icon = Callable[[Canvas, Chance, Sign], None]
_ICONS: tuple[_Icon, ...] = (
    _star, _gear, _magnifier, _arrow, _bars, _envelope, _house, _clock, _check, _rings, _dots,
    _heart,
)  # fmt: skip
