"""``upscale_video``: one video file in, one video file of 4x the size out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

import av
from numpy.typing import NDArray

from srtrt.errors import OutputError, UsageError
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

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Upscales one batch."""


SessionFactory = Callable[..., AbstractContextManager[VideoSession]]
"""Called as :func:`srtrt.runtime.session.open_session` is."""


@dataclass
class _Item:
    """What travels through the queues: arrays of a frame, or only packets."""

    packets: list[av.Packet[Any]]
    pts: int = 0
    duration: int = 0
    arrays: Mapping[str, NDArray[Any]] | None = None


@dataclass
class _Counter:
    decoded: int = 0
    encoded: int = 0
    total: int | None = None
    started: float = field(default_factory=time.perf_counter)


def upscale_video(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None = None,
    *,
    model: str = "srresnet",
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: str | int = "auto",
    codec: str = "auto",
    encoder: str = "auto",
    crf: int | None = None,
    preset: str | None = None,
    audio: Literal["copy", "none"] = "copy",
    max_frames: int | None = None,
    overwrite: bool = False,
    keep_going: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    session_factory: SessionFactory | None = None,
) -> VideoReport:
    """Upscales a video 4x in each direction, frame by frame, with everything else kept.

    Every frame keeps its timestamp. Audio, subtitles, attachments, chapters, metadata, display
    rotation, sample aspect ratio and colour tags are carried over. The output appears under its
    name only when it holds as many frames as were decoded, at the same times.

    Args:
        src: a plain local video file.
        dst: the output; its extension names the container (mp4, m4v, mov, mkv, webm). None is
            ``<stem>_x4<extension>`` beside the source.
        model: name of a bundled model, or path of an exported one.
        backend: inference engine, or ``auto``.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        precision: arithmetic of the network, or ``auto``.
        tile: ``auto``, ``none``, or a number of source pixels.
        codec: ``auto``, ``h264``, ``hevc``, ``av1`` or ``ffv1``.
        encoder: FFmpeg's name of an encoder, or ``auto``.
        crf: constant quality; smaller is better and larger.
        preset: speed preset of the encoder.
        audio: ``copy`` or ``none``.
        max_frames: stop after so many frames.
        overwrite: replace an existing output.
        keep_going: where the source breaks, write the good frames before that place.
        on_progress: called in another thread after every frame.
        session_factory: opens the network; for tests and for other engines.

    Raises:
        UsageError: if the options are wrong or contradict each other.
        InputError: if the source is no video; TruncatedInputError where it breaks.
        OutputError: if the output cannot be written.
        ModelError, BackendError, MissingPackageError: if the network cannot be opened or fails.
    """
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"max_frames is {max_frames}; expected at least 1.")
    if audio not in ("copy", "none"):
        raise UsageError(f"audio is {audio!r}; expected 'copy' or 'none'.")
    with VideoSource(Path(src), keep_going=keep_going) as source:
        facts = source.facts
        target = choose_target(
            source,
            None if dst is None else Path(dst),
            codec=codec,
            audio=audio == "copy",
            overwrite=overwrite,
        )
        encoding = plan_encoder(
            target.container,
            codec=codec,
            encoder=encoder,
            crf=crf,
            preset=preset,
            width=SCALE * facts.width,
            height=SCALE * facts.height,
        )
        if source.missing_bytes and not keep_going and max_frames is None:
            _fail_at_the_damage(source)
        source.ignore(target.streams.ignored)
        converter = make_converter(facts.pix_fmt, facts.width, facts.height, facts.colour)
        shift = _shift(source, target)
        plan = SinkPlan(
            part=target.part,
            final=target.path,
            container=target.container,
            encoder=encoding,
            facts=facts,
            streams=target.streams,
            shift=shift,
            holds_back=max_frames is not None or keep_going,
        )
        until = None if max_frames is None else _end_of(source, max_frames)
        factory = session_factory or _open_session
        with (
            VideoSink(plan, source.container, source.stream, source.pictures(), until) as sink,
            factory(
                model=model,
                form=converter.form,
                backend=backend,
                device=device,
                precision=precision,
                tile=tile,
            ) as session,
        ):
            counter = _Counter(total=_total(source, max_frames))
            pipeline = _pipeline(
                source, converter, session, sink, counter, max_frames, on_progress
            )
            pipeline.run()
            rounding = _finish(source, sink, counter, cut=max_frames is not None)
            notes = [
                *source.notes,
                *facts.colour.notes,
                *filter(None, [describe_conversion(facts.pix_fmt), rounding]),
                *target.notes,
                *target.streams.notes,
                *session.notes,
            ]
            if shift:
                notes.append(
                    f"All timestamps are {float(shift):.6f} s later than in the source, because "
                    f"a {target.container.suffix} file does not hold negative ones."
                )
            return _report(source, target, plan, session, pipeline, counter, notes)


