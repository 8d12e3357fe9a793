"""Which tracks of a file are encrypted, from its headers."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from av.container import InputContainer
from av.packet import Packet

from srtrt.runtime.video.boxes import (
    EBML,
    TRACK,
    TRACKS,
    Box,
    boxes,
    elements,
    find,
    is_iso,
    segment,
)

_COMMON = frozenset({"cenc", "cens", "cbc1", "cbcs", "piff"})
"""Schemes of ISO 23001-7, and its predecessor, in which some samples may be clear."""

_PROTECTED = frozenset(["encv", "enca", "enct", "encs", "encm", "enc3", "drmi", "drms"])
"""Sample entries of ISO 14496-12, 8.12, and of FairPlay."""

_MATROSKA = "Matroska ContentEncryption"
_ENCODINGS, _ENCODING, _ENCRYPTION = 0x6D80, 0x6240, 0x5035
_TRACK_TYPE = 0x83
_STREAM_TYPES = frozenset({1, 2, 17, 33})
"""Video, audio, subtitles and metadata: the tracks that FFmpeg makes streams of."""

_MOST = 2**20
"""Bytes read of one description, or of the beginning of a file."""

_ALL = -1
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_ENCRYPTION = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
    bytes.fromhex("338505438169e6499b74ad12cb86d58c"),
)
"""GUIDs of the (extended, advanced) content encryption objects in the header of ASF."""

_SYNC = 0x47


def encrypted_streams(path: Path, container: InputContainer) -> dict[int, str]:
    """The scheme of every encrypted stream of an open file, by the number of the stream."""
    tracks = encrypted_tracks(path)
    if container.format.name.startswith("matroska"):
        return {index: scheme for index, (_, scheme) in tracks.items()}
    if _ALL in tracks:
        return {stream.index: tracks[_ALL][1] for stream in container.streams}
    ids = {stream.id: stream.index for stream in container.streams}
    return {ids[track]: scheme for track, (_, scheme) in tracks.items() if track in ids}


def encrypted_tracks(path: Path) -> dict[int, tuple[str, str]]:
    """Kind (``vide``, ``soun``, ...; empty in Matroska) and scheme of the encrypted tracks.

    The key is the track's ID in an ISO file, its place in a Matroska file, the PID in a transport
    stream, and -1 in a Windows Media file, where it stands for all.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(EBML):
            return _matroska(file, size)
        if is_iso(head):
            return _iso(file, size)
        file.seek(0)
        beginning = file.read(_MOST)
    if beginning.startswith(_ASF):
        return {_ALL: ("", "Windows Media")} if _has_media_rights(beginning) else {}
    return dict.fromkeys(_scrambled(beginning), ("", "DVB or ATSC scrambling"))


def is_encrypted(packet: Packet[Any], scheme: str | None) -> bool:
    """Whether a packet of a stream of this scheme is encrypted; one of a clear lead is not."""
    if scheme is None:
        return False
    if scheme not in _COMMON:
        return True
    if not packet.has_sidedata("encryption_info"):
        return False
    # FFmpeg's AVEncryptionInfo: six numbers, the key's name, the initialisation vector, subsamples.
    # A packet that the file says nothing about has none of the latter two.
    data = bytes(packet.get_sidedata("encryption_info"))
    *_, key_size, vector_size, subsamples = struct.unpack_from(">6I", data)
    start = struct.calcsize(">6I") + key_size
    return bool(subsamples) or any(data[start : start + vector_size])


def _iso(file: BinaryIO, size: int) -> dict[int, tuple[str, str]]:
    found = {}
    for moov in (box for box in boxes(file, 0, size) if box.kind == "moov"):
        for track in find(file, moov, "trak"):
            number = _track_id(file, track)
            for stsd in find(file, track, "mdia", "minf", "stbl", "stsd"):
                # ISO 14496-12, 8.5.2: version, flags and a count come before the entries.
                for entry in boxes(file, stsd.body + 8, stsd.end_within(size)):
                    if entry.kind in _PROTECTED and number is not None:
                        found[number] = (_handler(file, track), _scheme(file, entry, size))
    return found


def _scheme(file: BinaryIO, entry: Box, size: int) -> str:
    """The scheme that a protected sample entry names (ISO 14496-12, 8.12.5: schm)."""
    content = _content(file, entry, size)
    place = content.find(b"schm")
    scheme = content[place + 8 : place + 12] if place >= 0 else b""
    return scheme.decode("ascii") if scheme.isalnum() else "unknown"


def _track_id(file: BinaryIO, track: Box) -> int | None:
    for tkhd in find(file, track, "tkhd"):
        file.seek(tkhd.body)
        data = file.read(24)
        # ISO 14496-12, 8.3.2: times have 8 bytes in version 1, 4 in version 0.
        return int.from_bytes(data[20:24] if data[:1] == b"\x01" else data[12:16], "big")
    return None


def _handler(file: BinaryIO, track: Box) -> str:
    for handler in find(file, track, "mdia", "hdlr"):
        file.seek(handler.body + 8)
        return file.read(4).decode("latin-1")
    return ""


def _matroska(file: BinaryIO, size: int) -> dict[int, tuple[str, str]]:
    whole = segment(file, size)
    if whole is None:
        return {}
    found = {}
    tracks = next(_children(file, whole, size, TRACKS), None)
    entries = [] if tracks is None else list(_children(file, tracks, size, TRACK))
    streams = [entry for entry in entries if _track_type(file, entry, size) in _STREAM_TYPES]
    for index, entry in enumerate(streams):
        if _is_protected(file, entry, size):
            found[index] = ("", _MATROSKA)
    return found


def _is_protected(file: BinaryIO, track: Box, size: int) -> bool:
    """Whether a Matroska track has a ContentEncryption (RFC 9559, 5.1.4.1.31)."""
    return any(
        True
        for encodings in _children(file, track, size, _ENCODINGS)
        for encoding in _children(file, encodings, size, _ENCODING)
        for _ in _children(file, encoding, size, _ENCRYPTION)
    )


def _children(file: BinaryIO, parent: Box, size: int, number: int) -> Iterator[Box]:
    inside = elements(file, parent.body, parent.end_within(size))
    return (element for element in inside if element.kind == f"{number:x}")


def _track_type(file: BinaryIO, track: Box, size: int) -> int:
    for kind in _children(file, track, size, _TRACK_TYPE):
        return int.from_bytes(_content(file, kind, size), "big")
    return 0


def _content(file: BinaryIO, box: Box, size: int) -> bytes:
    file.seek(box.body)
    return file.read(max(0, min(box.end_within(size) - box.body, _MOST)))


def _has_media_rights(beginning: bytes) -> bool:
    header = beginning[: int.from_bytes(beginning[16:24], "little")]
    return any(guid in header for guid in _ASF_ENCRYPTION)


def _scrambled(beginning: bytes) -> list[int]:
    """The PIDs of a transport stream most of whose packets are scrambled (ISO 13818-1, 2.4.3.2)."""
    # Blu-ray and camcorders put four bytes before each packet.
    for length, offset in ((188, 0), (192, 4)):
        packets = [beginning[n : n + 4] for n in range(offset, len(beginning) - 3, length)]
        if len(packets) < 3 or any(packet[0] != _SYNC for packet in packets[:3]):
            continue
        seen: Counter[int] = Counter()
        scrambled: Counter[int] = Counter()
        for _, high, low, control in packets:
            if control & 0x10:  # it has a payload
                pid = (high & 0x1F) << 8 | low
                seen[pid] += 1
                scrambled[pid] += control >> 7
        return [pid for pid, count in seen.items() if 2 * scrambled[pid] > count]
    return []
