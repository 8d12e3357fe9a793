"""Image files written: PNG, JPEG, WebP, TIFF and BMP, refused where one cannot hold the picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from srtrt.errors import OutputError, first_line
from srtrt.exif import exif_of_size
from srtrt.files import replace_when_complete
from srtrt.image_codecs import encode_png_16, encode_tiff
from srtrt.images import Picture

FORMAT_OF_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""File name endings, in lower case, and the format that is written under them."""

_MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
_MAX_RAW_BYTES = {"BMP": 2**32 - 2**16, "TIFF": 2**32 - 2**26}


def format_of(path: Path, *, quality: int | None = None) -> str:
    """The format in which a picture of this name is written.

    Returns:
        The format, as :data:`FORMAT_OF_SUFFIX` names it.

    Raises:
        OutputError: if the ending names none, or ``quality`` is given for one that has none.
    """
    name = FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if str(path) == "-":
        raise OutputError("-: pictures go to files, not to stdout; give a name such as out.png.")
    if name is None:
        ending = f"the ending {path.suffix!r} names no" if path.suffix else "no ending names a"
        raise OutputError(
            f"{path}: {ending} known format; use one of {', '.join(FORMAT_OF_SUFFIX)}."
        )
    if quality is not None and name not in _MAX_SIDE:
        raise OutputError(f"{path}: {name} has no quality setting; leave --quality out.")
    return name


def check_output(
    path: Path, picture: Picture, *, scale: int = 1, quality: int | None = None
) -> str:
    """Whether ``path`` can hold ``picture`` enlarged by ``scale`` without silent loss.

    Returns:
        The format, as :data:`FORMAT_OF_SUFFIX` names it.

    Raises:
        OutputError: if it cannot; the message says what can.
    """
    name = format_of(path, quality=quality)
    width, height = picture.width * scale, picture.height * scale
    raw_bytes = width * height * picture.rgb.itemsize * (3 + (picture.alpha is not None))
    if max(width, height) > _MAX_SIDE.get(name, 2**31 - 1):
        raise OutputError(
            f"{path}: the result has {width}x{height} pixels; {name} holds at most "
            f"{_MAX_SIDE[name]} a side. Write PNG or TIFF instead."
        )
    if raw_bytes > _MAX_RAW_BYTES.get(name, raw_bytes):
        raise OutputError(f"{path}: the result exceeds the 4 GiB of {name}. Write PNG instead.")
    for lost, too_much in (
        ("transparency", picture.translucent and name in ("JPEG", "BMP")),
        ("16 bits per sample", picture.highest > 255 and name not in ("PNG", "TIFF")),
        ("an ICC colour profile", picture.icc_profile is not None and name == "BMP"),
        (
            "a grayscale ICC profile",
            name == "WEBP"
            and picture.icc_profile is not None
            and picture.icc_profile[16:20] == b"GRAY",
        ),
    ):
        if too_much:
            raise OutputError(
                f"{path}: the picture has {lost}, which {name} cannot hold. "
                "Write PNG or TIFF instead (-o NAME.png)."
            )
    return name


def write_image(
    path: Path, picture: Picture, *, quality: int | None = None, replace: bool = True
) -> None:
    """Writes a picture in the format that the ending of ``path`` names.

    The file appears under its name when it is complete. PNG, TIFF and BMP lose nothing; WebP
    neither, unless ``quality`` is given; JPEG is written with quality 95 by default and without
    chroma subsampling. BMP has no place for EXIF.

    Args:
        path: where to.
        picture: what to write.
        quality: 1..100, for JPEG and WebP.
        replace: whether an existing file is replaced; see
            :func:`srtrt.files.replace_when_complete`.

    Raises:
        OutputError: if the format cannot hold the picture, or the file cannot be written.
    """
    name = check_output(path, picture, quality=quality)
    try:
        data = _encode(picture, name, quality)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be encoded as {name} ({first_line(error)}).") from error
    with replace_when_complete(path, replace=replace) as part:
        part.write_bytes(data)


def _encode(picture: Picture, name: str, quality: int | None) -> bytes:
    exif = exif_of_size(picture.exif, picture.width, picture.height)
    colours = picture.rgb[..., :1] if picture.gray and name != "WEBP" else picture.rgb
    samples: NDArray[Any] = colours
    if picture.alpha is not None and name not in ("JPEG", "BMP"):
        samples = np.dstack([colours, picture.alpha])
    if name == "TIFF":
        return encode_tiff(samples, icc_profile=picture.icc_profile, exif=exif, dpi=picture.dpi)
    if samples.dtype == np.uint16:
        return encode_png_16(samples, icc_profile=picture.icc_profile, exif=exif, dpi=picture.dpi)
    options: dict[str, Any] = {"icc_profile": picture.icc_profile}
    if exif is not None:
        options["exif"] = exif.tobytes()
    if picture.dpi is not None:
        options["dpi"] = picture.dpi
    if name == "JPEG":
        options |= {"quality": quality or 95, "subsampling": 0, "optimize": True}
    elif name == "WEBP":
        options |= {"lossless": quality is None, "quality": quality or 80, "exact": True}
    file = io.BytesIO()
    Image.fromarray(np.squeeze(samples, 2) if samples.shape[2] == 1 else samples).save(
        file, name, **options
    )
    return file.getvalue()
