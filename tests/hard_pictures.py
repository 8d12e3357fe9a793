"""Ordinary pictures with hard edges, on which a network's result clips to black and white."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""RGB ``[H,W,3]`` with even sides."""

SIZE = (96, 128)
"""Height and width."""


def _plain(value: int | tuple[int, int, int]) -> Picture:
    return np.full((*SIZE, 3), value, np.uint8)


def _print(paper: int, ink: int, scale: float, thickness: int) -> Picture:
    page = _plain(paper)
    step = max(7, round(30 * scale) + 3)
    for line, top in enumerate(range(step, SIZE[0] + step, step)):
        text = "Quick wafting zephyrs vex bold Jim 0123456789"[3 * line :]
        place, colour = (2, top), (ink, ink, ink)
        cv2.putText(
            page, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA
        )
    return page


def stars() -> Picture:
    """White points of one and four pixels on black."""
    sky = _plain(0)
    random = np.random.default_rng(1)
    for y, x in random.integers(1, (SIZE[0] - 1, SIZE[1] - 1), (150, 2)):
        sky[y, x] = random.integers(90, 256)
    for y, x in random.integers(1, (SIZE[0] - 2, SIZE[1] - 2), (40, 2)):
        sky[y : y + 2, x : x + 2] = 255
    return sky


def snow() -> Picture:
    """Noise of black and white pixels, as a television without a station shows it."""
    noise = np.random.default_rng(2).integers(0, 2, SIZE) * 255
    return np.repeat(noise[..., None], 3, axis=2).astype(np.uint8)


def coloured_snow() -> Picture:
    """Noise in which every sample is 0 or 255."""
    return (np.random.default_rng(3).integers(0, 2, (*SIZE, 3)) * 255).astype(np.uint8)


def halftone() -> Picture:
    """A grey ramp as black dots of growing size on white."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cell = 6
    distance = np.hypot(y % cell - cell / 2 + 0.5, x % cell - cell / 2 + 0.5)
    radius = 0.5 + 3.2 * x / SIZE[1]
    grey = np.clip(127 + 255 * (distance - radius), 0, 255)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def test_card() -> Picture:
    """Colour bars, a grey staircase, resolution wedges and a circle."""
    card = _plain(0)
    full, part = (255, 255, 255), (0, 0, 191)
    bars = [full, (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), part]
    for k, colour in enumerate(bars):
        card[:48, k * 128 // 7 : (k + 1) * 128 // 7] = colour
    for k in range(16):
        card[48:60, 8 * k : 8 * k + 8] = 17 * k
    for k, period in enumerate((2, 3, 4, 6)):
        stripes = (np.arange(32) % period < period // 2) * 255
        card[60:78, 32 * k : 32 * k + 32] = stripes[None, :, None]
    card[78:, 64:] = 255
    cv2.circle(card, (64, 48), 40, full, 1, cv2.LINE_AA)
    return card


def title_slate() -> Picture:
    """Large white letters with a thin frame on black."""
    slate = _plain(0)
    cv2.putText(slate, "TAKE 7", (4, 44), cv2.FONT_HERSHEY_DUPLEX, 1.1, (255, 255, 255), 2)
    cv2.putText(slate, "scene 12", (6, 84), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 1)
    cv2.rectangle(slate, (1, 1), (126, 94), (255, 255, 255), 1)
    return slate


def checkerboard(cell: int, low: int = 0, high: int = 255) -> Picture:
    """Squares of so many pixels."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    grey = np.where((y // cell + x // cell) % 2, low, high)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def lines(paper: int, ink: int) -> Picture:
    """Lines of one pixel in all directions."""
    page = _plain(paper)
    for k in range(0, 128, 9):
        cv2.line(page, (k, 0), (k, 40), (ink, ink, ink), 1)
        cv2.line(page, (0, 40 + k // 2), (60, 40 + k // 2), (ink, ink, ink), 1)
        cv2.line(page, (64, 96), (64 + k, 42), (ink, ink, ink), 1, cv2.LINE_AA)
    return page


def logo() -> Picture:
    """Saturated colours beside each other, with white letters on them."""
    page = _plain((0, 0, 255))
    cv2.circle(page, (40, 48), 34, (255, 0, 0), -1, cv2.LINE_AA)
    cv2.circle(page, (88, 48), 34, (0, 255, 0), -1, cv2.LINE_AA)
    cv2.putText(page, "GO!", (20, 60), cv2.FONT_HERSHEY_DUPLEX, 1.4, (255, 255, 255), 3)
    return page


PICTURES: dict[str, Callable[[], Picture]] = {
    "print tiny": lambda: _print(255, 0, 0.25, 1),
    "print small": lambda: _print(255, 20, 0.4, 1),
    "print": lambda: _print(250, 10, 0.6, 1),
    "print bold": lambda: _print(255, 0, 1.2, 3),
    "print grey": lambda: _print(235, 100, 0.35, 1),
    "print white": lambda: _print(0, 255, 0.5, 1),
    "stars": stars,
    "snow": snow,
    "coloured snow": coloured_snow,
    "halftone": halftone,
    "test card": test_card,
    "title slate": title_slate,
    "checkerboard 1": lambda: checkerboard(1),
    "checkerboard 2": lambda: checkerboard(2),
    "checkerboard 8": lambda: checkerboard(8),
    "checkerboard grey": lambda: checkerboard(1, 60, 190),
    "lines black": lambda: lines(255, 0),
    "lines white": lambda: lines(30, 255),
    "logo": logo,
}
"""By name."""
