"""Writing the result: encode, copy the other streams, and put them into one container."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from srtrt.errors import OutputError, UsageError
from srtrt.files import PartFile
from srtrt.runtime.video.codecs import (
    Container,
    EncoderPlan,
    ordinary_priority,
    quiet_svt,
)
from srtrt.runtime.video.contents import Contents
from srtrt.runtime.video.decoding_times import DecodingTimes
from srtrt.runtime.video.encoders import refusal
from srtrt.runtime.video.facts import VideoFacts
from srtrt.runtime.video.ffmpeg_errors import captured_log, reason, writing
from srtrt.runtime.video.opening import packet_time
from srtrt.runtime.video.pyav import METADATA
from srtrt.runtime.video.streams import single_frames
from srtrt.runtime.words import duration as duration_in_words

SCALE = 4
_MAX_FIXED = 2**31 - 1
_WIDE_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class SinkPlan:
    """Everything that is decided before the first byte is written."""

    final: Path
    """The output."""
    container: Container
    """Kind of file."""
    encoder: EncoderPlan
    """How the video is encoded."""
    facts: VideoFacts
    """The source's video stream."""
    contents: Contents
    """Everything beside the frames."""
    muxer_options: Mapping[str, str]
    """Options of the container."""
    holds_back: bool
    """True: copied packets wait for the video, because it may end before they do."""


