"""Generator checkpoints: safetensors files that carry their ModelSpec."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from srtrt.errors import InputError, ModelError, OutputError, first_line
from srtrt.files import replace_when_complete
from srtrt.networks.generator import Generator, GeneratorConfig
from srtrt.plain_data import shown
from srtrt.reading import open_plain
from srtrt.spec import SPEC_KEY, ModelSpec

MAX_FILE_BYTES = 1 << 29
"""Largest file that is read."""

_TYPES = ("F16", "BF16", "F32")


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values of the tensors, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def generator_state(net: Generator) -> dict[str, Tensor]:
    """Parameters and BatchNorm statistics; the step counters of BatchNorm are left out."""
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def make_spec(
    state: Mapping[str, Tensor], config: GeneratorConfig, name: str, **facts: Any
) -> ModelSpec:
    """The spec of a generator with this state; ``facts`` are further ModelSpec fields."""
    return ModelSpec(
        name=name,
        config=config.to_dict(),
        scale=config.scale,
        receptive_radius=config.receptive_radius,
        weights_sha256=weights_sha256(state),
        **facts,
    )


def save_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    spec: ModelSpec,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors, spec and further metadata; the file appears only when complete.

    Raises:
        OutputError: if the file cannot be written.
    """
    with replace_when_complete(path) as part:
        try:
            metadata = {**(extra or {}), SPEC_KEY: spec.to_json()}
            # Not save_file, which makes files that nobody else may read.
            part.write_bytes(save(dict(state), metadata=metadata))
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{path}: cannot be written ({error}).") from error


def round_to_half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as float16 for a file of half the size; BatchNorm statistics stay float32."""
    return {name: tensor if "running_" in name else tensor.half() for name, tensor in state.items()}


def load_checkpoint(path: Path) -> tuple[Generator, ModelSpec]:
    """Rebuilds a generator from its checkpoint, in eval mode, float32, on the CPU.

    Nothing is built before the sizes that the spec claims are those of the tensors.

    Raises:
        InputError: if the file is missing or not a safetensors file.
        ModelError: if its spec is missing or disagrees with its tensors.
    """
    spec, state = _read(path)
    try:
        config = GeneratorConfig.from_dict(dict(spec.config))
    except ModelError as error:
        raise ModelError(f"{path}: its spec is wrong: {error}") from error
    _require_sizes(path, config, {name: tensor.shape for name, tensor in state.items()})
    for name, claimed, real in (
        ("scale", spec.scale, config.scale),
        ("receptive radius", spec.receptive_radius, config.receptive_radius),
    ):
        if claimed != real:
            raise ModelError(
                f"{path}: its spec says {name} {claimed}; a network of the sizes that it names has "
                f"{real}."
            )
    if spec.weights_sha256 != weights_sha256(state):
        raise ModelError(f"{path}: its tensors are not the ones its spec was written for.")
    net = Generator(config)
    net.load_state_dict(state, strict=False)
    return net.eval(), spec


def _read(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The spec and the tensors, as float32."""
    with open_plain(path, "a .safetensors checkpoint") as file:
        size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"{path}: {size / 2**20:.0f} MiB; expected a checkpoint of at most "
            f"{MAX_FILE_BYTES >> 20} MiB."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if SPEC_KEY not in metadata:
                raise ModelError(
                    f"{path}: carries no srtrt spec, so its network is unknown. "
                    "Expected a checkpoint written by `srtrt train`."
                )
            spec = ModelSpec.from_json(metadata[SPEC_KEY], source=str(path))
            for key in file.keys():  # noqa: SIM118
                kind = file.get_slice(key).get_dtype()
                if kind not in _TYPES:
                    raise ModelError(
                        f"{path}: tensor {shown(key)} is {kind}; expected {', '.join(_TYPES)}."
                    )
            return spec, {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({first_line(error)})."
        ) from error


def _require_sizes(path: Path, config: GeneratorConfig, found: Mapping[str, torch.Size]) -> None:
    """Compares the sizes of a configuration with those of tensors, one block standing for all."""
    features = found.get("head.weight", torch.Size([0]))[:1].numel()
    blocks = len({name.split(".")[1] for name in found if name.startswith("blocks.")})
    for name, claimed, held in (
        ("blocks", config.blocks, blocks),
        ("features", config.features, features),
    ):
        if claimed != held:
            raise ModelError(
                f"{path}: its spec says {claimed} {name}, and its tensors are of {held}."
            )
    with torch.device("meta"):
        shapes = Generator(replace(config, blocks=1)).state_dict()
    wanted = {
        name.replace("blocks.0.", f"blocks.{block}."): tensor.shape
        for name, tensor in shapes.items()
        if not name.endswith("num_batches_tracked")
        for block in (range(blocks) if name.startswith("blocks.") else range(1))
    }
    for name in [*wanted, *found]:
        if name not in wanted or name not in found:
            missing, stray = "is missing", "does not belong to the network of its spec"
            raise ModelError(
                f"{path}: tensor {shown(name)} {missing if name in wanted else stray}."
            )
        if wanted[name] != found[name]:
            raise ModelError(
                f"{path}: tensor {name} has the shape {list(found[name])}; the network of its spec "
                f"has {list(wanted[name])}."
            )


@torch.no_grad()
def parameter_counts(net: torch.nn.Module) -> tuple[int, int]:
    """Number of trainable parameters, and of BatchNorm statistics."""
    trainable = sum(p.numel() for p in net.parameters())
    statistics = sum(b.numel() for n, b in net.named_buffers() if "running_" in n)
    return trainable, statistics
