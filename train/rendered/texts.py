"""Pictures of text: pages, signs, captions, scraps at an angle, tables of figures."""

from __future__ import annotations

from collections.abc import Sequence

from srtrt.train.rendered import backgrounds, words
from srtrt.train.rendered.canvas import Canvas, Colour, Lettering
from srtrt.train.rendered.chance import Chance, mixed
from srtrt.train.rendered.fonts import Face

SMALLEST_EM = 13.0
"""Pixels per em of the smallest text. At a quarter of the size its strokes still leave a trace;
those of smaller text are under the sampling limit of LR, and no network could know them."""


def text(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """One of the layouts."""
    layouts = (_page, _page, _signs, _captions, _scraps, _ideographs)
    chance.one_of(layouts)(canvas, chance, faces)


def face_and_script(chance: Chance, faces: Sequence[Face]) -> tuple[Face, str]:
    """A font, and an alphabet it has; Latin in half of the cases."""
    face = chance.one_of(faces)
    return face, "latin" if chance.happens(0.5) else chance.one_of(face.scripts)


def paragraph(
    canvas: Canvas, chance: Chance, style: Lettering,
    box: tuple[float, float, float, float], script: str = "latin",
) -> None:  # fmt: skip
    """Lines of text from the left and top of a box down to its bottom."""
    left, top, right, bottom = box
    step = style.size * chance.between(1.15, 1.5)
    y = top + style.size
    while y < bottom:
        line = words.sentence(chance, script, max(1, int((right - left) / style.size * 1.6)))
        while line and canvas.text_width(line, style) > right - left:
            line = line[:-1]
        canvas.text((left, y), line, style)
        y += step


def _page(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """A heading and one or two columns."""
    ink, paper = chance.ink_and_paper()
    backgrounds.plain(canvas, paper)
    if chance.happens(0.2):
        ink = chance.against(backgrounds.any_of_them(canvas, chance))
    face, script = face_and_script(chance, faces)
    side, edge = canvas.side, chance.between(8, 40)
    size = chance.scaled(SMALLEST_EM, 44)
    top = edge
    if chance.happens(0.6):
        large = size * chance.between(1.3, 2.6)
        heading = words.sentence(chance, script, 12)
        canvas.text((edge, edge + large), heading, Lettering(face, large, ink))
        top += large * 1.5
    columns = 2 if size < 24 and chance.happens(0.5) else 1
    width = (side - edge * (columns + 1)) / columns
    for column in range(columns):
        left = edge + column * (width + edge)
        box = (left, top, left + width, side - edge)
        paragraph(canvas, chance, Lettering(face, size, ink), box, script)


def _signs(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """Few words in many sizes and colours."""
    level = backgrounds.any_of_them(canvas, chance)
    y = 0.0
    while y < canvas.side:
        size = chance.scaled(18, 150)
        face, script = face_and_script(chance, faces)
        if chance.happens(0.3):
            paper = chance.colour()
            ink = chance.against(0.3 * paper[0] + 0.6 * paper[1] + 0.1 * paper[2])
            canvas.box((0, y, canvas.side, y + size * 1.4), paper)
        else:
            ink = chance.against(level)
        y += size * 1.1
        line = words.sentence(chance, script, 6)
        canvas.text((chance.between(-20, 120), y), line, Lettering(face, size, ink))
        y += size * 0.3


def _captions(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """Subtitles: light letters with a dark rim over a scene, in several places."""
    backgrounds.scene(canvas, chance)
    rim = mixed((0, 0, 0), chance.colour(), 0.2)
    y = chance.between(30, 80)
    while y < canvas.side:
        size = chance.scaled(18, 60)
        face, script = face_and_script(chance, faces)
        colour = (255, 255, 255) if chance.happens(0.6) else chance.one_of(
            [(255, 255, 0), (255, 220, 120), (180, 255, 255), chance.pastel()]
        )  # fmt: skip
        line = words.sentence(chance, script, chance.whole(6, 24))
        middle = (canvas.side / 2, y)
        width = chance.between(0.04, 0.1) * size
        canvas.text(middle, line, Lettering(face, size, colour), "ms", (rim, width))
        y += size * chance.between(1.2, 3)


def _scraps(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """Words at any angle, wider or narrower than their font has them."""
    level = backgrounds.any_of_them(canvas, chance)
    limit = 12 if chance.happens(0.7) else 90
    for _ in range(chance.whole(14, 40)):
        face, script = face_and_script(chance, faces)
        canvas.turned_text(
            chance.point(canvas.side),
            words.sentence(chance, script, chance.whole(3, 16)),
            Lettering(face, chance.scaled(15, 70), chance.against(level)),
            chance.between(-limit, limit),
            chance.between(0.7, 1.2),
        )


def _ideographs(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """Square signs of many strokes, as dense as Chinese ones, between lines of text."""
    ink, paper = chance.ink_and_paper()
    backgrounds.plain(canvas, paper)
    y = chance.between(4, 20)
    while y < canvas.side:
        size = chance.scaled(28, 90)
        x = chance.between(4, 20)
        while x < canvas.side:
            _ideograph(canvas, chance, (x, y, size * 0.9), ink)
            x += size
        y += size * chance.between(1.05, 1.4)
        if chance.happens(0.3):
            small = chance.scaled(SMALLEST_EM, 28)
            face, script = face_and_script(chance, faces)
            line = words.sentence(chance, script, 40)
            canvas.text((10, y + small), line, Lettering(face, small, ink))
            y += small * 1.5


def _ideograph(
    canvas: Canvas, chance: Chance, place: tuple[float, float, float], ink: Colour
) -> None:
    """One sign made of one to four boxes of strokes; ``place`` is left, top and side."""
    left, top, side = place
    split = chance.between(0.35, 0.6) * side
    boxes = [(left, top, left + side, top + side)]
    if chance.happens(0.5):
        boxes = [(left, top, left + split - 1, top + side), (left + split, top, left + side,
                                                            top + side)]  # fmt: skip
    elif chance.happens(0.6):
        boxes = [(left, top, left + side, top + split - 1), (left, top + split, left + side,
                                                            top + side)]  # fmt: skip
    thick = side * chance.between(0.05, 0.1)
    for x0, y0, x1, y1 in boxes:
        rows, columns = chance.whole(1, 4), chance.whole(0, 2)
        for row in range(rows):
            y = y0 + (y1 - y0) * (row + 0.5) / rows
            canvas.line([(x0 + 1, y), (x1 - 1, y)], ink, thick * 0.8)
        for _ in range(columns):
            x = chance.between(x0 + 2, x1 - 2)
            canvas.line([(x, y0), (x, y1)], ink, thick)
        for _ in range(chance.whole(0, 2)):
            start = (chance.between(x0, x1), chance.between(y0, (y0 + y1) / 2))
            end = (chance.between(x0, x1), chance.between((y0 + y1) / 2, y1))
            bend = (start[0], (start[1] + end[1]) / 2)
            canvas.stroke([start, bend, end], ink, thick * 1.4)
