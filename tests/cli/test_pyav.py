"""What PyAV's versions do differently, and a PyAV that does not work, as users meet them."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from compare_video import compare, read_facts
from PIL import Image
from video_clips import NearestSession, make_clip, picture

import srtrt
import srtrt.runtime.session
from srtrt import packages
from srtrt.cli import main
from srtrt.errors import BrokenPackageError
from srtrt.runtime.video import pyav
from srtrt.runtime.video.opening import OPEN_OPTIONS
from srtrt.runtime.video.siting import read_siting
from srtrt.runtime.video.source import VideoSource

LATIN_1 = "caf\udce9 \udcfcber"
"""``café über`` in Latin-1, as PEP 383 carries its bytes."""


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)
    pyav.require.cache_clear()


def upscale(source: Path, *options: str | Path) -> Result:
    return CliRunner().invoke(main, ["upscale-video", *map(str, options), str(source)])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_metadata_in_another_encoding_keeps_its_bytes(tmp_path: Path, suffix: str) -> None:
    clip = make_clip(
        tmp_path / f"in{suffix}",
        audio="aac",
        chapters=True,
        chapter_titles=(LATIN_1, "End"),
        metadata={"title": LATIN_1, "comment": "plain"},
    )
    assert b"caf\xe9 \xfcber" in clip.read_bytes()
    done = upscale(clip, "--json", tmp_path / "report.json")
    assert done.exit_code == 0, done.output
    facts = read_facts(tmp_path / f"in_x4{suffix}")
    assert facts.metadata["title"] == LATIN_1
    assert facts.metadata["comment"] == "plain"
    assert [title for _, _, title in facts.chapters] == [LATIN_1, "End"]
    assert not [c for c in compare(clip, tmp_path / f"in_x4{suffix}") if not c.ok]
    json.loads((tmp_path / "report.json").read_text())


def test_names_of_streams_and_attachments_in_another_encoding(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "plain.mkv", audio="aac", font=True)
    odd = tmp_path / "odd.mkv"
    # Of the same length, so that the sizes in the file stay true.
    data = clip.read_bytes().replace(b"signs.ttf", b"s\xefgns.ttf").replace(b"nor", b"n\xf8r")
    odd.write_bytes(data)
    done = upscale(odd)
    assert done.exit_code == 0, done.output
    with av.open(str(tmp_path / "odd_x4.mkv"), **pyav.METADATA) as output:
        assert [s.metadata["filename"] for s in output.streams.attachments] == ["s\udcefgns.ttf"]
        assert output.streams.audio[0].metadata["language"] == "n\udcf8r"
    refused = upscale(odd, "-o", tmp_path / "odd.webm")
    assert refused.exit_code == 1
    assert "audio aac, n\\xf8r" in refused.output


def test_chroma_siting_is_read_beside_metadata_in_another_encoding(tmp_path: Path) -> None:
    for title in ("plain", LATIN_1):
        clip = make_clip(
            tmp_path / "in.mp4",
            metadata={"title": title},
            options={"x264-params": "chromaloc=1"},
        )
        assert read_siting(clip, 0, "h264", OPEN_OPTIONS) == "center"


def test_pictures_with_exif_in_a_video(tmp_path: Path) -> None:
    """Motion JPEG of cameras: its frames carry kinds of side data that older PyAVs do not know."""
    exif, memory = Image.Exif(), io.BytesIO()
    exif[0x010E] = "A holiday"
    Image.fromarray(picture(0, 64, 48)).save(memory, "JPEG", exif=exif, quality=95)
    clip, jpeg = tmp_path / "camera.mkv", memory.getvalue()
    with av.open(io.BytesIO(jpeg), format="mjpeg") as one, av.open(str(clip), "w") as output:
        stream = output.add_stream_from_template(one.streams.video[0], opaque=True)
        for index in range(3):
            packet: Any = av.Packet(jpeg)
            packet.pts = packet.dts = 40 * index
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            output.mux(packet)
    done = upscale(clip)
    assert done.exit_code == 0, done.output
    assert len(read_facts(tmp_path / "camera_x4.mkv").times) == 3
    with av.open(str(clip)) as source:
        kinds = [kind for frame in source.decode(video=0) for kind in frame.side_data]
    assert len(kinds) >= 3


def spatial_video() -> Path:
    clip = Path(__file__).parents[3] / "shared/data/video/water_180_mvhevc_5frames.mov"
    if not clip.exists():
        pytest.skip(f"{clip} is not on this machine")
    return clip


def test_spatial_video_is_read() -> None:
    """Its frames carry a kind of side data that older PyAVs do not know."""
    with VideoSource(spatial_video()) as source:
        assert sum(step.frame is not None for step in source.steps()) == 5
        assert any("the other is not carried over" in note for note in source.notes)


@pytest.mark.slow
def test_spatial_video_is_upscaled(tmp_path: Path) -> None:
    options = ("--max-frames", "2", "--preset", "ultrafast", "-o", tmp_path / "out.mp4")
    done = upscale(spatial_video(), *options)
    assert done.exit_code == 0, done.output
    assert len(read_facts(tmp_path / "out.mp4").times) == 2


def test_a_stream_that_appears_only_later(tmp_path: Path) -> None:
    times, tick = range(0, 40000, 400), Fraction(1, 1000)
    clip = make_clip(tmp_path / "in.flv", pts=times, time_base=tick, options={"bf": "0"})
    data = bytearray(clip.read_bytes())
    tags, place = [], 13
    while place < len(data):
        tags.append(place)
        place += 15 + int.from_bytes(data[place + 1 : place + 4], "big")
    assert data[tags[-2]] == 9
    data[tags[-2]] = 8  # sound
    clip.write_bytes(data)
    done = upscale(clip, "-o", tmp_path / "out.mp4")
    assert done.exit_code == 0, done.output
    assert "Streams that appear only later in the source are left out: 1 (" in done.stderr
    assert len(read_facts(tmp_path / "out.mp4").times) >= 98


def test_rational_numbers_of_every_pyav_become_exact_fractions() -> None:
    def rational(numerator: int, denominator: int, known: bool) -> Any:
        return type(
            "AVRational",
            (),
            {
                "numerator": numerator,
                "denominator": denominator,
                "__bool__": lambda _self: known,
            },
        )()

    assert pyav.fraction(Fraction(1001, 30000)) == Fraction(1001, 30000)
    assert type(pyav.fraction(rational(1001, 30000, True))) is Fraction
    assert pyav.fraction(rational(0, 1, False)) is pyav.fraction(None) is None
    assert pyav.seconds(3 * 10**12, rational(1, 90000, True)) == Fraction(3 * 10**12, 90000)


def test_a_pyav_without_what_srtrt_calls_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(tmp_path / "in.mp4")

    def other(*_: Any, **__: Any) -> None:
        raise TypeError("open() got an unexpected keyword argument 'container_options'")

    monkeypatch.setattr(av, "open", other)
    done = upscale(clip)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert f"av {av.__version__} does not work: open() got an unexpected" in done.output
    assert "pip install --force-reinstall 'av" in done.output
    with pytest.raises(BrokenPackageError):
        srtrt.upscale_video(clip)


def test_a_pyav_that_was_never_tried_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    monkeypatch.setattr(packages, "requirements", lambda: {"av": ">=17,<20"})
    real = packages.metadata
    stand_in = SimpleNamespace(
        PackageNotFoundError=real.PackageNotFoundError,
        version=lambda name: "20.1" if name == "av" else real.version(name),
    )
    monkeypatch.setattr(packages, "metadata", stand_in)
    done = upscale(clip)
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "av 20.1 has not been tried with srtrt (expected >=17,<20)" in words


def test_frames_are_the_same_whatever_thread_converts_them() -> None:
    """PyAV 19 shares one converter between the frames of a thread."""
    rgb = picture(2, 64, 48)
    frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
    first, second = (
        frame.reformat(format="yuv420p", dst_colorspace=code, dst_color_range=1).to_ndarray()
        for code in (1, 5)
    )
    again = frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1).to_ndarray()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
