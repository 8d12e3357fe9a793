"""Everything a run needs to go on where it was saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from srtrt.errors import InputError, OutputError, TrainingError, first_line
from srtrt.files import replace_when_complete
from srtrt.networks.generator import Generator
from srtrt.plain_data import DataError, read_json_object, shown
from srtrt.reading import open_plain

STATE_KEY = "srtrt.training_state"
"""Metadata key under which the facts of a state are stored as JSON."""

_SEAL_KEY = "srtrt.sha256"
_SEAL = f'"{_SEAL_KEY}":"'.encode()
"""What stands before the checksum in the header; in values its quotes would be escaped."""

_NO_DIGITS = b"0" * 64
_MOST_HEADER_BYTES = 100_000_000  # that of safetensors itself


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
        """Writes all tensors with ``facts`` and a checksum in the header.

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
                part.write_bytes(sealed(packed, facts))
            except (OSError, SafetensorError) as error:
                raise OutputError(
                    f"{path}: cannot be written ({error}); earlier states are untouched."
                ) from error

    def load(self, path: Path) -> None:
        """Restores the tensors that :meth:`save` wrote; all of them, or none.

        Raises:
            DamagedStateError: if the file is damaged, lacks a tensor or has another one.
        """
        _require_seal(path)
        wanted = self._shapes()
        try:
            with safe_open(path, framework="pt") as file:
                _require_tensors(path, {k: file.get_slice(k) for k in file.keys()}, wanted)  # noqa: SIM118
                tensors = {key: file.get_tensor(key) for key in wanted}
        except (SafetensorError, OSError) as error:
            raise DamagedStateError(path, first_line(error)) from error
        with torch.no_grad():
            for key, value in _under(tensors, "average.").items():
                self.average.tensors[key].copy_(value)
        for name, net in self.networks.items():
            net.load_state_dict(_under(tensors, f"{name}.net."), strict=False)
            self._load_optimiser(self.optimisers[name], _under(tensors, f"{name}.adam."))

    @property
    def size(self) -> int:
        """Bytes of the tensors of a saved state."""
        return sum(4 * shape.numel() for shape in self._shapes().values())

    def _shapes(self) -> dict[str, torch.Size]:
        """The shape of every tensor of a saved state; all are float32."""
        shapes = {f"average.{k}": v.shape for k, v in self.average.tensors.items()}
        for name, net in self.networks.items():
            shapes |= {f"{name}.net.{k}": v.shape for k, v in floats(net).items()}
            for index, parameter in enumerate(net.parameters()):
                adam = f"{name}.adam.{index}."
                shapes |= {f"{adam}{k}": parameter.shape for k in ("exp_avg", "exp_avg_sq")}
                shapes[f"{adam}step"] = torch.Size()
        return shapes

    @staticmethod
    def _load_optimiser(optimiser: torch.optim.Adam, tensors: Mapping[str, Tensor]) -> None:
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            entries.setdefault(int(index), {})[name] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": entries, "param_groups": groups})


class DamagedStateError(TrainingError):
    """A saved state that must not be resumed."""

    def __init__(self, path: Path, reason: str) -> None:
        """Names the file and, in a clause, what is wrong with it."""
        super().__init__(f"{path}: is no intact training state: {reason}.")


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in the header of a saved state.

    Raises:
        DamagedStateError: if any byte of the file is not as it was written.
    """
    _require_seal(path)
    try:
        with safe_open(path, framework="pt") as file:
            return read_json_object((file.metadata() or {}).get(STATE_KEY, ""))
    except (SafetensorError, OSError, DataError) as error:
        raise DamagedStateError(path, first_line(error)) from error


def sealed(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """A safetensors file with the SHA-256 of all its bytes in the metadata of its header.

    While it is computed, the digits of the checksum are zeros.

    Args:
        tensors: on the CPU, contiguous.
        facts: plain values, kept as JSON in the metadata.
    """
    text = json.dumps(dict(facts), allow_nan=False)
    data = save(dict(tensors), metadata={STATE_KEY: text, _SEAL_KEY: _NO_DIGITS.decode()})
    before, mark, rest = data.partition(_SEAL + _NO_DIGITS)
    digits = hashlib.sha256(data).hexdigest().encode()
    return b"".join((before, mark[: len(_SEAL)], digits, rest))


def _require_seal(path: Path) -> None:
    try:
        with open_plain(path, "a saved training state") as file:
            length = file.read(8)
            header = file.read(min(int.from_bytes(length, "little"), _MOST_HEADER_BYTES))
            before, mark, rest = header.partition(_SEAL)
            found, rest = rest[: len(_NO_DIGITS)], rest[len(_NO_DIGITS) :]
            digest = hashlib.sha256(length + before + mark + _NO_DIGITS + rest)
            while block := file.read(1 << 20):
                digest.update(block)
    except (InputError, OSError) as error:
        raise DamagedStateError(path, str(error).rstrip(".")) from error
    if not mark:
        raise DamagedStateError(path, "it has no checksum")
    if found != digest.hexdigest().encode():
        raise DamagedStateError(path, "its checksum is wrong")


def _require_tensors(
    path: Path, found: Mapping[str, Any], wanted: Mapping[str, torch.Size]
) -> None:
    """Compares names, shapes and types before anything is read."""
    for name in [*wanted, *found]:
        if name not in found:
            raise DamagedStateError(path, f"the tensor {shown(name)} is missing")
        if name not in wanted:
            raise DamagedStateError(path, f"the tensor {shown(name)} belongs to no part of the run")
        shape, kind = found[name].get_shape(), found[name].get_dtype()
        if (tuple(shape), kind) != (tuple(wanted[name]), "F32"):
            raise DamagedStateError(
                path, f"the tensor {name} is {kind} {shape}, not F32 {list(wanted[name])}"
            )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
