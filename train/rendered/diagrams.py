"""Diagrams: charts with axes, flow charts, maps, grids of measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from srtrt.train.rendered import backgrounds, words
from srtrt.train.rendered.canvas import Canvas, Colour, Lettering, Point
from srtrt.train.rendered.chance import Chance, brightness, mixed, smooth
from srtrt.train.rendered.fonts import Face
from srtrt.train.rendered.texts import SMALLEST_EM

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Manner:
    """Colours and lettering of one diagram."""

    ink: Colour
    paper: Colour
    faint: Colour
    line: float
    label: Lettering
    series: tuple[Colour, ...]


def diagram(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """One of the kinds, or four small ones."""
    ink, paper = chance.ink_and_paper()
    backgrounds.plain(canvas, paper)
    size = chance.scaled(SMALLEST_EM, 26)
    manner = _Manner(
        ink=ink,
        paper=paper,
        faint=mixed(paper, ink, chance.between(0.12, 0.4)),
        line=chance.scaled(1, 4),
        label=Lettering(chance.one_of(faces), size, ink),
        series=tuple(chance.against(brightness(paper)) for _ in range(5)),
    )
    kinds = (_axes, _axes, _flow_chart, _map, _cells, _pie, _network)
    side = canvas.side
    if chance.happens(0.6):
        chance.one_of(kinds)(canvas, chance, (0, 0, side, side), manner)
        return
    for left in (0, side / 2):
        for top in (0, side / 2):
            quarter = canvas.like(paper)
            box = (left, top, left + side / 2, top + side / 2)
            chance.one_of(kinds)(quarter, chance, box, manner)
            right, bottom = box[2:]
            canvas.through([(left, top), (right, top), (right, bottom), (left, bottom)], quarter)


def _axes(canvas: Canvas, chance: Chance, box: Box, manner: _Manner) -> None:
    """Axes with ticks and a grid; curves, bars or points between them."""
    size = manner.label.size
    left, top = box[0] + size * 3, box[1] + size * 2
    right, bottom = box[2] - size, box[3] - size * 2.5
    ticks = chance.whole(3, 9)
    for k in range(ticks + 1):
        x, y = left + (right - left) * k / ticks, bottom - (bottom - top) * k / ticks
        if chance.happens(0.8):
            canvas.line([(left, y), (right, y)], manner.faint, manner.line * 0.6)
            canvas.line([(x, top), (x, bottom)], manner.faint, manner.line * 0.6)
        canvas.text((left - size * 0.4, y), str(k * 5), manner.label, "rm")
        canvas.text((x, bottom + size * 0.4), str(k), manner.label, "ma")
    kind = chance.whole(0, 2)
    for colour in manner.series[: chance.whole(1, 4)]:
        heights = [chance.between(0, 1) for _ in range(chance.whole(5, 14))]
        points = [(left + (right - left) * (k + 0.5) / len(heights),
                   bottom - (bottom - top) * h) for k, h in enumerate(heights)]  # fmt: skip
        if kind == 0:
            wide = (right - left) / len(heights) * chance.between(0.1, 0.35)
            for x, y in points:
                canvas.box((x - wide, y, x + wide, bottom), colour, manner.ink, manner.line * 0.6)
        elif kind == 1:
            curve = smooth(points) if chance.happens(0.5) else points
            canvas.line(curve, colour, manner.line * chance.between(1, 2))
        if kind == 2 or chance.happens(0.4):
            for point in points:
                canvas.disc(point, manner.line * 2.2, colour)
    canvas.line([(left, top), (left, bottom), (right, bottom)], manner.ink, manner.line)
    canvas.text((left + size, top - size * 0.6), words.sentence(chance, "latin", 8), manner.label)


def _flow_chart(canvas: Canvas, chance: Chance, box: Box, manner: _Manner) -> None:
    """Boxes with words, joined by arrows."""
    left, top, right, bottom = box
    columns, rows = chance.whole(2, 4), chance.whole(2, 5)
    wide, high = (right - left) / columns, (bottom - top) / rows
    middles = [
        (left + wide * (c + 0.5), top + high * (r + 0.5)) for r in range(rows)
        for c in range(columns)
    ]  # fmt: skip
    for index, (x, y) in enumerate(middles):
        if (index + 1) % columns and chance.happens(0.7):
            _arrow(canvas, (x, y), (x + wide * 0.65, y), manner)
        if index + columns < len(middles) and chance.happens(0.6):
            _arrow(canvas, (x, y), (x, y + high * 0.7), manner)
    for x, y in middles:
        half_wide, half_high = wide * 0.35, min(high * 0.3, wide * 0.3)
        fill = chance.pastel() if chance.happens(0.6) else manner.paper
        around = (x - half_wide, y - half_high, x + half_wide, y + half_high)
        if chance.happens(0.2):
            diamond = [(x - half_wide, y), (x, y - half_high), (x + half_wide, y),
                       (x, y + half_high)]  # fmt: skip
            canvas.polygon(diamond, fill, manner.ink, manner.line)
        else:
            radius = chance.one_of([0, half_high * 0.3, half_high])
            canvas.box(around, fill, manner.ink, manner.line, radius)
        ink = manner.ink if abs(brightness(fill) - brightness(manner.ink)) > 90 else (0, 0, 0)
        style = Lettering(manner.label.face, manner.label.size, ink)
        canvas.text((x, y), words.word(chance), style, "mm")


def _arrow(canvas: Canvas, start: Point, end: Point, manner: _Manner) -> None:
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    canvas.line([start, end], manner.ink, manner.line)
    size = manner.line * 3 + 3
    wings = [
        (end[0] - size * math.cos(angle + turn), end[1] - size * math.sin(angle + turn))
        for turn in (-0.45, 0.45)
    ]
    canvas.polygon([end, *wings], manner.ink)


def _map(canvas: Canvas, chance: Chance, box: Box, manner: _Manner) -> None:
    """Land, water, level lines, roads with a rim, names along them."""
    left, top, right, bottom = box
    side = right - left
    canvas.box(box, chance.pastel())
    for _ in range(chance.whole(2, 5)):
        centre = (chance.between(left, right), chance.between(top, bottom))
        fill, rings = chance.pastel(), chance.whole(0, 6)
        shape = chance.blob(centre, side * chance.between(0.1, 0.4), corners=12, rough=0.35)
        canvas.polygon(shape, fill, mixed(fill, (0, 0, 0), 0.3), manner.line * 0.6)
        for ring in range(1, rings):
            share = 1 - ring / (rings + 1)
            level = [(centre[0] + (x - centre[0]) * share, centre[1] + (y - centre[1]) * share)
                     for x, y in shape]  # fmt: skip
            canvas.polygon(level, None, mixed(fill, (90, 60, 0), 0.5), manner.line * 0.6)
    for _ in range(chance.whole(3, 10)):
        knots = [(chance.between(left, right), chance.between(top, bottom)) for _ in range(4)]
        road, width = smooth(knots), chance.scaled(3, 12)
        canvas.line(road, chance.grey(60, 150), width + 2 * manner.line)
        canvas.line(road, chance.one_of([(255, 255, 255), (255, 220, 100), (250, 160, 90)]), width)
    rim = ((255, 255, 255), 2.0)
    for _ in range(chance.whole(4, 12)):
        at = (chance.between(left, right), chance.between(top, bottom))
        style = Lettering(manner.label.face, manner.label.size, chance.grey(0, 80))
        canvas.text(at, words.word(chance), style, "mm", rim)


def _cells(canvas: Canvas, chance: Chance, box: Box, manner: _Manner) -> None:
    """A grid of coloured fields, as heat maps and boards are, some with a number."""
    left, top, right, bottom = box
    count = chance.whole(3, 16)
    side = (right - left) / count
    ends, lines = (chance.colour(), chance.colour()), chance.happens(0.6)
    numbers = side > manner.label.size * 2.2
    for row in range(math.ceil((bottom - top) / side)):
        for column in range(count):
            x, y = left + column * side, top + row * side
            fill = mixed(*ends, chance.between(0, 1))
            if chance.happens(0.1):
                fill = manner.paper
            outline = manner.ink if lines else None
            canvas.box((x, y, x + side, y + side), fill, outline, manner.line * 0.5)
            if numbers:
                ink = (0, 0, 0) if brightness(fill) > 127 else (255, 255, 255)
                style = Lettering(manner.label.face, manner.label.size, ink)
                canvas.text((x + side / 2, y + side / 2), str(chance.whole(0, 99)), style, "mm")


def _pie(canvas: Canvas, chance: Chance, box: Box, manner: _Manner) -> None:
    """Sectors with a legend."""
    left, top, right, bottom = box
    radius = (right - left) * chance.between(0.25, 0.4)
    centre = ((left + right) / 2, top + radius * 1.15)
    angle, size = chance.between(0, 360), manner.label.size
    for row, colour in enumerate(manner.series):
        end = angle + chance.between(30, 100)
        canvas.sector(centre, radius, (angle, end), colour)
        angle = end
        y = bottom - size * 1.3 * (row + 1)
        canvas.box((left + size, y, left + size * 2, y + size), colour)
        canvas.text((left + size * 2.5, y + size * 0.8), words.number(chance), manner.label)
    canvas.ellipse(centre, (radius, radius), None, manner.ink, manner.line)
    if chance.happens(0.5):
        canvas.disc(centre, radius * 0.5, manner.paper)


def _network(canvas: Canvas, chance: Chance, box: Box, manner: _Manner) -> None:
    """Points joined by many thin lines."""
    left, top, right, bottom = box
    nodes = [(chance.between(left, right), chance.between(top, bottom)) for _ in range(24)]
    for node in nodes:
        for _ in range(chance.whole(1, 3)):
            canvas.line([node, chance.one_of(nodes)], manner.ink, manner.line * 0.7)
    for node in nodes:
        radius = manner.label.size * chance.between(0.5, 1.1)
        canvas.ellipse(node, (radius, radius), chance.one_of(manner.series), manner.ink,
                       manner.line)  # fmt: skip
