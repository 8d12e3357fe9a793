"""Inputs that are no video, and videos that break: one clear sentence, no output."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import pytest
from click.testing import CliRunner, Result
from compare_video import read_facts
from video_clips import NearestSession, make_clip, picture

import srtrt.runtime.session
from srtrt.cli import main
from srtrt.errors import TruncatedInputError
from srtrt.runtime.video.api import upscale_video
from srtrt.runtime.video.sniff import missing_bytes

SHARED = Path(os.environ.get("SRTRT_SHARED", Path(__file__).parents[3] / "shared"))
REAL = SHARED / "data" / "video"


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)


def upscale(*arguments: str | Path) -> Result:
    words = ["upscale-video", *map(str, arguments)]
    return CliRunner().invoke(main, words)


def assert_refused(done: Result, words: str, folder: Path, *, started: bool = False) -> None:
    """Refused in one line, which is the only one unless the work had begun."""
    assert done.exit_code == 1, done.output
    lines = done.stderr.splitlines()
    assert [line.startswith("srtrt: ") for line in lines].index(True) == len(lines) - 1
    assert started or len(lines) == 1, f"more than one line: {done.stderr}"
    assert words in lines[-1]
    assert not [p.name for p in folder.iterdir() if "x4" in p.name or p.name.startswith(".")]


def picture_file(path: Path) -> Path:
    with av.open(str(path.with_suffix(".jpg")), "w", format="image2") as output:
        stream = output.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(picture(0, 64, 48), "rgb24")
        output.mux([*stream.encode(frame.reformat(format="yuvj420p")), *stream.encode(None)])
    return path.with_suffix(".jpg").replace(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.mp4", b"", "is empty (0 bytes)"),
        ("text.mp4", b"Dear reader,\nthis is a letter.\n", "is a text file"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://example.com/a.ts\n", "is a playlist"),
        ("list.mp4", b"\xef\xbb\xbf#EXTM3U\n/etc/passwd\n", "is a playlist"),
        ("dash.mp4", b'<?xml version="1.0"?><MPD></MPD>', "is a playlist"),
        ("script.mkv", b"ffconcat version 1.0\nfile /etc/passwd\n", "is a concat script"),
        ("noise.mp4", bytes(range(256)) * 20, "is not a video in a container"),
        ("bare.mp4", b"\x00\x00\x00\x14ftypisom\x00\x00\x02\x00isom", "without any media"),
        (
            "bare.flv",
            b"FLV\x01\x00\x00\x00\x00\x09\x00\x00\x00\x00",
            "a Flash video without any frame",
        ),
    ],
)
def test_not_a_video(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(upscale(tmp_path / name), words, tmp_path)


def test_missing_directory_pipe_device_and_picture(tmp_path: Path) -> None:
    assert_refused(upscale(tmp_path / "no.mp4"), "no such file", tmp_path)
    assert_refused(upscale(tmp_path), "is a directory", tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert_refused(upscale(tmp_path / "pipe.mp4"), "is a pipe, socket or device", tmp_path)
    assert_refused(upscale("/dev/zero"), "is a pipe, socket or device", tmp_path)
    image = picture_file(tmp_path / "photo.mp4")
    assert_refused(upscale(image), "is a picture (JPEG)", tmp_path)


def test_sound_only(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        sound = output.add_stream("aac", rate=48000)
        frame = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts = 48000, 0
        output.mux([*sound.encode(frame), *sound.encode(None)])
    assert_refused(upscale(tmp_path / "sound.mp4"), "holds no video stream", tmp_path)


@pytest.mark.parametrize("name", ["http:x.mp4", "concat:a|b.mp4", "-dash.mp4", "a%03d ?&=.mp4"])
def test_awkward_names_are_files(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / "plain.mp4", pts=(0, 3000)).replace(tmp_path / name)
    done = upscale("--", clip)
    assert done.exit_code == 0, done.output
    assert (tmp_path / f"{Path(name).stem}_x4.mp4").is_file()


def truncated(tmp_path: Path, suffix: str) -> Path:
    clip = make_clip(
        tmp_path / f"whole{suffix}",
        pts=range(0, 80000, 2000),
        size=(96, 64),
        audio=None if suffix == ".avi" else "aac",
        options={"g": "10"},
        codec="mpeg4" if suffix == ".avi" else "libx264",
    )
    if suffix == ".mp4":
        with (
            av.open(str(clip)) as source,
            av.open(
                str(tmp_path / "fast.mp4"), "w", container_options={"movflags": "+faststart"}
            ) as output,
        ):
            copy = output.add_stream_from_template(source.streams.video[0], opaque=True)
            for packet in source.demux(0):
                if packet.dts is not None:
                    packet.stream = copy
                    output.mux(packet)
        clip = tmp_path / "fast.mp4"
    data = clip.read_bytes()
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(data[: len(data) * 2 // 3])
    assert missing_bytes(broken) > 0
    assert missing_bytes(clip) == 0
    return broken


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    broken = truncated(tmp_path, suffix)
    assert_refused(upscale(broken), "good frames: ", tmp_path)
    with pytest.raises(TruncatedInputError) as caught:
        upscale_video(broken, session_factory=NearestSession)
    good = caught.value.good_frames
    assert 0 < good < 40
    assert f"--keep-going to write the {good} frames" in str(caught.value)
    done = upscale(broken, "--keep-going")
    assert done.exit_code == 0, done.output
    assert f"warning: It breaks after {good} good frames" in done.stderr
    facts = read_facts(tmp_path / f"broken_x4{suffix}")
    assert len(facts.times) == good
    assert all(time < facts.end for time, _ in facts.copied.get("audio 0", []))


def test_damage_in_the_middle(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=range(0, 80000, 2000), options={"bf": "0"})
    with av.open(str(clip)) as source:
        packets = [p for p in source.demux(0) if p.size]
        position, size = packets[24].pos, packets[24].size
    data = bytearray(clip.read_bytes())
    data[position : position + size] = b"\xff" * size
    clip.write_bytes(data)
    assert_refused(upscale(clip), "It breaks after 24 good frames", tmp_path, started=True)
    assert upscale(clip, "--keep-going", "--max-frames", "30").exit_code == 0
    assert len(read_facts(tmp_path / "in_x4.mp4").times) == 24


def test_frames_before_the_damage_are_fine(tmp_path: Path) -> None:
    broken = truncated(tmp_path, ".mkv")
    assert upscale(broken, "--max-frames", "5").exit_code == 0
    assert len(read_facts(tmp_path / "broken_x4.mkv").times) == 5


def test_size_that_changes(tmp_path: Path) -> None:
    names = [make_clip(tmp_path / f"{n}.h264", size=(n, n), codec="libx264") for n in (64, 96)]
    joined = tmp_path / "joined.h264"
    joined.write_bytes(b"".join(name.read_bytes() for name in names))
    words = "frame 8 is 96x96 yuv420p, but the video began as 64x64"
    assert_refused(upscale(joined), words, tmp_path, started=True)


@pytest.mark.parametrize(
    ("name", "good"), [("corrupted.mp4", 28), ("sample_with_invalid_nalu.mp4", 26)]
)
def test_real_damage(tmp_path: Path, name: str, good: int) -> None:
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is not on this machine")
    done = upscale(REAL / name, "-o", tmp_path / "out.mp4", "--preset", "ultrafast")
    assert_refused(done, f"It breaks after {good} good frames", tmp_path, started=True)


@pytest.mark.parametrize("milliseconds", [0.001, -5000.0])
def test_absurd_durations_are_no_number_of_frames(tmp_path: Path, milliseconds: float) -> None:
    clip = make_clip(tmp_path / "in.mkv", pts=range(0, 15000, 3000))
    data = bytearray(clip.read_bytes())
    element = data.index(b"\x44\x89\x88") + 3  # Duration, a float of 8 bytes
    data[element : element + 8] = struct.pack(">d", milliseconds)
    clip.write_bytes(data)
    done = upscale(clip)
    assert done.exit_code == 0, done.output
    assert "5 frames" in done.stderr
    assert ", 0 frames\n" not in done.stderr


def test_what_svt_av1_prints_stays_off_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "in.mkv", pts=range(5), time_base=Fraction(1, 1000))
    done = upscale(clip, "-o", tmp_path / "out.webm")
    assert "Svt" not in capfd.readouterr().err
    assert done.exit_code == 0 or "libsvtav1 refuses" in done.stderr