class VideoSink:
    """One output file in the making; a context manager that removes it unless it was renamed."""

    def __init__(self, plan: SinkPlan) -> None:
        """Opens the encoder and writes the header.

        Raises:
            OutputError: if the encoder or the container refuses.
            UsageError: if the encoder does not know an option.
        """
        self.plan = plan
        self.packets_written = 0
        self.bytes_written = 0
        self.times: list[Fraction] = []
        self.hidden_packets = 0
        self._durations: dict[int, int] = {}
        self._held: deque[Packet[Any]] = deque()
        self._outputs: dict[int, Stream] = {}
        self._finished = False
        self.part = PartFile(plan.final)
        try:
            with writing(plan.final):
                self._file = av.open(
                    str(self.part.path.absolute()),
                    "w",
                    format=plan.container.format,
                    container_options=dict(plan.muxer_options),
                    **METADATA,
                )
        except BaseException:
            self.part.discard()
            raise
        try:
            self._video = self._add_video()
            self._decoding = DecodingTimes(self._video.codec_context.reorder_depth)
            self._outputs = plan.contents.add_to(self._file)
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and removes it if it still has its temporary name."""
        if not self._finished:
            with contextlib.suppress(av.FFmpegError, OSError):
                self._file.close()
        self.part.discard()

    def abandon(self) -> None:
        """Leaves the file open, because another thread is still writing to it."""
        self._finished = True

    def copy(self, packet: Packet[Any]) -> None:
        """Writes a packet of another stream as it is, or holds it until the video is there."""
        if packet.stream.index not in self._outputs:
            return
        if packet.is_discard and self.plan.container.is_matroska:
            # Matroska has no edit lists: what the source hides would be heard.
            self.hidden_packets += 1
            return
        for frame in single_frames(packet):
            if self.plan.holds_back:
                self._held.append(frame)
            else:
                self._mux_copy(frame)

    def encode(self, frame: av.VideoFrame, pts: int, duration: int) -> None:
        """Encodes one frame.

        Args:
            frame: yuv420p, of the output's size.
            pts: timestamp in ticks of the source's time base.
            duration: in the same ticks.
        """
        facts = self.plan.facts
        contents = self.plan.contents
        pts += contents.ticks(facts.time_base)
        frame.pts, frame.duration, frame.time_base = pts, duration, facts.time_base
        tags = facts.colour.tags
        frame.colorspace, frame.color_range = tags.matrix, tags.range
        frame.color_primaries, frame.color_trc = tags.primaries, tags.transfer
        self._durations[pts] = duration
        self.times.append(pts * facts.time_base)
        self._decoding.sent(pts)
        self._encode(frame)
        self._release((pts + duration) * facts.time_base - contents.shift)

    def finish(self, end: Fraction | None) -> None:
        """Drains the encoder, writes what was held back, and closes the file.

        Args:
            end: held packets that start at this time or later are dropped; None keeps all.
        """
        self._encode(None)
        self._release(end)
        with writing(self.plan.final):
            self._file.close()
        self._finished = True

    def _encode(self, frame: av.VideoFrame | None) -> None:
        with writing(self.plan.final):
            packets = self._video.encode(frame)
            for packet in self._decoding.timed(packets, drained=frame is None):
                if packet.pts is not None and not packet.duration:
                    packet.duration = self._durations.get(packet.pts, 0)
                self._durations.pop(packet.pts or 0, None)
                self.packets_written += 1
                self.bytes_written += packet.size
                try:
                    self._file.mux_one(packet)
                except av.error.PatchWelcomeError as error:
                    self._refuse_wide_gap(error)
                    raise

    def _refuse_wide_gap(self, error: av.FFmpegError) -> None:
        """MP4 and QuickTime count what lies between frames in 32 bits."""
        gaps = [(b - a, n) for n, (a, b) in enumerate(itertools.pairwise(self.times), 1)]
        gap, number = max(gaps, default=(Fraction(0), 0))
        if gap > _WIDE_SECONDS:
            raise OutputError(
                f"{self.plan.final} cannot be written: frame {number} of the source is shown "
                f"{duration_in_words(float(gap))} after the one before, more than a "
                f"{self.plan.container.suffix} file can say. Name an output that ends in .mkv."
            ) from error

    def _release(self, until: Fraction | None) -> None:
        kept: deque[Packet[Any]] = deque()
        for packet in self._held:
            at = packet_time(packet)
            if until is None or at is None or at < until:
                self._mux_copy(packet)
            else:
                kept.append(packet)
        self._held = kept

    def _mux_copy(self, packet: Packet[Any]) -> None:
        self.plan.contents.shift_packet(packet)
        packet.stream = self._outputs[packet.stream.index]
        with writing(self.plan.final):
            self._file.mux_one(packet)

    def _add_video(self) -> VideoStream:
        facts, encoder = self.plan.facts, self.plan.encoder
        if encoder.codec == "av1":
            quiet_svt()
        try:
            stream = self._file.add_stream(
                encoder.encoder, rate=facts.rate, time_base=facts.time_base
            )
        except ValueError as error:
            raise UsageError(
                f"The {self.plan.container.suffix} container does not take {encoder.codec}; "
                "name an output with .mkv."
            ) from error
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height = SCALE * facts.width, SCALE * facts.height
        context.pix_fmt = "yuv420p"
        # Slice threading, PyAV's default, would cost the encoder compression.
        context.thread_type = "AUTO"
        context.sample_aspect_ratio = facts.sample_aspect_ratio or Fraction(0)
        tags = facts.colour.tags
        context.colorspace, context.color_range = tags.matrix, tags.range
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        if encoder.tag:
            context.codec_tag = encoder.tag
        context.options = {**encoder.options, "chroma_sample_location": "left"}
        self.plan.contents.label(stream)
        if facts.display_matrix:
            stream.set_display_matrix(enlarged_matrix(facts.display_matrix))
        self._open_encoder(stream)
        return stream

    def _open_encoder(self, stream: VideoStream) -> None:
        context, plan = stream.codec_context, self.plan.encoder
        size = f"{context.width}x{context.height}"
        with captured_log() as messages, ordinary_priority():
            try:
                context.open()
            except (av.FFmpegError, ValueError) as error:
                raise refusal(plan.encoder, size, plan.options, reason(error, messages)) from error
        unknown = sorted(set(context.options) & set(plan.options))
        if unknown:
            raise UsageError(
                f"--{unknown[0]} has no meaning for --encoder {plan.encoder}; leave it out."
            )

    def _start(self) -> None:
        with captured_log() as messages:
            try:
                self._file.start_encoding()
            except (av.FFmpegError, ValueError, OSError) as error:
                raise OutputError(
                    f"{self.plan.final} cannot be started ({reason(error, messages)})."
                ) from error


def enlarged_matrix(matrix: tuple[int, ...]) -> tuple[int, ...]:
    """A display matrix for a picture of 4x the size: its translation is in pixels.

    A translation that 16.16 fixed point does not hold is left out; the rest stays.
    """
    moved = tuple(SCALE * value for value in matrix[6:8])
    if any(abs(value) > _MAX_FIXED for value in moved):
        moved = (0, 0)
    return (*matrix[:6], *moved, matrix[8])
