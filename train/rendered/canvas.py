"""A picture to draw on, several times too large and reduced at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from srtrt.train.rendered.fonts import Face

Colour = tuple[int, int, int]
"""RGB, 0..255."""

Point = tuple[float, float]
"""x and y in pixels of the finished picture, from its upper left corner."""


@dataclass(frozen=True)
class Lettering:
    """A font, its pixels per em, and the colour of its glyphs."""

    face: Face
    size: float
    colour: Colour


class Canvas:
    """A square RGB picture. Every length is in pixels of the finished picture.

    Antialiasing is that of a screen: with a scale above 1, edges get the mean of the small pixels
    they cover; with a scale of 1 shapes have stairs, and glyphs are as FreeType makes them.

    Attributes:
        side: of the finished picture.
        scale: small pixels along the side of one of the finished picture.
        image: the picture as it is drawn, ``side * scale`` square, RGB.
    """

    def __init__(self, side: int, scale: int, *, smooth_glyphs: bool = True) -> None:
        """Makes a black picture; without ``smooth_glyphs`` each pixel of a glyph is in or out."""
        self.side, self.scale = side, scale
        self._smooth = smooth_glyphs
        self.replace(Image.new("RGB", (side * scale, side * scale)))

    def replace(self, image: Image.Image) -> None:
        """Goes on with another picture of the same size."""
        self.image = image
        self._draw = ImageDraw.Draw(image)

    def finished(self) -> NDArray[np.uint8]:
        """The picture as uint8 ``[side, side, 3]``, RGB."""
        return np.asarray(self.image.reduce(self.scale))

    def mesh(self, colours: NDArray[np.uint8]) -> None:
        """Fills the picture with colours ``[rows, columns, 3]`` that go over into each other."""
        small = Image.fromarray(colours)
        self.image.paste(small.resize(self.image.size, Image.Resampling.BICUBIC))

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A line through points, with round joints and ends where it is wide enough."""
        wide = max(1, round(width * self.scale))
        self._draw.line(self._all(points), fill=colour, width=wide, joint="curve")
        if wide > 2:
            for point in (points[0], points[-1]):
                self.disc(point, width / 2, colour)

    def stroke(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A line of a pen that is pressed most in the middle and lifted at the ends."""
        self.polygon(_tapered(points, width), colour)

    def polygon(
        self, points: Sequence[Point], fill: Colour | None, outline: Colour | None = None,
        width: float = 1,
    ) -> None:  # fmt: skip
        """A closed shape."""
        if fill is not None:
            self._draw.polygon(self._all(points), fill=fill)
        if outline is not None:
            self.line([*points, points[0], points[1]], outline, width)

    def box(
        self, box: tuple[float, float, float, float], fill: Colour | None,
        outline: Colour | None = None, width: float = 1, radius: float = 0,
    ) -> None:  # fmt: skip
        """A rectangle from left and top to right and bottom, with corners of a radius."""
        left, top, right, bottom = (round(value * self.scale) for value in box)
        if right <= left or bottom <= top:
            return
        self._draw.rounded_rectangle(
            (left, top, right - 1, bottom - 1),
            radius=min(radius * self.scale, (right - left) / 2, (bottom - top) / 2),
            fill=fill,
            outline=outline,
            width=max(1, round(width * self.scale)) if outline else 0,
        )

    def disc(self, centre: Point, radius: float, fill: Colour) -> None:
        """A filled circle."""
        self.ellipse(centre, (radius, radius), fill)

    def ellipse(
        self, centre: Point, axes: tuple[float, float], fill: Colour | None,
        outline: Colour | None = None, width: float = 1,
    ) -> None:  # fmt: skip
        """An ellipse with half its width and half its height."""
        (x, y), (across, down) = centre, axes
        corners = self._all([(x - across, y - down), (x + across, y + down)])
        wide = max(1, round(width * self.scale)) if outline else 0
        self._draw.ellipse(corners, fill=fill, outline=outline, width=wide)

    def sector(
        self, centre: Point, radius: float, angles: tuple[float, float], fill: Colour
    ) -> None:
        """A piece of a pie between two angles in degrees, clockwise from the right."""
        x, y = centre
        corners = self._all([(x - radius, y - radius), (x + radius, y + radius)])
        self._draw.pieslice(corners, *angles, fill=fill)

    def arc(
        self, centre: Point, radius: float, angles: tuple[float, float], colour: Colour,
        width: float,
    ) -> None:  # fmt: skip
        """A piece of a circle's line, angles as in :meth:`sector`."""
        x, y = centre
        corners = self._all([(x - radius, y - radius), (x + radius, y + radius)])
        self._draw.arc(corners, *angles, fill=colour, width=max(1, round(width * self.scale)))

    def through(self, shape: Sequence[Point], above: Canvas) -> None:
        """Takes what another canvas of the same size and scale shows inside a closed shape."""
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon(self._all(shape), fill=1)
        self.image.paste(above.image, mask=mask)

    def like(self, colour: Colour) -> Canvas:
        """A canvas of the same size and scale in one colour."""
        other = Canvas(self.side, self.scale, smooth_glyphs=self._smooth)
        other.image.paste(colour, (0, 0, *other.image.size))
        return other

    def text(
        self, at: Point, text: str, style: Lettering, anchor: str = "ls",
        rim: tuple[Colour, float] | None = None,
    ) -> None:  # fmt: skip
        """One line of text.

        Args:
            at: where its anchor lies.
            text: what it says.
            style: how it looks.
            anchor: Pillow's two letters; the left end of the baseline by default.
            rim: colour and width of a line around the glyphs.
        """
        self._draw.fontmode = "L" if self._smooth else "1"
        (place,) = self._all([at])
        more: dict[str, Any] = {}
        if rim is not None:
            more = {"stroke_fill": rim[0], "stroke_width": round(rim[1] * self.scale)}
        self._draw.text(place, text, style.colour, self._font(style), anchor=anchor, **more)

    def text_width(self, text: str, style: Lettering) -> float:
        """Pixels that a line of text advances."""
        return self._font(style).getlength(text) / self.scale

    def turned_text(
        self, at: Point, text: str, style: Lettering, degrees: float, stretch: float = 1
    ) -> None:
        """One line of text around a point, turned to the left and made wider or narrower."""
        font = self._font(style)
        left, top, right, bottom = font.getbbox(text, anchor="ls")
        glyphs = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
        pen = ImageDraw.Draw(glyphs)
        pen.fontmode = "L" if self._smooth else "1"
        pen.text((2 - left, 2 - top), text, 255, font, anchor="ls")
        if stretch != 1:
            wide = max(1, round(glyphs.width * stretch))
            glyphs = glyphs.resize((wide, glyphs.height), Image.Resampling.BICUBIC)
        if degrees:
            glyphs = glyphs.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        ((x, y),) = self._all([at])
        left, top = round(x - glyphs.width / 2), round(y - glyphs.height / 2)
        box = (left, top, left + glyphs.width, top + glyphs.height)
        self.image.paste(style.colour, box, glyphs)

    def _font(self, style: Lettering) -> ImageFont.FreeTypeFont:
        return style.face.at(max(1, round(style.size * self.scale)))

    def _all(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.scale, y * self.scale) for x, y in points]


def _tapered(points: Sequence[Point], width: float) -> list[Point]:
    """The outline of a stroke: its points moved to both sides, less and less at the ends."""
    left: list[Point] = []
    right: list[Point] = []
    last = len(points) - 1
    for index, (x, y) in enumerate(points):
        before, after = points[max(index - 1, 0)], points[min(index + 1, last)]
        along, up = after[0] - before[0], after[1] - before[1]
        length = math.hypot(along, up) or 1
        half = width / 2 * (0.15 + 0.85 * math.sin(math.pi * index / last))
        across, down = -up / length * half, along / length * half
        left.append((x + across, y + down))
        right.append((x - across, y - down))
    return left + right[::-1]
