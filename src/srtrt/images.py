"""Image files read: PNG, JPEG, WebP, TIFF and BMP, with nothing lost in silence.

Kept: 8 or 16 bits per sample, alpha, grayscale, ICC profile (byte for byte), EXIF, resolution.
The EXIF orientation is applied to the pixels. XMP, comments and thumbnails are left out.
Refused with a reason: CMYK and Lab, 32-bit samples, animations and files of several pages.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from srtrt.errors import InputError, SrtrtError
from srtrt.exif import ORIENTATION, upright_exif
from srtrt.image_codecs import PNG_SIGNATURE, decode_16_bit
from srtrt.reading import open_plain
from srtrt.text import foreign

Samples: TypeAlias = "NDArray[np.uint8] | NDArray[np.uint16]"

MAX_PIXELS = 256_000_000
"""Pictures announced larger than this are refused before any of their memory is asked for."""

ERROR_STREAM = threading.Lock()
"""Held while a decoder that prints is kept from the process's error stream."""

READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""Formats that are read, as Pillow calls them; it is not to try any other of its decoders."""

_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"BM")
_TIFF_MAGIC = (b"II*\0", b"MM\0*")
_GRAY_MODES = ("1", "L", "LA")
_MODES = (*_GRAY_MODES, "P", "PA", "RGB", "RGBA", "YCbCr")


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One picture, upright.

    Raises:
        ValueError: if the arrays do not fit together.
    """

    rgb: Samples
    """uint8 or uint16 ``[H, W, 3]``, RGB, full range; three equal channels if ``gray``."""
    alpha: Samples | None = None
    """Opacity ``[H, W]`` of the same type; not multiplied into ``rgb``."""
    gray: bool = False
    """Whether the file holds, or shall hold, grayscale."""
    icc_profile: bytes | None = None
    """The colour profile, as it was in the file."""
    exif: bytes | None = None
    """EXIF block that starts with ``Exif\\0\\0``; its orientation is 1."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, horizontal and vertical."""
    notes: tuple[str, ...] = ()
    """Sentences the user should see about what was left out."""

    def __post_init__(self) -> None:
        if self.rgb.dtype not in (np.uint8, np.uint16) or self.rgb.shape[2:] != (3,):
            raise ValueError(f"rgb is {self.rgb.dtype} {self.rgb.shape}; expected uint [H, W, 3].")
        if self.rgb.size == 0:
            raise ValueError("a picture needs at least one pixel.")
        if self.alpha is None:
            return
        if self.alpha.shape != self.rgb.shape[:2] or self.alpha.dtype != self.rgb.dtype:
            raise ValueError(f"alpha {self.alpha.dtype} {self.alpha.shape} does not fit rgb.")

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.rgb.shape[1])

    @property
    def highest(self) -> int:
        """The sample value of white: 255 or 65535."""
        return int(np.iinfo(self.rgb.dtype).max)

    @property
    def translucent(self) -> bool:
        """Whether any pixel is not fully opaque."""
        return self.alpha is not None and bool((self.alpha != self.highest).any())


def read_image(path: Path) -> Picture:
    """Reads a picture and turns it upright.

    Raises:
        InputError: if the file is missing, not a picture, damaged, cut short, announces more than
            :data:`MAX_PIXELS`, or holds what :mod:`srtrt.images` does not support.
    """
    with open_plain(path, "a picture") as file:
        try:
            head = file.read(30)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
        file.seek(0)
        if not head:
            raise InputError(f"{path}: the file is empty; expected a picture.")
        if not head.startswith(_MAGIC):
            raise InputError(f"{path}: not a PNG, JPEG, WebP, TIFF or BMP picture.")
        try:
            with _quiet_decoders(head):
                return _decode(path, file)
        except SrtrtError:
            raise
        except MemoryError as error:
            raise InputError(f"{path}: there is not enough memory to open this picture.") from error
        except Exception as error:  # decoders meet any bytes and raise almost any exception
            known = not isinstance(error, UnidentifiedImageError)
            reason = f" ({foreign(' '.join(str(error).split()))})" if known else ""
            raise InputError(
                f"{path}: cannot be decoded{reason}; it is damaged, cut short or of a rare kind. "
                "Get a good copy, or save it as PNG in an image editor."
            ) from error


@contextmanager
def _quiet_decoders(head: bytes) -> Iterator[None]:
    """Keeps warnings of the decoders off the terminal and lifts Pillow's own limit of size.

    libtiff, and OpenCV's libpng, print from C.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    prints = head.startswith(_TIFF_MAGIC) or _is_16_bit_png(head)
    try:
        with warnings.catch_warnings(), _no_error_stream() if prints else nullcontext():
            warnings.simplefilter("ignore")
            yield
    finally:
        cv2.utils.logging.setLogLevel(level)
        Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _no_error_stream() -> Iterator[None]:
    """Turns the process's error stream away."""
    with ERROR_STREAM:
        sys.stderr.flush()
        stderr = None
        with suppress(OSError), Path(os.devnull).open("wb") as nowhere:
            stderr = os.dup(2)
            os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            if stderr is not None:
                os.dup2(stderr, 2)
                os.close(stderr)


