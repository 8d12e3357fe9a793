"""Printed matter: pictures as dots or lines of many sizes, in one ink or in four.

The screens have periods that LR can still carry. A screen is a pattern of one frequency; made
four times smaller, one with a period of less than 8 pixels of HR lies above the sampling limit of
LR, where the antialiased reduction leaves a flat tone and a reduction without antialiasing leaves
a moiré. Dots cannot be learned from the first and would be invented from the second, so finer
screens are not among the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from srtrt.train.rendered import backgrounds
from srtrt.train.rendered.canvas import Canvas, Lettering
from srtrt.train.rendered.chance import Chance
from srtrt.train.rendered.fonts import Face
from srtrt.train.rendered.words import word

FINEST_PERIOD = 12.0
"""Pixels between neighbouring dots, at least; 8 is the sampling limit at a quarter of the size."""

_FOUR_INKS = (15.0, 75.0, 0.0, 45.0)
"""Angles of the screens of cyan, magenta, yellow and black, in degrees: the usual ones."""


def halftone(canvas: Canvas, chance: Chance, faces: Sequence[Face]) -> None:
    """A scene with something written on it, screened."""
    backgrounds.scene(canvas, chance)
    for _ in range(chance.whole(2, 7)):
        shape = chance.blob(chance.point(canvas.side), chance.scaled(30, 200), corners=8, rough=0.4)
        canvas.polygon(shape, chance.colour())
    size = chance.scaled(60, 200)
    style = Lettering(chance.one_of(faces), size, chance.one_of([(0, 0, 0), (255, 255, 255)]))
    canvas.text((chance.between(0, 100), chance.between(size, canvas.side)), word(chance), style)
    period = chance.scaled(FINEST_PERIOD, 30) * canvas.scale
    tones = np.asarray(canvas.image)
    kind = chance.whole(0, 3)
    if kind == 0:
        printed = _in_four_inks(tones, period, chance.between(-10, 10))
    else:
        printed = _in_one_ink(tones, chance, period, kind)
    canvas.replace(Image.fromarray(printed))


def _in_one_ink(
    tones: NDArray[np.uint8], chance: Chance, period: float, kind: int
) -> NDArray[np.uint8]:
    """One ink on paper; dots, and lines for kind 3. Within shapes of one tone, or everywhere."""
    grey = np.asarray(Image.fromarray(tones).convert("L"))
    angle = chance.between(0, 90) if chance.happens(0.5) else 45.0
    inked = _screen(grey, period, angle, lines=kind == 3)
    ink, paper = (0, 0, 0), (255, 255, 255)
    if chance.happens(0.5):
        ink, paper = chance.grey(0, 50), chance.pastel()
    made = np.where(inked[:, :, None], np.array(ink, np.uint8), np.array(paper, np.uint8))
    if kind == 2:  # a comic: flat colours above a brightness, the screen below it
        level = chance.whole(90, 170)
        made = np.where(grey[:, :, None] > level, tones, made)
    return made


def _in_four_inks(tones: NDArray[np.uint8], period: float, turn: float) -> NDArray[np.uint8]:
    """Cyan, magenta, yellow and black, each on its own screen, printed over each other."""
    black = tones.max(axis=2)
    made = np.full_like(tones, 255)
    for channel, angle in enumerate(_FOUR_INKS[:3]):
        # The part of the tone that black does not print.
        rest = np.minimum(tones[:, :, channel].astype(np.int32) * 255 // np.maximum(black, 1), 255)
        inked = _screen(rest.astype(np.uint8), period, angle + turn)
        made[:, :, channel] = np.where(inked, 0, 255)
    inked = _screen(black, period, _FOUR_INKS[3] + turn)
    return np.where(inked[:, :, None], np.uint8(0), made)


def _screen(
    tone: NDArray[np.uint8], period: float, degrees: float, *, lines: bool = False
) -> NDArray[np.bool_]:
    """Where a screen lets ink through: ``[H, W]``, for tones from 0, all ink, to 255, none.

    Dots are round in the lights and grow together in the shades, as the sum of two cosines does.
    """
    rows, columns = tone.shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32) * np.float32(2 * math.pi / period)
    angle = math.radians(degrees)
    first = np.cos(x * math.cos(angle) + y * math.sin(angle))
    second = first if lines else np.cos(y * math.cos(angle) - x * math.sin(angle))
    height = (first + second) / 4 + 0.5
    # The share of a period that lies above a height is what the ink covers.
    order = np.sort(height[:: max(1, rows // 64), :: max(1, columns // 64)], axis=None)
    thresholds = order[np.linspace(0, len(order) - 1, 256).astype(np.int64)]
    return np.asarray(height > thresholds[tone])
