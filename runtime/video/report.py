"""What a finished run tells: frames, speed, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from srtrt.runtime.video.pipeline import StageTime
from srtrt.runtime.video.plan import Estimate, VideoPlan
from srtrt.runtime.words import byte_size, counted, duration


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
class VideoReport(VideoPlan):
    """Facts about one finished :func:`upscale_video`: its plan, and what came of it.

    ``notes`` are those of the plan and what was found later.
    """

    estimate: Estimate | None
    """How long it was expected to take; None if the number of frames was unknown."""
    frames: int
    """Frames written; the same number was decoded."""
    startup_seconds: float
    """Wall-clock seconds before the first frame: opening, compiling, building, verifying."""
    seconds: float
    """Wall-clock seconds from the first frame read to the finished and checked file."""
    frames_per_second: float
    """``frames`` divided by ``seconds``."""
    encoded_bytes: int
    """Bytes of the video stream."""
    stages: tuple[StageReport, ...]
    """Decode, network and encode."""
    bottleneck: str
    """Name of the stage that was busy longest."""
    complete: bool
    """False if ``keep_going`` ended the video before its end."""
    damage: str | None
    """Where and how the source broke; None if it did not."""

    @property
    def network_share(self) -> float:
        """Share of the run during which the network was busy, 0 to 1."""
        return next(stage.share for stage in self.stages if stage.name == "network")

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        estimate = None if self.estimate is None else self.estimate.to_dict()
        return {**asdict(self), "estimate": estimate, "network_share": self.network_share}

    def summary(self) -> str:
        """Two lines for people."""
        shares = ", ".join(f"{s.name} {s.busy_seconds:.1f} s ({s.share:.0%})" for s in self.stages)
        work, startup = duration(self.seconds), duration(self.startup_seconds)
        return (
            f"{counted(self.frames, 'frame')} to {self.width}x{self.height} in {work} "
            f"({self.frames_per_second:.2f} frames/s) after {startup} of start-up; "
            f"{byte_size(self.encoded_bytes)} of video\n"
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
