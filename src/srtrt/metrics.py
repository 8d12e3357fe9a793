"""PSNR and SSIM as pure functions, with the data range and the border always explicit.

Super-resolution papers compare the luma (Y of BT.601, studio range) of pictures rounded to 8 bits
and leave out a border as wide as the scale: :func:`psnr_y` and :func:`ssim_y` do that.
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
