"""What every bundled model must keep: size, facts, card, and colours in their place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import srtrt
from srtrt.runtime.models import bundled_models, find_model, weights_folder

LEVELS = (0, 64, 128, 192, 255)


def test_bundled_models_are_small() -> None:
    sizes = [p.stat().st_size for p in weights_folder().iterdir() if p.suffix != ".py"]
    assert sum(sizes) < 25_000_000
    for name in bundled_models():
        together = sum(p.stat().st_size for p in weights_folder().glob(f"{name}[.-]*"))
        assert together < 10_000_000, name


@pytest.mark.parametrize("name", bundled_models())
def test_graph_checkpoint_and_card_belong_together(name: str) -> None:
    from srtrt.networks.checkpoint import load_checkpoint

    model = find_model(name)
    assert model.checkpoint_path is not None
    _, spec = load_checkpoint(model.checkpoint_path)
    assert (spec.name, model.spec.name) == (name, name)
    assert spec.weights_sha256 == model.spec.weights_sha256
    assert model.spec.quality["parity"]["psnr_db"] > 70
    assert {"steps", "settings", "machine", "date", "pictures"} <= set(spec.training)
    card = (weights_folder() / f"{name}.md").read_text()
    for word in ("CC-BY", "updates", spec.training["machine"], "Licence of the weights"):
        assert word in " ".join(card.split()), word


@pytest.mark.parametrize("name", bundled_models())
def test_flat_colours_keep_their_place(name: str) -> None:
    """A flat field of any colour, the corners of the cube included, comes out as it went in.

    Away from the border, where zero padding is part of what the network sees.
    """
    colours = np.array(list(itertools.product(LEVELS, repeat=3)), np.uint8)
    fields = np.broadcast_to(colours[:, None, None], (len(colours), 16, 16, 3))
    with srtrt.Upscaler(name, precision="fp32") as upscale:
        big = upscale(np.ascontiguousarray(fields))[:, 24:40, 24:40].astype(int)
    error = np.abs(big - colours[:, None, None].astype(int)).max(axis=(1, 2, 3))
    assert error.max() <= 8, f"{colours[error.argmax()]} is off by {error.max()}"
    assert error.mean() <= 3


@pytest.mark.parametrize("name", bundled_models())
def test_greys_keep_their_level(name: str) -> None:
    """White is white, black is black (where srgan has its mesh, within a level), greys are near."""
    greys = np.array([0, 255, *range(15, 255, 15)], np.uint8)
    fields = np.broadcast_to(greys[:, None, None, None], (len(greys), 16, 16, 3))
    with srtrt.Upscaler(name, precision="fp32") as upscale:
        big = upscale(np.ascontiguousarray(fields))[:, 24:40, 24:40].astype(int)
    error = big - greys[:, None, None, None].astype(int)
    most = 1 if name == "srgan" else 0
    assert np.abs(error[0]).max() <= most
    assert np.abs(error[1]).max() <= most
    assert np.abs(error).max() <= 1 + most
    assert np.abs(error.mean((0, 1, 2))).max() < 0.5
