"""Pictures made by a program, of what photographs lack.

Text, ink drawings, diagrams, icons, printed matter and screenshots: hard edges, flat fills, thin
lines, saturated colours. :func:`render` draws one; the same seed and fonts give the same picture
with the same versions of Pillow and FreeType.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import UsageError
from srtrt.plain_data import shown
from srtrt.train.rendered.canvas import Canvas
from srtrt.train.rendered.chance import Chance
from srtrt.train.rendered.diagrams import diagram
from srtrt.train.rendered.fonts import TRAINING_FACES, Face
from srtrt.train.rendered.halftones import halftone
from srtrt.train.rendered.icons import icons
from srtrt.train.rendered.line_art import line_art
from srtrt.train.rendered.screens import screenshot
from srtrt.train.rendered.texts import text

SIDE = 640
"""Pixels along the side of a picture."""

VERSION = 1
"""Of what is drawn: it changes whenever a seed gives another picture."""

KINDS: dict[str, Callable[[Canvas, Chance, Sequence[Face]], None]] = {
    "text": text,
    "line-art": line_art,
    "diagram": diagram,
    "icons": icons,
    "halftone": halftone,
    "screenshot": screenshot,
}
"""What can be drawn, by name."""

_ORDER = (
    "text", "line-art", "screenshot", "text", "diagram", "line-art",
    "icons", "text", "line-art", "halftone", "screenshot", "diagram",
)  # fmt: skip
"""Kinds of a series of pictures, over and over: most of what is looked at most."""


def kind_of(number: int) -> str:
    """The kind of a series' picture."""
    return _ORDER[number % len(_ORDER)]


def render(kind: str, seed: int | str, faces: Sequence[Face] = TRAINING_FACES) -> NDArray[np.uint8]:
    """Draws one picture.

    A tenth of them are drawn without antialiasing; the others are drawn two to four times as
    large and reduced, or, where text is on whole pixels as on screens, at their size with the
    glyphs as FreeType smooths them.

    Args:
        kind: one of :data:`KINDS`.
        seed: any number or text; the same one gives unrelated pictures of two kinds.
        faces: the fonts to choose from.

    Returns:
        uint8 ``[640, 640, 3]``, RGB.

    Raises:
        UsageError: if the kind is unknown.
        MissingPackageError: if the package of a font is not installed.
    """
    if kind not in KINDS:
        raise UsageError(f"kind is {shown(kind)}; expected one of {', '.join(KINDS)}.")
    chance = Chance(f"{kind} {seed}")
    stairs = kind != "halftone" and chance.happens(0.1)
    scale = 1 if stairs else chance.whole(2, 2 if kind == "halftone" else 4)
    if kind in ("text", "screenshot") and chance.happens(0.4):
        scale = 1
    canvas = Canvas(SIDE, scale, smooth_glyphs=not stairs)
    KINDS[kind](canvas, chance, faces)
    return canvas.finished()
