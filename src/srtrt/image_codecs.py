"""16-bit PNG, and TIFF of either depth with its metadata: what Pillow alone cannot hold.

Pillow knows no 16-bit colour and OpenCV keeps no metadata in TIFF. So 16-bit samples are decoded by
OpenCV, and these two encoders put samples and metadata together. Sources: PNG (Third Edition), W3C,
2025, sections 5, 9 and 11; TIFF 6.0, Adobe, 1992, with the deflate compression of TIFF Technical
Note 3 and the profile tag of ICC.1:2022 annex B.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, TiffTags

from srtrt.exif import STRUCTURAL_TIFF_TAGS

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PICTURE_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PNG_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels to colour type: gray, gray with alpha, RGB, RGB with alpha."""
_COMPRESSION_LEVEL = 6
_STRIP_BYTES = 1 << 20
_METRES_PER_INCH = 0.0254


def decode_16_bit(file_bytes: bytes) -> NDArray[np.uint16]:
    """Decodes a 16-bit PNG or TIFF.

    OpenCV may accept a damaged file, so Pillow should have decoded it first.

    Args:
        file_bytes: the whole file.

    Returns:
        uint16 ``[H, W, C]``, C = 1 for gray, 3 for RGB, 4 for RGB with alpha. The orientation of a
        TIFF has been applied; that of a PNG has not.

    Raises:
        ValueError: if the file holds something else.
    """
    if file_bytes.startswith(PNG_SIGNATURE):
        file_bytes = _png_picture_only(file_bytes)
    try:
        decoded: Any = cv2.imdecode(np.frombuffer(file_bytes, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"OpenCV refuses it: {error.err.strip()}") from error
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("this kind of 16-bit picture is not supported")
    if decoded.ndim == 2:
        return np.ascontiguousarray(decoded[..., None])
    order = [2, 1, 0, 3][: decoded.shape[2]]
    return np.ascontiguousarray(decoded[..., order])


def _png_picture_only(png: bytes) -> bytes:
    """The same PNG without metadata, about which libpng would print warnings."""
    kept, position = [png[:8]], 8
    while position + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, position)
        end = position + 12 + length
        if png[position + 4 : position + 8] in _PNG_PICTURE_CHUNKS:
            kept.append(png[position:end])
        position = end
    return b"".join(kept)


def _strips(samples: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Row ranges of about a megabyte."""
    height = samples.shape[0]
    step = max(1, _STRIP_BYTES // samples[0].nbytes)
    for start in range(0, height, step):
        yield start, min(start + step, height)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encode_png_16(
    samples: NDArray[np.uint16],
    *,
    icc_profile: bytes | None,
    exif: Image.Exif | None,
    dpi: tuple[float, float] | None,
) -> bytes:
    """A 16-bit PNG.

    Args:
        samples: uint16 ``[H, W, C]``, C = 1 gray, 2 gray with alpha, 3 RGB, 4 RGB with alpha.
        icc_profile: stored unchanged.
        exif: stored in an eXIf chunk.
        dpi: pixels per inch, horizontal and vertical.
    """
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOUR_TYPE[channels], 0, 0, 0)
    chunks = [PNG_SIGNATURE, _png_chunk(b"IHDR", header)]
    if icc_profile is not None:
        chunks.append(_png_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile)))
    if exif is not None:
        chunks.append(_png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    if dpi is not None:
        x, y = (round(value / _METRES_PER_INCH) for value in dpi)
        chunks.append(_png_chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    deflate = zlib.compressobj(_COMPRESSION_LEVEL)
    for start, stop in _strips(samples):
        chunks.append(_png_chunk(b"IDAT", deflate.compress(_filter_up(samples, start, stop))))
    chunks.append(_png_chunk(b"IDAT", deflate.flush()))
    chunks.append(_png_chunk(b"IEND", b""))
    return b"".join(chunks)


def _filter_up(samples: NDArray[np.uint16], start: int, stop: int) -> bytes:
    """Big-endian rows, each the difference from the row above, led by the number of that filter."""
    first = max(start - 1, 0)
    raw = samples[first:stop].astype(">u2").reshape(stop - first, -1).view(np.uint8)
    above = np.zeros_like(raw[:1]) if start == 0 else raw[:1]
    rows = raw if start == 0 else raw[1:]
    filtered = rows - np.concatenate([above, rows[:-1]])
    return np.pad(filtered, ((0, 0), (1, 0)), constant_values=2).tobytes()


def encode_tiff(
    samples: NDArray[np.uint8] | NDArray[np.uint16],
    *,
    icc_profile: bytes | None,
    exif: Image.Exif | None,
    dpi: tuple[float, float] | None,
) -> bytes:
    """A little-endian TIFF, compressed without loss (deflate, horizontal differences).

    Args:
        samples: uint8 or uint16 ``[H, W, C]``, C = 1 gray, 2 gray with alpha, 3 RGB, 4 RGB with
            alpha; alpha is not multiplied into the colours.
        icc_profile: stored unchanged.
        exif: its entries become tags; its Exif and GPS directories are dictionaries.
        dpi: pixels per inch, horizontal and vertical.
    """
    height, width, channels = samples.shape
    strips = []
    for start, stop in _strips(samples):
        rows = samples[start:stop].astype(samples.dtype.newbyteorder("<"), copy=False)
        differences = np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1]))
        strips.append(zlib.compress(differences.tobytes(), _COMPRESSION_LEVEL))
    lengths = [len(strip) for strip in strips]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    _add_exif(tags, exif)
    tags[256], tags[257] = width, height
    tags[258] = (8 * samples.dtype.itemsize,) * channels
    tags[259], tags[317] = 8, 2  # deflate, horizontal differences
    tags[262] = 2 if channels >= 3 else 1
    tags[274] = 1
    tags[277] = channels
    tags[278] = next(stop - start for start, stop in _strips(samples))
    if channels in (2, 4):
        tags[338] = 2
    if dpi is not None:
        tags[282], tags[283], tags[296] = dpi[0], dpi[1], 2
    if icc_profile is not None:
        tags[34675] = icc_profile
    # Offsets count from the end of the directory: Pillow adds its size when it writes it.
    tags.tagtype[273] = tags.tagtype[279] = TiffTags.LONG
    tags[273] = tuple(sum(lengths[:i]) for i in range(len(lengths)))
    tags[279] = tuple(lengths)
    file = io.BytesIO()
    tags.save(file)
    file.writelines(strips)
    return file.getvalue()


def _add_exif(tags: TiffImagePlugin.ImageFileDirectory_v2, exif: Image.Exif | None) -> None:
    """Copies what describes the picture and leaves out what describes its storage."""
    for tag, value in (exif or {}).items():
        if isinstance(value, dict):
            tags.tagtype[tag] = TiffTags.LONG
        if tag not in STRUCTURAL_TIFF_TAGS:
            tags[tag] = value
