"""Generator checkpoints: safetensors files that carry their ModelSpec."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from srtrt.errors import InputError, ModelError, OutputError
from srtrt.files import replace_when_complete
from srtrt.networks.generator import Generator, GeneratorConfig
from srtrt.spec import SPEC_KEY, ModelSpec


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

    Raises:
        InputError: if the file is missing or not a safetensors file.
        ModelError: if its spec is missing or disagrees with its tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; expected a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}).") from error
    if SPEC_KEY not in metadata:
        raise ModelError(
            f"{path}: carries no srtrt spec, so its network is unknown. "
            "Expected a checkpoint written by `srtrt train`."
        )
    spec = ModelSpec.from_json(metadata[SPEC_KEY], source=str(path))
    if spec.weights_sha256 != weights_sha256(state):
        raise ModelError(f"{path}: its tensors are not the ones its spec was written for.")
    net = Generator(GeneratorConfig.from_dict(dict(spec.config)))
    try:
        missing, unexpected = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{path}: {str(error).splitlines()[-1].strip()}") from error
    wrong = [k for k in missing if not k.endswith("num_batches_tracked")] + list(unexpected)
    if wrong:
        raise ModelError(f"{path}: tensor {wrong[0]!r} does not belong to the network of its spec.")
    return net.eval(), spec


@torch.no_grad()
def parameter_counts(net: torch.nn.Module) -> tuple[int, int]:
    """Number of trainable parameters, and of BatchNorm statistics."""
    trainable = sum(p.numel() for p in net.parameters())
    statistics = sum(b.numel() for n, b in net.named_buffers() if "running_" in n)
    return trainable, statistics
