"""Measures of pictures as pure functions; data range and border of PSNR and SSIM are explicit.

Super-resolution papers compare the luma (Y of BT.601, studio range) of pictures rounded to 8 bits
and leave out a border as wide as the scale: :func:`psnr_y` and :func:`ssim_y` do that. What they
hardly see has measures of its own: :func:`near_nyquist_energy` for a mesh of two pixels, and
:func:`colour_bias` for a tint. LPIPS and DISTS are in :mod:`srtrt.perceptual`.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_WINDOW = 11
_SIGMA = 1.5
_K1 = 0.01
_K2 = 0.03
_LUMA_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255.0
"""ITU-R BT.601-7: (0.299, 0.587, 0.114) times the studio span of 219, per 8-bit code value."""

_BLOCK = 32
SMALLEST_BLOCK = 20
"""Least height and width for :func:`near_nyquist_energy`: less spreads a mesh over its band."""
_NEAR_NYQUIST = 0.9
"""Of the Nyquist frequency, half a period per pixel: periods of 2 to 2.2 pixels count."""

Scalar = TypeVar("Scalar", bound=np.generic)


def mod_crop(image: NDArray[Scalar], multiple: int) -> NDArray[Scalar]:
    """Cuts rows at the bottom and columns at the right until both are a multiple.

    Args:
        image: ``[H, W]`` or ``[H, W, C]``.
        multiple: what height and width shall be divisible by, at least 1.

    Returns:
        A view of ``image``.
    """
    height, width = image.shape[:2]
    return image[: height - height % multiple, : width - width % multiple]


def _prepare(
    a: NDArray[Any], b: NDArray[Any], border: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Checks the shapes, cuts the border off and converts to float64."""
    if a.shape != b.shape:
        raise ValueError(f"the pictures differ in shape: {a.shape} and {b.shape}.")
    if a.ndim not in (2, 3):
        raise ValueError(f"pictures have {a.ndim} axes; expected [H, W] or [H, W, C].")
    height, width = a.shape[:2]
    if border < 0 or min(height, width) <= 2 * border:
        raise ValueError(f"a border of {border} leaves nothing of {width}x{height} pixels.")
    inner = np.s_[border : height - border, border : width - border]
    return a[inner].astype(np.float64), b[inner].astype(np.float64)


def psnr(a: NDArray[Any], b: NDArray[Any], *, data_range: float = 255.0, border: int = 0) -> float:
    """Peak signal-to-noise ratio over all samples.

    Args:
        a: ``[H, W]`` or ``[H, W, C]``, any numeric type.
        b: the same shape.
        data_range: distance between the least and the greatest possible value.
        border: pixels left out on each side.

    Returns:
        Decibels; infinity for equal pictures.

    Raises:
        ValueError: if the shapes differ or the border leaves nothing.
    """
    first, second = _prepare(a, b, border)
    mean_square = float(np.mean((first - second) ** 2))
    if mean_square == 0.0:
        return math.inf
    return 10.0 * math.log10(data_range**2 / mean_square)


