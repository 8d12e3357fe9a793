"""EXIF blocks: made upright, carried over from any format, true about the size."""

from __future__ import annotations

from typing import Any

from PIL import ExifTags, Image

STRUCTURAL_TIFF_TAGS = frozenset(
    {*range(254, 269), *range(273, 285), 292, 293, 296, 297, 301, *range(317, 334)}
    | {*range(338, 348), *range(512, 533), 700, 33723, 34377, 34675, 37724}
)
"""TIFF tags that say how samples are stored, or that are kept elsewhere or not at all."""

ORIENTATION = 0x0112
_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_WIDTH, _HEIGHT = 0xA002, 0xA003


def directory(exif: Image.Exif, tag: int) -> dict[int, Any]:
    """The entries of the Exif or GPS directory, with the one inside it instead of its offset."""
    entries = dict(exif.get_ifd(tag))
    if ExifTags.IFD.Interop in entries:
        entries[ExifTags.IFD.Interop] = dict(exif.get_ifd(ExifTags.IFD.Interop))
    return entries


def upright_exif(exif: Image.Exif, *, from_tiff: bool) -> bytes | None:
    """The block to keep with pixels that have been turned upright.

    Args:
        exif: as Pillow read it.
        from_tiff: whether its main directory is that of a TIFF file, which also says how the
            samples are stored.

    Returns:
        Bytes that start with ``Exif\\0\\0``, with orientation 1 and without the thumbnail, which
        would not be upright; None if nothing is worth keeping.
    """
    kept = Image.Exif()
    for tag in exif:
        if tag in _DIRECTORIES:
            kept[tag] = directory(exif, tag)
        elif not (from_tiff and tag in STRUCTURAL_TIFF_TAGS) and tag != ORIENTATION:
            kept[tag] = exif[tag]
    if not len(kept):
        return None
    kept[ORIENTATION] = 1
    return kept.tobytes()


def exif_of_size(block: bytes | None, width: int, height: int) -> Image.Exif | None:
    """The block with its pixel dimensions, where it states any, made true."""
    if block is None:
        return None
    loaded = Image.Exif()
    loaded.load(block)
    exif = Image.Exif()
    for tag in loaded:
        exif[tag] = directory(loaded, tag) if tag in _DIRECTORIES else loaded[tag]
    details = exif.get(ExifTags.IFD.Exif, {})
    for tag, side in ((_WIDTH, width), (_HEIGHT, height)):
        if tag in details:
            details[tag] = side
    return exif
