"""What a finished run tells: frames, speed, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from srtrt.runtime.video.pipeline import StageTime


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run is; given to ``on_progress`` after every frame."""

    frames: int
    """Frames written so far."""
    total: int | None
    """Frames there will be; None if the source does not say."""
    seconds: float
    """Seconds since the first frame was read."""

    @property
    def frames_per_second(self) -> float:
        """Average so far."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate; None while it cannot be made."""
        if self.total is None or self.frames == 0:
            return None
        return max(0, self.total - self.frames) / self.frames_per_second


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One stage of the pipeline."""

    name: str
    """``decode``, ``network`` or ``encode``."""
    busy_seconds: float
    """Seconds of work."""
    waiting_seconds: float
    """Seconds of waiting for other stages."""
    share: float
    """Busy seconds divided by the seconds of the whole run, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """Facts about one finished :func:`upscale_video`."""

    source: str
    """Path of the input."""
    output: str
    """Path of the output."""
    frames: int
    """Frames written; the same number was decoded."""
    width: int
    """Pixels across, of the output."""
    height: int
    """Pixels down, of the output."""
    seconds: float
    """Wall-clock seconds from the first frame read to the last one written."""
    frames_per_second: float
    """``frames`` divided by ``seconds``."""
    stages: tuple[StageReport, ...]
    """Decode, network and encode."""
    bottleneck: str
    """Name of the stage that was busy longest."""
    network: str
    """Model, backend and precision that computed the frames."""
    encoder: str
    """Codec, encoder and its quality."""
    copied_streams: tuple[str, ...]
    """Streams copied without re-encoding."""
    complete: bool
    """False if ``keep_going`` ended the video before its end."""
    damage: str | None
    """Where and how the source broke; None if it did not."""
    notes: tuple[str, ...]
    """Sentences on what was assumed, converted or left behind."""

    @property
    def network_share(self) -> float:
        """Share of the run during which the network was busy, 0 to 1."""
        return next(stage.share for stage in self.stages if stage.name == "network")

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {**asdict(self), "network_share": self.network_share}

    def summary(self) -> str:
        """Two lines for people."""
        shares = ", ".join(f"{s.name} {s.busy_seconds:.1f} s ({s.share:.0%})" for s in self.stages)
        return (
            f"{self.frames} frames to {self.width}x{self.height} in {self.seconds:.1f} s "
            f"({self.frames_per_second:.2f} frames/s), {self.network}, {self.encoder}\n"
            f"{shares}; bottleneck: {self.bottleneck}"
        )


def stage_reports(times: Sequence[StageTime], seconds: float) -> tuple[StageReport, ...]:
    """Rounded times of each stage and their share of the run."""
    return tuple(
        StageReport(
            name=time.name,
            busy_seconds=round(time.busy, 3),
            waiting_seconds=round(time.waiting, 3),
            share=round(min(1.0, time.busy / seconds), 4) if seconds > 0 else 0.0,
        )
        for time in times
    )
