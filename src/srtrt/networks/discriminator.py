"""Discriminators: they tell real HR pictures from generated ones.

Source: Ledig et al. 2017, figure 4, with the layer table of the report this project implements:
eight 3x3 convolutions of 64 to 512 kernels, every second one with stride 2, then two dense
layers. The table has one BatchNorm and LeakyReLU pair more than the figure, after the second
convolution; the parameter counts only come out with it.

``PatchDiscriminator`` has the same convolutions and, in place of the dense layers, a verdict per
region, as in Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks",
CVPR 2017, section 3.2.2.
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
        self.features = _convolutions(64)
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


class PatchDiscriminator(nn.Module):
    """Float RGB ``[N, 3, H, W]`` in [0, 1] to logits ``[N, 1, ceil(H/16), ceil(W/16)]``.

    One logit per region of 16x16 pixels, seen with 61x61 pixels around its first, so that it
    judges local texture at any picture size; apply the sigmoid in the loss. With the default
    width it has 5,215,553 trainable parameters and 3,840 BatchNorm statistics.
    """

    def __init__(self, features: int = 64) -> None:
        """Builds it with ``features`` kernels in the first convolution, 8 times as many last.

        Raises:
            ModelError: if ``features`` is not positive.
        """
        super().__init__()
        if features < 1:
            raise ModelError(
                f"discriminator of {features} features; expected at least 1, such as 64."
            )
        self.features = _convolutions(features)
        self.classifier = nn.Sequential(
            nn.Conv2d(8 * features, 16 * features, 1),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(16 * features, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pictures ``[N, 3, H, W]`` to logits ``[N, 1, ceil(H/16), ceil(W/16)]``.

        Raises:
            ModelError: if a side is below 16 pixels, or a batch to train on is a single region,
                from which BatchNorm can take no statistics.
        """
        count, _, height, width = x.shape
        if min(height, width) < _STEPS:
            raise ModelError(
                f"discriminator input is {width}x{height}; expected at least {_STEPS}x{_STEPS}."
            )
        if self.training and count == 1 and max(height, width) == _STEPS:
            raise ModelError(
                f"discriminator input is one picture of {width}x{height}; train on more or "
                "larger ones."
            )
        logits: Tensor = self.classifier(self.features(x))
        return logits


def _convolutions(features: int) -> nn.Sequential:
    """Eight convolutions: ``[N, 3, H, W]`` to ``[N, 8 * features, ceil(H/16), ceil(W/16)]``."""
    layers: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1), nn.LeakyReLU(LEAK)]
    layers += [*_convolution(features, features, 2), nn.BatchNorm2d(features), nn.LeakyReLU(LEAK)]
    for narrow, wide in ((1, 2), (2, 4), (4, 8)):
        layers += _convolution(narrow * features, wide * features, 1)
        layers += _convolution(wide * features, wide * features, 2)
    return nn.Sequential(*layers)


def _convolution(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(LEAK),
    )
