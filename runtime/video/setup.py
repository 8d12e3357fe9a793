"""Every decision and check of a job that needs no computing."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from srtrt.errors import InputError
from srtrt.runtime.video.codecs import plan_encoder
from srtrt.runtime.video.contents import Contents
from srtrt.runtime.video.kept import describe_losses
from srtrt.runtime.video.losses import FrameLosses, stream_losses
from srtrt.runtime.video.options import VideoOptions
from srtrt.runtime.video.planes import Converter, describe_conversion, make_converter
from srtrt.runtime.video.rehearsal import rehearse
from srtrt.runtime.video.sink import SCALE, SinkPlan, enlarged_matrix
from srtrt.runtime.video.source import VideoSource
from srtrt.runtime.video.streams import describe
from srtrt.runtime.video.target import Target, choose_target
from srtrt.runtime.words import duration

_LATE_SECONDS = 10
"""Start of a video from which on players that show nothing before it seem to hang."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What was decided."""

    target: Target
    """Where the output goes."""
    sink: SinkPlan
    """How it is written."""
    converter: Converter
    """Between frames and the arrays of the network."""
    expected_frames: int | None
    """Frames there will be; None if the source does not say."""
    losses: tuple[str, ...]
    """Sentences on what the output will not have, as far as is known before the first frame."""

    def notes(self) -> list[str]:
        """What is assumed, converted or left behind, one sentence each."""
        facts, shift = self.sink.facts, self.sink.contents.shift
        conversion = describe_conversion(facts.pix_fmt)
        notes = [*facts.colour.notes, *([conversion] if conversion else [])]
        notes += [*self.target.notes, *self.target.streams.notes, *self.losses]
        matrix = facts.display_matrix
        if matrix and any(matrix[6:8]) and not any(enlarged_matrix(matrix)[6:8]):
            notes.append(
                "The display matrix moves the picture by more than an output of this size can "
                "say; the move is left out, rotation and flips are kept."
            )
        start = facts.first_pts * facts.time_base + shift
        if start >= _LATE_SECONDS:
            notes.append(
                f"The video starts {duration(float(start))} after zero, as in the source; some "
                "players show nothing until then."
            )
        if shift:
            notes.append(
                f"All timestamps are {float(shift):.6f} s later than in the source, because "
                f"the {self.target.container.suffix} container does not hold negative ones."
            )
        return notes


def set_up(source: VideoSource, dst: Path | None, options: VideoOptions) -> Setup:
    """Decides how a source is upscaled.

    Args:
        source: the open input; streams that are left behind are ignored from now on.
        dst: the output; None is a name beside the input.
        options: what the user wants.

    Raises:
        UsageError: if options contradict each other.
        InputError: if a stream that should be copied is encrypted.
        TruncatedInputError: if the file is known to lack its end.
        OutputError: if the output cannot be written.
    """
    facts = source.facts
    target = choose_target(source, dst, options)
    _refuse_encrypted_copies(source, target)
    encoder = plan_encoder(
        target.container,
        codec=options.codec,
        encoder=options.encoder,
        crf=options.crf,
        preset=options.preset,
        width=SCALE * facts.width,
        height=SCALE * facts.height,
    )
    if source.breaks and not options.keep_going and options.max_frames is None:
        _fail_at_the_damage(source)
    source.ignore(target.streams.ignored)
    contents = Contents(
        source=source.container,
        video=source.stream,
        muxer=target.container.format,
        copied=target.streams.copied,
        pictures=source.pictures(),
        shift=_shift(source, target),
        chapters_until=_chapters_until(source, options.max_frames),
    )
    rehearsal = rehearse(contents, facts, source.first_packets())
    sink = SinkPlan(
        final=target.path,
        container=target.container,
        encoder=encoder,
        facts=facts,
        contents=contents,
        muxer_options=rehearsal.options,
        holds_back=options.max_frames is not None or options.keep_going,
    )
    return Setup(
        target=target,
        sink=sink,
        converter=make_converter(facts.pix_fmt, facts.width, facts.height, facts.colour),
        expected_frames=_expected_frames(source, options.max_frames),
        losses=(
            *_frame_losses(source),
            *describe_losses(rehearsal.losses, target.container.suffix),
        ),
    )


def _frame_losses(source: VideoSource) -> list[str]:
    losses = stream_losses(source.stream)
    frames = FrameLosses(losses)
    return losses + [sentence for frame in source.first_frames() for sentence in frames.of(frame)]


def _fail_at_the_damage(source: VideoSource) -> None:
    """Decodes without computing, so that hours are not spent before the end is found missing."""
    with VideoSource(source.path) as ahead:
        for _ in ahead.steps():
            pass


def _refuse_encrypted_copies(source: VideoSource, target: Target) -> None:
    for stream in target.streams.copied:
        scheme = source.encrypted.get(stream.index)
        if scheme is not None:
            option = "--audio" if stream.type == "audio" else "--subtitles"
            raise InputError(
                f"{source.path}: stream {stream.index} ({describe(stream)}) is encrypted (DRM, "
                f"scheme {scheme}), and a copy of it could not be played. Leave it out with "
                f"{option} none."
            )


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


def _expected_frames(source: VideoSource, limit: int | None) -> int | None:
    total = source.facts.frames
    if total is None and source.container.duration:
        seconds = Fraction(source.container.duration, av.time_base)
        total = round(seconds * source.facts.rate)
    if total is None or total < 1:  # a header that says so is damaged
        return limit
    return total if limit is None else min(limit, total)


def _chapters_until(source: VideoSource, limit: int | None) -> Fraction | None:
    """Where chapters end when only the first frames are wanted, by the frame rate."""
    facts = source.facts
    if limit is None:
        return None
    return facts.first_pts * facts.time_base + limit / facts.rate
