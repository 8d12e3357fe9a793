"""Why a file cannot be opened or decoded, in one sentence that is true of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from srtrt.runtime.video import sniff
from srtrt.runtime.video.boxes import EBML, Box, boxes, is_iso
from srtrt.runtime.video.described import Description
from srtrt.runtime.video.protection import encrypted_tracks

_FLV_HEADER = 13
"""Bytes of a Flash video before its first tag."""

_TOP_BOXES = frozenset(
    {"ftyp", "styp", "moov", "moof", "mdat", "free", "skip", "wide"}
    | {"uuid", "meta", "mfra", "sidx", "ssix", "prft", "emsg", "pnot", "pdin"}
)
"""Boxes that stand at the top of ISO 14496-12 and QuickTime files."""

_MATROSKA_ID = re.compile(r"Unknown/unsupported AVCodecID (\S+?)\.?$")


def unopenable(path: Path, messages: Sequence[str]) -> str:
    """One sentence on why FFmpeg found no video in a file.

    Args:
        path: the file.
        messages: what FFmpeg said.
    """
    schemes = {scheme for kind, scheme in encrypted_tracks(path).values() if kind != "soun"}
    if schemes:
        return encrypted(path, "its video", min(schemes))
    with path.open("rb") as file:
        head = file.read(4096)
        kind = sniff.other_kind(head)
        if kind is not None:
            return f"{path} is {kind}; expected a video file."
        said = _said(messages)
        if is_iso(head):
            return f"{path} {_iso(file, path.stat().st_size, said)}"
    missing = sniff.missing_bytes(path)
    if missing:
        return f"{path} is truncated: it lacks {missing:,} bytes at its end."
    if head.startswith(b"FLV") and path.stat().st_size <= _FLV_HEADER:
        return f"{path} is a Flash video without any frame: it ends after its header."
    if head.startswith((EBML, b"FLV")) or head[:4] == b"RIFF":
        return f"{path} starts like a video, but FFmpeg cannot read it{said}."
    return (
        f"{path} is not a video in a container that srtrt opens "
        "(mp4, mov, mkv, webm, avi, mpeg, ts, flv, ogg, wmv, mxf, ...)."
    )


def encrypted(path: Path, what: str, scheme: str, where: str = "") -> str:
    """The sentence on an encrypted file.

    Args:
        path: the file.
        what: which of its streams.
        scheme: how.
        where: from which place on, with a space before it.
    """
    return (
        f"{path}: {what} is encrypted (DRM, scheme {scheme}){where}, and srtrt has no key; "
        "give a copy without protection."
    )


def no_decoder(description: Description, messages: Sequence[str]) -> str:
    """The codec of a stream that this FFmpeg has no decoder for, as far as the file names it.

    Args:
        description: of the stream.
        messages: what FFmpeg said when it opened the file.
    """
    known = [] if description.codec in ("none", "unknown") else [description.codec]
    known += [repr(description.tag)] if description.tag else []
    ids = sorted({m.group(1) for text in messages if (m := _MATROSKA_ID.search(text))})
    return " ".join(known) or " or ".join(map(repr, ids)) or "without a name"


def _said(messages: Sequence[str]) -> str:
    lines = [message.splitlines()[0].rstrip(".") for message in messages if message]
    told = list(dict.fromkeys(lines))[-2:]
    return f" (FFmpeg: {'; '.join(told)})" if told else ""


def _iso(file: BinaryIO, size: int, said: str) -> str:
    """What there is of a file made of ISO boxes, after its name."""
    found = list(boxes(file, 0, size))
    kinds = {box.kind for box in found}
    strange = next((box for box in found if not _is_plausible(box, size)), None)
    last = found[-1]
    if strange is not None:
        return (
            f"is a damaged MP4 or QuickTime file: there is none of its boxes at byte "
            f"{strange.start:,}, where one should begin; what follows cannot be found."
        )
    if last.end is not None and last.end < last.body:
        return (
            f"is a damaged MP4 or QuickTime file: its box {last.kind!r} at byte {last.start:,} "
            f"claims {last.end - last.start} bytes, less than any box has; what follows cannot be "
            "found."
        )
    if last.end is not None and last.end > size:
        lost = "" if "moov" in kinds else ", and the index (moov) is not in what is there"
        return (
            f"is truncated: its box {last.kind!r} at byte {last.start:,} lacks the last "
            f"{last.end - size:,} bytes{lost}."
        )
    if "moov" in kinds:
        return f"is an MP4 or QuickTime file that FFmpeg cannot read{said}."
    if "moof" in kinds:
        return (
            "is a fragment of a stream (moof) without the part that goes before it (moov); join "
            "them: cat INIT FRAGMENT... > whole.mp4"
        )
    data = sum(box.end_within(size) - box.body for box in found if box.kind == "mdat")
    if data:
        return (
            f"holds {data:,} bytes of media (mdat) but no index (moov), without which they cannot "
            "be read; recordings and downloads that were not finished look so."
        )
    return f"is an MP4 or QuickTime file without any media: it holds only {_named(found)}."


def _is_plausible(box: Box, size: int) -> bool:
    """Whether a box is one of ISO 14496-12 or QuickTime, or may be one of somebody else."""
    if box.kind in _TOP_BOXES:
        return True
    inside = box.end is not None and box.body <= box.end <= size
    return inside and box.kind.isascii() and box.kind.replace(" ", "x").isalnum()


def _named(found: Sequence[Box]) -> str:
    names = [f"{'an empty ' if box.kind == 'mdat' else ''}{box.kind!r}" for box in found]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
