"""The structure of containers: right for sound files, and an end for any bytes."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtrt.runtime.video.boxes import boxes, elements, find, segment

LENGTHS = st.sampled_from([0, 1, 7, 8, 16, 24, 2**31, 2**63 - 1, 2**63, 2**64 - 1])


def long_box(kind: bytes, length: int) -> bytes:
    """A box with a length of 64 bits."""
    return struct.pack(">I4sQ", 1, kind, length)


@pytest.mark.parametrize("length", [2**63 - 8, 2**63, 2**64 - 16, 2**64 - 1])
def test_lengths_beyond_any_file(length: int) -> None:
    data = long_box(b"free", length) + long_box(b"moov", length) + long_box(b"trak", length)
    file = io.BytesIO(data)
    assert [box.kind for box in boxes(file, 0, 2**64)] == ["free"]
    moov = next(boxes(file, 16, 2**64))
    assert [box.kind for box in find(file, moov, "trak")] == ["trak"]
    element = b"\x18S\x80g\x01" + (2**56 - 2).to_bytes(7, "big")
    assert segment(io.BytesIO(element), len(element)) is not None


@given(st.lists(st.tuples(st.sampled_from([b"moov", b"trak", b"mdat"]), LENGTHS)), st.binary())
def test_any_boxes_come_to_an_end(parts: list[tuple[bytes, int]], rest: bytes) -> None:
    data = b"".join(long_box(kind, length) for kind, length in parts) + rest
    file = io.BytesIO(data)
    for box in boxes(file, 0, len(data)):
        for inner in find(file, box, "trak", "mdat"):
            assert inner.start < len(data)


@given(st.binary(max_size=80))
def test_any_elements_come_to_an_end(data: bytes) -> None:
    for whole in (data, b"\x1aE\xdf\xa3\x80\x18S\x80g\x01" + data):
        for element in elements(io.BytesIO(whole), 0, 2**64):
            assert element.start < len(whole)
