"""Rounding weights to int8 or fp8 so that the output of a convolution changes least, not they.

Rounding each weight to the nearest step treats the inputs of a convolution as unrelated. They are
not: neighbouring pixels are nearly equal, so errors of neighbouring taps that add up show as a
shift of brightness. Here the error of every weight that was rounded is made good by those still
to be rounded, as far as the inputs are correlated on real pictures.

Sources: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022, in the equivalent form of Babai's nearest plane algorithm ("On Lovasz'
lattice reduction and the nearest lattice point problem", 1986).

Processors without VNNI multiply unsigned by signed bytes and add two products into 16 bits, which
saturate (``vpmaddubsw``, Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2).
The two are those of input channels 2i and 2i + 1, and an input of 8 bits can be 255 there, as
signed ones are shifted by 128. So weights of int8 keep every such pair within 128 steps to either
side: 255 * 128 fits. Few pairs of a trained network need it, and each weight keeps its 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from srtrt.spec import Precision

Floats = NDArray[np.float32]

_WEIGHT_SHARES = np.linspace(1.0, 0.7, 16)
"""Ranges of a row of weights that are tried, as shares of its largest magnitude."""
_WIDER_SHARES = np.linspace(2.0, 1.025, 40)
"""Further ones where pairs of weights are bounded: with twice the range, every pair fits."""
_DAMPING = 0.01
"""Added to the variance of every input, as a share of their mean: keeps directions that the
calibration pictures hardly show from being used to make errors good."""


@dataclass(frozen=True)
class Grid:
    """The numbers that a type of 8 bits can hold, before they are scaled."""

    precision: Precision
    element: int
    """Element type in ONNX."""
    largest: float
    """Largest magnitude that is used; both signs have it."""
    opset: int
    """First version of the ONNX operators that quantises to this type."""
    pair_limit: float | None = None
    """Most that the positive and the negative weights of a pair of channels may add up to."""

    def nearest(self, x: NDArray[Any]) -> NDArray[Any]:
        """The nearest number of the grid, ties to even, clipped to the range."""
        clipped = np.clip(x, -self.largest, self.largest)
        if self.element == TensorProto.INT8:
            return np.asarray(np.rint(clipped))
        # E4M3: steps are an eighth of the power of two below, and 2^-9 under 2^-6.
        exponent = np.maximum(np.frexp(clipped)[1] - 1, -6)
        step = np.ldexp(np.ones_like(clipped), exponent - 3)
        return np.asarray(np.rint(clipped / step) * step)

    def within_pairs(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights ``[O, C, kh, kw]`` in steps, both of a pair moved where they exceed the limit.

        Rounded by :meth:`nearest`, ties to even, they still keep to it.
        """
        if self.pair_limit is None:
            return steps
        inside = np.clip(steps, -self.largest, self.largest)
        pairs = inside.shape[1] // 2
        first, second = inside[:, 0 : 2 * pairs : 2], inside[:, 1 : 2 * pairs : 2]
        for sign in (1, -1):
            total = np.maximum(sign * first, 0) + np.maximum(sign * second, 0)
            excess = sign * np.maximum(total - self.pair_limit, 0) / 2
            first -= excess
            second -= excess
        return inside

    def tensor(self, name: str, values: NDArray[Any]) -> TensorProto:
        """Numbers of the grid as an ONNX tensor of its type."""
        if self.element == TensorProto.INT8:
            raw = values.astype(np.int8).tobytes()
        else:
            magnitudes = self._magnitudes()
            codes = np.searchsorted(magnitudes, np.abs(values)).astype(np.uint8)
            raw = (codes | np.where(values < 0, 128, 0).astype(np.uint8)).tobytes()
        return helper.make_tensor(name, self.element, values.shape, raw, raw=True)

    def _magnitudes(self) -> NDArray[np.float64]:
        """What the codes 0..126 of E4M3 stand for."""
        exponent, mantissa = np.divmod(np.arange(127), 8)
        normal = np.ldexp(1 + mantissa / 8, exponent - 7)
        return np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)


INT8 = Grid("int8", TensorProto.INT8, 127.0, 18, pair_limit=128.0)
FP8 = Grid("fp8", TensorProto.FLOAT8E4M3FN, 448.0, 19)
GRIDS: dict[Precision, Grid] = {grid.precision: grid for grid in (INT8, FP8)}
"""Grid of each precision that needs calibration."""


