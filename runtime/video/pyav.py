"""What differs between the versions of PyAV that srtrt works with, and whether this one works.

PyAV 17 and 18 decode metadata strictly unless told otherwise, and raise ``ValueError`` for all
side data of a frame that has a kind newer than they are. 19 lets bytes that are not UTF-8 pass
through as surrogates (PEP 383), and names what it does not know; its rational numbers are a type
of their own, which rounds to 32 bits, has no floor division, and is zero where nothing is known.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type as SideData
from av.stream import Stream

from srtrt.packages import broken, untried

_MAJOR = int(av.__version__.partition(".")[0])

METADATA: dict[str, Any] = {"metadata_errors": "surrogateescape"} if _MAJOR < 19 else {}
"""Options of every ``av.open``: metadata in any encoding is read and written byte for byte."""


def _unknown_side_data(kind: type[SideData], value: object) -> SideData:
    """A member for side data that this PyAV has no name for."""
    member: Any = object.__new__(kind)
    member._name_ = f"UNKNOWN_{value}"
    member._value_ = value
    return kind._value2member_map_.setdefault(value, member)  # type: ignore[return-value]


if _MAJOR < 19:
    SideData._missing_ = classmethod(_unknown_side_data)  # type: ignore[method-assign,assignment]


_VIEW_ID = 29
"""FFmpeg's number of the side data that only frames of a video with several views carry."""


def has_views(frame: av.VideoFrame) -> bool:
    """Whether the frame is one view of several, such as of a spatial video (MV-HEVC)."""
    try:
        return frame.side_data.get(SideData(_VIEW_ID)) is not None  # type: ignore[call-overload]
    except ValueError:  # an FFmpeg that does not number it so
        return False


def all_side_data(frame: av.VideoFrame) -> list[Any]:
    """Every piece of side data of a frame; a kind may come more than once."""
    side_data: Any = frame.side_data
    # Iteration gives the pieces before PyAV 19, and their kinds since.
    pieces: list[Any] = list(side_data) if _MAJOR < 19 else side_data[:]
    return pieces


def fraction(value: Any) -> Fraction | None:
    """A time base, rate or ratio as PyAV gives it; None if it is unknown (None, 0 or x/0)."""
    return Fraction(value.numerator, value.denominator) if value else None


def seconds(ticks: int, time_base: Any) -> Fraction:
    """Exactly ``ticks`` times ``time_base``; zero if that is unknown."""
    return ticks * (fraction(time_base) or Fraction(0))


def packets(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """Packets of a file in its order, of all or some streams, then an empty one of each stream.

    Streams that appear only while it is read have none.
    """
    try:
        yield from container.demux(*streams)
    except IndexError:
        # PyAV looks for the streams that appeared among those it knows, after all is read.
        return


def chapters(container: InputContainer) -> list[dict[str, Any]]:
    """Chapters of a file: ``start`` and ``end`` in ticks of ``time_base``, and ``metadata``."""
    return [
        {**chapter, "time_base": fraction(chapter["time_base"]) or Fraction(1, av.time_base)}
        for chapter in container.chapters()
    ]


def readable(text: str) -> str:
    """Text of a file's metadata for people: bytes that are not UTF-8 become U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@functools.cache
def require() -> str | None:
    """Checks, once, that PyAV can do what srtrt asks of it.

    Returns:
        A sentence if this version has never been tried, else None.

    Raises:
        BrokenPackageError: if it cannot write, read, encode or decode a small clip.
    """
    note = untried("av")
    try:
        write_and_read_a_clip("ffv1", {})
    except Exception as error:
        raise broken("av", error) from error
    return note


def write_and_read_a_clip(encoder: str, options: dict[str, str]) -> None:
    """Three frames and a title through the calls that a video goes through.

    Args:
        encoder: FFmpeg's name of a video encoder.
        options: its options.

    Raises:
        Exception: whatever PyAV raises, or RuntimeError if another clip came back.
    """
    tick, frames = Fraction(1, 1000), 3
    file = io.BytesIO()
    with av.open(file, "w", format="matroska", **METADATA) as output:
        output.metadata["title"] = "caf\udce9"  # Latin-1
        stream: Any = output.add_stream(encoder, rate=Fraction(25), time_base=tick)
        stream.codec_context.width, stream.codec_context.height = 64, 64
        stream.codec_context.pix_fmt = "yuv420p"
        stream.codec_context.options = dict(options)
        stream.codec_context.open()
        output.start_encoding()
        for index in range(frames):
            grey = np.full((64, 64, 3), 60 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.duration, frame.time_base = 40 * index, 40, tick
            for packet in [*stream.encode(frame), *(stream.encode(None) if index == 2 else [])]:
                output.mux_one(packet)
    file.seek(0)
    with av.open(file, container_options={"format_whitelist": "matroska"}, **METADATA) as source:
        found = [(f.pts, f.side_data.get(SideData.DISPLAYMATRIX)) for f in source.decode(video=0)]
        title = source.metadata["title"]
    if found != [(40 * index, None) for index in range(frames)] or title != "caf\udce9":
        raise RuntimeError(f"a clip of {frames} frames came back as {found} with title {title!r}")
