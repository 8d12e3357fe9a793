"""Codecs, containers and the choice of the output."""

from __future__ import annotations

from pathlib import Path

import pytest
from video_clips import make_clip

from srtrt.errors import OutputError, UsageError
from srtrt.runtime.video.codecs import CODECS, CONTAINERS, EncoderPlan, plan_encoder
from srtrt.runtime.video.options import VideoOptions
from srtrt.runtime.video.source import VideoSource
from srtrt.runtime.video.target import choose_target


def plan(suffix: str = ".mp4", **options: object) -> EncoderPlan:
    values = {"codec": "auto", "encoder": "auto", "crf": None, "preset": None}
    values.update({"width": 640, "height": 360}, **options)
    return plan_encoder(CONTAINERS[suffix], **values)  # type: ignore[arg-type]


def test_defaults_by_container() -> None:
    codecs = {suffix: plan(suffix).codec for suffix in CONTAINERS}
    expected = dict.fromkeys([".mp4", ".m4v", ".mov", ".mkv"], "h264")
    assert codecs == {**expected, ".webm": "av1"}


def test_options_reach_the_encoder() -> None:
    options = plan(crf=30, preset="slow").options
    assert (options["crf"], options["preset"]) == ("30", "slow")
    assert plan(codec="hevc").tag == "hvc1"
    assert plan(".mkv", codec="hevc").tag is None
    assert plan(encoder="libx264", crf=5).options["crf"] == "5"


def test_narrow_hevc_goes_without_the_tree_that_x265_overruns() -> None:
    assert "cutree=0" in plan(codec="hevc", width=48).options["x265-params"]
    assert "cutree" not in plan(codec="hevc", width=64).options["x265-params"]


@pytest.mark.parametrize(
    ("suffix", "options", "words"),
    [
        (".mp4", {"codec": "ffv1"}, "does not take ffv1; name an output with .mkv"),
        (".webm", {"codec": "h264"}, "does not take h264"),
        (".mkv", {"codec": "ffv1", "crf": 3}, "lossless"),
        (".mkv", {"codec": "ffv1", "preset": "slow"}, "no meaning"),
        (".mkv", {"codec": "h265"}, "expected one of auto, h264, hevc, av1, ffv1"),
        (".mp4", {"encoder": "libnothing"}, "no such encoder"),
        (".mp4", {"encoder": "aac"}, "encodes audio, not video"),
        (".mp4", {"encoder": "libx265", "codec": "h264"}, "writes hevc, not --codec h264"),
        (".mkv", {"encoder": "prores_ks"}, "does not take 8-bit 4:2:0"),
    ],
)
def test_contradictions(suffix: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(suffix, **options)


def test_too_large_for_h264() -> None:
    with pytest.raises(OutputError, match=r"16400x1080.*Choose --codec hevc"):
        plan(width=16400, height=1080)
    assert plan(width=16400, height=1080, codec="hevc").codec == "hevc"


def test_every_container_names_known_codecs() -> None:
    for container in CONTAINERS.values():
        assert set(container.codecs) <= set(CODECS)


@pytest.mark.parametrize(
    ("name", "codec", "audio", "expected"),
    [
        ("a.mp4", "auto", "aac", "a_x4.mp4"),
        ("a.mkv", "auto", "pcm_s16le", "a_x4.mkv"),
        ("a.mov", "auto", "pcm_s16le", "a_x4.mov"),
        ("a.mp4", "ffv1", None, "a_x4.mkv"),
        ("a.ts", "auto", "aac", "a_x4.mp4"),
        ("a.avi", "auto", "pcm_s16le", "a_x4.mp4"),
        ("a.flv", "auto", "aac", "a_x4.mp4"),
        ("a.3gp", "auto", "aac", "a_x4.mp4"),
        ("a.nut", "auto", "pcm_mulaw", "a_x4.mov"),
        ("a.avi", "ffv1", None, "a_x4.mkv"),
        ("a.webm", "h264", None, "a_x4.mkv"),
    ],
)
def test_default_output(
    tmp_path: Path, name: str, codec: str, audio: str | None, expected: str
) -> None:
    encoder = "libvpx" if name == "a.webm" else "libx264"
    with VideoSource(make_clip(tmp_path / name, audio=audio, codec=encoder)) as source:
        target = choose_target(source, None, VideoOptions(codec=codec))
    assert target.path == tmp_path / expected
    assert bool(target.notes) == (Path(expected).suffix != Path(name).suffix)
    exact = name == "a.nut" or (Path(expected).suffix == ".mp4" and Path(name).suffix != ".mp4")
    assert any("keeps exact times" in note for note in target.notes) == exact


def test_stream_that_the_named_container_refuses(tmp_path: Path) -> None:
    with VideoSource(make_clip(tmp_path / "a.mkv", subtitles=True)) as source:
        with pytest.raises(OutputError) as caught:
            choose_target(source, tmp_path / "b.mp4", VideoOptions())
        message = str(caught.value)
        assert "the mp4 container does not take stream 1 (subtitle subrip, fra)" in message
        assert "ends in .mkv" in message
