"""Which streams of the source are copied, and whether the output container takes them."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Stream

from srtrt.runtime.video.described import Description, describe_streams
from srtrt.runtime.video.opening import is_attached_picture
from srtrt.runtime.video.options import VideoOptions
from srtrt.runtime.video.pyav import METADATA, readable
from srtrt.runtime.video.source import VideoSource
from srtrt.text import printable

_STATISTICS = frozenset({"bps", "duration", "number_of_frames", "number_of_bytes"})
"""Matroska tags that describe the old bytes, not the film; some writers add a language."""

_WRITER = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration"})
"""Keys of a file that describe how it was written."""

_PICTURES = {
    "mjpeg": ("jpg", "image/jpeg"),
    "png": ("png", "image/png"),
    "bmp": ("bmp", "image/bmp"),
    "gif": ("gif", "image/gif"),
    "tiff": ("tiff", "image/tiff"),
    "webp": ("webp", "image/webp"),
}
"""Codec of cover art to its extension and media type, as Matroska attaches it."""

_MP4_PICTURES = frozenset({"mjpeg", "png", "bmp"})

_DATA = {
    "tmcd": "timecode",
    "gpmd": "GoPro telemetry",
    "mebx": "timed metadata of Apple",
    "camm": "camera motion",
    "rtmd": "real-time metadata of Sony",
    "djmd": "telemetry of DJI",
    "dbgi": "debugging data of DJI",
    "rtp": "hints for streaming",
    "mp4s": "MPEG-4 systems",
    "klv": "KLV metadata",
    "scte_35": "SCTE-35 cues",
    "timed_id3": "timed ID3 metadata",
    "smpte_2038": "SMPTE 2038 ancillary data",
    "smpte_436m_anc": "ancillary data",
    "dvd_nav_packet": "DVD navigation",
    "epg": "programme guide",
}
"""Codec tag, or FFmpeg's name of the codec, to what a data stream holds."""


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """What happens to the streams that are not upscaled."""

    copied: tuple[Stream, ...]
    """Streams copied packet by packet, cover art and attachments among them."""
    ignored: tuple[int, ...]
    """Indices of streams that are left behind, the upscaled one not among them."""
    refused: tuple[str, ...]
    """A sentence for every stream the container does not take though it should be copied."""
    notes: tuple[str, ...]
    """A sentence for what is left behind by design."""


def plan_streams(source: VideoSource, muxer: str, options: VideoOptions) -> StreamPlan:
    """Sorts the streams of a source for an output made by FFmpeg's ``muxer``."""
    container, video_index = source.container, source.stream.index
    first_packets = source.first_packets()
    descriptions = describe_streams(container)
    copied: list[Stream] = []
    refused: list[str] = []
    notes: list[str] = []
    data: list[str] = []
    for stream in container.streams:
        if stream.index == video_index:
            continue
        description = descriptions[stream.index]
        what = f"stream {stream.index} ({describe(stream, description.codec)})"
        if stream.type not in ("audio", "subtitle", "attachment", "video"):
            if not _is_kept_otherwise(stream, description, container):
                data.append(f"{stream.index} ({_content(stream, description)})")
        elif not _is_wanted(stream, options):
            if is_font(stream):
                notes.append(f"S{what[1:]} is left out with the subtitles.")
        elif stream.type != "attachment" and stream.codec_context is None:
            sentence = f"{what} cannot be copied, because FFmpeg has no decoder for it"
            if stream.type == "audio":
                refused.append(sentence)
            else:
                notes.append(f"S{sentence[1:]}; it is left out.")
        elif accepts(stream, muxer, first_packets.get(stream.index)):
            copied.append(stream)
        elif is_attached_picture(stream):
            notes.append(f"The {muxer} container does not take {what}; it is not carried over.")
        else:
            refused.append(f"the {muxer} container does not take {what}")
    if data:
        notes.append(f"Data streams are not carried over: {', '.join(data)}.")
    kept = {video_index, *(stream.index for stream in copied)}
    return StreamPlan(
        copied=tuple(copied),
        ignored=tuple(s.index for s in container.streams if s.index not in kept),
        refused=tuple(refused),
        notes=tuple(notes),
    )


def _is_wanted(stream: Stream, options: VideoOptions) -> bool:
    if stream.type == "video":
        return is_attached_picture(stream)
    if stream.type == "audio":
        return options.audio
    return options.subtitles or not (stream.type == "subtitle" or is_font(stream))


def is_font(stream: Stream) -> bool:
    """Whether a stream is an attached font, which subtitles are drawn with."""
    if not isinstance(stream, AttachmentStream):
        return False
    kind, name = (stream.mimetype or "").lower(), (stream.name or "").lower()
    return "font" in kind or "opentype" in kind or name.endswith((".ttf", ".otf", ".ttc"))


def accepts(stream: Stream, muxer: str, first: Packet[Any] | None) -> bool:
    """Whether FFmpeg's ``muxer`` takes a stream, found by writing its beginning to memory.

    Args:
        stream: a stream of the source that has a decoder or is an attachment.
        muxer: FFmpeg's name.
        first: its first packet, if that was read: some muxers look into packets.
    """
    if is_attached_picture(stream):
        # Others write a header and then lose the picture without a word.
        takes = {"matroska": _PICTURES.keys(), "mp4": _MP4_PICTURES}.get(muxer, frozenset())
        return name_of(stream) in takes
    if stream.type == "attachment":
        return muxer == "matroska"
    output = av.open(io.BytesIO(), "w", format=muxer, **METADATA)
    try:
        copy = add_copy(output, stream)
        output.start_encoding()
        if first is not None:
            output.mux_one(packet_like(single_frames(first)[0], copy))
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with contextlib.suppress(av.FFmpegError, OSError):
            output.close()
    return True


