"""VGG19 features up to block3_conv3, for the content loss.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2015, configuration E; layer names follow Keras.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from srtrt.errors import InputError, ModelError

_LAYERS: tuple[tuple[str, int, int], ...] = (
    ("block1_conv1", 3, 64),
    ("block1_conv2", 64, 64),
    ("block2_conv1", 64, 128),
    ("block2_conv2", 128, 128),
    ("block3_conv1", 128, 256),
    ("block3_conv2", 256, 256),
    ("block3_conv3", 256, 256),
)
_POOL_BEFORE = ("block2_conv1", "block3_conv1")

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """Float RGB ``[N, 3, H, W]`` in [0, 1] to the activations of block3_conv3, after ReLU.

    Output ``[N, 256, H/4, W/4]``. The input is normalised inside with the ImageNet mean and
    standard deviation that torchvision's weights were trained with. Frozen, always in eval mode.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for name, inputs, outputs in _LAYERS:
            if name in _POOL_BEFORE:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        # Positions in this list are those of torchvision's vgg19().features.
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to ``[N, 256, H/4, W/4]``."""
        features: Tensor = self.features((x - self.mean) / self.std)
        return features

    def load_weights(self, path: Path) -> None:
        """Loads a torchvision VGG19 state dict; its later layers are ignored.

        Raises:
            InputError: if the file is missing or not a state dict.
            ModelError: if a needed tensor is missing or has another shape.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected torchvision's vgg19-dcbb9e9d.pth.")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
            raise InputError(f"{path}: not a PyTorch state dict.") from error
        own = self.state_dict()
        wrong = [
            key
            for key, tensor in own.items()
            if key not in state or state[key].shape != tensor.shape
        ]
        if wrong:
            raise ModelError(
                f"{path}: tensor {wrong[0]!r} of VGG19 is missing or has another shape; "
                "expected torchvision's vgg19 state dict."
            )
        self.load_state_dict({key: state[key] for key in own})
