"""A generator published by others, measured beside our own.

The file is ``srgan-5x64-x4-leftthomas.pth``: an SRGAN generator of five residual blocks with 64
features, BatchNorm and one-slope PReLU, two sub-pixel steps and an output of (tanh + 1) / 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from srtrt.errors import ModelError
from srtrt.networks.state_dict import read_state_dict

_FEATURES = 64
_BLOCKS = 5
_STEPS = 2
_STATISTICS_COUNTER = "num_batches_tracked"


class _Block(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(_FEATURES)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(_FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))
        return x + y


class _Step(nn.Module):
    """Doubles height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(_FEATURES, 4 * _FEATURES, 3, padding=1)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.prelu(nn.functional.pixel_shuffle(self.conv(x), 2))
        return y


class ThirdPartyGenerator(nn.Module):
    """Float RGB ``[N, 3, H, W]`` in [0, 1] to ``[N, 3, 4H, 4W]`` in [0, 1].

    The names of its modules are those of the published file: ``block1`` is the head, ``block2`` to
    ``block6`` the residual blocks, ``block7`` the end of the trunk and ``block8`` the enlargement.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, _FEATURES, 9, padding=4), nn.PReLU())
        for index in range(_BLOCKS):
            self.add_module(f"block{index + 2}", _Block())
        self.block7 = nn.Sequential(nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1), nn.PReLU())
        tail = nn.Conv2d(_FEATURES, 3, 9, padding=4)
        self.block8 = nn.Sequential(*(_Step() for _ in range(_STEPS)), tail)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarges four times."""
        head = self.block1(x)
        y = head
        for index in range(_BLOCKS):
            y = self.get_submodule(f"block{index + 2}")(y)
        y = self.block8(head + self.block7(y))
        return (torch.tanh(y) + 1) / 2

    @torch.inference_mode()
    def upscale(self, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One uint8 RGB picture ``[H, W, 3]`` to ``[4H, 4W, 3]``, rounded to nearest."""
        x = torch.from_numpy(np.ascontiguousarray(lr)).permute(2, 0, 1)[None].float() / 255
        sr: NDArray[np.uint8] = (
            (255 * self(x)[0].permute(1, 2, 0)).round().clamp(0, 255).to(torch.uint8).numpy()
        )
        return sr


def load_third_party(path: Path) -> ThirdPartyGenerator:
    """Rebuilds the generator from its file, in eval mode, float32, on the CPU.

    Raises:
        InputError: if the file is missing or not a file of tensors.
        ModelError: if it holds another network.
    """
    state = read_state_dict(path, "a .pth checkpoint")
    net = ThirdPartyGenerator()
    problem = _mismatch(net, state)
    if problem is not None:
        raise ModelError(
            f"{path}: {problem}. Of .pth files, only the 4x SRGAN generator of "
            f"{_BLOCKS} blocks and {_FEATURES} features is known; our own networks are "
            ".safetensors or .onnx files."
        )
    net.load_state_dict(state, strict=False)
    return net.eval()


def _mismatch(net: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """What keeps a state from being that of ``net``; None if it fits."""
    expected = {k: v.shape for k, v in net.state_dict().items() if _STATISTICS_COUNTER not in k}
    found = {k: v.shape for k, v in state.items() if _STATISTICS_COUNTER not in k}
    for name in (*expected, *found):
        if name not in found:
            return f"tensor {name!r} is missing"
        if name not in expected:
            return f"tensor {name!r} does not belong to the network"
        if found[name] != expected[name]:
            return f"tensor {name!r} is {found[name]}, expected {tuple(expected[name])}"
    return None
