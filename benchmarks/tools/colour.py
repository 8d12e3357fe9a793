"""Corrects the mean colour of a generator in its last convolution.

Networks trained in bfloat16 come out darker than their pictures, by half a level of 255 on average
and by a whole one at white. The error grows with the level and is none at black, so that a bias
alone would turn black into dark grey: each output of the last convolution gets a gain and as much
bias as black allows. Adding it up exactly is possible because the network is linear from there on.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from srtrt.datasets import lr_hr_pair
from srtrt.networks.generator import Generator
from srtrt.networks.rewrites import InferenceGenerator

Values = NDArray[np.float64]

LR_SIDE, LR_BORDER = 96, 4
"""The middle of each LR picture that is looked at, and what of it zero padding may reach."""

_NOTHING = 0.01
"""Levels that make no difference."""

_BLACK, _WHITE = 0.35, 254.65
"""How bright black may become, and how dark white, before rounding to 8 bits changes them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Correction:
    """``sr * gain + bias`` for each output of the last convolution, in 0..255."""

    gain: Values
    bias: Values

    def applied(self, net: Generator) -> Generator:
        """A copy of a network that computes this."""
        corrected = copy.deepcopy(net)
        gain = torch.from_numpy(self.gain).float()
        with torch.no_grad():
            corrected.tail.weight.mul_(gain[:, None, None, None])
            assert corrected.tail.bias is not None
            corrected.tail.bias.mul_(gain).add_(torch.from_numpy(self.bias / 255).float())
        return corrected


@dataclass(frozen=True, kw_only=True)
class ColourReport:
    """What a correction does, on the pictures it was made from."""

    error: tuple[float, float, float]
    """Mean of SR less HR before, for R, G and B in levels of 255."""
    psnr_db: float
    """Mean PSNR over RGB before."""
    psnr_corrected_db: float
    """And after."""

    def __str__(self) -> str:
        return (
            f"mean colour error R {self.error[0]:+.2f}, G {self.error[1]:+.2f}, "
            f"B {self.error[2]:+.2f} of 255; PSNR {self.psnr_db:.3f} dB, corrected "
            f"{self.psnr_corrected_db:.3f} dB"
        )


def colour_correction(net: Generator, files: Sequence[Path]) -> tuple[Correction, ColourReport]:
    """The correction that helps most on some photographs and keeps black black and white white.

    Args:
        net: a trained generator.
        files: HR photographs, not those that the result is judged by.

    Returns:
        The correction, which changes nothing where nothing helps; and its figures.

    Raises:
        InputError: if a picture cannot be read.
    """
    outputs = [_outputs(net, path) for path in files]
    candidates = [_none(len(_flat(net, 0)[0])), *_candidates(net, outputs)]
    scores = [np.mean([_psnr(sr, hr, each) for sr, hr in outputs]) for each in candidates]
    best = int(np.argmax(scores))
    error = np.mean([(sr - hr).mean((1, 2)) for sr, hr in outputs], axis=0)
    red, green, blue = error.reshape(3, -1).mean(1).tolist()
    report = ColourReport(
        error=(red, green, blue),
        psnr_db=float(scores[0]),
        psnr_corrected_db=float(scores[best]),
    )
    return candidates[best], report


def _none(count: int) -> Correction:
    return Correction(gain=np.ones(count), bias=np.zeros(count))


def _candidates(net: Generator, outputs: Sequence[tuple[Values, Values]]) -> list[Correction]:
    """Gain and bias, and bias alone, if black and white stay or come no farther off.

    The gain makes up for what black leaves of the mean error, and is at least what white needs.
    """
    sr, hr = (np.mean([pair[i].mean((1, 2)) for pair in outputs], axis=0) for i in (0, 1))
    black, white = _flat(net, 0)[1], _flat(net, 255)[0]
    bias = np.minimum(hr - sr, np.maximum(_BLACK - black, 0))
    gain = np.maximum((hr - bias) / np.maximum(sr, 1), (_WHITE - bias) / np.maximum(white, 1))
    with_gain = Correction(gain=gain, bias=bias)
    alone = np.clip(hr - sr, np.minimum(_WHITE - white, 0), np.maximum(_BLACK - black, 0))
    both = (with_gain, Correction(gain=np.ones_like(alone), bias=alone))
    return [
        each
        for each in both
        if (black * each.gain + each.bias < np.maximum(0.5, black + _NOTHING)).all()
        and (white * each.gain + each.bias > np.minimum(254.5, white - _NOTHING)).all()
    ]


@torch.no_grad()
def _run(net: Generator, lr: NDArray[np.uint8]) -> Values:
    """What the last convolution gives for ``[H, W, 3]``: ``[K, h, w]`` in 0..255, not rounded."""
    picture = torch.from_numpy(lr.copy()).permute(2, 0, 1)[None].float() / 255
    sr = InferenceGenerator(net.eval())(picture)[0].double().numpy() * 255
    return _by_output(net, sr)


def _by_output(net: Generator, picture: Values) -> Values:
    """A picture ``[3, H, W]`` as the outputs of the last convolution ``[K, h, w]``."""
    scale = net.tail.out_channels // 3
    side = int(np.sqrt(scale))
    _, height, width = picture.shape
    parts = picture.reshape(3, height // side, side, width // side, side)
    return parts.transpose(0, 2, 4, 1, 3).reshape(3 * scale, height // side, width // side)


def _flat(net: Generator, level: int) -> tuple[Values, Values]:
    """The least and the greatest value of each output for a flat grey, away from the border."""
    field = np.full((3 * LR_BORDER + 40, 3 * LR_BORDER + 40, 3), level, np.uint8)
    sr = _run(net, field)
    inner = sr[:, sr.shape[1] // 3 : -(sr.shape[1] // 3), sr.shape[2] // 3 : -(sr.shape[2] // 3)]
    return inner.min((1, 2)), inner.max((1, 2))


def _outputs(net: Generator, path: Path) -> tuple[Values, Values]:
    """SR and HR of the middle of a photograph, by output of the last convolution."""
    lr, hr = lr_hr_pair(path)
    top, left = (max(0, (size - LR_SIDE) // 2) for size in lr.shape[:2])
    low = lr[top : top + LR_SIDE, left : left + LR_SIDE]
    high = hr[4 * top :, 4 * left :][: 4 * low.shape[0], : 4 * low.shape[1]]
    inner = np.s_[:, 4 * LR_BORDER : -4 * LR_BORDER, 4 * LR_BORDER : -4 * LR_BORDER]
    truth = _by_output(net, high.transpose(2, 0, 1).astype(np.float64)[inner])
    sr = _run(net, low)
    border = LR_BORDER * sr.shape[1] // low.shape[0]
    return sr[:, border:-border, border:-border], truth


def _psnr(sr: Values, hr: Values, correction: Correction) -> float:
    gain, bias = (each[:, None, None] for each in (correction.gain, correction.bias))
    shown = np.clip(np.rint(sr * gain + bias), 0, 255)
    return float(10 * np.log10(255**2 / max(float(np.mean((shown - hr) ** 2)), 1e-6)))
