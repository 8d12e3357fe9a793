"""What a run reports while it trains, and when it has finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands."""

    step: int
    """Updates done so far."""
    steps: int
    """Updates in the whole run."""
    epoch: float
    """Epochs so far, as ``schedule.epoch`` counts them."""
    losses: dict[str, float]
    """Mean of each loss since the last report; ``generator`` is the weighted sum."""
    seconds_per_step: float
    """Mean time of an update since the last report."""
    psnr: float | None
    """Newest validation PSNR in dB of the averaged weights, if there was one."""

    @property
    def eta_seconds(self) -> float:
        """Expected time until the last update."""
        return (self.steps - self.step) * self.seconds_per_step


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a finished run left behind."""

    checkpoint: Path
    """The averaged weights with their spec."""
    steps: int
    """Updates done."""
    finished: bool
    """False if it was asked to stop early."""
    psnr: float | None
    """Validation PSNR in dB of the averaged weights, if there were validation pictures."""
