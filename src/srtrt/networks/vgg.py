"""VGG19 features, for the content loss: frozen, differentiable with respect to the picture.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2015, configuration E; layer names follow Keras. Two layouts of weights are read:

- torchvision's: zero padding, input normalised with the ImageNet mean and standard deviation;
- normalised (Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks",
  CVPR 2016: every layer scaled to a mean activation of one), in the form of Huang and Belongie,
  "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017: a 1x1
  convolution prepares the input, padding is by reflection, and pools round sizes up.
"""

from __future__ import annotations

import http.client
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrt.errors import InputError, ModelError
from srtrt.files import cache_folder, file_sha256
from srtrt.networks.state_dict import read_state_dict
from srtrt.terminal import say

LAYERS: tuple[str, ...] = tuple(
    f"block{block}_conv{number}"
    for block, convolutions in enumerate((2, 2, 4, 4, 4), 1)
    for number in range(1, convolutions + 1)
)
"""The convolutions of VGG19 from first to last; features are taken after their ReLU."""

WEIGHTS_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
"""torchvision's weights, 548 MiB; the name ends in the start of the file's SHA-256."""

WEIGHTS_SHA256 = "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"
"""The whole of it, as projects that pin the file publish it."""

_CHANNELS = (3, 64, 128, 256, 512, 512)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """Float RGB ``[N, 3, H, W]`` in [0, 1] to the activations of one layer, after its ReLU.

    Output ``[N, C, h, w]``: C is 64, 128, 256, 512, 512 for blocks 1 to 5, and every block after
    the first halves the size. The input is prepared inside, in float32 also under autocast:

    - torchvision's layout: ``(x - mean) / std`` with the ImageNet figures of its training; odd
      sizes are rounded down by the pools;
    - normalised layout: by the 1x1 convolution in the file (the published one gives BGR in 0..255
      less the ImageNet mean); odd sizes are rounded up.

    Frozen, always in eval mode; gradients flow to the input. The weights are random until
    ``load_weights``; use ``load_vgg`` to get the network that fits a file.

    Attributes:
        layer: the layer's name.
        smallest: shortest side, in pixels, of a picture it takes.
        sha256: of the file the weights come from, in hexadecimal; empty without one.

    Raises:
        ModelError: if there is no such layer, or a picture is too small for it.
    """

    input_weight: Tensor
    input_bias: Tensor

    def __init__(self, layer: str = "block3_conv3", *, normalised: bool = False) -> None:
        super().__init__()
        _check_layer(layer)
        self.layer = layer
        self.normalised = normalised
        self.sha256 = ""
        pools = _block(layer) - 1
        self.smallest = 2**pools + 1 if normalised else 2**pools
        self.features = nn.Sequential(*_modules(layer, normalised))
        std = torch.tensor(_IMAGENET_STD)
        # Not in the state dict: torchvision's has no such tensors.
        self.register_buffer("input_weight", torch.diag(1 / std).view(3, 3, 1, 1), False)
        self.register_buffer("input_bias", -torch.tensor(_IMAGENET_MEAN) / std, False)
        self.requires_grad_(False)
        self.eval()

    @property
    def layout(self) -> str:
        """``torchvision`` or ``normalised``."""
        return "normalised" if self.normalised else "torchvision"

    def train(self, mode: bool = True) -> VggFeatures:
        """Stays in eval mode, whatever the network around it does."""
        super().train(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Pictures ``[N, 3, H, W]`` to activations ``[N, C, h, w]``."""
        self.require_size(x.shape[2], x.shape[3])
        # Half precision would round the picture itself, before it is centred on zero.
        with torch.autocast(x.device.type, enabled=False):
            x = functional.conv2d(x.to(self.input_weight.dtype), self.input_weight, self.input_bias)
        features: Tensor = self.features(x)
        return features

    def require_size(self, height: int, width: int) -> None:
        """Refuses pictures that are too small for the layer.

        Raises:
            ModelError: with the least size.
        """
        if min(height, width) < self.smallest:
            raise ModelError(
                f"content network input is {width}x{height}; {self.layer} needs at "
                f"least {self.smallest}x{self.smallest} pixels."
            )

    def load_weights(self, path: Path) -> None:
        """Loads a state dict of this network's layout; layers after the chosen one are ignored.

        Raises:
            InputError: if the file is missing or not a state dict.
            ModelError: if it is another network, or ends before the chosen layer.
        """
        _fill(self, _read_state(path), str(path))
        self.sha256 = file_sha256(path)


def load_vgg(source: Path | None, layer: str) -> VggFeatures:
    """The content network up to ``layer``, with the weights of a file, on the CPU in float32.

    The layout is recognised from the file: torchvision's VGG19 state dict, whole or truncated,
    with or without the prefix ``features.``; or the normalised VGG19, whole or truncated.

    Args:
        source: the file; None for torchvision's weights, which are downloaded once into
            ``$SRTRT_CACHE/vgg``, else ``$XDG_CACHE_HOME/srtrt/vgg``, else ``~/.cache/srtrt/vgg``.
        layer: one of ``LAYERS``; the features are those after its ReLU.

    Returns:
        Float RGB ``[N, 3, H, W]`` in [0, 1] to activations ``[N, C, h, w]``; it knows layout and
        checksum of its file.

    Raises:
        InputError: if the file is missing or not a state dict, or the download fails.
        ModelError: if the layer is unknown, the file is another network, it ends before the layer,
            or holds a weight that is not finite.
    """
    _check_layer(layer)  # before a download of minutes
    if source is None:
        state, name = _downloaded_state(), WEIGHTS_URL.rsplit("/", 1)[1]
    else:
        state, name = _read_state(source), str(source)
    first = state.get(f"{_prefix(state)}0.weight")
    # torchvision's first tensor is conv1_1 itself, [64, 3, 3, 3].
    net = VggFeatures(layer, normalised=first is not None and first.shape == (3, 3, 1, 1))
    _fill(net, state, name)
    net.sha256 = WEIGHTS_SHA256 if source is None else file_sha256(source)
    return net


def _check_layer(layer: str) -> None:
    if layer not in LAYERS:
        raise ModelError(
            f"loss.content_layer is {layer!r}; expected a convolution of VGG19 "
            f"({LAYERS[0]} to {LAYERS[-1]}), such as block3_conv3."
        )


def _block(layer: str) -> int:
    return int(layer[len("block")])


def _modules(layer: str, normalised: bool) -> list[nn.Module]:
    """The network up to the ReLU of ``layer``, each module at its position in the file's keys."""
    modules: list[nn.Module] = [nn.Identity()] if normalised else []
    inputs = _CHANNELS[0]
    for name in LAYERS[: LAYERS.index(layer) + 1]:
        if name.endswith("conv1") and name != LAYERS[0]:
            modules.append(nn.MaxPool2d(2, ceil_mode=normalised))
        if normalised:
            modules.append(nn.ReflectionPad2d(1))
        outputs = _CHANNELS[_block(name)]
        modules += [nn.Conv2d(inputs, outputs, 3, padding=0 if normalised else 1), nn.ReLU()]
        inputs = outputs
    return modules


def _prefix(state: Mapping[str, Tensor]) -> str:
    return "" if "0.weight" in state else "features."


def _fill(net: VggFeatures, state: Mapping[str, Tensor], source: str) -> None:
    """Checks the tensors one by one, so that the message names the first that does not fit."""
    prefix = _prefix(state)
    wanted = net.features.state_dict()
    if net.normalised:
        wanted = {"0.weight": net.input_weight, "0.bias": net.input_bias, **wanted}
    with torch.device("meta"):
        whole = nn.Sequential(*_modules(LAYERS[-1], net.normalised)).state_dict()
    for key in state:
        match = re.fullmatch(rf"{re.escape(prefix)}(\d+\..+)", key)
        if match and match[1] not in whole and match[1] not in wanted:
            raise ModelError(
                f"{source}: tensor {key!r} does not belong to VGG19. Expected torchvision's "
                "vgg19 state dict (not vgg16, not vgg19_bn) or the normalised VGG19."
            )
    # Weight and bias of each layer in turn; those of the normalised input come before the first.
    per_layer = [2 * (index + 1 + net.normalised) for index in range(len(LAYERS))]
    for index, (key, tensor) in enumerate(wanted.items()):
        found = state.get(prefix + key)
        if found is None:
            held = sum(count <= index for count in per_layer)
            raise ModelError(_missing(net.layer, held, prefix + key, source))
        if found.shape != tensor.shape or not found.is_floating_point():
            raise ModelError(
                f"{source}: tensor {prefix + key!r} is {found.dtype} {list(found.shape)}; "
                f"expected floats {list(tensor.shape)}, as in VGG19."
            )
        if not found.isfinite().all():
            raise ModelError(
                f"{source}: tensor {prefix + key!r} holds numbers that are not finite; the file is "
                "damaged. Get it again."
            )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(state[prefix + key])


def _missing(layer: str, held: int, key: str, source: str) -> str:
    if held == 0:
        return (
            f"{source}: tensor {key!r} of VGG19 is missing; expected torchvision's vgg19 state "
            "dict or the normalised VGG19, whole or its first layers."
        )
    deepest = LAYERS[held - 1]
    return (
        f"{source}: holds VGG19 up to {deepest}; loss.content_layer is {layer}. Set "
        f"loss.content_layer to {deepest} or an earlier layer, or give a file that reaches {layer}."
    )


def _read_state(path: Path) -> dict[str, Tensor]:
    name = WEIGHTS_URL.rsplit("/", 1)[1]
    return read_state_dict(path, f"the weights of VGG19, such as torchvision's {name}")


def _downloaded_state() -> dict[str, Tensor]:
    """torchvision's state dict, from the cache if the file there is the right one."""
    name = WEIGHTS_URL.rsplit("/", 1)[1]
    path = cache_folder("vgg") / name
    try:
        if path.is_file():
            if file_sha256(path) == WEIGHTS_SHA256:
                return _read_state(path)
            path.unlink()  # such as a copy that broke off
        path.parent.mkdir(parents=True, exist_ok=True)
        say(f"downloading {WEIGHTS_URL} to {path}")
        # It puts the file in place once its checksum, here the whole of it, is right.
        torch.hub.download_url_to_file(
            WEIGHTS_URL, str(path), WEIGHTS_SHA256, progress=sys.stderr.isatty()
        )
    except (RuntimeError, OSError, ValueError, http.client.HTTPException) as error:
        raise InputError(
            f"the content network's weights could not be downloaded ({error}). Get {WEIGHTS_URL} "
            f"on a machine with a connection and put it at {path}, or give a local file of VGG19 "
            "weights with --vgg FILE; it may be truncated after the layer that is needed."
        ) from error
    return _read_state(path)
