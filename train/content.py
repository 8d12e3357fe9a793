"""The content network of a run: loaded, told apart from others, and kept when a run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from srtrt.errors import TrainingError
from srtrt.networks.vgg import VggFeatures, load_vgg
from srtrt.train.config import TrainConfig
from srtrt.train.run_folder import RunFolder


def load_content(config: TrainConfig, vgg: Path | None) -> nn.Module | None:
    """The content network that the settings ask for; None without a content loss.

    Args:
        config: settings of the run.
        vgg: file of VGG19's weights; None downloads torchvision's.

    Raises:
        InputError, ModelError: see :func:`srtrt.networks.vgg.load_vgg`; ModelError, too, if the
            patches are too small for the layer.
    """
    if config.loss.content_weight == 0:
        return None
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
    if not loss.content_weight or not loss.content_sha256:
        return {}
    return {
        "content": {
            "network": "VGG19",
            "layer": loss.content_layer,
            "layout": loss.content_layout,
            "sha256": loss.content_sha256,
        }
    }
