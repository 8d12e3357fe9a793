"""Which streams a video keeps: subtitles, fonts, data streams, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from click.testing import CliRunner, Result
from compare_video import read_facts
from video_clips import NearestSession, make_clip

import srtrt
import srtrt.runtime.session
from srtrt.cli import main
from srtrt.errors import UsageError


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)


def upscale(source: Path, *options: str | Path) -> Result:
    words = ["upscale-video", *map(str, options), "--preset", "ultrafast", str(source)]
    return CliRunner().invoke(main, words)


def kinds(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.type for stream in container.streams]


def test_subtitles_without_a_codec_are_left_out_and_said(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", audio="aac", subtitles=True)
    clip.write_bytes(clip.read_bytes().replace(b"S_TEXT/UTF8", b"S_TEXT/NEWS"))
    done = upscale(clip)
    assert done.exit_code == 0, done.output
    assert (
        "note: Stream 2 (subtitle unknown codec, fra) cannot be copied, because FFmpeg has no "
        "decoder for it; it is left out." in done.stderr
    )
    assert kinds(tmp_path / "in_x4.mkv") == ["video", "audio"]


def test_subtitles_that_the_container_does_not_take(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", audio="aac", subtitles=True, font=True)
    output = tmp_path / "out.mp4"
    refused = upscale(clip, "-o", output)
    assert refused.exit_code == 1
    assert "does not take stream 2 (subtitle subrip, fra)" in refused.stderr
    assert (
        "To keep every stream, give an output name that ends in .mkv; or leave the subtitles out "
        "with --subtitles none." in refused.stderr
    )
    assert not output.exists()
    done = upscale(clip, "-o", output, "--subtitles", "none")
    assert done.exit_code == 0, done.output
    assert "Stream 3 (attachment signs.ttf) is left out with the subtitles." in done.stderr
    assert kinds(output) == ["video", "audio"]
    assert len(read_facts(output).copied["audio 0"]) == len(read_facts(clip).copied["audio 0"])


def test_subtitles_option_in_python(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", subtitles=True)
    report = srtrt.upscale_video(clip, subtitles="none")
    assert report.copied_streams == ()
    with pytest.raises(UsageError, match="subtitles is 'burn'; expected 'copy' or 'none'"):
        srtrt.upscale_video(clip, subtitles="burn")  # type: ignore[arg-type]


def test_audio_that_nothing_takes(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.avi", audio="adpcm_ms")
    refused = upscale(clip)
    assert refused.exit_code == 1
    assert (
        "No container that srtrt writes takes every stream; leave the audio out with "
        "--audio none." in refused.stderr
    )
    assert upscale(clip, "--audio", "none").exit_code == 0


def test_phone_sound_of_several_frames_a_packet(tmp_path: Path, shared: Path) -> None:
    source = shared / "video" / "sample.3gp"
    output = tmp_path / "out.mov"
    done = upscale(source, "-o", output, "--max-frames", "15")
    assert done.exit_code == 0, done.output
    with av.open(str(source)) as before, av.open(str(output)) as after:
        sounds = [b"".join(bytes(p) for p in c.demux(audio=0)) for c in (before, after)]
    assert len(sounds[1]) > 500
    assert sounds[0].startswith(sounds[1])
