"""The SRGAN generator (SRResNet) with its upsamplers.

Source: Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative
Adversarial Network", CVPR 2017, section 2.1.1 and figure 4. The activation after each
upsampling step is LeakyReLU(0.2), as in the report this project implements, so the default
configuration has 1,550,531 trainable parameters and 4,224 BatchNorm statistics.

The upsampler ``pixelshuffledirect`` is that of Shi et al., "Real-Time Single Image and Video
Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016: one 3x3
convolution to 48 channels and PixelShuffle(4), so that nothing but the picture itself exists above
the LR grid. It is for small, fast generators, whose cost would else lie in the upsampling.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn
from torch.nn import functional

from srtrt.errors import ModelError
from srtrt.plain_data import shown

Upsampler = Literal["pixelshuffle", "nearest", "pixelshuffledirect"]

HEAD_RADIUS = 4
"""Half width of the 9x9 convolutions that open and close the network."""

MAX_BLOCKS, MAX_FEATURES = 1024, 4096
"""Largest sizes of a generator, far beyond what can be trained."""

LEAK = 0.2
"""Negative slope of the activation after each upsampling step."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Sizes of a generator; everything needed to rebuild it.

    Raises:
        ModelError: if a value is out of range.
    """

    upsampler: Upsampler = "pixelshuffle"
    """``pixelshuffle``: two sub-pixel convolutions; ``nearest``: two nearest-neighbour
    enlargements; ``pixelshuffledirect``: one sub-pixel convolution straight to the picture."""
    blocks: int = 16
    """Number of residual blocks."""
    features: int = 64
    """Channels of the residual trunk."""
    scale: int = 4
    """Enlargement in each direction; 4 is the only one."""

    def __post_init__(self) -> None:
        if self.upsampler not in get_args(Upsampler):
            known = ", ".join(get_args(Upsampler))
            raise ModelError(f"upsampler is {shown(self.upsampler)}; expected one of {known}.")
        for name, least, most in (("blocks", 1, MAX_BLOCKS), ("features", 3, MAX_FEATURES)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ModelError(
                    f"the generator's {name} are {shown(value)}; expected a whole number from "
                    f"{least} to {most}."
                )
        if type(self.scale) is not int or self.scale != 4:
            raise ModelError(f"scale is {shown(self.scale)}; only 4 is supported.")

    @property
    def receptive_radius(self) -> int:
        """How far, in LR pixels, an output pixel sees: 40 for 16 blocks.

        Head 4, two per block, one after the trunk, then the upsampling convolutions (the first
        on the LR grid, the second on the 2x grid) and the 9x9 tail on the 4x grid, rounded up.
        The direct upsampler is one convolution on the LR grid.
        """
        if self.upsampler == "pixelshuffledirect":
            return HEAD_RADIUS + 2 * self.blocks + 1 + 1
        return math.ceil(HEAD_RADIUS + 2 * self.blocks + 1 + 1 + 0.5 + HEAD_RADIUS / 4)

    @property
    def macs_per_lr_pixel(self) -> int:
        """Multiply-accumulates for each LR pixel, before any rewrite; 2,218,176 by default."""
        features, trunk = self.features, 9 * self.features**2 * (2 * self.blocks + 1)
        head = 3 * (2 * HEAD_RADIUS + 1) ** 2 * features
        if self.upsampler == "pixelshuffledirect":
            return head + trunk + 9 * features * 3 * self.scale**2
        wide = features if self.upsampler == "pixelshuffle" else 4 * features
        steps = 9 * features * 4 * features + 4 * 9 * wide * 4 * features
        return head + trunk + steps + 16 * 3 * (2 * HEAD_RADIUS + 1) ** 2 * wide

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeneratorConfig:
        """Rebuilds a configuration written by :meth:`to_dict`.

        Raises:
            ModelError: if a field is unknown or a value is out of range.
        """
        unknown = [name for name in values if name not in cls.__dataclass_fields__]
        if unknown:
            raise ModelError(f"unknown generator setting {shown(unknown[0])}.")
        return cls(**values)


class ResidualBlock(nn.Module):
    """conv - BatchNorm - PReLU - conv - BatchNorm, added to its input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(features)
        self.act = nn.PReLU(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, F, H, W]`` to the same shape."""
        y = self.act(self.bn1(self.conv1(x)))
        return x + cast(Tensor, self.bn2(self.conv2(y)))


class UpsampleBlock(nn.Module):
    """Doubles height and width: convolution, rearrangement or repetition, LeakyReLU(0.2).

    ``nearest`` is the ``Conv2D(256) - UpSampling2D(2) - LeakyReLU(0.2)`` of the report: it keeps
    four times the features, so that both upsamplers have equally wide convolutions.
    """

    def __init__(self, in_channels: int, features: int, upsampler: Upsampler) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4 * features, 3, padding=1)
        self.upsampler = upsampler

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, F or 4F, 2H, 2W]``."""
        y = self.conv(x)
        if self.upsampler == "pixelshuffle":
            y = functional.pixel_shuffle(y, 2)
        else:
            y = functional.interpolate(y, scale_factor=2.0, mode="nearest")
        return functional.leaky_relu(y, LEAK)


class Generator(nn.Module):
    """SRResNet: float RGB ``[N, 3, H, W]`` in [0, 1] to float RGB ``[N, 3, 4H, 4W]``.

    The output is linear and may leave [0, 1] slightly; clamp before rounding to 8 bits.
    """

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        features = config.features
        self.head = nn.Conv2d(3, features, 9, padding=HEAD_RADIUS)
        self.head_act = nn.PReLU(features)
        self.blocks = nn.Sequential(*(ResidualBlock(features) for _ in range(config.blocks)))
        self.trunk_conv = nn.Conv2d(features, features, 3, padding=1)
        self.trunk_bn = nn.BatchNorm2d(features)
        if config.upsampler == "pixelshuffledirect":
            self.tail = nn.Conv2d(features, 3 * config.scale**2, 3, padding=1)
            return
        wide = features if config.upsampler == "pixelshuffle" else 4 * features
        self.up1 = UpsampleBlock(features, features, config.upsampler)
        self.up2 = UpsampleBlock(wide, features, config.upsampler)
        self.tail = nn.Conv2d(wide, 3, 9, padding=HEAD_RADIUS)

    def trunk(self, x: Tensor) -> Tensor:
        """Everything on the LR grid: ``[N, 3, H, W]`` to features ``[N, F, H, W]``."""
        shallow = self.head_act(self.head(x))
        deep = self.trunk_bn(self.trunk_conv(self.blocks(shallow)))
        return cast(Tensor, shallow + deep)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarges ``[N, 3, H, W]`` to ``[N, 3, 4H, 4W]``."""
        y = self.trunk(x)
        if self.config.upsampler == "pixelshuffledirect":
            return functional.pixel_shuffle(self.tail(y), self.config.scale)
        return cast(Tensor, self.tail(self.up2(self.up1(y))))
