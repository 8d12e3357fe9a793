"""Opening a video file safely, and facts of its streams and packets."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from srtrt.errors import InputError
from srtrt.runtime.video import pyav, sniff
from srtrt.runtime.video.described import describe_streams
from srtrt.runtime.video.ffmpeg_errors import captured_log
from srtrt.runtime.video.unopenable import no_decoder, unopenable

FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,dv,mxf,yuv4mpegpipe,ivf,h264,hevc,av1,"
    "obu,m4v,gif,nut,rm,vc1,wtv,gxf,swf,mjpeg"
)
"""FFmpeg demuxers that read nothing but the file they are given."""

OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
"""Container options of every input: no network, no playlists, no other files."""


def open_container(path: Path) -> InputContainer:
    """Opens one plain local file with FFmpeg, restricted to :data:`OPEN_OPTIONS`.

    Raises:
        InputError: if it is not a video file.
        BrokenPackageError: if PyAV does not work.
    """
    pyav.require()
    sniff.check_plain_file(path)
    sniff.check_not_a_script(path)
    with captured_log() as messages:
        try:
            return _open(path)
        except (av.FFmpegError, ValueError) as error:
            failure = error
    raise InputError(unopenable(path, messages)) from failure


def _open(path: Path) -> InputContainer:
    # The absolute path behind "file:" keeps names like "http:x.mp4" and "-x.mp4" files.
    name = f"file:{path.absolute()}"
    opened: InputContainer = av.open(name, "r", container_options=OPEN_OPTIONS, **pyav.METADATA)
    return opened


def choose_video(container: InputContainer, path: Path) -> tuple[VideoStream, str | None]:
    """The stream to upscale: the first that is no cover art, default ones first.

    Args:
        container: an open file.
        path: its name, for messages.

    Returns:
        The stream, and a sentence on further video streams if there are any.

    Raises:
        InputError: if there is no video stream that can be decoded.
    """
    streams = container.streams.video
    films = [s for s in streams if not is_attached_picture(s)]
    if not films:
        what = "only cover art" if streams else "no video stream"
        raise InputError(f"{path} holds {what}; expected a video.")
    known = [s for s in films if s.codec_context is not None]
    if not known:
        raise InputError(_undecodable(path, films[0].index))
    chosen = next((s for s in known if s.disposition & Disposition.default), known[0])
    others = [str(s.index) for s in films if s is not chosen]
    if not others:
        return chosen, None
    return chosen, (
        f"Video stream {chosen.index} is upscaled; the other video streams "
        f"({', '.join(others)}) are not carried over."
    )


def _undecodable(path: Path, index: int) -> str:
    with captured_log(av.logging.INFO) as messages, _open(path) as container:
        description = describe_streams(container)[index]
    return (
        f"{path}: its video (stream {index}) has a codec that this FFmpeg has no decoder for: "
        f"{no_decoder(description, messages)}."
    )


def packet_time(packet: Packet[Any]) -> Fraction | None:
    """When a packet starts, in seconds; None if it does not say."""
    ticks = packet.pts if packet.pts is not None else packet.dts
    return None if ticks is None else pyav.seconds(ticks, packet.time_base)


def is_flush(packet: Packet[Any]) -> bool:
    """Whether a packet is the empty one that PyAV adds at the end of every stream."""
    return packet.size == 0 and packet.dts is None


def plausible_rate(path: Path, stream: VideoStream) -> Fraction:
    """Average frames per second, from the packets' own times where the header's is absurd."""
    for rate in map(pyav.fraction, (stream.average_rate, stream.guessed_rate)):
        if rate is not None and 0 < rate <= 240:
            return rate
    with open_container(path) as container:
        packets = itertools.islice(pyav.packets(container, container.streams[stream.index]), 50)
        times = sorted(t for p in packets if (t := packet_time(p)) is not None)
    if len(times) < 2 or times[0] == times[-1]:
        return Fraction(25)
    return ((len(times) - 1) / (times[-1] - times[0])).limit_denominator(1001)


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Nine fixed-point numbers of the frame's display matrix, row by row; None if it has none."""
    data: Any = frame.side_data.get(SideData.DISPLAYMATRIX.name)
    if data is None:
        return None
    return tuple(int(v) for v in np.frombuffer(bytes(data), "<i4")[:9])


def is_attached_picture(stream: Stream) -> bool:
    """Whether a stream is cover art."""
    return bool(stream.disposition & Disposition.attached_pic)
