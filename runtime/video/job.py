"""One video from plan to published file: what :func:`upscale_video` does with its options."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
from av.packet import Packet
from numpy.typing import NDArray

from srtrt.errors import OutputError
from srtrt.runtime.ring import Pending
from srtrt.runtime.video.codecs import plan_encoder
from srtrt.runtime.video.pipeline import Pipeline
from srtrt.runtime.video.planes import Converter, describe_conversion, make_converter
from srtrt.runtime.video.report import Progress, VideoReport, stage_reports
from srtrt.runtime.video.sink import SCALE, SinkPlan, VideoSink
from srtrt.runtime.video.source import VideoSource
from srtrt.runtime.video.streams import describe
from srtrt.runtime.video.target import Target, choose_target
from srtrt.runtime.video.verify import check_written, publish

_QUEUE_BYTES = 256 * 2**20
_QUEUE_FRAMES = 4


class VideoSession(Protocol):
    """What the pipeline needs of a network; see :class:`srtrt.runtime.session.Session`."""

    description: str
    notes: list[str]

    @property
    def in_flight(self) -> int:
        """How many frames may be submitted before one must be collected."""

    def prepare(self, width: int, height: int) -> None:
        """Makes ready for frames of a size in source pixels."""

    def submit(self, inputs: Mapping[str, NDArray[Any]]) -> Pending:
        """Starts one frame; what it returns waits for it."""


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How one video is written; the network has its own options."""

    codec: str
    """``auto``, ``h264``, ``hevc``, ``av1`` or ``ffv1``."""
    encoder: str
    """FFmpeg's name of an encoder, or ``auto``."""
    crf: int | None
    """Constant quality; None is the codec's default."""
    preset: str | None
    """Speed preset; None is the codec's default."""
    audio: bool
    """Whether audio is copied."""
    max_frames: int | None
    """Stop after so many frames; None is all."""
    overwrite: bool
    """Whether an existing output may be replaced."""
    keep_going: bool
    """Whether damage ends the video instead of the run."""


@dataclass
class _Item:
    """What travels through the queues: arrays of a frame, or only packets."""

    packets: list[Packet[Any]]
    pts: int = 0
    duration: int = 0
    arrays: Mapping[str, NDArray[Any]] | None = None


