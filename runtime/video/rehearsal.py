"""Writing a small output to memory before the first frame, to see what its container keeps."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from srtrt.errors import OutputError
from srtrt.runtime.video.contents import Contents
from srtrt.runtime.video.facts import VideoFacts
from srtrt.runtime.video.ffmpeg_errors import captured_log, reason
from srtrt.runtime.video.kept import Losses, find_losses
from srtrt.runtime.video.opening import is_attached_picture
from srtrt.runtime.video.pyav import METADATA, fraction
from srtrt.runtime.video.streams import packet_like, single_frames

_MAX_TIMESCALE = 2**31 - 1
_MDTA = {"movflags": "+use_metadata_tags"}
"""Metadata under free names; without it, under those that iTunes or QuickTime gave a box to."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What was found."""

    options: Mapping[str, str]
    """Options for the muxer with which it keeps most."""
    losses: Losses
    """Metadata that it loses even so."""


def rehearse(
    contents: Contents, facts: VideoFacts, first_packets: Mapping[int, Packet[Any]]
) -> Rehearsal:
    """Writes everything but the frames to memory, reads it back and chooses the muxer's options.

    Args:
        contents: what goes into the output.
        facts: of the source's video stream.
        first_packets: of the copied streams, by index, as far as they were read.

    Raises:
        OutputError: if the container takes the streams one by one, but not together.
    """
    bases, losses = _write(contents, facts, first_packets, {})
    if contents.muxer not in ("mp4", "mov"):
        return Rehearsal(options={"avoid_negative_ts": "disabled"}, losses=losses)
    options: dict[str, str] = {}
    if _may_have_free_names(contents, losses):
        _, others = _write(contents, facts, first_packets, _MDTA)
        if _count(others) < _count(losses):
            options, losses = dict(_MDTA), others
    starts = _starts(contents, facts, first_packets)
    options["movie_timescale"] = str(movie_timescale(starts, bases))
    return Rehearsal(options=options, losses=losses)


def movie_timescale(
    starts: Mapping[int, Fraction | None], time_bases: Mapping[int, Fraction]
) -> int:
    """Ticks per second in which every stream's start is a whole number.

    ISO 14496-12 edit lists say in the movie's time scale how late a track starts, and FFmpeg rounds
    that down. Where no number below 2**31 suits all streams, the largest is so fine that a reader
    who rounds to the track's own ticks finds the right one.

    Args:
        starts: time in seconds of the first packet of each stream; None if it is not known.
        time_bases: seconds per tick of the same streams in the output.
    """
    denominators = []
    for index, base in time_bases.items():
        start = starts.get(index)
        # The muxer rounds to the track's own ticks, which for audio are samples.
        exact = base if start is None else math.floor(start / base + Fraction(1, 2)) * base
        denominators.append(exact.denominator)
    return min(math.lcm(1000, *denominators), _MAX_TIMESCALE)


def _may_have_free_names(contents: Contents, losses: Losses) -> bool:
    """Whether losses might be avoided at no cost.

    Free names hide titles from most players of MP4, and there is no place for a picture beside
    them; they are right where the source has them, too, such as ``com.apple.quicktime.model``.
    """
    if not losses:
        return False
    if contents.muxer == "mov":
        return True
    pictures = any(is_attached_picture(stream) for stream in contents.copied)
    return not pictures and any("." in key for key in contents.source.metadata)


def _count(losses: Losses) -> int:
    return sum(map(len, losses.values()))


def _starts(
    contents: Contents, facts: VideoFacts, first_packets: Mapping[int, Packet[Any]]
) -> dict[int, Fraction | None]:
    starts: dict[int, Fraction | None] = {
        contents.video.index: facts.first_pts * facts.time_base + contents.shift
    }
    for index, packet in first_packets.items():
        base = fraction(packet.time_base)
        ticks = packet.pts if packet.pts is not None else packet.dts
        if base and ticks is not None:
            starts[index] = (ticks + contents.ticks(base)) * base
    return starts


def _write(
    contents: Contents,
    facts: VideoFacts,
    first_packets: Mapping[int, Packet[Any]],
    options: dict[str, str],
) -> tuple[dict[int, Fraction], Losses]:
    """Gives time bases by index of the source's streams, and what a reader does not find."""
    file = io.BytesIO()
    with captured_log() as messages:
        output = av.open(file, "w", format=contents.muxer, container_options=options, **METADATA)
        try:
            streams = _start(output, contents, facts)
        except (av.FFmpegError, ValueError) as error:
            raise OutputError(
                f"The {contents.muxer} container does not take these streams together "
                f"({reason(error, messages)}). Try another container."
            ) from error
        bases = {i: base for i, s in streams.items() if (base := fraction(s.time_base)) is not None}
        for index, stream in streams.items():
            # A track without any packet would be left out.
            first = first_packets.get(index)
            with contextlib.suppress(av.FFmpegError):
                output.mux_one(packet_like(first and single_frames(first)[0], stream))
        try:
            output.close()
            file.seek(0)
            with av.open(file, **METADATA) as written:
                return bases, find_losses(contents, written)
        except av.FFmpegError:
            return bases, {}  # the finished file will tell


def _start(output: OutputContainer, contents: Contents, facts: VideoFacts) -> dict[int, Stream]:
    """Writes the header; gives the streams that take packets, by index in the source."""
    video = output.add_mux_stream(
        # Never decoded; these need no configuration in the header.
        "vp8" if contents.muxer == "webm" else "mpeg4",
        rate=facts.rate,
        width=16,
        height=16,
        time_base=facts.time_base,
    )
    contents.label(video)
    streams = {contents.video.index: video, **contents.add_to(output)}
    output.start_encoding()
    return streams
