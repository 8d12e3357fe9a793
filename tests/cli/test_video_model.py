"""`--model auto` on real encoded clips: which model, and the reason that is said."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import REPOSITORY
from video_clips import NearestSession, make_clip

import srtrt.runtime.session
from srtrt.cli import main
from srtrt.runtime.video.choice import THRESHOLDS, choose_model, threshold
from srtrt.runtime.video.rate import bits_per_pixel

RESULTS = REPOSITORY / "benchmarks" / "results"

TEST_CARD = "bt709_full_range.mp4"
"""Flat colours and hard edges, on which `srresnet` is better at every rate."""


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)


@pytest.fixture(scope="module")
def footage() -> list[NDArray[np.uint8]]:
    """Frames of the sample, 320x240."""
    with av.open(str(REPOSITORY / "samples" / "rabbit.webm")) as container:
        frames = container.decode(video=0)
        return [
            frame.to_ndarray(format="rgb24") for frame, _ in zip(frames, range(24), strict=False)
        ]


def encoded(
    path: Path, footage: list[NDArray[np.uint8]], codec: str, crf: int | None, **more: str
) -> Path:
    options = {"preset": "medium", "g": "250", "bf": "3", **more}
    if codec not in ("libx264", "libx265"):
        options = more
    return make_clip(
        path,
        pts=[40 * i for i in range(len(footage))],
        time_base=Fraction(1, 1000),
        size=(footage[0].shape[1], footage[0].shape[0]),
        codec=codec,
        pictures=footage,
        options=options if crf is None else {**options, "crf": str(crf)},
        pix_fmt={"mjpeg": "yuvj420p", "huffyuv": "yuv422p"}.get(codec, "yuv420p"),
    )


def told(clip: Path, *options: str) -> str:
    """The line that names the model."""
    arguments = ["upscale-video", str(clip), "--overwrite", "--max-frames", "1", *options]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("model: ")]
    return line


@pytest.mark.parametrize(("codec", "low", "high"), [("libx264", 40, 14), ("libx265", 42, 14)])
def test_strong_compression_gets_the_model_for_it(
    tmp_path: Path, footage: list[NDArray[np.uint8]], codec: str, low: int, high: int
) -> None:
    quiet = {"x265-params": "log-level=error"} if codec == "libx265" else {}
    poor = told(encoded(tmp_path / "poor.mkv", footage, codec, low, **quiet))
    assert poor.startswith("model: video: the source has 0.0")
    assert "strongly compressed" in poor
    good = told(encoded(tmp_path / "good.mkv", footage, codec, high, **quiet))
    assert good.startswith("model: srresnet: the source has ")
    assert "lightly compressed" in good


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "ffv1"), ("a.avi", "huffyuv"), ("a.avi", "mjpeg")]
)
def test_lossless_and_whole_pictures_get_the_model_for_clean_ones(
    tmp_path: Path, footage: list[NDArray[np.uint8]], name: str, codec: str
) -> None:
    grey = [np.full_like(footage[0], 90)] * 4  # next to no bits, and yet nothing to remove
    clip = encoded(tmp_path / name, grey, codec, None, **({"q": "31"} if codec == "mjpeg" else {}))
    assert told(clip) == f"model: srresnet: {codec} is lossless or nearly so"


def test_y4m(tmp_path: Path) -> None:
    planes = bytes([90]) * (32 * 32 * 3 // 2)
    clip = tmp_path / "in.y4m"
    clip.write_bytes(b"YUV4MPEG2 W32 H32 F25:1 Ip C420jpeg\n" + (b"FRAME\n" + planes) * 3)
    line = told(clip, "-o", str(tmp_path / "out.mkv"))
    assert line == "model: srresnet: rawvideo is lossless or nearly so"


def test_a_codec_that_was_not_measured_is_said(
    tmp_path: Path, footage: list[NDArray[np.uint8]]
) -> None:
    clip = encoded(tmp_path / "in.avi", footage[:4], "mpeg4", None)
    line = told(clip)
    assert line.startswith("model: srresnet: the source has 0.")
    assert line.endswith("and what is little for mpeg4 was not measured")


def test_a_model_that_is_named_is_taken(tmp_path: Path, footage: list[NDArray[np.uint8]]) -> None:
    clip = encoded(tmp_path / "in.mkv", footage, "libx264", 40)
    assert told(clip, "--model", "srgan") == "model: srgan: as asked for"


def test_unknown_rate_is_said() -> None:
    choice = choose_model("h264", None, 1)
    assert (choice.name, choice.reason) == ("srresnet", "the rate of the source is unknown")


@given(st.sampled_from(sorted(THRESHOLDS)), st.integers(1, 16384**2))
def test_the_threshold_itself_is_not_under_it(codec: str, pixels: int) -> None:
    limit = threshold(codec, pixels)
    assert limit is not None
    assert choose_model(codec, limit, pixels).name == "srresnet"
    assert choose_model(codec, limit * 0.999, pixels).name == "video"
    larger = threshold(codec, 4 * pixels)
    assert larger is not None
    assert limit / 2 < larger <= limit


@pytest.mark.parametrize("path", sorted(RESULTS.glob("video-rates-*.json")), ids=lambda p: p.stem)
def test_under_the_threshold_the_model_wins_on_everything_that_was_measured(path: Path) -> None:
    rows = json.loads(path.read_text())["rows"]
    codecs = {"libx264": "h264", "libx265": "hevc", "libvpx-vp9": "vp9", "libsvtav1": "av1"}
    under = 0
    for row in rows:
        width, height = map(int, row["lr"].split("x"))
        if row["encoder"] is None or row["clip"] == TEST_CARD:
            continue
        chosen = choose_model(codecs[row["encoder"]], row["bits_per_pixel"], width * height).name
        if chosen == "video":
            under += 1
            assert row["video"]["psnr_db"] > row["srresnet"]["psnr_db"], row
            assert row["video"]["vmaf"] > row["srresnet"]["vmaf"], row
    assert under >= 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rate_is_that_of_the_video_alone(tmp_path: Path, suffix: str) -> None:
    plain = make_clip(tmp_path / f"plain{suffix}")
    rich = make_clip(
        tmp_path / f"rich{suffix}",
        audio="aac",
        audio_seconds=8,
        chapters=True,
        font=suffix == ".mkv",
    )
    with av.open(str(plain)) as container:
        sizes = [packet.size for packet in container.demux(0) if packet.size]
    expected = 8 * sum(sizes) / (len(sizes) * 64 * 48)
    for clip in (plain, rich):
        assert bits_per_pixel(clip, 0, 64, 48) == pytest.approx(expected, rel=0.02)


def test_rate_is_not_that_of_a_black_beginning(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    black = np.zeros((32, 32, 3), np.uint8)
    clip = make_clip(
        tmp_path / "in.mkv",
        pts=[40 * i for i in range(900)],
        time_base=Fraction(1, 1000),
        size=(32, 32),
        pictures=[black] * 260 + [noise[i % 40] for i in range(640)],
    )
    rate = bits_per_pixel(clip, 0, 32, 32)
    assert rate is not None
    assert rate > 0.5


def test_rate_of_a_file_that_breaks(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv")
    clip.write_bytes(clip.read_bytes()[:-200])
    rate = bits_per_pixel(clip, 0, 64, 48)
    assert rate is not None
    clip.write_bytes(b"nothing that is a video")
    assert bits_per_pixel(clip, 0, 64, 48) is None
