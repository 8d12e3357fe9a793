"""Colour of video: what tags mean, what is assumed, and the arithmetic of the converters."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from video_clips import NearestSession, make_clip

from srtrt.runtime.video.colour_tags import ColourTags, default_siting, resolve_colour
from srtrt.runtime.video.planes import (
    PlanarConverter,
    RgbConverter,
    halve_left_sited,
    make_converter,
    make_frame,
    plane_view,
    round_to_8_bits,
)
from srtrt.runtime.video.siting import read_siting
from srtrt.runtime.video.source import OPEN_OPTIONS


@pytest.mark.parametrize(
    ("width", "height", "rate", "expected"),
    [
        (720, 576, Fraction(25), (5, 1, 5, 6)),
        (352, 288, Fraction(30), (5, 1, 5, 6)),
        (640, 360, Fraction(50), (5, 1, 5, 6)),
        (720, 480, Fraction(30000, 1001), (6, 1, 6, 6)),
        (1024, 576, Fraction(24), (5, 1, 5, 6)),
        (1026, 576, Fraction(25), (1, 1, 1, 1)),
        (404, 720, Fraction(30), (1, 1, 1, 1)),
    ],
)
def test_untagged(width: int, height: int, rate: Fraction, expected: tuple[int, ...]) -> None:
    colour = resolve_colour(ColourTags(), width=width, height=height, rate=rate, pix_fmt="yuv420p")
    tags = colour.tags
    assert (tags.matrix, tags.range, tags.primaries, tags.transfer) == expected
    assert "is assumed" in colour.notes[0]


def test_known_tags_stay_and_unknown_follow_the_matrix() -> None:
    tags = ColourTags(matrix=9, range=1, primaries=9, transfer=16)
    options = {"width": 640, "height": 480, "rate": Fraction(30)}
    colour = resolve_colour(tags, pix_fmt="yuv420p10le", **options)
    assert (colour.tags, colour.matrix, colour.notes) == (tags, "bt2020", ())
    colour = resolve_colour(ColourTags(matrix=5, range=1), pix_fmt="yuv420p", **options)
    assert colour.tags == ColourTags(matrix=5, range=1, primaries=5, transfer=6)
    colour = resolve_colour(ColourTags(matrix=1), pix_fmt="yuvj420p", **options)
    assert colour.full_range
    assert colour.tags.range == 2


def test_rare_matrix_is_said_and_kept() -> None:
    colour = resolve_colour(
        ColourTags(matrix=7), width=640, height=480, rate=Fraction(30), pix_fmt="yuv420p"
    )
    assert colour.tags.matrix == 7
    assert "treated as bt709" in colour.notes[0]


@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
def test_siting_is_read_from_h264(tmp_path: Path, siting: str) -> None:
    clip = make_clip(tmp_path / "in.mp4", options={"chroma_sample_location": siting})
    assert read_siting(clip, 0, "h264", OPEN_OPTIONS) == siting


def test_default_siting() -> None:
    assert [default_siting(c) for c in ("h264", "mjpeg", "vp9")] == ["left", "center", "left"]


def test_rounding_to_8_bits() -> None:
    ten_bit = np.array([64, 65, 66, 512, 940, 1023], np.uint16) * 64
    assert round_to_8_bits(ten_bit, full_range=False).tolist() == [16, 16, 17, 128, 235, 255]
    assert round_to_8_bits(np.array([0, 32768, 65535], np.uint16), True).tolist() == [0, 128, 255]


def test_chroma_is_halved_where_left_siting_lies() -> None:
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (4, 1))
    halved = halve_left_sited(ramp)
    assert halved.shape == (2, 8)
    # A ramp keeps its value at samples 0, 2, 4, ...; the first has a repeated neighbour.
    assert halved[0].tolist() == [3, 20, 40, 60, 80, 100, 120, 140]


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (38, 22)])
def test_planes_are_copied_untouched(size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    chroma = ((height + 1) // 2, (width + 1) // 2)
    y, u, v = (rng.integers(0, 256, s, np.uint8) for s in ((height, width), chroma, chroma))
    colour = resolve_colour(
        ColourTags(), width=width, height=height, rate=Fraction(25), pix_fmt="yuv420p"
    )
    converter = make_converter("yuv420p", width, height, colour)
    assert isinstance(converter, PlanarConverter)
    inputs = converter.inputs(make_frame(y, u, v))
    even = (height + height % 2, width + width % 2)
    assert inputs["y"].shape == (1, 1, *even)
    np.testing.assert_array_equal(inputs["y"][0, 0, :height, :width], y)
    np.testing.assert_array_equal(inputs["y"][0, 0, -1, :width], y[-1])
    np.testing.assert_array_equal(inputs["uv"][0], np.stack([u, v]))
    frame = converter.frame(NearestSession(form="yuv420p8").infer(inputs))
    np.testing.assert_array_equal(plane_view(frame, 0), y.repeat(4, 0).repeat(4, 1))
    expected = u.repeat(4, 0).repeat(4, 1)[: 2 * height, : 2 * width]
    np.testing.assert_array_equal(plane_view(frame, 1), expected)


def test_source_siting_up_and_left_siting_down() -> None:
    colour = resolve_colour(
        ColourTags(), width=8, height=8, rate=Fraction(25), pix_fmt="yuv420p", siting="center"
    )
    grey = np.full((8, 8), 128, np.uint8)
    inputs = PlanarConverter(8, 8, colour).inputs(make_frame(grey, grey[:4, :4], grey[:4, :4]))
    assert inputs["chroma_up"][1, 0].tolist() == [0.25, 0.75, 0.0]
    assert inputs["chroma_down"][1].tolist() == [0.25, 0.5, 0.25]


def test_other_formats_go_through_rgb() -> None:
    colour = resolve_colour(ColourTags(), width=8, height=8, rate=Fraction(25), pix_fmt="yuv444p")
    converter = make_converter("yuv444p", 8, 8, colour)
    assert isinstance(converter, RgbConverter)
    assert converter.form == "rgb8"
