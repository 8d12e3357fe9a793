"""In which precision a run computes, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from srtrt.processor import this_processor
from srtrt.train.config import TrainConfig
from srtrt.train.distributed import World

RunPrecision = Literal["bf16", "fp32"]

_BF16_CAPABILITY = (8, 0)
"""Compute capability of the first NVIDIA GPUs that multiply in bfloat16 (Ampere)."""


@dataclass(frozen=True)
class Arithmetic:
    """The precision of the networks' passes."""

    precision: RunPrecision
    reason: str
    """Why this one, as the end of a sentence for the user."""

    @classmethod
    def choose(cls, config: TrainConfig, device: torch.device, world: World) -> Arithmetic:
        """What the settings ask for; with ``auto`` what the device is fastest in.

        Several processes compute in bf16 only if each of them is faster in it.
        """
        wanted = config.run.precision
        if wanted != "auto":
            return cls(wanted, f"as run.precision says{_warning(wanted, device)}")
        native, says = bf16_on(device)
        if world.agree(not native):
            return cls("fp32", "another process has no fast bfloat16" if native else says)
        return cls("bf16", says)

    @classmethod
    def kept(cls, precision: RunPrecision, device: torch.device) -> Arithmetic:
        """That of a run that is resumed, whatever this machine would have taken."""
        return cls(precision, f"as the run was started{_warning(precision, device)}")

    def apply(self, config: TrainConfig) -> TrainConfig:
        """The settings with this precision in place of ``auto``."""
        return replace(config, run=replace(config.run, precision=self.precision))

    def __str__(self) -> str:
        return f"training in {self.precision}: {self.reason}"


def bf16_on(device: torch.device) -> tuple[bool, str]:
    """Whether a device is faster in bfloat16 than in float32, and what to say of it."""
    if device.type == "cpu":
        processor = this_processor()
        return processor.faster_in_bf16, processor.says_of_bf16
    if device.type != "cuda":
        return False, f"whether the device {device} computes bfloat16 is not known"
    major, minor = torch.cuda.get_device_capability(device)
    name = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    native = (major, minor) >= _BF16_CAPABILITY
    return native, f"{name} {'computes' if native else 'has no'} bfloat16"


def _warning(precision: RunPrecision, device: torch.device) -> str:
    """What to know of bf16 on a device that is not fast in it."""
    native, says = bf16_on(device)
    if precision == "fp32" or native:
        return ""
    emulated = device.type == "cuda" or (device.type == "cpu" and not this_processor().bf16)
    return f"; {says}{', so it is emulated, several times slower than fp32' if emulated else ''}"
