"""What a file is, from its path and first bytes, before FFmpeg sees it."""

from __future__ import annotations

import stat
from pathlib import Path

from srtrt.errors import InputError, system_reason
from srtrt.runtime.video.boxes import EBML, boxes, is_iso, segment

PICTURE_MAGIC: dict[bytes, str] = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
"""First bytes of still pictures; WebP and AVIF are recognised further on."""

_OTHER_MAGIC: dict[bytes, str] = {
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "an archive or office document (zip)",
    b"Rar!": "an archive (RAR)",
    b"7z\xbc\xaf\x27\x1c": "an archive (7z)",
    b"\x1f\x8b": "a compressed file (gzip)",
    b"ID3": "a sound file (MP3)",
    b"fLaC": "a sound file (FLAC)",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"d8:announce": "a torrent, which only says where the video can be found",
}
"""First bytes of what is found under the names of videos."""


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
        raise InputError(f"{path}: cannot be read ({system_reason(error)}).") from error
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
        raise InputError(f"{path}: cannot be read ({system_reason(error)}).") from error


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


def other_kind(head: bytes) -> str | None:
    """What a file is that starts with ``head`` and is no video; None if that is not known."""
    for magic, name in _OTHER_MAGIC.items():
        if head.startswith(magic):
            return name
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML), as a failed download leaves"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "a sound file (WAV)"
    if head[257:262] == b"ustar":
        return "an archive (tar)"
    if not head.strip(b"\x00"):
        return f"not filled: its first {len(head):,} bytes are zero, as in an unfinished download"
    return "a text file" if _is_text(head) else None


def missing_bytes(path: Path) -> int:
    """How many bytes the file lacks by its own headers; 0 when complete or unknown.

    Reads the sizes of ISO 14496-12 boxes, of the EBML segment (RFC 8794, RFC 9559) and of the
    first RIFF chunk.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if head.startswith(EBML):
            whole = segment(file, size)
            end = 0 if whole is None else whole.end or 0
        elif head[:4] == b"RIFF":
            end = int.from_bytes(head[4:8], "little") + 8
            end = 0 if end >= 2**32 else end
        elif is_iso(head):
            cut = (box for box in boxes(file, 0, size) if box.end is not None and box.end > size)
            end = next((box.end or 0 for box in cut if box.kind in ("mdat", "moov", "moof")), 0)
        else:
            end = 0
    return max(0, end - size)


def _is_text(head: bytes) -> bool:
    return b"\x00" not in head and sum(b < 32 and b not in b"\t\n\r\f" for b in head) == 0
