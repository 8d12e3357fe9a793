"""Everything a run needs to go on exactly where it was saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from srtrt.errors import OutputError, TrainingError
from srtrt.files import replace_when_complete
from srtrt.networks.generator import Generator

STATE_KEY = "srtrt.training_state"


class Average:
    """Exponential moving average of a network's parameters and BatchNorm statistics.

    The decay rises from 0.1 to its final value, ``min(decay, (1 + n) / (10 + n))`` after ``n``
    updates, so that the first steps of a run do not linger.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {k: v.detach().clone() for k, v in floats(net).items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Moves the average towards the network after update number ``step`` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        ours, theirs = list(self.tensors.values()), list(floats(net).values())
        torch._foreach_lerp_(ours, theirs, weight)

    def network(self, net: Generator) -> Generator:
        """A copy of the network with the averaged tensors, in eval mode."""
        copy = Generator(net.config)
        copy.load_state_dict(self.tensors, strict=False)
        return copy.eval()


def floats(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and BatchNorm statistics, without the counters."""
    return {k: v for k, v in net.state_dict().items() if v.is_floating_point()}


class TrainingState:
    """The networks, optimisers and average of a run, as one safetensors file."""

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        optimisers: Mapping[str, torch.optim.Adam],
        average: Average,
    ) -> None:
        """Names what belongs together: ``optimisers`` has the same keys as ``networks``."""
        self.networks, self.optimisers, self.average = networks, optimisers, average

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes all tensors with ``facts`` in the header.

        Raises:
            OutputError: if it cannot be written; no partial file is left.
        """
        tensors = {f"average.{k}": v for k, v in self.average.tensors.items()}
        for name, net in self.networks.items():
            tensors |= {f"{name}.net.{k}": v for k, v in floats(net).items()}
            for index, entry in self.optimisers[name].state_dict()["state"].items():
                tensors |= {f"{name}.adam.{index}.{k}": v for k, v in entry.items()}
        packed = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        with replace_when_complete(path) as part:
            try:
                # Not save_file, which puts another file in place of the one that is there.
                part.write_bytes(save(packed, metadata={STATE_KEY: json.dumps(dict(facts))}))
            except (OSError, SafetensorError) as error:
                raise OutputError(
                    f"{path}: cannot be written ({error}); earlier states are untouched."
                ) from error

    def load(self, path: Path) -> None:
        """Restores the tensors that :meth:`save` wrote.

        Raises:
            TrainingError: if the file is damaged or of other networks.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            with torch.no_grad():
                for key, value in _under(tensors, "average.").items():
                    self.average.tensors[key].copy_(value)
            for name, net in self.networks.items():
                net.load_state_dict(_under(tensors, f"{name}.net."), strict=False)
                self._load_optimiser(self.optimisers[name], _under(tensors, f"{name}.adam."))
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise TrainingError(f"{path}: cannot be resumed ({error}).") from error

    @staticmethod
    def _load_optimiser(optimiser: torch.optim.Adam, tensors: Mapping[str, Tensor]) -> None:
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            entries.setdefault(int(index), {})[name] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": entries, "param_groups": groups})


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in the header of a saved state.

    Raises:
        TrainingError: if the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[STATE_KEY])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: is not a saved training state ({error}).") from error
    return facts


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
