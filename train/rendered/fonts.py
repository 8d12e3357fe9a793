"""The fonts of rendered pictures: all free, all from packages, none from the machine."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ImageFont

from srtrt.errors import MissingPackageError

_DEJAVU = "Bitstream Vera licence (DejaVu)"
_STIX = "STIX Font licence 1.0"
_OFL = "SIL Open Font Licence 1.1"

_WIDE = ("latin", "accented", "greek", "cyrillic")


@dataclass(frozen=True, kw_only=True)
class Face:
    """A font file in an installed package.

    Attributes:
        name: family and style.
        package: the module whose folder holds the file.
        file: path inside the package.
        licence: under which its makers publish it.
        kind: what it looks like: ``sans``, ``serif`` or ``mono``.
        scripts: names of alphabets in :mod:`srtrt.train.rendered.words` that it has glyphs for.
    """

    name: str
    package: str
    file: str
    licence: str
    kind: str
    scripts: tuple[str, ...]

    def at(self, pixels: int) -> ImageFont.FreeTypeFont:
        """The font at a size in pixels per em.

        Raises:
            MissingPackageError: if its package is not installed.
        """
        return _sized(self, pixels)

    @property
    def sha256(self) -> str:
        """Of the file, in hexadecimal."""
        return hashlib.sha256(_content(self)).hexdigest()


@functools.lru_cache(maxsize=64)
def _content(face: Face) -> bytes:
    try:
        return (importlib.resources.files(face.package) / face.file).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise MissingPackageError(
            face.package, _EXTRAS.get(face.package, "fonts"), f"the font {face.name}"
        ) from error


@functools.lru_cache(maxsize=512)
def _sized(face: Face, pixels: int) -> ImageFont.FreeTypeFont:
    # The basic layout, as the other one depends on libraries that may or may not be there.
    layout = ImageFont.Layout.BASIC
    return ImageFont.truetype(io.BytesIO(_content(face)), pixels, layout_engine=layout)


_EXTRAS = {"matplotlib": "train"}


def _dejavu(style: str, kind: str, more: tuple[str, ...] = ()) -> Face:
    file = f"mpl-data/fonts/ttf/DejaVu{style}.ttf"
    return Face(
        name=f"DejaVu {style}", package="matplotlib", file=file, licence=_DEJAVU, kind=kind,
        scripts=(*_WIDE, *more),
    )  # fmt: skip


def _stix(style: str) -> Face:
    file = f"mpl-data/fonts/ttf/STIXGeneral{style}.ttf"
    name = f"STIX General {style or 'Regular'}"
    return Face(
        name=name, package="matplotlib", file=file, licence=_STIX, kind="serif", scripts=_WIDE
    )


def _published(package: str, file: str, kind: str, licence: str = _OFL) -> Face:
    """A file of one of the packages that hold a font and nothing else."""
    return Face(
        name=file.partition(".")[0], package=package, file=f"files/{file}", licence=licence,
        kind=kind, scripts=_WIDE if package.startswith("font_source") else _WIDE[:2],
    )  # fmt: skip


TRAINING_FACES: tuple[Face, ...] = (
    _dejavu("Sans", "sans", ("hebrew", "armenian", "georgian")),
    _dejavu("Sans-Bold", "sans", ("hebrew", "armenian", "georgian")),
    _dejavu("Sans-Oblique", "sans"),
    _dejavu("Serif", "serif", ("armenian", "georgian")),
    _dejavu("Serif-Bold", "serif", ("armenian", "georgian")),
    _dejavu("Serif-Italic", "serif"),
    _dejavu("SansMono", "mono"),
    _dejavu("SansMono-Bold", "mono"),
    _stix(""),
    _stix("Bol"),
    _stix("Italic"),
)
"""Fonts that matplotlib brings, which srtrt needs for training anyway."""

EVALUATION_FACES: tuple[Face, ...] = (
    _published("font_lato", "Lato-Regular.ttf", "sans"),
    _published("font_lato", "Lato-Bold.ttf", "sans"),
    _published("font_source_sans_pro", "SourceSansPro-Regular.ttf", "sans"),
    _published("font_source_sans_pro", "SourceSansPro-Light.ttf", "sans"),
    _published("font_source_serif_pro", "SourceSerifPro-Regular.ttf", "serif"),
    _published("font_source_serif_pro", "SourceSerifPro-Semibold.ttf", "serif"),
    _published("font_caladea", "Caladea-Italic.ttf", "serif", "Apache Licence 2.0"),
)
"""Other fonts, so that a network is measured on letters it was not trained on; extra ``fonts``."""


def of_kind(faces: Sequence[Face], kind: str) -> list[Face]:
    """The faces of a kind; all of them if there is none."""
    return [face for face in faces if face.kind == kind] or list(faces)
