"""Initial weights: those that make an untrained generator an interpolation, and plain ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srtrt.networks.generator import Generator

_TENT_TAPS = (0.0, 1 / 16, 2 / 16, 3 / 16, 4 / 16, 3 / 16, 2 / 16, 1 / 16, 0.0)
"""Turns nearest-neighbour blocks of 4 pixels into linear slopes."""


@torch.no_grad()
def initialise_as_interpolation(net: Generator) -> None:
    """Sets weights so that the first output is a smooth 4x enlargement of the input.

    The first three channels carry the picture from end to end, and the last BatchNorm of each
    residual branch starts at zero, so training begins at the quality of bicubic interpolation
    instead of noise. All other channels keep their random weights. Nothing but the starting
    point changes: the network can reach the same functions.
    """
    _carry_rgb(net.head.weight, net.head.bias, _centre(9))
    for block in net.blocks:
        nn.init.zeros_(block.bn2.weight)  # type: ignore[union-attr,arg-type]
    nn.init.zeros_(net.trunk_bn.weight)
    nn.init.zeros_(net.tail.weight)
    if net.config.upsampler == "pixelshuffledirect":
        _interpolate_rgb(net.tail, 4)
        return
    nearest = net.config.upsampler == "nearest"
    for up in (net.up1, net.up2):
        if nearest:
            _carry_rgb(up.conv.weight, up.conv.bias, _centre(3))
        else:
            _interpolate_rgb(up.conv, 2)
    tent = torch.tensor(_TENT_TAPS)
    _carry_rgb(net.tail.weight, net.tail.bias, torch.outer(tent, tent) if nearest else _centre(9))


@torch.no_grad()
def initialise_plainly(net: nn.Module) -> None:
    """Draws the weights of a network as Keras does by default.

    Convolutions and dense layers are uniform with the variance of Glorot and Bengio,
    "Understanding the difficulty of training deep feedforward neural networks", 2010; biases and
    the slopes of PReLU start at zero, BatchNorm as the identity.
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.PReLU):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def _centre(size: int) -> Tensor:
    kernel = torch.zeros(size, size)
    kernel[size // 2, size // 2] = 1.0
    return kernel


def _carry_rgb(weight: Tensor, bias: Tensor | None, kernel: Tensor) -> None:
    """Makes outputs 0..2 of a convolution the inputs 0..2 filtered with ``kernel``."""
    weight[:3] = 0
    for channel in range(3):
        weight[channel, channel] = kernel
    if bias is not None:
        bias[:3] = 0


def _interpolate_rgb(conv: nn.Conv2d, scale: int) -> None:
    """Makes the first sub-pixels of a 3x3 convolution a ``scale`` x interpolation of RGB.

    Each is the parabola through three neighbours (Lagrange), read at the sub-pixel's centre.
    """
    offsets = (torch.arange(scale) + 0.5) / scale - 0.5
    taps = torch.stack(
        [offsets * (offsets - 1) / 2, 1 - offsets**2, offsets * (offsets + 1) / 2], dim=1
    )
    phases = scale**2
    conv.weight[: 3 * phases] = 0
    if conv.bias is not None:
        conv.bias[: 3 * phases] = 0
    for channel in range(3):
        for phase in range(phases):
            row, column = divmod(phase, scale)
            conv.weight[phases * channel + phase, channel] = torch.outer(taps[row], taps[column])
