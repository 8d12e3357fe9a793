"""Weights at a constant learning rate, from which later training goes on.

One float16 checkpoint for each bundled model, beside the training code and in no wheel. A bundled
model is what a decay made of such weights; going on from there would begin where steps are small.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from srtrt.errors import InputError, ModelError, OutputError, TrainingError, first_line
from srtrt.files import replace_when_complete
from srtrt.networks.checkpoint import (
    generator_state,
    load_checkpoint,
    make_spec,
    round_to_half,
    save_checkpoint,
)
from srtrt.networks.generator import Generator
from srtrt.train.state import floats

_SETTINGS = "srtrt.discriminator"
_MOST_UPDATES = 10**12


@dataclass(frozen=True, kw_only=True)
class StoredFacts:
    """How far the stored weights of a model have come."""

    updates: int
    """Updates so far, those of all runs together."""
    hours: float | None
    """Hours of training that were recorded; None if none were."""
    machine: str
    """What they were trained on, the last machine."""
    settings: Mapping[str, Any]
    """Settings of the last run, section by section."""
    manifest_sha256: str
    """SHA-256 of the manifest of the pictures, see :func:`manifest_sha256`."""
    note: str = ""
    """What else there is to know."""


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over a manifest of pictures as JSON with sorted keys, without blanks."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_stored(path: Path, net: Generator, facts: StoredFacts) -> None:
    """Writes the weights of a model in float16, BatchNorm statistics in float32.

    Raises:
        OutputError: if the file cannot be written.
    """
    state = round_to_half(generator_state(net))
    save_checkpoint(path, state, make_spec(state, net.config, path.stem, training=asdict(facts)))


def read_stored(path: Path) -> tuple[Generator, StoredFacts]:
    """What :func:`write_stored` wrote.

    Raises:
        InputError: if the file is missing or no checkpoint.
        ModelError: if it does not say how far it has come.
    """
    net, spec = load_checkpoint(path)
    try:
        facts = StoredFacts(**spec.training)
        numbers = type(facts.updates) is int and isinstance(facts.hours, (int, float, type(None)))
    except TypeError as error:
        raise ModelError(
            f"{path}: does not say how it was trained ({first_line(error)})."
        ) from error
    if not (numbers and 0 <= facts.updates < _MOST_UPDATES):
        raise ModelError(f"{path}: says that it has done {facts.updates!r} updates.")
    return net, facts


def discriminator_path(stored: Path) -> Path:
    """Where the discriminator of an adversarial model is stored."""
    return stored.with_name(f"{stored.stem}-discriminator.safetensors")


def write_discriminator(path: Path, net: nn.Module, settings: Mapping[str, Any]) -> None:
    """Writes a discriminator in float16, BatchNorm statistics in float32.

    Raises:
        OutputError: if the file cannot be written.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in round_to_half(floats(net)).items()}
    with replace_when_complete(path) as part:
        try:
            part.write_bytes(save(state, metadata={_SETTINGS: json.dumps(dict(settings))}))
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{path}: cannot be written ({error}).") from error


def load_discriminator(path: Path, net: nn.Module) -> None:
    """Gives a discriminator the stored weights.

    Raises:
        InputError: if the file cannot be read.
        TrainingError: if it is of another size.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}).") from error
    wanted = {key: value.shape for key, value in floats(net).items()}
    if {key: value.shape for key, value in state.items()} != wanted:
        raise TrainingError(
            f"{path}: is of another size than the settings ask for; give the same "
            "discriminator.features and head with --set, or remove it to start a new one."
        )
    with torch.no_grad():
        net.load_state_dict(state, strict=False)
