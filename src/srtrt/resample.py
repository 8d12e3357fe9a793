"""Antialiased bicubic resampling, the way low-resolution pictures are made in the field.

The kernel is that of R. G. Keys, "Cubic convolution interpolation for digital image processing"
(IEEE Transactions on Acoustics, Speech and Signal Processing, 1981), with a = -0.5. When a picture
shrinks, the kernel is stretched by the scale, so that it also removes what the smaller grid cannot
hold. Sample centres lie at ``i + 0.5``, borders are reflected with the edge sample repeated, and
the weights of each output sample sum to 1. MATLAB's ``imresize`` follows the same convention.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Samples = TypeVar("Samples", np.uint8, np.uint16)

_STRIP_SAMPLES = 1 << 22
"""Samples of the result computed at a time, which bounds the float64 memory."""


def _keys_kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -0.5 (equation 15 of the paper)."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x <= 1.0, near, np.where(x < 2.0, far, 0.0))


def bicubic_taps(in_size: int, out_size: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which input samples each output sample is made of, and with which weights.

    Args:
        in_size: samples along the axis before resampling, at least 1.
        out_size: samples along the axis after resampling, at least 1.

    Returns:
        Indices ``[out_size, taps]`` in 0..in_size - 1 and weights ``[out_size, taps]`` float64
        whose rows sum to 1. An index may occur more than once in a row, at the borders.

    Raises:
        ValueError: if a size is below 1.
    """
    if in_size < 1 or out_size < 1:
        raise ValueError(f"sizes must be at least 1; got {in_size} to {out_size}.")
    scale = out_size / in_size
    stretch = max(1.0, 1.0 / scale)
    taps = int(np.ceil(4.0 * stretch)) + 1
    centres = (np.arange(out_size) + 0.5) / scale - 0.5
    first = np.floor(centres - 2.0 * stretch).astype(np.intp) + 1
    positions = first[:, None] + np.arange(taps)
    weights = _keys_kernel((centres[:, None] - positions) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    folded = positions % (2 * in_size)
    return np.minimum(folded, 2 * in_size - 1 - folded), weights


def bicubic_matrix(in_size: int, out_size: int) -> NDArray[np.float64]:
    """The resampling of one axis as a dense matrix.

    Args:
        in_size: samples along the axis before resampling, at least 1.
        out_size: samples along the axis after resampling, at least 1.

    Returns:
        ``[out_size, in_size]`` float64 whose rows sum to 1; ``matrix @ samples`` resamples.

    Raises:
        ValueError: if a size is below 1.
    """
    indices, weights = bicubic_taps(in_size, out_size)
    matrix = np.zeros((out_size, in_size))
    np.add.at(matrix, (np.arange(out_size)[:, None], indices), weights)
    return matrix


def _apply_taps(
    image: NDArray[Any], indices: NDArray[np.intp], weights: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    """The weighted sum of the samples that ``indices`` name along ``axis``."""
    shape = [1] * image.ndim
    shape[axis] = -1
    total: NDArray[np.float64] = np.zeros(())
    for tap in range(indices.shape[1]):
        column = weights[:, tap]
        if not column.any():
            continue
        total = total + np.take(image, indices[:, tap], axis=axis) * column.reshape(shape)
    return total


def resize_bicubic_rows(
    image: NDArray[Any], height: int, width: int, rows: slice | None = None
) -> NDArray[np.float64]:
    """Resamples a picture and keeps the exact values, unrounded and unclamped.

    Args:
        image: ``[H, W]`` or ``[H, W, C]`` of any numeric type.
        height: rows of the whole result.
        width: columns of the result.
        rows: which rows of the result to compute; all of them by default.

    Returns:
        float64 ``[rows, width]`` or ``[rows, width, C]`` in the units of ``image``. The kernel
        overshoots at sharp edges, so values may leave the range of the input.

    Raises:
        ValueError: if a size is below 1.
    """
    indices, weights = bicubic_taps(image.shape[0], height)
    if rows is not None:
        indices, weights = indices[rows], weights[rows]
    tall = _apply_taps(image, indices, weights, axis=0)
    return _apply_taps(tall, *bicubic_taps(image.shape[1], width), axis=1)


def resize_bicubic(image: NDArray[Samples], height: int, width: int) -> NDArray[Samples]:
    """Resamples a picture; rounds to nearest and clamps once, at the end.

    Args:
        image: ``[H, W]`` or ``[H, W, C]``, uint8 or uint16; channels are independent.
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.

    Returns:
        The same type and channels, ``height`` x ``width``.

    Raises:
        ValueError: if a size is below 1 or the type is not uint8 or uint16.
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"samples are {image.dtype}; expected uint8 or uint16.")
    if height < 1 or width < 1:
        raise ValueError(f"the result must be at least 1x1; got {width}x{height}.")
    highest = np.iinfo(image.dtype).max
    result = np.empty((height, width, *image.shape[2:]), image.dtype)
    step = max(1, _STRIP_SAMPLES // max(1, result[0].size))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        exact = resize_bicubic_rows(image, height, width, rows)
        result[rows] = np.clip(np.rint(exact), 0, highest).astype(image.dtype)
    return result
