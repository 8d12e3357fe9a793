"""Colour tags of a stream: what they say, what is assumed where they say nothing.

Numbers are the code points of ITU-T H.273 (matrix, primaries, transfer), which FFmpeg shares;
the range is FFmpeg's: 0 unknown, 1 limited, 2 full.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from srtrt.colour import Matrix, Siting

UNKNOWN = 2
"""H.273 code point 'unspecified' of matrix, primaries and transfer."""

_MATRIX: dict[int, Matrix] = {
    1: "bt709",
    5: "bt601",
    6: "bt601",
    9: "bt2020",
    4: "bt601",
    7: "bt709",
    10: "bt2020",
}
"""Matrix code point to the matrix that stands for it (exact for 1, 5, 6 and 9)."""

_EXACT = (1, 5, 6, 9)

_COMPANIONS: dict[int, tuple[int, int]] = {1: (1, 1), 5: (5, 6), 6: (6, 6)}
"""Matrix code point to the primaries and transfer of the same standard."""

SWSCALE: dict[Matrix, int] = {"bt709": 1, "bt601": 5, "bt2020": 9}
"""Matrix to swscale's own number for it (``SWS_CS_*``)."""

_NAMES = {1: "BT.709", 5: "BT.601 (625 lines)", 6: "BT.601 (525 lines)"}

_CENTRED_CODECS = frozenset({"mpeg1video", "mjpeg", "h263", "h263p", "flv1", "theora"})
_TOP_LEFT_CODECS = frozenset({"dvvideo"})


@dataclass(frozen=True, kw_only=True)
class ColourTags:
    """The four colour tags of a stream."""

    matrix: int = UNKNOWN
    """H.273 MatrixCoefficients."""
    range: int = 0
    """0 unknown, 1 limited, 2 full."""
    primaries: int = UNKNOWN
    """H.273 ColourPrimaries."""
    transfer: int = UNKNOWN
    """H.273 TransferCharacteristics."""


@dataclass(frozen=True, kw_only=True)
class StreamColour:
    """How a stream is understood, and the tags its upscaled copy gets."""

    matrix: Matrix
    """Matrix used between YUV and RGB."""
    full_range: bool
    """True: 0..255; False: 16..235 and 16..240."""
    siting: Siting
    """Where the chroma samples of the source lie."""
    tags: ColourTags
    """Tags of the output: the source's where it has them."""
    notes: tuple[str, ...] = ()
    """Sentences on what was assumed."""


def resolve_colour(
    tags: ColourTags,
    *,
    width: int,
    height: int,
    rate: Fraction,
    pix_fmt: str,
    is_rgb: bool = False,
    siting: Siting = "left",
) -> StreamColour:
    """Fills in what a stream does not say about its colour.

    Untagged YUV of at most 1024x576 is BT.601, with the primaries of 625-line systems where the
    height or the frame rate is theirs and of 525-line systems elsewhere; larger is BT.709. RGB
    becomes BT.709. ``yuvj`` formats have full range; an unknown range is limited.
    """
    notes: list[str] = []
    full_range = pix_fmt.startswith("yuvj") or tags.range == 2
    if is_rgb:
        full_range = False
        matrix_code = 1
        notes.append("The source is RGB; the output is YUV 4:2:0 with the BT.709 matrix.")
    elif tags.matrix in (UNKNOWN, 0, 3):
        matrix_code = _assumed_matrix(width, height, rate)
        notes.append(
            f"The source does not name its colour matrix; {_NAMES[matrix_code]} is assumed for "
            f"{width}x{height} and written to the output."
        )
    else:
        matrix_code = tags.matrix
        if matrix_code not in _EXACT:
            nearest = _MATRIX.get(matrix_code, "bt709")
            notes.append(
                f"Colour matrix {matrix_code} of ITU-T H.273 is treated as {nearest}; "
                "the tag is kept."
            )
    primaries, transfer = _COMPANIONS.get(matrix_code, (UNKNOWN, UNKNOWN))
    return StreamColour(
        matrix=_MATRIX.get(matrix_code, "bt709"),
        full_range=full_range,
        siting=siting,
        tags=ColourTags(
            matrix=matrix_code,
            range=2 if full_range else 1,
            primaries=tags.primaries if tags.primaries not in (0, UNKNOWN) else primaries,
            transfer=tags.transfer if tags.transfer not in (0, UNKNOWN) else transfer,
        ),
        notes=tuple(notes),
    )


def _assumed_matrix(width: int, height: int, rate: Fraction) -> int:
    if width > 1024 or height > 576:
        return 1
    return 5 if height in (576, 288) or rate in (25, 50) else 6


def default_siting(codec: str) -> Siting:
    """Where 4:2:0 chroma lies in streams of ``codec`` (FFmpeg's name) that do not say."""
    if codec in _CENTRED_CODECS:
        return "center"
    return "topleft" if codec in _TOP_LEFT_CODECS else "left"