def _open_session(**options: Any) -> AbstractContextManager[VideoSession]:
    from srtrt.runtime.session import open_session

    session: AbstractContextManager[VideoSession] = open_session(**options)
    return session


def _pipeline(
    source: VideoSource,
    converter: Converter,
    session: VideoSession,
    sink: VideoSink,
    counter: _Counter,
    max_frames: int | None,
    on_progress: Callable[[Progress], None] | None,
) -> Pipeline[_Item, _Item]:
    def read() -> Iterator[_Item]:
        for step in source.steps(max_frames):
            arrays = None if step.frame is None else converter.inputs(step.frame)
            counter.decoded += arrays is not None
            yield _Item(step.packets, step.pts, step.duration, arrays)

    def compute(item: _Item) -> _Item:
        if item.arrays is not None:
            item.arrays = session.infer(item.arrays)
        return item

    def write(item: _Item) -> None:
        for packet in item.packets:
            sink.copy(packet)
        if item.arrays is None:
            return
        sink.encode(converter.frame(item.arrays), item.pts, item.duration)
        counter.encoded += 1
        if on_progress is not None:
            seconds = time.perf_counter() - counter.started
            on_progress(Progress(frames=counter.encoded, total=counter.total, seconds=seconds))

    frame_bytes = 3 * SCALE * SCALE * source.facts.width * source.facts.height
    capacity = max(1, min(_QUEUE_FRAMES, _QUEUE_BYTES // frame_bytes))
    return Pipeline(read, compute, write, capacity=capacity)


def _finish(source: VideoSource, sink: VideoSink, counter: _Counter, *, cut: bool) -> str | None:
    """Closes, checks and publishes the file; gives a note if timestamps were rounded."""
    sink.finish(source.end if cut or source.damage else None)
    plan = sink.plan
    try:
        if counter.encoded != counter.decoded or sink.packets_written != counter.decoded:
            raise OutputError(
                f"{counter.decoded} frames were decoded, {counter.encoded} encoded and "
                f"{sink.packets_written} written; nothing was kept. Try another --codec."
            )
        matroska = plan.container.format in ("matroska", "webm")
        rounding = check_written(plan.part, sink.pts, matroska=matroska)
        publish(plan.part, plan.final)
    except BaseException:
        plan.part.unlink(missing_ok=True)
        raise
    return rounding


def _fail_at_the_damage(source: VideoSource) -> None:
    """Decodes without computing, so that hours are not spent before the end is found missing."""
    for _ in source.steps():
        pass


def _shift(source: VideoSource, target: Target) -> Fraction:
    """What must be added to all times so that none is negative where that is not allowed."""
    facts = source.facts
    starts = [facts.first_pts * facts.time_base]
    if target.container.format in ("matroska", "webm"):
        starts += source.copied_starts(target.streams.ignored)
    earliest = min(starts)
    if earliest >= 0:
        return Fraction(0)
    # A whole number of ticks of the video, so that its own times stay exact.
    return -(earliest // facts.time_base) * facts.time_base


def _end_of(source: VideoSource, max_frames: int) -> Fraction:
    facts = source.facts
    return facts.first_pts * facts.time_base + max_frames / facts.rate


def _total(source: VideoSource, max_frames: int | None) -> int | None:
    total = source.facts.frames
    if total is None and source.container.duration:
        total = round(Fraction(source.container.duration, av.time_base) * source.facts.rate)
    return total if max_frames is None else min(max_frames, total or max_frames)


def _report(
    source: VideoSource,
    target: Target,
    plan: SinkPlan,
    session: VideoSession,
    pipeline: Pipeline[_Item, _Item],
    counter: _Counter,
    notes: list[str],
) -> VideoReport:
    stages = stage_reports(pipeline.times, pipeline.seconds)
    return VideoReport(
        source=str(source.path),
        output=str(target.path),
        frames=counter.encoded,
        width=SCALE * source.facts.width,
        height=SCALE * source.facts.height,
        seconds=round(pipeline.seconds, 3),
        frames_per_second=round(counter.encoded / pipeline.seconds, 3),
        stages=stages,
        bottleneck=max(stages, key=lambda stage: stage.busy_seconds).name,
        network=session.description,
        encoder=str(plan.encoder),
        copied_streams=tuple(describe(stream) for stream in target.streams.copied),
        complete=source.damage is None,
        damage=source.damage,
        notes=tuple(notes),
    )
