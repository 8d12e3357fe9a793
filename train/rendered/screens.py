"""Screenshots: windows, menus, editors with coloured code, tables, dialogues, a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srtrt.train.rendered import backgrounds, words
from srtrt.train.rendered.canvas import Canvas, Colour, Lettering
from srtrt.train.rendered.chance import Chance, brightness, mixed
from srtrt.train.rendered.fonts import Face, of_kind
from srtrt.train.rendered.icons import Sign, draw_icon
from srtrt.train.rendered.texts import SMALLEST_EM, paragraph

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Theme:
    """Colours, fonts and measures of a desktop; lengths grow with ``em``, pixels per em."""

    paper: Colour
    ink: Colour
    bar: Colour
    accent: Colour
    em: float
    face: Face
    mono: Face

    def label(self, colour: Colour | None = None) -> Lettering:
        """How menus and buttons are written."""
        return Lettering(self.face, self.em, colour or self.ink)

    @property
    def frame(self) -> Colour:
        """Lines around fields."""
        return mixed(self.paper, self.ink, 0.3)


def screenshot(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """One to three windows on a desktop, or one that fills it."""
    dark = chance.happens(0.45)
    paper = chance.grey(15, 50) if dark else chance.grey(235, 255)
    tint = chance.colour((0.2, 0.8))
    theme = _Theme(
        paper=mixed(paper, tint, 0.06),
        ink=chance.grey(200, 255) if dark else chance.grey(0, 60),
        bar=mixed(paper, tint, chance.between(0.1, 0.7)),
        accent=chance.colour((0.5, 1)),
        em=chance.scaled(SMALLEST_EM, 52),
        face=chance.one_of(of_kind(faces, "sans")),
        mono=chance.one_of(of_kind(faces, "mono")),
    )
    backgrounds.any_of_them(canvas, chance)
    side = canvas.side
    if chance.happens(0.4):
        _window(canvas, chance, (-2, -2, side + 2, side + 2), theme)
        return
    for _ in range(chance.whole(1, 3)):
        left, top = chance.between(-60, side * 0.4), chance.between(-60, side * 0.4)
        box = (left, top, left + chance.between(0.5, 1) * side, top + chance.between(0.5, 1) * side)
        _window(canvas, chance, _whole(box), theme)


def _whole(box: Box) -> Box:
    """Edges on whole pixels, where screens have them."""
    left, top, right, bottom = (float(round(value)) for value in box)
    return left, top, right, bottom


def _window(canvas: Canvas, chance: Chance, box: Box, theme: _Theme) -> None:
    """A title bar, perhaps a menu, and one of the contents."""
    left, top, right, bottom = box
    em = theme.em
    round_corners = chance.one_of([0, 0, em * 0.5])
    canvas.box(box, theme.paper, theme.frame, 1, round_corners)
    bar = (left, top, right, top + round(em * 1.9))
    canvas.box(bar, theme.bar, None, 1, round_corners)
    readable = (0, 0, 0) if brightness(theme.bar) > 127 else (255, 255, 255)
    title = words.sentence(chance, "latin", 10)
    canvas.text((left + em * 0.7, top + em * 1.3), title, theme.label(readable))
    for k, colour in enumerate([(255, 95, 86), (255, 189, 46), (39, 201, 63)]):
        at = (right - em * (1 + 1.3 * k), top + em * 0.95)
        if chance.happens(0.5):
            canvas.disc(at, em * 0.4, colour)
        else:
            canvas.line([(at[0] - em * 0.3, at[1]), (at[0] + em * 0.3, at[1])], readable, em / 12)
    inside = canvas.like(theme.paper)
    area = (left + 1, bar[3], right - 1, bottom - 1)
    contents = (_editor, _editor, _table, _form, _menu, _article)
    chance.one_of(contents)(inside, chance, area, theme)
    x0, y0, x1, y1 = area
    canvas.through([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], inside)


def _editor(canvas: Canvas, chance: Chance, area: Box, theme: _Theme) -> None:
    """Lines of code with numbers, colours by role, and a marked line."""
    left, top, right, bottom = area
    dark = brightness(theme.paper) < 127
    roles: dict[str, Colour] = {
        role: mixed(chance.colour((0.4, 1)), (255, 255, 255) if dark else (0, 0, 0), 0.45)
        for role in ("keyword", "name", "text", "comment", "number")
    }
    roles["plain"] = theme.ink
    em, number = theme.em, chance.whole(1, 900)
    indent, y = 0, top + em * 1.3
    marked = chance.whole(0, 12)
    while y < bottom + em:
        if marked == 0:
            strip = (left, y - em, right, y + em * 0.3)
            canvas.box(_whole(strip), mixed(theme.paper, theme.accent, 0.25))
        marked -= 1
        quiet = Lettering(theme.mono, em, theme.frame)
        canvas.text((left + em * 2.6, y), str(number), quiet, "rs")
        x = left + em * (3.4 + 2 * indent)
        for role, piece in words.code_line(chance):
            style = Lettering(theme.mono, em, roles[role])
            canvas.text((x, y), piece, style)
            x += canvas.text_width(piece, style)
        indent = min(max(indent + chance.whole(-1, 1), 0), 3)
        number += 1
        y += round(em * 1.35)


def _table(canvas: Canvas, chance: Chance, area: Box, theme: _Theme) -> None:
    """Rows and columns of words and numbers with thin lines."""
    left, top, right, bottom = area
    em = theme.em
    row_height = round(em * chance.between(1.5, 2))
    widths = [round(em * chance.between(3, 8)) for _ in range(12)]
    striped, y, row = chance.happens(0.5), top, 0
    while y < bottom:
        fill = mixed(theme.paper, theme.ink, 0.07) if striped and row % 2 else theme.paper
        if row == 0:
            fill = mixed(theme.paper, theme.accent, 0.35)
        canvas.box((left, y, right, y + row_height), fill)
        x = left
        for column, width in enumerate(widths):
            item = words.number(chance) if column and row else words.word(chance)
            at = (x + em * 0.4, y + row_height - em * 0.5)
            canvas.text(at, item, theme.label())
            canvas.box((x, y, x + 1, y + row_height), theme.frame)
            x += width
        canvas.box((left, y, right, y + 1), theme.frame)
        y += row_height
        row += 1


def _form(canvas: Canvas, chance: Chance, area: Box, theme: _Theme) -> None:
    """Fields, check boxes, sliders and buttons."""
    left, top, right, bottom = area
    em, y = theme.em, top + theme.em
    radius = chance.one_of([0, 0, em * 0.3])
    while y < bottom:
        canvas.text((left + em, y + em), words.sentence(chance, "latin", 8), theme.label())
        y += em * 1.5
        kind = chance.whole(0, 3)
        if kind == 0:
            field = _whole((left + em, y, right - em * 2, y + em * 1.7))
            canvas.box(field, theme.paper, theme.frame, 1, radius)
            canvas.text((field[0] + em * 0.4, field[1] + em * 1.2), words.word(chance),
                        theme.label())  # fmt: skip
        elif kind == 1:
            tick = _whole((left + em, y, left + em * 2, y + em))
            on = chance.happens(0.5)
            canvas.box(tick, theme.accent if on else theme.paper, theme.ink, 1, radius)
            canvas.text((left + em * 2.5, y + em * 0.85), words.word(chance), theme.label())
        elif kind == 2:
            end = chance.between(left + em * 2, right - em * 3)
            track = (left + em, y + em * 0.45, right - em * 2, y + em * 0.65)
            canvas.box(_whole(track), theme.frame, None, 1, 2)
            canvas.box(_whole((left + em, track[1], end, track[3])), theme.accent)
            canvas.disc((end, y + em * 0.55), em * 0.45, theme.accent)
        else:
            button = _whole((left + em, y, left + em * 6, y + em * 1.9))
            canvas.box(button, theme.accent, None, 1, radius)
            ink = (0, 0, 0) if brightness(theme.accent) > 127 else (255, 255, 255)
            middle = ((button[0] + button[2]) / 2, (button[1] + button[3]) / 2)
            canvas.text(middle, words.word(chance), theme.label(ink), "mm")
        y += em * 2.4


def _menu(canvas: Canvas, chance: Chance, area: Box, theme: _Theme) -> None:
    """A list of entries with icons, one of them marked."""
    left, top, right, bottom = area
    em, y = theme.em, top + theme.em * 0.3
    step = round(em * chance.between(1.6, 2.4))
    while y < bottom:
        ink = theme.ink
        if chance.happens(0.12):
            canvas.box((left, y, right, y + step), theme.accent)
            ink = (0, 0, 0) if brightness(theme.accent) > 127 else (255, 255, 255)
        sign = Sign((left + em * 1.2, y + step / 2), em * 0.5, ink, max(1, em / 12))
        draw_icon(canvas, chance, sign, [theme.face])
        at = (left + em * 2.4, y + step / 2 + em * 0.35)
        canvas.text(at, words.sentence(chance, "latin", chance.whole(4, 14)), theme.label(ink))
        short = f"Ctrl+{chance.one_of('ABCDEFGKLMNOPQ')}"
        canvas.text((right - em * 0.6, at[1]), short, theme.label(mixed(theme.paper, ink, 0.6)),
                    "rs")  # fmt: skip
        if chance.happens(0.15):
            canvas.box((left, y + step, right, y + step + 1), theme.frame)
        y += step


def _article(canvas: Canvas, chance: Chance, area: Box, theme: _Theme) -> None:
    """A heading, paragraphs and a scroll bar."""
    left, top, right, bottom = area
    em = theme.em
    heading = Lettering(theme.face, em * 1.6, theme.ink)
    canvas.text((left + em, top + em * 2.2), words.sentence(chance, "latin", 12), heading)
    box = (left + em, top + em * 3, right - em * 2.5, bottom)
    paragraph(canvas, chance, theme.label(), box)
    bar = _whole((right - em * 0.8, top, right, bottom))
    canvas.box(bar, mixed(theme.paper, theme.ink, 0.1))
    thumb = top + chance.between(0, 0.6) * (bottom - top)
    canvas.box(
        _whole((bar[0] + 1, thumb, bar[2] - 1, thumb + em * 4)), theme.frame, None, 1, em / 3
    )
