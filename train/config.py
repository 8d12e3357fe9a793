"""Typed settings of a training run."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from srtrt.errors import UsageError
from srtrt.networks.generator import GeneratorConfig


@dataclass(frozen=True, kw_only=True)
class PsnrConfig:
    """Settings of the PSNR-oriented stage: the generator alone against a pixel loss.

    Raises:
        UsageError: if a value is out of range; the message names the setting.
    """

    upsampler: Literal["pixelshuffle", "nearest"] = "pixelshuffle"
    """Upsampler of the generator."""
    blocks: int = 16
    """Residual blocks of the generator."""
    features: int = 64
    """Channels of the generator's trunk."""
    steps: int = 100_000
    """Optimiser updates in the whole run; the learning rate reaches zero at the last one."""
    batch: int = 16
    """Patches per update."""
    patch: int = 24
    """Side of an LR patch in pixels; the HR patch is four times as large."""
    recolour: float = 0.2
    """Share of the patches whose channels are each mapped to a random range. Photographs hold few
    saturated colours, and the network shifts colours that it never saw."""
    loss: Literal["l1", "mse"] = "l1"
    """Pixel loss on RGB in 0..1."""
    learning_rate: float = 4e-4
    """Highest learning rate of Adam, reached after the warm-up."""
    warmup_steps: int = 100
    """Updates over which the learning rate rises linearly from zero."""
    ema_decay: float = 0.999
    """Decay per update of the averaged weights, the ones that are kept."""
    seed: int = 0
    """Seed of the initial weights and of every crop."""
    validate_every: int = 1000
    """Updates between two validations; 0 validates only at the end."""
    save_every: int = 500
    """Updates between two saved states to resume from."""
    log_every: int = 100
    """Updates between two lines of the log."""

    def __post_init__(self) -> None:
        self.generator()
        for name in ("steps", "batch", "patch", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1.")
        for name in ("warmup_steps", "validate_every"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if not 0 <= self.recolour <= 1:
            raise UsageError(f"recolour is {self.recolour}; expected a share between 0 and 1.")
        if self.loss not in ("l1", "mse"):
            raise UsageError(f"loss is {self.loss!r}; expected 'l1' or 'mse'.")
        if not 0 < self.learning_rate < 1:
            raise UsageError(f"learning_rate is {self.learning_rate}; expected between 0 and 1.")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"ema_decay is {self.ema_decay}; expected 0 or more and below 1.")

    def generator(self) -> GeneratorConfig:
        """The generator this run trains."""
        return GeneratorConfig(upsampler=self.upsampler, blocks=self.blocks, features=self.features)

    def to_json(self) -> str:
        """The settings as JSON with one field a line."""
        return json.dumps(asdict(self), indent=2)

    def with_settings(self, assignments: Sequence[str]) -> PsnrConfig:
        """A copy changed by texts such as ``batch=8``.

        Raises:
            UsageError: if a key is unknown (the nearest one is named) or a value has another type.
        """
        known = {f.name: type(getattr(self, f.name)) for f in fields(self)}
        changes: dict[str, Any] = {}
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            if not equals:
                raise UsageError(f"--set {assignment!r}: expected key=value, such as batch=8.")
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."
                raise UsageError(f"--set {assignment!r}: unknown setting {key!r}.{hint}")
            try:
                changes[key] = known[key](value)
            except ValueError as error:
                wanted = {int: "a whole number", float: "a number"}[known[key]]
                raise UsageError(f"--set {assignment!r}: expected {wanted}.") from error
        return replace(self, **changes)
