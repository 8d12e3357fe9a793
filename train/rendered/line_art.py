"""Ink drawings with flat fills: faces, shapes, hatching, panels, balloons, speed lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from srtrt.train.rendered import backgrounds, words
from srtrt.train.rendered.canvas import Canvas, Colour, Lettering, Point
from srtrt.train.rendered.chance import Chance, mixed, smooth
from srtrt.train.rendered.fonts import Face

FINEST_PERIOD = 10.0
"""Pixels from one line of a hatching to the next, at least: 2.5 pixels of LR. Below two, a
pattern is under the sampling limit of LR and is a flat grey there."""


Box = tuple[float, float, float, float]
Place = tuple[Point, float]
"""A middle, and how far something reaches from it."""


@dataclass(frozen=True)
class _Manner:
    """How a drawing is drawn: the colour of its lines, and whether its fills have any."""

    ink: Colour
    coloured: bool

    def fill(self, chance: Chance, greys: Sequence[int], least: float = 0.1) -> Colour:
        """A colour of at least some saturation, or one of the greys."""
        if self.coloured:
            return chance.colour((least, 0.9))
        level = chance.one_of(greys)
        return level, level, level


def line_art(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """One or several panels, in colours or in black and white."""
    coloured = chance.happens(0.7)
    ink = chance.grey(0, 30) if chance.happens(0.7) else mixed((0, 0, 0), chance.colour(), 0.4)
    backgrounds.plain(canvas, (255, 255, 255) if chance.happens(0.5) else chance.pastel())
    shapes = [_panel_shape(box, chance) for box in _panels(canvas.side, chance)]
    for shape, box in shapes:
        inside = canvas.like(chance.pastel() if coloured else (255, 255, 255))
        _draw_panel(inside, chance, box, _Manner(ink, coloured))
        if chance.happens(0.4):
            _balloon(inside, chance, faces, box)
        canvas.through(shape, inside)
        if len(shapes) > 1:
            canvas.polygon(shape, None, ink, chance.between(2, 5))


def _panels(side: float, chance: Chance) -> list[Box]:
    """The picture, or two to four parts of it with gaps between."""
    if chance.happens(0.4):
        return [(0.0, 0.0, side, side)]
    gap, cut = chance.between(6, 16), chance.between(0.35, 0.65) * side
    boxes: list[Box] = []
    for top, bottom in ((gap, cut - gap / 2), (cut + gap / 2, side - gap)):
        if chance.happens(0.5):
            across = chance.between(0.35, 0.65) * side
            boxes.append((gap, top, across - gap / 2, bottom))
            boxes.append((across + gap / 2, top, side - gap, bottom))
        else:
            boxes.append((gap, top, side - gap, bottom))
    return boxes


def _panel_shape(box: Box, chance: Chance) -> tuple[list[Point], Box]:
    left, top, right, bottom = box
    lean = chance.between(-4, 4)
    return [(left, top), (right, top + lean), (right, bottom), (left, bottom - lean)], box


def _draw_panel(canvas: Canvas, chance: Chance, box: Box, manner: _Manner) -> None:
    left, top, right, bottom = box
    size = min(right - left, bottom - top)
    if manner.coloured and chance.happens(0.3):
        canvas.mesh(chance.mesh(2, [chance.pastel(), chance.colour()]))
    if chance.happens(0.25):
        _speed_lines(canvas, chance, ((left + right) / 2, (top + bottom) / 2), manner.ink)
    for _ in range(chance.whole(1, 5)):
        centre = (chance.between(left, right), chance.between(top, bottom))
        _shape(canvas, chance, (centre, size * chance.between(0.1, 0.35)), manner)
    for _ in range(chance.whole(1, 2)):
        centre = (chance.between(left, right), chance.between(top, bottom))
        _figure(canvas, chance, (centre, size * chance.between(0.2, 0.42)), manner)


def _shape(canvas: Canvas, chance: Chance, place: Place, manner: _Manner) -> None:
    """A closed shape with a shadow, a hatching, or strokes inside."""
    centre, radius = place
    fill, ink = manner.fill(chance, (255, 255, 0, 190)), manner.ink
    corners = chance.whole(4, 10)
    if chance.happens(0.6):
        outline = chance.blob(centre, radius, corners=corners, rough=0.35)
    else:  # straight edges
        outline = chance.blob(centre, radius, corners=corners, rough=0.3)[::10]
    inside = canvas.like(fill)
    kind = chance.whole(0, 3)
    if kind == 0:
        _hatching(inside, chance, (centre, radius), ink)
    elif kind == 1:
        moved = (centre[0] + radius * 0.4, centre[1] + radius * 0.4)
        shadow = chance.blob(moved, radius, corners=6, rough=0.2)
        inside.polygon(shadow, mixed(fill, (0, 0, 0), chance.between(0.15, 0.4)))
    elif kind == 2:
        for _ in range(chance.whole(2, 6)):
            knots = [_near(chance, centre, radius) for _ in range(4)]
            inside.stroke(smooth(knots), ink, chance.scaled(1, 6))
    canvas.through(outline, inside)
    if chance.happens(0.9):
        canvas.polygon(outline, None, ink, chance.scaled(1, 7))


def _near(chance: Chance, centre: Point, radius: float) -> Point:
    return (centre[0] + radius * chance.between(-1, 1), centre[1] + radius * chance.between(-1, 1))


def _hatching(canvas: Canvas, chance: Chance, place: Place, ink: Colour) -> None:
    """Parallel lines, now and then crossed by others."""
    (x, y), radius = place
    radius *= 1.5
    period = chance.scaled(FINEST_PERIOD, 26)
    width = period * chance.between(0.12, 0.45)
    turn = chance.between(0, math.pi)
    turns = [turn, turn + chance.between(0.5, 1.5)] if chance.happens(0.35) else [turn]
    for angle in turns:
        along, up = math.cos(angle), math.sin(angle)
        for index in range(-int(radius / period), int(radius / period) + 1):
            far = index * period + chance.between(-0.06, 0.06) * period
            middle = (x - up * far, y + along * far)
            ends = [(middle[0] + sign * along * radius, middle[1] + sign * up * radius)
                    for sign in (-1, 1)]  # fmt: skip
            canvas.line(ends, ink, width)


def _speed_lines(canvas: Canvas, chance: Chance, centre: Point, ink: Colour) -> None:
    """Wedges from the border towards a middle that stays free."""
    side = canvas.side
    free = chance.between(0.15, 0.3) * side
    for _ in range(chance.whole(30, 90)):
        angle = chance.between(0, 2 * math.pi)
        half = chance.between(0.002, 0.012)
        inner = free * chance.between(0.9, 1.6)
        tip = (centre[0] + inner * math.cos(angle), centre[1] + inner * math.sin(angle))
        far = 1.5 * side
        wide = [
            (centre[0] + far * math.cos(angle + turn), centre[1] + far * math.sin(angle + turn))
            for turn in (-half, half)
        ]
        canvas.polygon([tip, *wide], ink)


def _figure(canvas: Canvas, chance: Chance, place: Place, manner: _Manner) -> None:
    """A head: hair behind, face, eyes, brows, mouth, strands of hair in front."""
    ((x, y), size), ink = place, manner.ink
    skin = (255, 255, 255)
    if manner.coloured:
        skin = mixed((255, 224, 196), (120, 72, 48), chance.between(0, 1))
    hair = manner.fill(chance, (0, 255), 0.2)
    line = max(1.2, size * chance.between(0.012, 0.03))
    back = chance.blob((x, y - size * 0.1), size * 0.95, corners=9, rough=0.15)
    canvas.polygon(back, hair, ink, line)
    face = smooth([(x - size * 0.6, y - size * 0.3), (x, y - size * 0.7), (x + size * 0.6, y -
                   size * 0.3), (x + size * 0.5, y + size * 0.4), (x, y + size * 0.85),
                   (x - size * 0.5, y + size * 0.4)], closed=True)  # fmt: skip
    canvas.polygon(face, skin, ink, line)
    for sign in (-1, 1):
        _eye(canvas, chance, (x + sign * size * 0.28, y), size * 0.16, ink)
    mouth = smooth([(x - size * 0.14, y + size * 0.5), (x, y + size * chance.between(0.46, 0.6)),
                    (x + size * 0.14, y + size * 0.5)])  # fmt: skip
    canvas.stroke(mouth, ink, line * 1.6)
    for index in range(chance.whole(4, 9)):
        root = (x + size * chance.between(-0.3, 0.3), y - size * 0.85)
        tip = (x + size * chance.between(-0.75, 0.75), y - size * chance.between(-0.1, 0.3))
        bend = ((root[0] + tip[0]) / 2 + size * chance.between(-0.2, 0.2), y - size * 0.5)
        strand = smooth([root, bend, tip])
        if index < 3:
            wedge = [*strand, (root[0] + size * 0.3, root[1])]
            canvas.polygon(wedge, hair, ink, line * 0.8)
        else:
            canvas.stroke(strand, ink, line * 1.5)


def _eye(canvas: Canvas, chance: Chance, centre: Point, size: float, ink: Colour) -> None:
    x, y = centre
    canvas.ellipse(centre, (size, size * 1.2), (255, 255, 255), ink, max(1, size * 0.08))
    canvas.ellipse(centre, (size * 0.65, size), chance.colour((0.4, 1)))
    canvas.ellipse(centre, (size * 0.35, size * 0.6), ink)
    canvas.disc((x - size * 0.25, y - size * 0.4), size * 0.25, (255, 255, 255))
    lid = smooth([(x - size * 1.2, y - size * 0.7), (x, y - size * 1.35), (x + size * 1.2,
                  y - size * 0.7)])  # fmt: skip
    canvas.stroke(lid, ink, size * 0.4)
    brow = [(px, py - size * 0.7) for px, py in lid]
    canvas.stroke(brow, ink, size * 0.25)


def _balloon(canvas: Canvas, chance: Chance, faces: Sequence[Face], box: Box) -> None:
    """Words in an ellipse with a tail."""
    left, top, right, bottom = box
    size = chance.scaled(16, 34)
    style = Lettering(chance.one_of(faces), size, (0, 0, 0))
    lines = [words.sentence(chance, "latin", chance.whole(4, 9)).upper() for _ in range(3)]
    across = max(canvas.text_width(line, style) for line in lines) * 0.75 + size
    down = size * 3
    x, y = chance.between(left, right), chance.between(top, bottom)
    tail = [(x - size, y), (x + size, y), (x + size * 2, y + down * 1.6)]
    canvas.polygon(tail, (255, 255, 255), (0, 0, 0), 2.5)
    canvas.ellipse((x, y), (across, down), (255, 255, 255), (0, 0, 0), 2.5)
    for row, line in enumerate(lines):
        at = (x, y + (row - 0.7) * size * 1.2)
        canvas.text(at, line, style, "ms")
