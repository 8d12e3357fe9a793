"""Everything a run needs to go on exactly where it was saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from srtrt.errors import OutputError, TrainingError
from srtrt.files import replace_when_complete
from srtrt.networks.generator import Generator

STATE_KEY = "srtrt.training_state"


class Average:
    """Exponential moving average of a network's parameters and BatchNorm statistics.

    The decay rises from 0.1 to its final value, ``min(decay, (1 + n) / (10 + n))`` after ``n``
    updates, so that the first steps of a run do not linger.
    """

    def __init__(self, net: Generator, decay: float) -> None:
        self.decay = decay
        self.tensors = {k: v.detach().clone() for k, v in _floats(net).items()}

    @torch.no_grad()
    def update(self, net: Generator, step: int) -> None:
        """Moves the average towards the network after update number ``step`` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        ours, theirs = list(self.tensors.values()), list(_floats(net).values())
        torch._foreach_lerp_(ours, theirs, weight)

    def network(self, net: Generator) -> Generator:
        """A copy of the network with the averaged tensors, in eval mode."""
        copy = Generator(net.config)
        copy.load_state_dict(self.tensors, strict=False)
        return copy.eval()


def _floats(net: Generator) -> dict[str, Tensor]:
    return {k: v for k, v in net.state_dict().items() if v.is_floating_point()}


def save_state(
    path: Path,
    net: Generator,
    optimiser: torch.optim.Adam,
    average: Average,
    facts: dict[str, Any],
) -> None:
    """Writes network, optimiser and average as one safetensors file with ``facts`` in its header.

    Raises:
        OutputError: if it cannot be written; an earlier state stays as it was.
    """
    tensors = {f"net.{k}": v for k, v in _floats(net).items()}
    tensors |= {f"ema.{k}": v for k, v in average.tensors.items()}
    for index, entry in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": v for k, v in entry.items()}
    packed = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with replace_when_complete(path) as part:
        try:
            save_file(packed, part, metadata={STATE_KEY: json.dumps(facts)})
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{path}: cannot be written ({error}).") from error


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in the header of a saved state.

    Raises:
        TrainingError: if the file is missing or damaged.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: nothing to resume from; start without --resume.")
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[STATE_KEY])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: is not a saved training state ({error}).") from error
    return facts


def load_state(path: Path, net: Generator, optimiser: torch.optim.Adam, average: Average) -> None:
    """Restores the tensors that :func:`save_state` wrote.

    Raises:
        TrainingError: if the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        net.load_state_dict(_under(tensors, "net."), strict=False)
        with torch.no_grad():
            for key, value in _under(tensors, "ema.").items():
                average.tensors[key].copy_(value)
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, "adam.").items():
            index, _, name = key.partition(".")
            entries.setdefault(int(index), {})[name] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": entries, "param_groups": groups})
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{path}: cannot be resumed ({error}).") from error


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
