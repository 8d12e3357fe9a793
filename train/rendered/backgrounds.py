"""What lies behind text and figures: plain colours, gradients, and something like a photograph."""

from __future__ import annotations

import numpy as np
from PIL import ImageFilter

from srtrt.train.rendered.canvas import Canvas, Colour
from srtrt.train.rendered.chance import Chance


def plain(canvas: Canvas, colour: Colour) -> None:
    """One colour."""
    canvas.box((0, 0, canvas.side, canvas.side), colour)


def gradient(canvas: Canvas, chance: Chance) -> None:
    """Two to four colours that go over into each other."""
    colours = [chance.colour() for _ in range(chance.whole(2, 3))]
    canvas.mesh(chance.mesh(2, colours))


def scene(canvas: Canvas, chance: Chance) -> None:
    """Soft colours and blurred shapes, as an unfocused photograph has behind a caption."""
    colours = [chance.colour((0, 0.7)) for _ in range(4)]
    canvas.mesh(chance.mesh(chance.whole(3, 9), colours))
    for _ in range(chance.whole(0, 12)):
        radius = chance.scaled(20, 200)
        shape = chance.blob(chance.point(canvas.side), radius, corners=7, rough=0.5)
        canvas.polygon(shape, chance.colour((0, 0.8)))
    blur = canvas.scale * chance.scaled(0.8, 20)
    canvas.replace(canvas.image.filter(ImageFilter.GaussianBlur(blur)))


def any_of_them(canvas: Canvas, chance: Chance) -> float:
    """One of the above; returns the mean brightness, 0 to 255."""
    kind = chance.whole(0, 3)
    if kind == 0:
        plain(canvas, chance.colour())
    elif kind == 1:
        gradient(canvas, chance)
    else:
        scene(canvas, chance)
    return float(np.asarray(canvas.image.convert("L").resize((32, 32))).mean())
