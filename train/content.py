"""The content network of a run: loaded, told apart from others, and kept when a run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from srtrt.errors import TrainingError, UsageError
from srtrt.networks.vgg import VggFeatures, load_vgg
from srtrt.perceptual import load_lpips, vgg16_features
from srtrt.perceptual.weights import LPIPS_PACKAGE
from srtrt.train.config import TrainConfig
from srtrt.train.run_folder import RunFolder

_NETWORKS = {
    "vgg16": f"VGG16, torchvision's weights in {LPIPS_PACKAGE}",
    "lpips": f"LPIPS 0.1 over VGG16, weights in {LPIPS_PACKAGE}",
}


def load_content(config: TrainConfig, vgg: Path | None) -> nn.Module | None:
    """The content network that the settings ask for; None without a content loss.

    Args:
        config: settings of the run.
        vgg: file of VGG19's weights; None downloads torchvision's.

    Returns:
        For ``vgg19`` and ``vgg16`` the features of a layer: RGB ``[N, 3, H, W]`` in [0, 1] to
        ``[N, C, h, w]``. For ``lpips`` the distance ``[N]`` of two such batches, over VGG16. All
        are frozen, and differentiable with respect to the pictures.

    Raises:
        InputError, ModelError: see :func:`srtrt.networks.vgg.load_vgg`; ModelError, too, if the
            patches are too small for the layer.
        MissingPackageError: if the package that holds VGG16 and LPIPS is not installed.
        UsageError: if a file of VGG19 is given for another network.
    """
    loss = config.loss
    if loss.content_weight == 0:
        return None
    if loss.content_network != "vgg19" and vgg is not None:
        raise UsageError(
            f"--vgg {vgg}: expected none with loss.content_network {loss.content_network}, whose "
            "weights a package holds. Leave it out, or set loss.content_network=vgg19."
        )
    if loss.content_network == "lpips":
        return load_lpips("vgg")
    if loss.content_network == "vgg16":
        return vgg16_features(loss.content_layer)
    network = load_vgg(vgg, config.loss.content_layer)
    network.require_size(4 * config.data.patch, 4 * config.data.patch)
    return network


def with_content(config: TrainConfig, content: nn.Module | None) -> TrainConfig:
    """The settings with checksum and layout of the content network's file.

    Raises:
        TrainingError: if they name another file.
    """
    if not isinstance(content, VggFeatures) or not content.sha256:
        return config
    found = {"content_sha256": content.sha256, "content_layout": content.layout}
    for name, value in found.items():
        wanted = getattr(config.loss, name)
        if wanted not in ("", value):
            raise TrainingError(
                f"the VGG19 weights given have SHA-256 {content.sha256} ({content.layout}), and "
                f"loss.{name} is {wanted}: a run goes on with the file it was started with. Give "
                "that file with --vgg, or start a new run with another --out."
            )
    loss = replace(config.loss, content_sha256=content.sha256, content_layout=content.layout)
    return replace(config, loss=loss)


def with_content_of(config: TrainConfig, folder: RunFolder) -> TrainConfig:
    """The settings with the content network's file that a run was started with, if it is known."""
    known = folder.started_with("loss.content_sha256")
    if not isinstance(known, str):
        return config
    return replace(config, loss=replace(config.loss, content_sha256=known))


def content_facts(config: TrainConfig) -> dict[str, Any]:
    """What a manifest says of the content network; nothing without one."""
    loss = config.loss
    if not loss.content_weight:
        return {}
    if loss.content_network != "vgg19":
        layer = {"layer": loss.content_layer} if loss.content_network == "vgg16" else {}
        return {"content": {"network": _NETWORKS[loss.content_network], **layer}}
    if not loss.content_sha256:
        return {}
    return {
        "content": {
            "network": "VGG19",
            "layer": loss.content_layer,
            "layout": loss.content_layout,
            "sha256": loss.content_sha256,
        }
    }
