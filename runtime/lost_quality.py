"""What an artifact loses in quality, on pictures that serve as ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import InputError
from srtrt.metrics import mod_crop, psnr, psnr_y
from srtrt.resample import resize_bicubic
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.parity import Parity, Picture, compare_outputs, form_inputs
from srtrt.spec import Form

_ORIGINAL_SIDE = 256
"""LR pixels a side that are computed of an original, as untiled networks take 10 kB a pixel."""


def measure_on_originals(
    reference: Backend, candidate: Backend, originals: Sequence[Picture]
) -> Parity:
    """Agreement with the reference, and the mean PSNR lost against ground truth.

    Args:
        reference: the generator as trained, or its float32 graph.
        candidate: an artifact of the same form and scale.
        originals: pictures that serve as ground truth; both enlarge their antialiased bicubic
            reduction. Those smaller than 16x16 are left out; of very large ones the middle serves.

    Returns:
        The figures with ``lost_db`` of the luma, a border of the scale left out, in dB; negative
        if the candidate is nearer to the truth.

    Raises:
        InputError: if no picture is large enough.
        BackendError: if one of the backends fails.
    """
    form, scale = reference.form, reference.spec.scale
    losses, pairs = [], []
    for original in originals:
        truth = np.ascontiguousarray(mod_crop(_middle(original, _ORIGINAL_SIDE * scale), 2 * scale))
        height, width = truth.shape[:2]
        if min(height, width) < 16:
            continue
        inputs = form_inputs(resize_bicubic(truth, height // scale, width // scale), form)
        outputs = reference.infer(inputs), candidate.infer(inputs)
        first, second = (_luma_psnr(each, truth, form, scale) for each in outputs)
        losses.append(0.0 if first == second else first - second)
        pairs.append(outputs)
    if not losses:
        raise InputError("all pictures are smaller than 16x16; expected larger ones to compare on.")
    return replace(compare_outputs(iter(pairs)), lost_db=float(np.mean(losses)))


def _middle(picture: Picture, side: int) -> Picture:
    """The middle of a picture, of at most so many pixels a side."""
    top, left = (max(0, (length - side) // 2) for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def _luma_psnr(
    outputs: Mapping[str, NDArray[Any]], truth: Picture, form: Form, border: int
) -> float:
    if form == "rgb8":
        return psnr_y(outputs["rgb_x4"][0], truth, border=border)
    return psnr(outputs["y_x4"][0, 0], form_inputs(truth, form)["y"][0, 0], border=border)
