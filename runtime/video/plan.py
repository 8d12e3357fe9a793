"""What is known of a job before its first frame, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from srtrt.runtime.words import byte_size, counted, duration

_LONG_SECONDS = 3600

_KEY_INTERVAL = 250
"""Frames from one key frame to the next, at most, of x264 and x265."""


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """Facts of one job, all of them known before its first frame is computed."""

    source: str
    """Path of the input."""
    source_codec: str
    """FFmpeg's name of the input's video codec."""
    source_width: int
    """Pixels across, of the input."""
    source_height: int
    """Pixels down, of the input."""
    source_pix_fmt: str
    """FFmpeg's name of the input's pixel format."""
    source_frames_per_second: float
    """Average of the input."""
    expected_frames: int | None
    """Frames there will be by the input's header, at most ``max_frames``; None if it is silent."""
    bits_per_pixel: float | None
    """Bits that the input spends on a pixel of a frame, measured on its first packets."""
    model: str
    """Name or path of the model."""
    model_reason: str
    """Why this one."""
    network: str
    """Model, backend, precision, device and options that compute the frames."""
    backend_options: Mapping[str, Any]
    """Options of the backend that were asked for, by name."""
    engine_reason: str
    """Backend, precision and device, and why these."""
    output: str
    """Path of the output."""
    width: int
    """Pixels across, of the output."""
    height: int
    """Pixels down, of the output."""
    encoder: str
    """Codec, encoder and its quality."""
    copied_streams: tuple[str, ...]
    """Streams copied without re-encoding."""
    notes: tuple[str, ...]
    """Sentences on what is assumed, converted or left behind."""

    def lines(self) -> list[str]:
        """The plan for people, one fact a line."""
        total = self.expected_frames
        frames = "" if total is None else f", {counted(total, 'frame')}"
        rate = f"{self.source_frames_per_second:.2f}".rstrip("0").rstrip(".")
        copied = f"; copied: {', '.join(self.copied_streams)}" if self.copied_streams else ""
        return [
            f"input: {self.source}, {self.source_codec} {self.source_width}x{self.source_height} "
            f"{self.source_pix_fmt}, {rate} frames/s{frames}",
            f"model: {self.model}: {self.model_reason}",
            f"engine: {self.engine_reason}",
            f"output: {self.output}, {self.width}x{self.height}, {self.encoder}, "
            f"8-bit 4:2:0{copied}",
            *(f"note: {note}" for note in self.notes),
        ]


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A quicker way to do the same job, which is not taken unless it is asked for."""

    option: str
    """What to add to the command."""
    seconds: float
    """How long the job would take, measured on this machine."""
    quality: str
    """What it costs."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How long a job will take, from its first frame."""

    seconds_per_frame: float
    """What the network took for the first frame."""
    frames: int
    """Frames there will be."""
    alternatives: tuple[Alternative, ...]
    """Quicker ways, the quickest first; looked for only where the job takes long."""

    @property
    def seconds(self) -> float:
        """How long the network needs for all frames."""
        return self.seconds_per_frame * self.frames

    @property
    def is_long(self) -> bool:
        """Whether it takes so long that it should be said before."""
        return self.seconds >= _LONG_SECONDS

    def to_dict(self) -> dict[str, Any]:
        """The estimate as plain values for JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 1)}

    def lines(self) -> list[str]:
        """The estimate for people."""
        lines = [
            f"estimate: about {duration(self.seconds)} for {counted(self.frames, 'frame')} "
            f"({duration(self.seconds_per_frame)} a frame, measured on the first)"
        ]
        lines += [
            f"estimate: about {duration(a.seconds)} with {a.option} ({a.quality})"
            for a in self.alternatives
        ]
        return lines


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run is; told after every frame."""

    frames: int
    """Frames given to the encoder so far."""
    expected_frames: int | None
    """Frames there will be; None if the source does not say."""
    seconds: float
    """Seconds of work since the first frame was begun."""
    encoded_frames: int
    """Frames that came out of the encoder, which holds some back."""
    encoded_bytes: int
    """Bytes they have."""

    @property
    def frames_per_second(self) -> float:
        """Average so far."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate; None while it cannot be made."""
        if self.expected_frames is None or self.frames == 0 or self.frames_per_second == 0:
            return None
        return max(0, self.expected_frames - self.frames) / self.frames_per_second

    @property
    def expected_bytes(self) -> int | None:
        """Size of the whole video stream at the rate so far.

        None before enough has been encoded: a key frame is much larger than what follows it.
        """
        total = self.expected_frames
        if total is None or self.encoded_frames < min(_KEY_INTERVAL, total / 2):
            return None
        return self.encoded_bytes * max(total, self.encoded_frames) // self.encoded_frames

    def line(self) -> str:
        """Where the run is, for people."""
        text = counted(self.frames, "frame")
        if self.expected_frames:
            share = min(100, 100 * self.frames // self.expected_frames)
            text = f"{self.frames} of {counted(self.expected_frames, 'frame')} ({share} %)"
        text += f", {self.frames_per_second:.2f} frames/s"
        if self.seconds_left:
            text += f", about {duration(self.seconds_left)} left"
        if self.expected_bytes is not None:
            text += f", about {byte_size(self.expected_bytes)} of video in the end"
        return text


class VideoWatcher:
    """Told what :func:`srtrt.upscale_video` does; the methods do nothing by default."""

    def planned(self, plan: VideoPlan) -> None:
        """The network is open; nothing was computed yet."""

    def building(self, share: float, phase: str) -> None:
        """An engine is being built; ``share`` of it, 0..1, is done."""

    def noted(self, note: str) -> None:
        """A sentence that is not among the notes of the plan, as soon as it is known."""

    def estimated(self, estimate: Estimate) -> None:
        """The first frame was computed; not told where the number of frames is unknown."""

    def progressed(self, progress: Progress) -> None:
        """One more frame is done; called in another thread."""
