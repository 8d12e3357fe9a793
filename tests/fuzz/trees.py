"""Damage to files that are trees of named parts with lengths, written back with right lengths.

So it gets past the first check: a PNG chunk has its checksum, an MP4 box lies in its box, a field
of a protobuf message in its message. ISO 14496-12 (MP4, MOV), EBML (RFC 8794; Matroska), RIFF
(AVI, WebP), PNG, JPEG and the wire format of protobuf (ONNX) are known.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from fuzz.damage import NUMBERS, Others, damaged

_DEEPEST = 40


@dataclass
class Node:
    """One part of a file."""

    name: bytes
    body: bytes = b""
    children: list[Node] | None = None
    """Its parts, in place of the body."""
    lie: int | None = None
    """A length that is written in place of the right one."""
    fixed: bool = False
    """Whether it has no length of its own: leading bytes, or a number."""


Parse: TypeAlias = Callable[[bytes, int], "list[Node] | None"]
Build: TypeAlias = Callable[[Node, bytes], bytes]


@dataclass(frozen=True)
class Grammar:
    """How the parts of one kind of file are found and written."""

    parse: Parse
    """The parts of some bytes at a depth; None if they are no parts."""
    build: Build
    """A part as bytes, from the bytes of its body."""


def write(nodes: list[Node], grammar: Grammar) -> bytes:
    parts = []
    for node in nodes:
        body = node.body if node.children is None else write(node.children, grammar)
        parts.append(body if node.fixed and not node.name else grammar.build(node, body))
    return b"".join(parts)


@dataclass(frozen=True)
class _Spot:
    """A node in its list."""

    among: list[Node]
    at: int

    @property
    def node(self) -> Node:
        return self.among[self.at]


def _spots(nodes: list[Node]) -> list[_Spot]:
    found, waiting = list[_Spot](), [nodes]
    while waiting:
        among = waiting.pop()
        for at, node in enumerate(among):
            found.append(_Spot(among, at))
            if node.children:
                waiting.append(node.children)
    return found


def shaken(rng: random.Random, data: bytes, grammar: Grammar, others: Others = ()) -> bytes:
    """The file with one to four of its parts damaged, moved, dropped, repeated or renamed."""
    nodes = grammar.parse(data, 0)
    if not nodes:
        return damaged(rng, data, others)
    for _ in range(rng.choice((1, 1, 2, 4))):
        spots = _spots(nodes)
        if spots:
            _shake(rng, rng.choice(spots), spots, grammar)
    return write(nodes, grammar)


def _shake(rng: random.Random, spot: _Spot, spots: list[_Spot], grammar: Grammar) -> None:
    node, other = spot.node, rng.choice(spots)
    way = rng.randrange(12)
    if way < 4 or (way < 8 and node.children is not None):
        if node.children is not None:
            inner = _spots(node.children)
            if inner:
                _shake(rng, rng.choice(inner), spots, grammar)
            return
        node.body = _damaged_body(rng, node.body)
    elif way == 4:
        del spot.among[spot.at]
    elif way == 5:
        spot.among[spot.at : spot.at] = [node] * rng.choice((1, 1, 3, 300))
    elif way == 6:
        node.name = other.node.name or node.name
    elif way == 7:
        spot.among[spot.at], other.among[other.at] = other.node, node
    elif way == 8:
        node.lie = rng.choice((*NUMBERS, len(node.body) + 1, max(0, len(node.body) - 1)))
    elif way == 9:
        node.body, node.children = node.body[: rng.randrange(len(node.body) + 1)], None
    elif way == 10 and not node.fixed:
        for _ in range(rng.choice((1, 3, 30, 300))):  # deep in itself
            body = write([node], grammar)
            if len(body) > 1 << 20:
                break
            node = Node(node.name, body)
        spot.among[spot.at] = node
    else:
        node.body, node.children = b"", None


def _damaged_body(rng: random.Random, body: bytes) -> bytes:
    """Numbers above all: most parts of a header are numbers."""
    if len(body) >= 1 and rng.random() < 0.6:
        size = rng.choice([s for s in (1, 2, 4, 4, 8) if s <= len(body)])
        at = rng.randrange(min(len(body) - size + 1, 400))
        at -= at % size if rng.random() < 0.7 else 0
        value = rng.choice(NUMBERS) % (1 << 8 * size)
        order = rng.choice(("big", "big", "little"))
        return body[:at] + value.to_bytes(size, order) + body[at + size :]
    return damaged(rng, body)


# ISO base media file format


_ISO_PARENTS = frozenset(
    b"moov trak mdia minf stbl edts udta dinf mvex moof traf mfra ilst gmhd tref sinf schi".split()
)
_ISO_HEADS = {b"meta": 4, b"stsd": 8, b"dref": 8}
_ISO_HEADS |= dict.fromkeys(b"avc1 hvc1 hev1 mp4v av01 vp09 ap4h apch jpeg encv s263".split(), 78)
_ISO_HEADS |= dict.fromkeys(b"mp4a enca alac Opus samr".split(), 28)


def _iso(data: bytes, depth: int) -> list[Node] | None:
    nodes, at = list[Node](), 0
    while at + 8 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if length == 0:
            length = len(data) - at
        if length < 8 or at + length > len(data):
            return None if not nodes else [*nodes, Node(b"", data[at:], fixed=True)]
        body = data[at + 8 : at + length]
        head = 0 if name in _ISO_PARENTS else _ISO_HEADS.get(name)
        children = None
        if head is not None and depth < _DEEPEST:
            children = _iso(body[head:], depth + 1)
            if children and head:
                children.insert(0, Node(b"", body[:head], fixed=True))
        nodes.append(Node(name, body, children))
        at += length
    if at < len(data):
        nodes.append(Node(b"", data[at:], fixed=True))
    return nodes


def _iso_box(node: Node, body: bytes) -> bytes:
    length = 8 + len(body) if node.lie is None else node.lie
    return struct.pack(">I", length % 2**32) + node.name + body


# EBML

_EBML_PARENTS = frozenset(
    map(
        bytes.fromhex,
        (
            *("1A45DFA3", "18538067", "114D9B74", "4DBB", "1549A966", "1654AE6B", "AE", "E0", "E1"),
            *("55B0", "55D0", "6D80", "6240", "5034", "5035", "1F43B675", "A0", "75A1", "A6"),
            *("1C53BB6B", "BB", "B7", "1941A469", "61A7", "1043A770", "45B9", "B6", "80"),
            *("1254C367", "7373", "63C0", "67C8", "7670", "41E4"),
        ),
    )
)


def _ebml(data: bytes, depth: int) -> list[Node] | None:
    nodes, at = list[Node](), 0
    while at < len(data):
        first = data[at]
        width = 9 - first.bit_length()
        if width > 4 or at + width >= len(data):
            return None
        name, at_size = data[at : at + width], at + width
        wide = 9 - data[at_size].bit_length()
        if wide > 8 or at_size + wide > len(data):
            return None
        size = int.from_bytes(data[at_size : at_size + wide], "big") & ((1 << 7 * wide) - 1)
        start = at_size + wide
        if size == (1 << 7 * wide) - 1:
            size = len(data) - start
        if start + size > len(data):
            return None
        body = data[start : start + size]
        children = _ebml(body, depth + 1) if name in _EBML_PARENTS and depth < _DEEPEST else None
        nodes.append(Node(name, body, children))
        at = start + size
    return nodes


def _ebml_element(node: Node, body: bytes) -> bytes:
    length = len(body) if node.lie is None else node.lie % 2**56
    return node.name + (length | 1 << 56).to_bytes(8, "big") + body


# RIFF


def _riff(data: bytes, depth: int) -> list[Node] | None:
    nodes, at = list[Node](), 0
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > len(data):
            return [*nodes, Node(b"", data[at:], fixed=True)] if nodes else None
        body, children = data[at + 8 : at + 8 + length], None
        if name in (b"RIFF", b"LIST") and depth < _DEEPEST:
            children = _riff(body[4:], depth + 1)
            if children:
                children.insert(0, Node(b"", body[:4], fixed=True))
        nodes.append(Node(name, body, children))
        at += 8 + length + length % 2
    return nodes


def _riff_chunk(node: Node, body: bytes) -> bytes:
    length = len(body) if node.lie is None else node.lie
    return node.name + struct.pack("<I", length % 2**32) + body + bytes(len(body) % 2)


# PNG


def _png(data: bytes, depth: int) -> list[Node] | None:
    if not data.startswith(b"\x89PNG"):
        return None
    nodes, at = [Node(b"", data[:8], fixed=True)], 8
    while at + 12 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        nodes.append(Node(name, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return nodes


def _png_chunk(node: Node, body: bytes) -> bytes:
    length = len(body) if node.lie is None else node.lie
    check = struct.pack(">I", zlib.crc32(node.name + body))
    return struct.pack(">I", length % 2**32) + node.name + body + check


# JPEG


def _jpeg(data: bytes, depth: int) -> list[Node] | None:
    if not data.startswith(b"\xff\xd8"):
        return None
    nodes, at = [Node(b"", data[:2], fixed=True)], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0, 0xDA):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        nodes.append(Node(data[at : at + 2], data[at + 4 : at + 2 + length]))
        at += 2 + length
    nodes.append(Node(b"", data[at:], fixed=True))
    return nodes


def _jpeg_segment(node: Node, body: bytes) -> bytes:
    length = len(body) + 2 if node.lie is None else node.lie
    return node.name + struct.pack(">H", length % 2**16) + body


# protobuf


def varint(value: int) -> bytes:
    value %= 2**64
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
    return 0, -1


def _protobuf(data: bytes, depth: int) -> list[Node] | None:
    nodes, at = list[Node](), 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        if at < 0 or not 1 <= tag >> 3 <= 200:
            return None
        name, wire = data[start:at], tag & 7
        if wire == 0:
            start = at
            _, at = _read_varint(data, at)
            if at < 0:
                return None
            nodes.append(Node(name, data[start:at], fixed=True))
        elif wire == 2:
            length, at = _read_varint(data, at)
            if at < 0 or at + length > len(data):
                return None
            body = data[at : at + length]
            children = _protobuf(body, depth + 1) if length > 1 and depth < _DEEPEST else None
            nodes.append(Node(name, body, children))
            at += length
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            nodes.append(Node(name, data[at : at + size], fixed=True))
            at += size
        else:
            return None
    return nodes


def _protobuf_field(node: Node, body: bytes) -> bytes:
    wire = node.name[0] & 7
    if wire == 0 and node.fixed:
        _, end = _read_varint(body, 0)
        return node.name + (
            body if end == len(body) else varint(int.from_bytes(body[:8], "little"))
        )
    if wire == 2:
        return node.name + varint(len(body) if node.lie is None else node.lie) + body
    return node.name + body


ISO = Grammar(_iso, _iso_box)
EBML = Grammar(_ebml, _ebml_element)
RIFF = Grammar(_riff, _riff_chunk)
PNG = Grammar(_png, _png_chunk)
JPEG = Grammar(_jpeg, _jpeg_segment)
PROTOBUF = Grammar(_protobuf, _protobuf_field)


def grammar_of(data: bytes) -> Grammar | None:
    """The grammar of a file, by its first bytes; None where only plain damage is possible."""
    if data[4:8] in (b"ftyp", b"moov", b"wide", b"mdat", b"free", b"skip"):
        return ISO
    for magic, grammar in (
        (b"\x1aE\xdf\xa3", EBML),
        (b"RIFF", RIFF),
        (b"\x89PNG", PNG),
        (b"\xff\xd8", JPEG),
    ):
        if data.startswith(magic):
            return grammar
    return None