def weight_scales(weight: Floats, grid: Grid) -> Floats:
    """Scales of quantised weights, one for each output channel, that give least squared error.

    Args:
        weight: ``[O, C, kh, kw]``.
        grid: what they are rounded to.

    Returns:
        ``[O]``, positive.
    """
    exact = weight.astype(np.float64)
    largest = np.maximum(np.abs(exact).max(axis=(1, 2, 3)), 1e-12)
    shares = _WEIGHT_SHARES
    if grid.pair_limit is not None:
        shares = np.concatenate([_WIDER_SHARES, _WEIGHT_SHARES])
    errors = []
    for share in shares:
        scale = (largest * share / grid.largest)[:, None, None, None]
        rounded = grid.nearest(grid.within_pairs(exact / scale)) * scale
        errors.append(np.sum((rounded - exact) ** 2, axis=(1, 2, 3)))
    chosen = shares[np.argmin(errors, axis=0)]
    return np.asarray(largest * chosen / grid.largest, np.float32)


def windows(x: Floats, side: int, positions: NDArray[np.int64]) -> Floats:
    """What a convolution with zero padding sees at some positions.

    Args:
        x: its input ``[1, C, H, W]``.
        side: of its square kernel, odd.
        positions: indices into the H * W pixels, ``[P]``.

    Returns:
        ``[P, C * side * side]``, in the order of a reshaped weight.
    """
    pad = side // 2
    padded = np.pad(x[0], ((0, 0), (pad, pad), (pad, pad)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    row, column = np.divmod(positions, x.shape[3])
    return np.ascontiguousarray(view[:, row, column].swapaxes(0, 1)).reshape(len(positions), -1)


def covariance(samples: Floats) -> NDArray[np.float64]:
    """Covariance of the inputs of a convolution, damped so that it can be inverted.

    Args:
        samples: ``[P, K]`` from :func:`windows`; is overwritten.

    Returns:
        ``[K, K]``, positive definite.
    """
    # The mean does not count: the bias of the convolution is corrected afterwards.
    samples -= samples.mean(axis=0)
    matrix = (samples.T @ samples).astype(np.float64) / len(samples)
    diagonal = np.einsum("ii->i", matrix)
    diagonal += _DAMPING * diagonal.mean() + 1e-12
    return matrix


def round_weight(
    weight: Floats, scales: Floats, inputs: NDArray[np.float64], grid: Grid
) -> NDArray[np.float64]:
    """Weights as numbers of a grid, rounded one after the other with the error carried on.

    Args:
        weight: ``[O, C, kh, kw]``.
        scales: ``[O]``, see :func:`weight_scales`.
        inputs: covariance ``[K, K]`` of the ``K = C * kh * kw`` inputs of the convolution.
        grid: what they are rounded to.

    Returns:
        ``[O, C, kh, kw]``, still to be multiplied by the scales.
    """
    # With inputs = R'R and the error E of the weights, the output error is |R E'|^2. R is upper
    # triangular, so the last weight alone decides the last term, and so on upwards. The inputs of
    # most energy come first, when all others are still free to make their errors good.
    order = np.argsort(np.einsum("ii->i", inputs), kind="stable")
    factor = np.linalg.cholesky(inputs[np.ix_(order, order)]).T.copy()
    rows = weight.reshape(len(weight), -1)[:, order].astype(np.float64)
    scale = scales.astype(np.float64)
    # Of a pair, whoever is rounded first leaves room for what the other wants.
    steps = grid.within_pairs(weight / scale[:, None, None, None]).reshape(rows.shape)[:, order]
    partner = _partners(weight.shape)[order]
    place = np.argsort(order, kind="stable")
    error = np.zeros_like(rows)
    for k in range(rows.shape[1] - 1, -1, -1):
        carried = error[:, k + 1 :] @ factor[k, k + 1 :] / factor[k, k]
        wanted = (rows[:, k] + carried) / scale
        if grid.pair_limit is not None and partner[k] >= 0:
            other = steps[:, place[partner[k]]]
            lowest = np.ceil(-grid.pair_limit - np.minimum(other, 0))
            highest = np.floor(grid.pair_limit - np.maximum(other, 0))
            wanted = np.clip(wanted, lowest, highest)
        steps[:, k] = grid.nearest(wanted)
        error[:, k] = rows[:, k] - steps[:, k] * scale
    result = np.empty_like(rows)
    result[:, order] = steps
    return result.reshape(weight.shape)


def _partners(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """For each weight of a row ``[C * kh * kw]``, the index of the other of its pair, or -1."""
    _, channels, height, width = shape
    index = np.arange(channels * height * width).reshape(channels, -1)
    pairs = channels // 2
    partner = np.full_like(index, -1)
    partner[0 : 2 * pairs : 2] = index[1 : 2 * pairs : 2]
    partner[1 : 2 * pairs : 2] = index[0 : 2 * pairs : 2]
    return partner.ravel()
