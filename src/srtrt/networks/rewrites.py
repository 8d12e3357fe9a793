"""Exact rewrites of the generator: the same function, cheaper to compute.

Their constants are the same bits on every machine: only additions, multiplications, divisions and
square roots that IEEE 754 fixes, in a fixed order. NumPy computes those elementwise. PyTorch may
call a vendor's library, which is allowed to be off in the last bit, and may add in another order.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from srtrt.networks.generator import LEAK, Generator, ResidualBlock

REWRITES = 1
"""Version of the rewrites: another one gives the same weights other graphs, and new engines."""


def fold_tail(weight: Tensor, bias: Tensor, *, repeat: bool) -> tuple[Tensor, Tensor]:
    """Moves the closing 9x9 convolution from the 4x grid to the 2x grid.

    PixelShuffle(2), a pointwise activation and a 9x9 convolution on the 4x grid equal that
    activation, a 5x5 convolution on the 2x grid and PixelShuffle(2): output phase ``i`` and tap
    ``dy`` in -4..4 meet the sample ``divmod(i + dy, 2)`` (cell, phase) of the 2x grid. Nearest
    enlargement is the case where the four phases of a cell are equal, so their weights add.
    Zero padding is exact too: 4 pixels of the 4x grid are 2 cells of the 2x grid.

    Args:
        weight: ``[O, C, 9, 9]`` of the convolution on the 4x grid.
        bias: ``[O]``.
        repeat: True for nearest enlargement, False for PixelShuffle.

    Returns:
        Weight ``[4*O, 4*C or C, 5, 5]`` and bias ``[4*O]``; differentiable.
    """
    out_channels, in_channels = weight.shape[:2]
    phases = []
    for i in (0, 1):
        for j in (0, 1):
            grid = functional.pad(weight, (j, 1 - j, i, 1 - i))
            cells = grid.reshape(out_channels, in_channels, 5, 2, 5, 2)
            phases.append(cells.permute(0, 1, 3, 5, 2, 4))
    folded = torch.stack(phases, dim=1)
    if repeat:  # added one by one, as the order of a sum is the library's own affair
        (a, b), (c, d) = (column.unbind(dim=3) for column in folded.unbind(dim=3))
        folded = a + b + c + d
    return folded.reshape(4 * out_channels, -1, 5, 5), bias.repeat_interleave(4)


def forward_with_folded_tail(net: Generator, x: Tensor) -> Tensor:
    """``net(x)``, with the tail folded on the fly; gradients reach the original weights.

    The direct upsampler has no 4x grid to fold.
    """
    if net.config.upsampler == "pixelshuffledirect":
        return cast(Tensor, net(x))
    repeat = net.config.upsampler == "nearest"
    assert net.tail.bias is not None
    weight, bias = fold_tail(net.tail.weight, net.tail.bias, repeat=repeat)
    y = functional.leaky_relu(net.up2.conv(net.up1(net.trunk(x))), LEAK)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return functional.pixel_shuffle(functional.conv2d(y, weight, bias, padding=2), 2)


def batchnorm_gain(norm: nn.BatchNorm2d) -> NDArray[np.float64]:
    """What BatchNorm multiplies each channel by: ``gamma / sqrt(var + eps)``.

    Returns:
        float64 ``[C]``, from float32 parameters, the same bits on every machine.
    """
    assert norm.running_var is not None
    deviation = np.sqrt(_float64(norm.running_var) + norm.eps)
    return np.asarray(_float64(norm.weight) / deviation)


def fold_batchnorm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution that equals ``norm(conv(x))`` with the stored statistics.

    Source: Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 2: at inference the
    normalisation is the affine map ``y * gamma / sqrt(var + eps) + beta - mean * ...``.
    Computed in float64, returned in float32.
    """
    assert norm.running_mean is not None
    assert conv.bias is not None
    gain = batchnorm_gain(norm)
    weight = _float64(conv.weight) * gain[:, None, None, None]
    bias = (_float64(conv.bias) - _float64(norm.running_mean)) * gain + _float64(norm.bias)
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size[0],
        padding=conv.kernel_size[0] // 2,
    )
    folded.weight, folded.bias = (
        nn.Parameter(torch.from_numpy(values.astype(np.float32)), requires_grad=False)
        for values in (weight, bias)
    )
    return folded


def _float64(values: Tensor) -> NDArray[Any]:
    return values.detach().cpu().numpy().astype(np.float64)


class _FoldedBlock(nn.Module):
    """A residual block without BatchNorm."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1 = fold_batchnorm(block.conv1, block.bn1)
        self.act = block.act
        self.conv2 = fold_batchnorm(block.conv2, block.bn2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.act(self.conv1(x)))
        return x + y


class _FoldedTail(nn.Module):
    """Both upsampling steps and the closing convolution, with the latter on the 2x grid."""

    def __init__(self, net: Generator) -> None:
        super().__init__()
        self.up1 = net.up1
        self.up2_conv = net.up2.conv
        assert net.tail.bias is not None
        with torch.no_grad():
            repeat = net.config.upsampler == "nearest"
            weight, bias = fold_tail(net.tail.weight, net.tail.bias, repeat=repeat)
        self.tail = nn.Conv2d(weight.shape[1], weight.shape[0], 5, padding=2)
        self.tail.weight = nn.Parameter(weight, requires_grad=False)
        self.tail.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.leaky_relu(self.up2_conv(self.up1(x)), LEAK)
        return functional.pixel_shuffle(self.tail(y), 2)


class InferenceGenerator(nn.Module):
    """The generator with BatchNorm folded into the convolutions and the tail on the 2x grid.

    Computes what ``net.eval()(x)`` computes, up to float32 rounding: float RGB ``[N, 3, H, W]``
    in [0, 1] to ``[N, 3, 4H, 4W]``. Activation weights are shared with ``net``.
    """

    def __init__(self, net: Generator) -> None:
        super().__init__()
        self.head = net.head
        self.head_act = net.head_act
        self.blocks = nn.Sequential(*(_FoldedBlock(b) for b in net.blocks))  # type: ignore[arg-type]
        self.trunk_conv = fold_batchnorm(net.trunk_conv, net.trunk_bn)
        self.enlarge: nn.Module
        if net.config.upsampler == "pixelshuffledirect":
            self.enlarge = nn.Sequential(net.tail, nn.PixelShuffle(net.config.scale))
        else:
            self.enlarge = _FoldedTail(net)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarges ``[N, 3, H, W]`` to ``[N, 3, 4H, 4W]``."""
        shallow = self.head_act(self.head(x))
        return cast(Tensor, self.enlarge(shallow + self.trunk_conv(self.blocks(shallow))))
