"""The discriminator of the report: tells real HR pictures from generated ones.

Source: Ledig et al. 2017, figure 4, with the layer table of the report this project implements:
eight 3x3 convolutions of 64 to 512 kernels, every second one with stride 2, then two dense
layers. The table has one BatchNorm and LeakyReLU pair more than the figure, after the second
convolution; the parameter counts only come out with it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srtrt.errors import ModelError
from srtrt.networks.generator import LEAK

_STEPS = 16
"""Four strides of 2."""


class Discriminator(nn.Module):
    """Float RGB ``[N, 3, S, S]`` in [0, 1] to logits ``[N, 1]``; apply the sigmoid in the loss.

    For 224x224 it has 107,451,713 trainable parameters and 3,840 BatchNorm statistics.
    """

    def __init__(self, size: int = 224) -> None:
        """Builds it for square pictures of one size, because its dense layer needs it fixed.

        Raises:
            ModelError: if ``size`` is not a positive multiple of 16.
        """
        super().__init__()
        if size < _STEPS or size % _STEPS:
            raise ModelError(
                f"discriminator size is {size}; expected a multiple of {_STEPS}, such as 224."
            )
        self.size = size
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.LeakyReLU(LEAK)]
        layers += [*_convolution(64, 64, 2), nn.BatchNorm2d(64), nn.LeakyReLU(LEAK)]
        for narrow, wide in ((64, 128), (128, 256), (256, 512)):
            layers += [*_convolution(narrow, wide, 1), *_convolution(wide, wide, 2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * (size // _STEPS) ** 2, 1024), nn.LeakyReLU(LEAK), nn.Linear(1024, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pictures ``[N, 3, S, S]`` to logits ``[N, 1]``; ModelError for another size."""
        if x.shape[2:] != (self.size, self.size):
            raise ModelError(
                f"discriminator input is {x.shape[3]}x{x.shape[2]}; "
                f"it was built for {self.size}x{self.size}."
            )
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


def _convolution(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(LEAK),
    )