def _decode(path: Path, file: IO[bytes]) -> Picture:
    """The picture in an open file; anything may be raised on damaged bytes."""
    head = file.read(30)
    file.seek(0)
    if head[:4] == b"RIFF" and head[12:16] == b"VP8X":  # its decoder takes memory when opened
        sides = [1 + int.from_bytes(head[i : i + 3], "little") for i in (24, 27)]
        _check_size(path, sides[0], sides[1])
    with Image.open(file, formats=READABLE) as image:
        _check_size(path, image.width, image.height)
        tags: dict[int, Any] = dict(getattr(image, "tag_v2", {}))
        _check_size(path, tags.get(322, 1), tags.get(323, 1))
        _check_kind(path, image, tags)
        image.load()
        exif, exif_notes = _read_exif(image, from_tiff=bool(tags))
        profile, profile_notes = _read_profile(image)
        rgb, alpha, gray = _samples(image, file, head, tags)
        orientation = 1 if tags else int(image.getexif().get(ORIENTATION, 1))
        dpi = image.info.get("dpi")
        return Picture(
            rgb=_upright(rgb, orientation),
            alpha=None if alpha is None else _upright(alpha, orientation),
            gray=gray,
            icc_profile=profile,
            exif=exif,
            dpi=(float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None,
            notes=_frame_notes(image) + exif_notes + profile_notes,
        )


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{path}: announces {width}x{height} pixels; at most {MAX_PIXELS // 10**6} megapixels "
            "are accepted. If it is really that large, cut it into parts first."
        )


def _check_kind(path: Path, image: Image.Image, tags: dict[int, Any]) -> None:
    """Refuses what cannot be kept, before any pixel is decoded."""
    if image.mode == "CMYK" or image.mode == "LAB":
        raise InputError(
            f"{path}: its colours are {image.mode}; expected RGB or grayscale. "
            "Convert it to RGB with a colour-managed editor first."
        )
    if image.mode not in _MODES and not image.mode.startswith("I;16"):
        raise InputError(f"{path}: stores samples as {image.mode!r}; expected 8 or 16 bits each.")
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":
        raise InputError(
            f"{path}: holds {pages} frames or pages; expected one picture. Save them one by one."
        )
    extras = tags.get(338, ())
    if extras and (len(extras) > 1 or extras[0] not in (1, 2)):
        raise InputError(
            f"{path}: has extra channels of unknown meaning; save it with plain RGB or RGBA."
        )
    deep = 16 in tags.get(258, ())
    if deep and (tags.get(284, 1) != 1 or set(tags.get(339, (1,))) != {1}):
        raise InputError(
            f"{path}: a 16-bit TIFF with separate planes, signed or floating-point samples; "
            "save it with interleaved unsigned samples, or as 16-bit PNG."
        )


def _frame_notes(image: Image.Image) -> tuple[str, ...]:
    pages = getattr(image, "n_frames", 1)
    if pages == 1:
        return ()
    return (f"the first of {pages} pictures in the file was taken; the others are left out",)


def _samples(
    image: Image.Image, file: IO[bytes], head: bytes, tags: dict[int, Any]
) -> tuple[Samples, Samples | None, bool]:
    """RGB, alpha and whether the picture is grayscale."""
    if _is_16_bit_png(head) or 16 in tags.get(258, ()):
        file.seek(0)
        return _samples_16_bit(image, decode_16_bit(file.read()), head, tags)
    gray, has_alpha = image.mode in _GRAY_MODES, image.has_transparency_data
    mode = ("L" if gray else "RGB") + ("A" if has_alpha else "")
    samples = np.atleast_3d(np.asarray(image.convert(mode)))
    rgb = np.repeat(samples[..., :1], 3, axis=2) if gray else samples[..., :3]
    alpha = np.ascontiguousarray(samples[..., -1]) if has_alpha else None
    return np.ascontiguousarray(rgb), alpha, gray


def _is_16_bit_png(head: bytes) -> bool:
    """Whether a file starts as a PNG whose header (IHDR) gives a bit depth of 16."""
    return head.startswith(PNG_SIGNATURE) and head[24:25] == b"\x10"


def _samples_16_bit(
    image: Image.Image, decoded: NDArray[np.uint16], head: bytes, tags: dict[int, Any]
) -> tuple[Samples, Samples | None, bool]:
    """The same for a picture that OpenCV decoded to ``[H, W, C]``."""
    gray = decoded.shape[2] == 1 or (not tags and head[25] in (0, 4))
    rgb = decoded[..., :3] if decoded.shape[2] >= 3 else np.repeat(decoded, 3, axis=2)
    alpha = np.ascontiguousarray(decoded[..., 3]) if decoded.shape[2] == 4 else None
    if gray and "transparency" in image.info:  # a PNG that names one gray value as see-through
        alpha = np.where(decoded[..., 0] == image.info["transparency"], 0, 65535).astype(np.uint16)
    if tags.get(262) == 0:  # the file counts from white
        rgb = 65535 - rgb
    if alpha is not None and tags.get(338) == (1,):  # the colours were multiplied by alpha
        exact = rgb * (65535.0 / np.maximum(alpha, 1))[..., None]
        rgb = np.minimum(np.rint(exact), 65535).astype(np.uint16)
    return np.ascontiguousarray(rgb), alpha, gray


def _upright(samples: Any, orientation: int) -> Any:
    """Applies the EXIF orientation 1..8 (Exif 2.32, tag 0x0112); other values change nothing."""
    if orientation in (5, 6, 7, 8):
        samples = np.swapaxes(samples, 0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)


def _read_exif(image: Image.Image, *, from_tiff: bool) -> tuple[bytes | None, tuple[str, ...]]:
    """The EXIF block, and a note if it had to be left out."""
    try:
        return upright_exif(image.getexif(), from_tiff=from_tiff), ()
    except Exception:  # a damaged block must not cost the picture
        return None, ("its EXIF block is damaged and is left out",)


def _read_profile(image: Image.Image) -> tuple[bytes | None, tuple[str, ...]]:
    """The colour profile, and a note if it had to be left out: a TIFF may hold any type there."""
    profile = image.info.get("icc_profile") or None
    if profile is None or isinstance(profile, bytes):
        return profile, ()
    return None, ("its ICC colour profile is damaged and is left out",)
