"""What :class:`srtrt.Upscaler` says to what is no picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srtrt import Upscaler
from srtrt.errors import InputError
from srtrt.images import Picture
from srtrt.runtime import upscaler as module

RGB = np.zeros((4, 5, 3), np.uint8)


@pytest.fixture
def upscale(monkeypatch: pytest.MonkeyPatch) -> Upscaler:
    class Session:
        scale, description = 4, "nothing"

        def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"rgb_x4": inputs["rgb"].repeat(4, 1).repeat(4, 2)}

    monkeypatch.setattr(module, "open_session", lambda **_: Session())
    return Upscaler()


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        ([RGB], r"picture is a list; expected .* numpy\.stack\(pictures\)"),
        (RGB.tolist(), r"picture is a list"),
        (Image.new("L", (3, 3)), r"a PIL Image; .* numpy\.asarray\(picture\.convert\(\"RGB\"\)\)"),
        ("in.png", r"a str; .* srtrt\.images\.read_image"),
        (Path("in.png"), r"a pathlib \w+; .* srtrt\.upscale_images"),
        (Picture(rgb=RGB), r"a srtrt Picture; .* attribute rgb"),
        (None, r"a NoneType; "),
        (RGB / 255, r"NumPy array of float64, \[4, 5, 3\]; .* values from 0 to 255"),
        (RGB[..., 0], r"NumPy array of uint8, \[4, 5\]; expected"),
        (RGB.transpose(2, 0, 1), r"Colours come last: np\.moveaxis\(picture, -3, -1\)"),
        (RGB[:0], r"\[0, 5, 3\], which is empty"),
    ],
)
def test_no_picture(upscale: Upscaler, picture: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        upscale(picture)  # type: ignore[arg-type]


def test_a_tensor_of_the_right_numbers_is_told_how_to_become_an_array(upscale: Upscaler) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match=r"a torch Tensor; .*\.cpu\(\)\.numpy\(\)"):
        upscale(torch.zeros(4, 5, 3, dtype=torch.uint8))


def test_one_picture_and_a_batch(upscale: Upscaler) -> None:
    assert upscale(RGB).shape == (16, 20, 3)
    assert upscale(np.stack([RGB, RGB])).shape == (2, 16, 20, 3)