class VideoJob:
    """The upscaling of one open source; planned when made, done by :meth:`run`."""

    def __init__(self, source: VideoSource, dst: Path | None, options: VideoOptions) -> None:
        """Makes every decision and check that needs no computing.

        Raises:
            UsageError: if options contradict each other.
            TruncatedInputError: if the file is known to lack its end.
            OutputError: if the output cannot be written.
        """
        self.source, self.options = source, options
        facts = source.facts
        self.target: Target = choose_target(
            source, dst, codec=options.codec, audio=options.audio, overwrite=options.overwrite
        )
        encoder = plan_encoder(
            self.target.container,
            codec=options.codec,
            encoder=options.encoder,
            crf=options.crf,
            preset=options.preset,
            width=SCALE * facts.width,
            height=SCALE * facts.height,
        )
        if source.missing_bytes and not options.keep_going and options.max_frames is None:
            _fail_at_the_damage(source)
        source.ignore(self.target.streams.ignored)
        self.converter: Converter = make_converter(
            facts.pix_fmt, facts.width, facts.height, facts.colour
        )
        self.plan = SinkPlan(
            part=self.target.part,
            final=self.target.path,
            container=self.target.container,
            encoder=encoder,
            facts=facts,
            streams=self.target.streams,
            shift=_shift(source, self.target),
            holds_back=options.max_frames is not None or options.keep_going,
        )
        self._decoded = 0
        self._encoded = 0
        self._started = 0.0

    def run(
        self,
        open_session: Callable[[str], AbstractContextManager[VideoSession]],
        on_progress: Callable[[Progress], None] | None,
    ) -> VideoReport:
        """Computes, writes, checks and publishes.

        Args:
            open_session: opens the network for one form.
            on_progress: called in another thread after every frame.
        """
        source = self.source
        sink = VideoSink(
            self.plan, source.container, source.stream, source.pictures(), self._chapters_until()
        )
        with sink, open_session(self.converter.form) as session:
            # In this thread, so that Ctrl-C ends even the building of an engine.
            session.prepare(*self.converter.network_size)
            pipeline = self._pipeline(session, sink, on_progress)
            self._started = time.perf_counter()
            pipeline.run()
            rounding = self._finish(sink)
            notes = [*self._notes(sink), *filter(None, [rounding]), *session.notes]
            return self._report(session.description, pipeline, notes)

    def _pipeline(
        self,
        session: VideoSession,
        sink: VideoSink,
        on_progress: Callable[[Progress], None] | None,
    ) -> Pipeline[_Item, _Item]:
        total = self._total()

        def read() -> Iterator[_Item]:
            for step in self.source.steps(self.options.max_frames):
                arrays = None if step.frame is None else self.converter.inputs(step.frame)
                self._decoded += arrays is not None
                yield _Item(step.packets, step.pts, step.duration, arrays)

        def compute(item: _Item) -> Callable[[], _Item]:
            if item.arrays is None:
                return lambda: item
            pending = session.submit(item.arrays)

            def collect() -> _Item:
                item.arrays = pending()
                return item

            return collect

        def write(item: _Item) -> None:
            for packet in item.packets:
                sink.copy(packet)
            if item.arrays is None:
                return
            sink.encode(self.converter.frame(item.arrays), item.pts, item.duration)
            self._encoded += 1
            if on_progress is not None:
                seconds = time.perf_counter() - self._started
                on_progress(Progress(frames=self._encoded, total=total, seconds=seconds))

        facts = self.source.facts
        frame_bytes = 3 * SCALE * SCALE * facts.width * facts.height
        capacity = max(1, min(_QUEUE_FRAMES, _QUEUE_BYTES // frame_bytes))
        return Pipeline(read, compute, write, capacity=capacity, in_flight=session.in_flight)

    def _finish(self, sink: VideoSink) -> str | None:
        """Closes, checks and publishes the file; gives a note if timestamps were rounded."""
        sink.finish(self.source.end if self.source.ended_early else None)
        if not self._decoded == self._encoded == sink.packets_written:
            raise OutputError(
                f"{self._decoded} frames were decoded, {self._encoded} encoded and "
                f"{sink.packets_written} written; nothing was kept. Try another --codec."
            )
        rounding = check_written(
            self.plan.part, sink.times, matroska=self.plan.container.is_matroska
        )
        publish(self.plan.part, self.plan.final)
        return rounding

    def _notes(self, sink: VideoSink) -> list[str]:
        facts, shift = self.source.facts, self.plan.shift
        suffix = self.plan.container.suffix
        conversion = describe_conversion(facts.pix_fmt)
        notes = [*self.source.notes, *facts.colour.notes, *([conversion] if conversion else [])]
        notes += [*self.target.notes, *self.target.streams.notes]
        if shift:
            notes.append(
                f"All timestamps are {float(shift):.6f} s later than in the source, because "
                f"a {suffix} file does not hold negative ones."
            )
        if sink.hidden_packets:
            notes.append(
                f"Packets that an edit list of the source hides ({sink.hidden_packets}) are left "
                f"out, because a {suffix} file cannot hide them."
            )
        return notes

    def _report(
        self, network: str, pipeline: Pipeline[_Item, _Item], notes: list[str]
    ) -> VideoReport:
        stages = stage_reports(pipeline.times, pipeline.seconds)
        facts = self.source.facts
        return VideoReport(
            source=str(self.source.path),
            output=str(self.target.path),
            frames=self._encoded,
            width=SCALE * facts.width,
            height=SCALE * facts.height,
            seconds=round(pipeline.seconds, 3),
            frames_per_second=round(self._encoded / pipeline.seconds, 3),
            stages=stages,
            bottleneck=max(stages, key=lambda stage: stage.busy_seconds).name,
            network=network,
            encoder=str(self.plan.encoder),
            copied_streams=tuple(describe(stream) for stream in self.target.streams.copied),
            complete=self.source.damage is None,
            damage=self.source.damage,
            notes=tuple(notes),
        )

    def _chapters_until(self) -> Fraction | None:
        """Where chapters end when only the first frames are wanted, by the frame rate."""
        facts = self.source.facts
        if self.options.max_frames is None:
            return None
        return facts.first_pts * facts.time_base + self.options.max_frames / facts.rate

    def _total(self) -> int | None:
        total = self.source.facts.frames
        if total is None and self.source.container.duration:
            seconds = Fraction(self.source.container.duration, av.time_base)
            total = round(seconds * self.source.facts.rate)
        limit = self.options.max_frames
        return total if limit is None else min(limit, total or limit)


def _fail_at_the_damage(source: VideoSource) -> None:
    """Decodes without computing, so that hours are not spent before the end is found missing."""
    for _ in source.steps():
        pass


def _shift(source: VideoSource, target: Target) -> Fraction:
    """What must be added to all times so that none is negative where that is not allowed."""
    facts = source.facts
    starts = [facts.first_pts * facts.time_base]
    if target.container.is_matroska:
        starts += source.copied_starts(target.streams.ignored)
    earliest = min(starts)
    if earliest >= 0:
        return Fraction(0)
    # A whole number of ticks of the video, so that its own times stay exact.
    return -(earliest // facts.time_base) * facts.time_base