def add_copy(output: OutputContainer, stream: Stream, picture: bytes | None = None) -> Stream:
    """Adds a stream like ``stream`` to ``output``, with its metadata and disposition.

    Args:
        output: the file being written.
        stream: a stream of the source.
        picture: the bytes of a cover picture, for Matroska, where it becomes an attachment.

    Raises:
        ValueError, av.FFmpegError: if the container does not take it.
    """
    if isinstance(stream, AttachmentStream):
        name, kind = stream.name or "attachment", stream.mimetype or "application/octet-stream"
        copy: Stream = output.add_attachment(readable(name), readable(kind), stream.data)
        copy.metadata.update(stream.metadata)
        return copy
    if picture is not None:
        suffix, kind = _PICTURES[name_of(stream)]
        copy = output.add_attachment(f"cover.{suffix}", kind, picture)
        copy.metadata.update(stream_metadata(stream))
        return copy
    copy = output.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(stream_metadata(stream))
    copy.disposition = stream.disposition
    return copy


def single_frames(packet: Packet[Any]) -> list[Packet[Any]]:
    """The packet itself; AMR, of which FFmpeg writes one frame at a time, in its frames."""
    stream = packet.stream
    if name_of(stream) not in ("amr_nb", "amr_wb"):
        return [packet]
    parser = av.CodecContext.create(stream.codec_context.codec.name, "r")
    parts = [bytes(part) for part in (*parser.parse(bytes(packet)), *parser.parse(None))]
    if len(parts) < 2:
        return [packet]
    frames = []
    for number, part in enumerate(parts):
        frame: Packet[Any] = Packet(part)
        late = number * (packet.duration or 0) // len(parts)
        frame.pts = None if packet.pts is None else packet.pts + late
        frame.dts = None if packet.dts is None else packet.dts + late
        frame.duration = (packet.duration or 0) // len(parts)
        frame.time_base = packet.time_base
        frame.stream = stream
        frames.append(frame)
    return frames


def packet_like(packet: Packet[Any] | None, stream: Stream) -> Packet[Any]:
    """The content of ``packet``, or two zeros, as the first packet of another stream."""
    copy: Packet[Any] = Packet(bytes(2) if packet is None else bytes(packet))
    copy.pts = copy.dts = 0
    copy.duration = 1
    copy.time_base = stream.time_base or Fraction(1)
    copy.stream = stream
    return copy


def stream_metadata(stream: Stream, *, reencoded: bool = False) -> dict[str, str]:
    """Metadata of a stream that stays true in the output.

    Left out are Matroska's statistics of the old bytes, the program that wrote them
    (``vendor_id``), and, for a stream that is encoded again, its old encoder.
    """
    left_out = {*_STATISTICS, "vendor_id"} | ({"encoder"} if reencoded else set())
    return {
        key: value
        for key, value in stream.metadata.items()
        if not key.upper().startswith("_STATISTICS_") and not _names(key) & left_out
    }


def _names(key: str) -> set[str]:
    """A key, and the same without the language that FFmpeg adds to some."""
    return {key.lower(), key.lower().rpartition("-")[0]}


def container_metadata(source: InputContainer) -> dict[str, str]:
    """Metadata of a file that stays true in the output."""
    return {k: v for k, v in source.metadata.items() if not _names(k) & _WRITER}


def describe(stream: Stream, codec: str = "") -> str:
    """Such as ``audio pcm_s16le, eng``.

    Args:
        stream: a stream of the source.
        codec: FFmpeg's name of its codec, for streams that it has no decoder for.
    """
    name = name_of(stream)
    if stream.type != "attachment" and stream.codec_context is None:
        name = "unknown codec" if codec in ("", "none", "unknown") else codec
    words = f"{stream.type} {name}"
    language = stream.language
    return words if language in (None, "und") else f"{words}, {printable(language)}"


def name_of(stream: Stream) -> str:
    """FFmpeg's name of the stream's codec, an attachment's own name, or ``unknown codec``."""
    context: Any = stream.codec_context
    if context is not None:
        return str(context.codec.canonical_name)
    return printable(str(getattr(stream, "name", None) or "unknown codec"))


def _content(stream: Stream, description: Description) -> str:
    """What a data stream holds, from its tag, its codec, or the name of its handler."""
    for name in (description.tag.lower(), description.codec):
        if name in _DATA:
            return _DATA[name]
    handler = stream.metadata.get("handler_name", "").strip()
    names = [n for n in (handler, description.tag) if n.isprintable() and n.isascii() and n]
    return ", ".join(names) or (
        "unknown" if description.codec in ("none", "unknown") else description.codec
    )


def _is_kept_otherwise(stream: Stream, description: Description, container: InputContainer) -> bool:
    """Whether a data stream comes again as chapters or as the timecode of the video.

    QuickTime keeps chapters in a text track. A timecode track has one timecode, which FFmpeg gives
    to the video stream as metadata and makes a track of again.
    """
    if description.tag == "tmcd":
        return "timecode" in stream.metadata
    return (
        bool(container.chapters())
        and description.codec == "bin_data"
        and (description.tag in ("text", ""))
    )
