"""The networks of a run as it starts."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from srtrt.errors import TrainingError
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.networks.discriminator import Discriminator, PatchDiscriminator
from srtrt.networks.generator import Generator
from srtrt.networks.initialise import initialise_as_interpolation, initialise_plainly
from srtrt.train.config import TrainConfig


def build_generator(config: TrainConfig, init: Path | None) -> Generator:
    """The generator of the settings, with the weights of a checkpoint or its first ones.

    Raises:
        TrainingError: if the checkpoint holds a generator of other sizes.
        InputError, ModelError: see :func:`srtrt.networks.checkpoint.load_checkpoint`.
    """
    if init is None:
        net = Generator(config.generator)
        plain = config.run.initialisation == "plain"
        (initialise_plainly if plain else initialise_as_interpolation)(net)
        return net
    start, _ = load_checkpoint(init)
    if start.config != config.generator:
        raise TrainingError(
            f"{init} holds {start.config}; the settings ask for {config.generator}. "
            "Give the same generator.blocks, features and upsampler with --set."
        )
    return start


def build_discriminator(config: TrainConfig) -> nn.Module | None:
    """The discriminator a run needs, or None."""
    if config.loss.adversarial_weight == 0:
        return None
    net: nn.Module
    if config.discriminator.head == "dense":
        net = Discriminator(4 * config.data.patch)
    else:
        net = PatchDiscriminator(config.discriminator.features)
    if config.run.initialisation == "plain":
        initialise_plainly(net)
    return net
