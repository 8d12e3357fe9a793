"""The structure of the two common kinds of container: ISO boxes (MP4, QuickTime) and EBML (MKV)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

EBML = b"\x1aE\xdf\xa3"
"""First bytes of Matroska and WebM."""

SEGMENT, TRACKS, TRACK = 0x18538067, 0x1654AE6B, 0xAE
"""Numbers of EBML elements, by RFC 9559."""

_FIRST_BOXES = frozenset(b"ftyp styp moov moof mdat free skip wide pnot sidx".split())

_MOST = 2**20
"""Boxes read of one level; ten hours in fragments of a tenth of a second have fewer."""

_FARTHEST = 2**63 - 1
"""Largest place in a file that a system can go to; damaged lengths lead farther."""


@dataclass(frozen=True)
class Box:
    """One ISO box (ISO 14496-12, 4.2) or EBML element (RFC 8794); places are bytes in the file."""

    kind: str
    """Four characters, or the number of an EBML element in hexadecimal."""
    start: int
    """Where its header begins."""
    body: int
    """Where its contents begin."""
    end: int | None
    """Where it ends by its own size, which may be past the file; None if it says no size."""

    def end_within(self, limit: int) -> int:
        """Where it ends inside of something that ends at ``limit``."""
        return limit if self.end is None else min(self.end, limit)


def is_iso(head: bytes) -> bool:
    """Whether a file that starts with ``head`` consists of ISO boxes."""
    return head[4:8] in _FIRST_BOXES


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    """ISO boxes one after the other; the last may have a size that cannot be (end before body)."""
    for _ in range(_MOST):
        if start + 8 > min(end, _FARTHEST):
            return
        file.seek(start)
        header = file.read(16)
        if len(header) < 8:
            return
        length, body = int.from_bytes(header[:4], "big"), start + 8
        if length == 1:
            length, body = int.from_bytes(header[8:], "big"), start + 16
        box = Box(header[4:8].decode("latin-1"), start, body, start + length if length else None)
        yield box
        if box.end is None or box.end < body:
            return
        start = box.end


def find(file: BinaryIO, box: Box, *kinds: str) -> Iterator[Box]:
    """Boxes at a path of kinds below ``box``."""
    if not kinds:
        yield box
        return
    for child in boxes(file, box.body, box.end or box.body):
        if child.kind == kinds[0]:
            yield from find(file, child, *kinds[1:])


def elements(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    """EBML elements one after the other, up to one that is damaged or says no size."""
    for _ in range(_MOST):
        if start >= min(end, _FARTHEST):
            return
        file.seek(start)
        number, length = _ebml_number(file, keep_marker=True), _ebml_number(file)
        if number is None:
            return
        box = Box(f"{number:x}", start, file.tell(), None)
        if length is None:
            yield box
            return
        yield Box(box.kind, start, box.body, box.body + length)
        start = box.body + length


def segment(file: BinaryIO, size: int) -> Box | None:
    """The segment of a Matroska file, which holds everything but the first header."""
    return next((e for e in elements(file, 0, size) if e.kind == f"{SEGMENT:x}"), None)


def _ebml_number(file: BinaryIO, *, keep_marker: bool = False) -> int | None:
    """A number of variable length (RFC 8794, 4); None if damaged or the reserved 'unknown'."""
    first = file.read(1)
    if not first or first == b"\x00":
        return None
    width = 9 - first[0].bit_length()
    number = int.from_bytes(first + file.read(width - 1), "big")
    if keep_marker:
        return number
    number &= (1 << 7 * width) - 1
    return None if number == (1 << 7 * width) - 1 else number