def _smooth(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian mean over 11x11 windows that lie wholly inside ``[H, W, C]``."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    kernel = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    height, width = (size - _WINDOW + 1 for size in image.shape[:2])
    tall = sum(k * image[i : i + height] for i, k in enumerate(kernel))
    result: NDArray[np.float64] = sum(k * tall[:, i : i + width] for i, k in enumerate(kernel))
    return result


def ssim(a: NDArray[Any], b: NDArray[Any], *, data_range: float = 255.0, border: int = 0) -> float:
    """Structural similarity, averaged over the positions of the window and the channels.

    Z. Wang et al., "Image quality assessment: from error visibility to structural similarity"
    (IEEE Transactions on Image Processing, 2004): Gaussian window 11x11 with sigma 1.5, K1 = 0.01,
    K2 = 0.03, only windows that lie wholly inside the picture.

    Args:
        a: ``[H, W]`` or ``[H, W, C]``, any numeric type.
        b: the same shape.
        data_range: distance between the least and the greatest possible value.
        border: pixels left out on each side, before windows are placed.

    Returns:
        1 for equal pictures, less otherwise.

    Raises:
        ValueError: if the shapes differ or fewer than 11x11 pixels are left.
    """
    first, second = _prepare(a, b, border)
    if min(first.shape[:2]) < _WINDOW:
        height, width = first.shape[:2]
        raise ValueError(f"SSIM needs at least 11x11 pixels; {width}x{height} are left.")
    if first.ndim == 2:
        first, second = first[..., None], second[..., None]
    mean_a, mean_b = _smooth(first), _smooth(second)
    variance_a = _smooth(first * first) - mean_a**2
    variance_b = _smooth(second * second) - mean_b**2
    covariance = _smooth(first * second) - mean_a * mean_b
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return float(np.mean(numerator / denominator))


def luma_bt601(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Luma of BT.601 in studio range, unrounded.

    Args:
        rgb: uint8 ``[H, W, 3]`` RGB in full range, or ``[H, W]`` gray, which counts as RGB with
            three equal channels.

    Returns:
        float64 ``[H, W]`` in 16..235.

    Raises:
        ValueError: if the type or the shape is another.
    """
    if rgb.dtype != np.uint8:
        raise ValueError(f"samples are {rgb.dtype}; expected uint8.")
    if rgb.ndim == 2:
        return np.asarray(16.0 + rgb * _LUMA_WEIGHTS.sum())
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"the shape is {rgb.shape}; expected [H, W] or [H, W, 3].")
    return np.asarray(16.0 + rgb @ _LUMA_WEIGHTS)


def psnr_y(a: NDArray[np.uint8], b: NDArray[np.uint8], border: int = 4) -> float:
    """PSNR of the luma, in decibels, as super-resolution papers report it.

    Args:
        a: uint8 ``[H, W, 3]`` RGB or ``[H, W]`` gray.
        b: the same height and width.
        border: pixels left out on each side; the field leaves out as many as the scale.

    Raises:
        ValueError: if sizes or types do not fit.
    """
    return psnr(luma_bt601(a), luma_bt601(b), border=border)


def ssim_y(a: NDArray[np.uint8], b: NDArray[np.uint8], border: int = 4) -> float:
    """SSIM of the luma, as super-resolution papers report it; arguments as :func:`psnr_y`."""
    return ssim(luma_bt601(a), luma_bt601(b), border=border)


def near_nyquist_energy(picture: NDArray[np.uint8]) -> float:
    """Mean square of what alternates from pixel to pixel, across, down or both.

    The power of all frequencies of which either component is at least 0.9 of the Nyquist frequency,
    by Welch's method (P. D. Welch, "The use of fast Fourier transform for the estimation of power
    spectra", 1967): the mean over blocks of 32x32 pixels under a Hann window, which overlap by
    half, and over the channels.

    Args:
        picture: uint8 ``[H, W, 3]`` RGB or ``[H, W]`` gray.

    Returns:
        Squared 8-bit levels. A mesh of +-A levels and a period of 2 pixels has A squared, white
        noise of variance V has 0.18 V, and a smooth picture about 0.015 from its rounding.

    Raises:
        ValueError: if the type or shape is another, or a side is under 20 pixels.
    """
    return float(_near_nyquist(picture).mean())


def near_nyquist_excess(sr: NDArray[np.uint8], hr: NDArray[np.uint8]) -> float:
    """How much more alternates from pixel to pixel than in the ground truth.

    As :func:`near_nyquist_energy`, where every block counts with what it has above the same block
    of the ground truth, or 0: detail that a picture lacks elsewhere does not hide a mesh.

    Args:
        sr: uint8 ``[H, W, 3]`` RGB or ``[H, W]`` gray.
        hr: the ground truth of the same shape.

    Returns:
        Squared 8-bit levels; 0 for equal pictures.

    Raises:
        ValueError: if the shapes differ, or as :func:`near_nyquist_energy`.
    """
    _prepare(sr, hr, 0)
    return float(np.maximum(_near_nyquist(sr) - _near_nyquist(hr), 0).mean())


def colour_bias(sr: NDArray[np.uint8], hr: NDArray[np.uint8], border: int = 4) -> NDArray[Any]:
    """Mean of ``sr - hr`` for each channel.

    Args:
        sr: uint8 ``[H, W, 3]`` RGB.
        hr: the ground truth of the same shape.
        border: pixels left out on each side.

    Returns:
        float64 ``[3]``, red, green and blue in 8-bit levels; positive where ``sr`` is brighter.

    Raises:
        ValueError: if the shapes differ, are not RGB, or the border leaves nothing.
    """
    first, second = _prepare(sr, hr, border)
    if first.ndim != 3 or first.shape[2] != 3:
        raise ValueError(f"the shape is {first.shape}; expected [H, W, 3].")
    return np.asarray((first - second).mean(axis=(0, 1)))


def _near_nyquist(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The energy near the Nyquist frequency of every block and channel, ``[rows, columns, C]``."""
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise ValueError(f"got {picture.dtype} {picture.shape}; expected uint8 [H, W(, 3)].")
    side = min(_BLOCK, *picture.shape[:2]) // 2 * 2
    if side < SMALLEST_BLOCK:
        raise ValueError(f"the shape is {picture.shape}; expected at least 20x20 pixels.")
    channels = picture.reshape(*picture.shape[:2], -1).astype(np.float64)
    blocks = np.lib.stride_tricks.sliding_window_view(channels, (side, side), axis=(0, 1))
    hann = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    window = np.outer(hann, hann)
    frequency = np.abs(np.fft.fftfreq(side)) / 0.5
    band = np.maximum.outer(frequency, frequency) >= _NEAR_NYQUIST
    rows = []
    for row in blocks[:: side // 2, :: side // 2]:  # one row of blocks is in memory at a time
        spectrum = np.fft.fft2((row - row.mean(axis=(-2, -1), keepdims=True)) * window)
        rows.append((np.abs(spectrum[..., band]) ** 2).sum(axis=-1))
    return np.asarray(np.stack(rows) / (side**2 * (window**2).sum()))
