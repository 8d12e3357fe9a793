"""A perceptual distance after LPIPS 0.1, computed from files on disk, without torchvision.

R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness of Deep
Features as a Perceptual Metric" (CVPR 2018): features of a classifier are scaled to unit length
at each position, their squared differences are weighted, averaged over the positions and summed
over seven layers of SqueezeNet 1.1.

The published weights were learned for torchvision's SqueezeNet. The Keras file holds the one
trained in Caffe, whose channels mean something else: applied channel by channel, the weights would
pick channels at random. Each layer therefore counts with the mean of its published weights. The
figures rank models against each other; they are not comparable with LPIPS published elsewhere.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from srtrt.errors import InputError, MissingPackageError
from srtrt.networks.state_dict import read_state_dict
from srtrt.reading import open_plain

NETWORK_FILE = "squeezenet1_1_imagenet_notop.h5"
WEIGHTS_FILE = "lpips_lin_v0.1_squeeze.pth"
DESCRIPTION = (
    "SqueezeNet 1.1 (Caffe weights), layers weighted by the means of the LPIPS 0.1 squeeze "
    "weights; comparable only with figures of the same kind"
)
"""What the figure is, for result files."""

MIN_SIDE = 17
"""Smallest height and width that leave a pixel in the last layer."""

_FIRES: Final = {
    **dict.fromkeys((2, 3), (16, 64)),
    **dict.fromkeys((4, 5), (32, 128)),
    **dict.fromkeys((6, 7), (48, 192)),
    **dict.fromkeys((8, 9), (64, 256)),
}
"""Channels of the squeeze and of each expand convolution: F. N. Iandola et al., "SqueezeNet"
(2016), in the version 1.1 of its authors."""

_STAGES: Final = ((2, 3), (4, 5), (6,), (7,), (8,), (9,))
"""Fire modules before each tap after the first; the first tap is conv1."""

_POOLED_STAGES: Final = 3
"""So many stages begin with a 3x3 maximum of stride 2."""

_TAP_CHANNELS: Final = (64, 128, 256, 384, 384, 512, 512)

_MEAN_BGR: Final = (104.0, 117.0, 123.0)
"""Subtracted from 0..255 BGR in the training of SqueezeNet in Caffe."""

_EPSILON: Final = 1e-10
"""Added to the length of a feature vector, as in LPIPS."""


class Lpips:
    """Perceptual distance of two pictures; smaller is nearer, 0 for equal ones.

    The network takes what it was trained on: BGR in 0..255 less the mean, no padding in the first
    convolution, and pooling windows that may hang over the border. The file names no
    preprocessing; its first layer gives the least weight to channel 0, as trained filters do with
    blue, and with input in -2..2 its last layers would see little but their own biases.
    """

    def __init__(self, folder: Path) -> None:
        """Reads both files of ``folder``.

        Args:
            folder: holds :data:`NETWORK_FILE` and :data:`WEIGHTS_FILE`.

        Raises:
            InputError: if a file is missing or holds something else.
            MissingPackageError: if h5py is not installed.
        """
        network, weights = (_existing(folder, name) for name in (NETWORK_FILE, WEIGHTS_FILE))
        self._convolutions = _read_network(network)
        self._layer_weights = _read_layer_weights(weights)

    @torch.inference_mode()
    def __call__(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
        """The distance of two uint8 RGB pictures ``[H, W, 3]`` of one size.

        Raises:
            ValueError: if shapes or types do not fit, or a side is under 17 pixels.
        """
        for picture in (a, b):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                raise ValueError(f"got {picture.dtype} {picture.shape}; expected uint8 [H, W, 3].")
        if a.shape != b.shape:
            raise ValueError(f"the pictures differ in shape: {a.shape} and {b.shape}.")
        if min(a.shape[:2]) < MIN_SIDE:
            raise ValueError(
                f"LPIPS needs {MIN_SIDE}x{MIN_SIDE} pixels; got {a.shape[1]}x{a.shape[0]}."
            )
        total = 0.0
        taps = zip(self._layer_weights, self._taps(a), self._taps(b), strict=True)
        for weight, first, second in taps:
            difference = (_unit(first) - _unit(second)).square().sum(dim=1)
            total += weight * float(difference.mean())
        return total

    def _taps(self, picture: NDArray[np.uint8]) -> list[Tensor]:
        """The seven feature maps ``[1, C, h, w]`` of a picture."""
        bgr = torch.from_numpy(picture[..., ::-1] - np.array(_MEAN_BGR, np.float32))
        x = self._convolve("conv1", bgr.permute(2, 0, 1)[None], stride=2)
        taps = [x]
        for index, stage in enumerate(_STAGES):
            if index < _POOLED_STAGES:
                x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
            for fire in stage:
                x = self._fire(f"fire{fire}", x)
            taps.append(x)
        return taps

    def _fire(self, name: str, x: Tensor) -> Tensor:
        x = self._convolve(f"{name}/squeeze1x1", x)
        narrow = self._convolve(f"{name}/expand1x1", x)
        return torch.cat([narrow, self._convolve(f"{name}/expand3x3", x, padding=1)], dim=1)

    def _convolve(self, name: str, x: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
        kernel, bias = self._convolutions[name]
        return functional.conv2d(x, kernel, bias, stride=stride, padding=padding).relu_()


def _unit(features: Tensor) -> Tensor:
    length: Tensor = features.square().sum(dim=1, keepdim=True).sqrt()
    return features / (length + _EPSILON)


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    with open_plain(path, f"it, as LPIPS reads {NETWORK_FILE} and {WEIGHTS_FILE} in its folder"):
        return path


def _expected_kernels() -> dict[str, tuple[int, int, int, int]]:
    """Shape of every kernel in the layout of Keras: height, width, inputs, outputs."""
    shapes: dict[str, tuple[int, int, int, int]] = {"conv1": (3, 3, 3, 64)}
    inputs = 64
    for fire, (squeeze, expand) in _FIRES.items():
        shapes[f"fire{fire}/squeeze1x1"] = (1, 1, inputs, squeeze)
        shapes[f"fire{fire}/expand1x1"] = (1, 1, squeeze, expand)
        shapes[f"fire{fire}/expand3x3"] = (3, 3, squeeze, expand)
        inputs = 2 * expand
    return shapes


def _read_network(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Kernel ``[O, I, h, w]`` and bias ``[O]`` of every convolution."""
    try:
        h5py: Any = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise MissingPackageError("h5py", "dev", "LPIPS") from error
    convolutions = {}
    try:
        with h5py.File(path, "r") as file:
            for name, shape in _expected_kernels().items():
                arrays = _arrays(h5py, file, name)
                kernels = [array for array in arrays if array.shape == shape]
                biases = [array for array in arrays if array.shape == shape[3:]]
                if len(kernels) != 1 or len(biases) != 1:
                    raise InputError(
                        f"{path}: layer {name!r} holds {[array.shape for array in arrays]}; "
                        f"expected a kernel {shape} and a bias {shape[3:]} of SqueezeNet 1.1."
                    )
                kernel = np.ascontiguousarray(kernels[0].transpose(3, 2, 0, 1))
                convolutions[name] = (torch.from_numpy(kernel), torch.from_numpy(biases[0]))
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error}).") from error
    return convolutions


def _arrays(h5py: Any, file: Any, name: str) -> list[NDArray[np.float32]]:
    """All arrays below a layer; their own names vary with the version of Keras."""
    found: list[NDArray[np.float32]] = []

    def collect(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(np.asarray(item[()], np.float32))

    if name in file:
        file[name].visititems(collect)
    return found


def _read_layer_weights(path: Path) -> list[float]:
    """The mean of each layer's published weights."""
    state = read_state_dict(path, "the linear layers of LPIPS")
    names = [f"lin{index}.model.1.weight" for index in range(7)]
    if not all(name in state and state[name].is_floating_point() for name in names):
        raise InputError(f"{path}: does not hold the linear layers of LPIPS 0.1 for SqueezeNet.")
    weights = [state[name].flatten() for name in names]
    found = tuple(len(weight) for weight in weights)
    if found != _TAP_CHANNELS:
        raise InputError(f"{path}: its layers have {found} channels; expected {_TAP_CHANNELS}.")
    return [float(weight.mean()) for weight in weights]
