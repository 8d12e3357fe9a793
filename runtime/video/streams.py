"""Which streams of the source are copied, and whether the output container takes them."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.stream import AttachmentStream, Stream

from srtrt.runtime.video.opening import is_attached_picture
from srtrt.runtime.video.pyav import METADATA, readable

STATISTICS = ("BPS", "DURATION", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "_STATISTICS_", "ENCODER")
"""Prefixes of Matroska tags that describe the old bytes, not the film."""

_CONTAINER_ONLY = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
)


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


def plan_streams(
    container: InputContainer, video_index: int, muxer: str, *, audio: bool
) -> StreamPlan:
    """Sorts the streams of a source for an output made by FFmpeg's ``muxer``."""
    copied: list[Stream] = []
    ignored: list[int] = []
    refused: list[str] = []
    notes: list[str] = []
    data: list[str] = []
    for stream in container.streams:
        if stream.index == video_index:
            continue
        picture = stream.type == "video" and is_attached_picture(stream)
        wanted = stream.type in ("audio", "subtitle", "attachment") or picture
        if stream.type == "audio" and not audio:
            wanted = False
        elif stream.type == "data" and not _is_chapter_track(stream, container):
            data.append(str(stream.index))
        if wanted and not accepts(stream, muxer):
            wanted = False
            what = f"stream {stream.index} ({describe(stream)})"
            if picture:
                notes.append(f"A {muxer} file does not take {what}; it is not carried over.")
            else:
                refused.append(f"a {muxer} file does not take {what}")
        if wanted:
            copied.append(stream)
        else:
            ignored.append(stream.index)
    if data:
        notes.append(f"Data streams are not carried over: {', '.join(data)}.")
    return StreamPlan(
        copied=tuple(copied), ignored=tuple(ignored), refused=tuple(refused), notes=tuple(notes)
    )


def accepts(stream: Stream, muxer: str) -> bool:
    """Whether FFmpeg's ``muxer`` takes a stream, found by writing a header to memory."""
    if is_attached_picture(stream):
        # Others write a header and then lose the picture without a word.
        return muxer in ("matroska", "mp4")
    if stream.type == "attachment":
        return muxer == "matroska"
    output = av.open(io.BytesIO(), "w", format=muxer, **METADATA)
    try:
        add_copy(output, stream)
        output.start_encoding()
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
        copy.metadata["filename"] = name
        return copy
    if picture is not None:
        codec = stream.codec_context.codec.canonical_name
        suffix, mime = ("png", "image/png") if codec == "png" else ("jpg", "image/jpeg")
        return output.add_attachment(f"cover.{suffix}", mime, picture)
    copy = output.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(stream_metadata(stream))
    copy.disposition = stream.disposition
    return copy


def stream_metadata(stream: Stream, *, reencoded: bool = False) -> dict[str, str]:
    """Metadata of a stream that stays true in the output."""
    return {
        key: value
        for key, value in stream.metadata.items()
        if not key.upper().startswith(STATISTICS) and not (reencoded and key == "vendor_id")
    }


def container_metadata(source: InputContainer) -> dict[str, str]:
    """Metadata of a file that stays true in the output."""
    return {k: v for k, v in source.metadata.items() if k.lower() not in _CONTAINER_ONLY}


def describe(stream: Stream) -> str:
    """Such as ``audio pcm_s16le, eng``."""
    words = f"{stream.type} {name_of(stream)}"
    language = stream.language
    return words if language in (None, "und") else f"{words}, {readable(language)}"


def name_of(stream: Stream) -> str:
    """FFmpeg's name of the stream's codec, or ``unknown codec``."""
    context: Any = stream.codec_context
    if context is not None:
        return str(context.codec.canonical_name)
    return str(getattr(stream, "name", None) or "unknown codec")


def _is_chapter_track(stream: Stream, container: InputContainer) -> bool:
    # QuickTime keeps chapters in a text track; they are copied as chapters.
    return bool(container.chapters()) and name_of(stream) == "bin_data"
