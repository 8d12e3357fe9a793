"""What a file is, from its path and first bytes, before FFmpeg sees it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

from srtrt.errors import InputError

PICTURE_MAGIC: dict[bytes, str] = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
"""First bytes of still pictures; WebP and AVIF are recognised further on."""

_EBML = b"\x1aE\xdf\xa3"
_SEGMENT = b"\x18S\x80g"


def check_plain_file(path: Path) -> None:
    """Refuses everything but a readable, non-empty regular file.

    Raises:
        InputError: with one sentence that says what the path is instead.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}).") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a directory; expected a video file.")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is a pipe, socket or device; expected a plain video file.")
    if status.st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); expected a video file.")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}).") from error


def check_not_a_script(path: Path) -> None:
    """Refuses playlists, concat scripts and pictures, which name or are something else.

    Raises:
        InputError: with one sentence that says what the file is and what to do.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"#EXTM3U", b"[playlist]", b"<MPD")) or b"<MPD" in text[:400]:
        raise InputError(
            f"{path} is a playlist that points at other files; give the video file itself."
        )
    if text.startswith(b"ffconcat"):
        raise InputError(
            f"{path} is a concat script that points at other files; give the video file itself."
        )
    picture = picture_kind(head)
    if picture:
        raise InputError(f"{path} is a picture ({picture}), not a video; use: srtrt upscale-image")


def picture_kind(head: bytes) -> str | None:
    """Name of the still-picture format that starts with ``head``, or None."""
    for magic, name in PICTURE_MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1"):
        return "AVIF or HEIF"
    return None


def unopenable(path: Path) -> str:
    """One sentence on why FFmpeg found no video in the file."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head[4:8] == b"ftyp":
        return (
            f"{path} is an MP4 or QuickTime file without its index (moov); "
            "it is truncated or its recording was never finished."
        )
    if head.startswith((_EBML, b"FLV")) or head[:4] == b"RIFF":
        return f"{path} starts like a video but holds none that can be read; it is truncated."
    if _is_text(head):
        return f"{path} is a text file; expected a video file."
    return (
        f"{path} is not a video in a container that srtrt opens "
        "(mp4, mov, mkv, webm, avi, mpeg, ts, flv, ogg, wmv, mxf, ...)."
    )


def missing_bytes(path: Path) -> int:
    """How many bytes the file lacks by its own headers; 0 when complete or unknown.

    Reads the sizes of ISO 14496-12 boxes, of the EBML segment (RFC 8794, RFC 9559) and of the
    first RIFF chunk.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] == _EBML:
            end = _ebml_end(file)
        elif head[:4] == b"RIFF":
            end = int.from_bytes(head[4:8], "little") + 8
            end = 0 if end >= 2**32 else end
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
            end = _boxes_end(file, size)
        else:
            end = 0
    return max(0, end - size)


def _boxes_end(file: BinaryIO, size: int) -> int:
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        if length < 8:
            return 0
        if position + length > size and kind in (b"mdat", b"moov", b"moof"):
            return position + length
        position += length
    return 0


def _ebml_end(file: BinaryIO) -> int:
    file.seek(4)
    length = _ebml_size(file)
    if length is None:
        return 0
    file.seek(length, 1)
    if file.read(4) != _SEGMENT:
        return 0
    length = _ebml_size(file)
    return 0 if length is None else file.tell() + length


def _ebml_size(file: BinaryIO) -> int | None:
    """Reads one EBML size; None when it is the reserved value for 'unknown'."""
    first = file.read(1)
    if not first or first == b"\x00":
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(width - 1), "big") & ((1 << 7 * width) - 1)
    return None if value == (1 << 7 * width) - 1 else value


def _is_text(head: bytes) -> bool:
    return b"\x00" not in head and sum(b < 32 and b not in b"\t\n\r\f" for b in head) == 0


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
