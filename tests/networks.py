"""Networks that more than one test file needs; importing this needs PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from srtrt.networks.generator import Generator, GeneratorConfig
from srtrt.networks.initialise import initialise_as_interpolation


def lively_generator(config: GeneratorConfig, seed: int = 0) -> Generator:
    """A generator in eval mode whose every weight and statistic matters to its output."""
    torch.manual_seed(seed)
    net = Generator(config)
    initialise_as_interpolation(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return net.eval()


def small_vgg_state() -> dict[str, torch.Tensor]:
    """VGG19 in torchvision's layout up to its second convolution, with random weights."""
    torch.manual_seed(5)
    return {
        "features.0.weight": 0.2 * torch.randn(64, 3, 3, 3),
        "features.0.bias": torch.zeros(64),
        "features.2.weight": 0.05 * torch.randn(64, 64, 3, 3),
        "features.2.bias": torch.zeros(64),
    }


def loud_generator(gain: float = 1e5) -> Generator:
    """A generator in which one convolution is this much louder, and the next quieter for it."""
    net = lively_generator(GeneratorConfig(blocks=2, features=8))
    block: Any = net.blocks[0]
    with torch.no_grad():
        block.bn1.weight *= gain
        block.bn1.bias *= gain
        block.conv2.weight /= gain
    return net
