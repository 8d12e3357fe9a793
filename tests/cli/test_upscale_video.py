"""`srtrt upscale-video` end to end on clips made here, with a stand-in for the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from compare_video import compare, read_facts
from video_clips import VFR, NearestSession, make_clip, patches, picture

import srtrt.runtime.session
from srtrt.cli import main
from srtrt.runtime.video.opening import OPEN_OPTIONS
from srtrt.runtime.video.siting import read_siting

SHARED = Path(os.environ.get("SRTRT_SHARED", Path(__file__).parents[3] / "shared"))
REAL = SHARED / "data" / "video"


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)


def upscale(source: Path, *options: str | Path) -> Result:
    quick = [] if "--preset" in options else ["--preset", "ultrafast"]
    if {"--codec", "--encoder"} & set(options) or source.suffix == ".webm":
        quick = []
    return CliRunner().invoke(main, ["upscale-video", *map(str, options), *quick, str(source)])


def assert_faithful(source: Path, result: Path, max_frames: int | None = None) -> None:
    failed = [c for c in compare(source, result, max_frames) if not c.ok]
    assert not failed, "\n".join(f"{c.name}: {c.detail}" for c in failed)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_everything_is_kept(tmp_path: Path, suffix: str) -> None:
    clip = make_clip(
        tmp_path / f"in{suffix}",
        audio="aac",
        subtitles=suffix == ".mkv",
        chapters=True,
        rotation=90,
        aspect=Fraction(4, 3),
        colour=(6, 1, 6, 6),
        metadata={"title": "A film", "comment": "of uneven times"},
    )
    done = upscale(clip)
    assert done.exit_code == 0, done.output
    output = tmp_path / f"in_x4{suffix}"
    assert done.stdout.strip() == str(output)
    assert f"{len(VFR)} frames to 256x192" in done.stderr
    assert_faithful(clip, output)
    facts = read_facts(output)
    assert facts.matrix is not None
    assert facts.aspect == Fraction(4, 3)
    assert facts.metadata["title"] == "A film"
    assert [c[2] for c in facts.chapters] == ["Opening", "End"]
    assert set(facts.copied) == {"audio 0"} | ({"subtitle 0"} if suffix == ".mkv" else set())
    assert not list(tmp_path.glob(".*"))


def test_b_frames_come_out_in_order(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=range(0, 60000, 3000), options={"bf": "3"})
    assert upscale(clip).exit_code == 0
    with av.open(str(tmp_path / "in_x4.mp4")) as output:
        shown = [frame.to_ndarray(format="rgb24") for frame in output.decode(video=0)]
    for index, rgb in enumerate(shown):
        expected = picture(index, 64, 48).repeat(4, 0).repeat(4, 1)
        error = np.abs(rgb.astype(int) - expected).mean()
        assert error < 12, f"frame {index} is not the picture it should be ({error:.1f})"


def test_late_start_is_kept_exactly(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=[1234 + t for t in VFR], audio="aac")
    assert read_facts(clip).times[0] == Fraction(1234, 90000)
    assert upscale(clip).exit_code == 0
    assert_faithful(clip, tmp_path / "in_x4.mp4")


def test_milliseconds_of_matroska_are_said(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", audio="aac")
    done = upscale(clip, "-o", tmp_path / "out.mkv")
    assert done.exit_code == 0
    assert "rounded to the milliseconds" in done.stderr
    facts, before = read_facts(tmp_path / "out.mkv"), read_facts(clip)
    shift = facts.times[0] - before.times[0]
    pairs = zip(facts.times, before.times, strict=True)
    assert max(abs(a - b - shift) for a, b in pairs) <= Fraction(1, 1000)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("size", [(1, 1), (33, 21), (64, 47)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int], pix_fmt: str) -> None:
    clip = make_clip(
        tmp_path / "in.mkv",
        size=size,
        pts=(0, 40),
        time_base=Fraction(1, 1000),
        codec="ffv1",
        pix_fmt=pix_fmt,
    )
    done = upscale(clip, "--codec", "ffv1")
    assert done.exit_code == 0, done.output
    with av.open(str(tmp_path / "in_x4.mkv")) as output:
        frame = next(output.decode(video=0))
    assert (frame.width, frame.height) == (4 * size[0], 4 * size[1])
    assert output.streams is not None


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (30, 90, 160), (128, 128, 128)]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize(
    "colour", [(6, 1, 6, 6), (6, 2, 6, 6), (1, 1, 1, 1)], ids=["601", "601 full", "709"]
)
def test_colours_stay(tmp_path: Path, pix_fmt: str, colour: tuple[int, int, int, int]) -> None:
    flat = patches(COLOURS)
    clip = make_clip(
        tmp_path / "in.mkv",
        pts=(0, 40),
        time_base=Fraction(1, 1000),
        pix_fmt=pix_fmt,
        size=(flat.shape[1], flat.shape[0]),
        colour=colour,
        codec="ffv1",
        pictures=[flat, flat],
    )
    assert upscale(clip, "--codec", "ffv1").exit_code == 0
    before, after = (first_yuv444(tmp_path / name, colour) for name in ("in.mkv", "in_x4.mkv"))
    for index in range(len(COLOURS)):
        a = before[:, 8, 16 * index + 8].astype(int)
        b = after[:, 32, 64 * index + 32].astype(int)
        assert np.abs(a - b).max() <= 2, f"{COLOURS[index]}: YUV {a} became {b}"


def first_yuv444(path: Path, colour: tuple[int, int, int, int]) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == colour[:2]
    matrix = 1 if colour[0] == 1 else 5
    return frame.reformat(
        format="yuv444p",
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=colour[1],
        dst_color_range=colour[1],
    ).to_ndarray()


def test_untagged_colour_is_filled_in_and_said(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=range(0, 9009, 3003))
    done = upscale(clip)
    assert "BT.601 (525 lines) is assumed for 64x48" in done.stderr
    assert read_facts(tmp_path / "in_x4.mp4").tags == (6, 1, 6, 6)


def test_max_frames_cuts_the_sound_too(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "in.mkv",
        pts=range(0, 400, 40),
        time_base=Fraction(1, 1000),
        audio="aac",
        audio_seconds=2,
        subtitles=True,
        chapters=True,
    )
    done = upscale(clip, "--max-frames", "3")
    assert done.exit_code == 0, done.output
    assert_faithful(clip, tmp_path / "in_x4.mkv", max_frames=3)
    facts = read_facts(tmp_path / "in_x4.mkv")
    assert len(facts.times) == 3
    assert facts.copied["audio 0"][-1][0] < Fraction(120, 1000)
    assert len(facts.copied["subtitle 0"]) == 1
    assert [c[2] for c in facts.chapters] == ["Opening"]


def test_more_frames_than_there_are_cut_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", audio="aac", audio_seconds=2)
    assert upscale(clip, "--max-frames", "99").exit_code == 0
    assert_faithful(clip, tmp_path / "in_x4.mp4")


def test_what_an_edit_list_hides_stays_hidden(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "whole.mp4", pts=range(0, 90000, 3000), audio="aac")
    cut = tmp_path / "cut.mp4"
    with av.open(str(clip)) as source, av.open(str(cut), "w") as output:
        copies = [output.add_stream_from_template(s, opaque=True) for s in source.streams]
        for packet in source.demux():
            if packet.dts is not None:
                ticks = round(Fraction(1, 5) / packet.time_base)
                packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
                packet.stream = copies[packet.stream.index]
                output.mux(packet)
    assert 20 < len(read_facts(cut).times) < 30
    assert upscale(cut).exit_code == 0
    assert_faithful(cut, tmp_path / "cut_x4.mp4")
    done = upscale(cut, "-o", tmp_path / "cut.mkv")
    assert done.exit_code == 0, done.output
    assert "that an edit list of the source hides" in done.stderr
    assert len(read_facts(tmp_path / "cut.mkv").times) == len(read_facts(cut).times)


def test_output_says_where_its_chroma_lies(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", options={"chroma_sample_location": "center"})
    assert upscale(clip).exit_code == 0
    assert read_siting(clip, 0, "h264", OPEN_OPTIONS) == "center"
    assert read_siting(tmp_path / "in_x4.mp4", 0, "h264", OPEN_OPTIONS) == "left"


def test_no_audio(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", audio="aac")
    assert upscale(clip, "--audio", "none").exit_code == 0
    with av.open(str(tmp_path / "in_x4.mp4")) as output:
        assert len(output.streams.audio) == 0


def test_cover_art_and_fonts(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "art.mp4", cover=True)
    with av.open(str(clip)) as source:
        art = next(bytes(p) for p in source.demux(1) if p.size)
    for name in ("out.mp4", "out.mkv"):
        assert upscale(clip, "-o", tmp_path / name).exit_code == 0
        with av.open(str(tmp_path / name)) as output:
            cover = output.streams.video[1]
            assert cover.disposition & av.stream.Disposition.attached_pic
            assert next(bytes(p) for p in output.demux(cover) if p.size) == art
    done = upscale(clip, "-o", tmp_path / "out.mov")
    lost = "The mov container does not take stream 1 (video mjpeg); it is not carried over"
    assert lost in done.stderr
    clip = make_clip(tmp_path / "font.mkv", font=True)
    assert upscale(clip).exit_code == 0
    with av.open(str(tmp_path / "font_x4.mkv")) as output:
        assert output.streams.attachments[0].data == bytes(range(256))


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        (["--codec", "hevc"], "out.mp4", "hevc"),
        (["--codec", "av1"], "out.mkv", "av1"),
        (["--codec", "ffv1"], "out.mkv", "ffv1"),
        ([], "out.webm", "av1"),
        (["--encoder", "libvpx-vp9"], "out.webm", "vp9"),
    ],
)
def test_codecs(tmp_path: Path, options: list[str], name: str, expected: str) -> None:
    clip = make_clip(tmp_path / "in.mkv", pts=range(0, 200, 40), time_base=Fraction(1, 1000))
    done = (
        upscale(clip, "-o", tmp_path / name, *options, "--preset", "8")
        if name == "out.webm" and not options
        else upscale(clip, "-o", tmp_path / name, *options)
    )
    assert done.exit_code == 0, done.output
    with av.open(str(tmp_path / name)) as output:
        assert output.streams.video[0].codec_context.codec.canonical_name == expected
        if name == "out.mp4":
            assert output.streams.video[0].codec_tag == "hvc1"
    assert_faithful(clip, tmp_path / name)


def test_encoders_leave_the_machine_to_others(tmp_path: Path) -> None:
    """SVT-AV1 takes real-time priority where it may; tests as root see that."""
    clip = make_clip(tmp_path / "in.mkv", pts=range(0, 200, 40), time_base=Fraction(1, 1000))
    code = (
        "import os, sys\n"
        "from srtrt.runtime.video.api import upscale_video\n"
        "from srtrt.runtime.video.plan import VideoWatcher\n"
        "class Watcher(VideoWatcher):\n"
        "    def progressed(self, progress):\n"
        "        print(*(os.sched_getscheduler(int(t)) for t in os.listdir('/proc/self/task')))\n"
        "upscale_video(sys.argv[1], sys.argv[2], codec='av1', model='fast', watcher=Watcher())\n"
    )
    words = [sys.executable, "-c", code, str(clip), str(tmp_path / "out.mkv")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    assert set(done.stdout.split()) == {str(os.SCHED_OTHER)}


def test_container_is_changed_and_said_where_it_must_be(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.avi", codec="mpeg4", pts=range(6), time_base=Fraction(1, 25))
    done = upscale(clip)
    assert done.exit_code == 0, done.output
    assert (
        "The output is .mp4, because srtrt does not write .avi files and .mp4 keeps exact times."
        in done.stderr
    )
    assert len(read_facts(tmp_path / "in_x4.mp4").times) == 6


def test_json_report(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", audio="aac")
    assert upscale(clip, "--json", tmp_path / "r.json", "--quiet").output == ""
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["frames"] == len(VFR)
    assert (report["width"], report["height"]) == (256, 192)
    assert [s["name"] for s in report["stages"]] == ["decode", "network", "encode"]
    assert report["bottleneck"] in ("decode", "network", "encode")
    assert report["complete"]
    assert report["copied_streams"] == ["audio aac, nor"]
    assert 0 < report["network_share"] <= 1


def test_a_report_replaces_nothing_but_a_report(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    before = clip.read_bytes()
    done = upscale(clip, "--json", clip)
    assert done.exit_code == 1
    assert "this file is no report; choose another name" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
    assert clip.read_bytes() == before
    named = tmp_path / "out.mp4"
    done = upscale(clip, "-o", named, "--json", tmp_path / "." / "out.mp4")
    assert done.exit_code == 1
    assert "the result itself goes there" in done.stderr
    assert not named.exists()
    usual = tmp_path / "in_x4.mp4"
    done = upscale(clip, "--json", usual)
    assert done.exit_code == 1
    assert "the result itself goes there" in done.stderr
    assert not usual.exists()
    report = tmp_path / "report.json"
    for _ in range(2):
        assert upscale(clip, "--overwrite", "--json", report).exit_code == 0
        assert json.loads(report.read_text())["frames"] == len(VFR)


def test_options_reach_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def opened(**options: Any) -> NearestSession:
        assert callable(options.pop("on_build"))
        assert callable(options.pop("on_note"))
        seen.append(options)
        return NearestSession(**options)

    monkeypatch.setattr(srtrt.runtime.session, "open_session", opened)
    clip = make_clip(tmp_path / "in.mp4")
    names = ["--model", "m", "--backend", "torch", "--device", "cpu", "--precision", "bf16"]
    names += ["--backend-option", "x=1", "--backend-option", "y=2"]
    assert upscale(clip, *names, "--tile", "128").exit_code == 0
    assert seen == [
        {
            "model": "m",
            "form": "yuv420p8",
            "backend": "torch",
            "device": "cpu",
            "precision": "bf16",
            "tile": "128",
            "backend_options": ("x=1", "y=2"),
            "trust_engine": False,
        }
    ]


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("realshort.mp4", None),
        ("nasa_13013.mp4", 12),
        ("awesome movie.mov", 8),
        ("bt601.mp4", None),
        ("video_90.mov", None),
        ("bear-vp9-odd-dimensions.webm", 6),
        ("-video-with-dash-.mp4", None),
        ("file+with+data&streams=works?.mp4", 6),
    ],
)
def test_real_clips(tmp_path: Path, name: str, frames: int | None) -> None:
    source = REAL / name
    if not source.exists():
        pytest.skip(f"{source} is not on this machine")
    if source.read_bytes()[:1] == b"{":  # all of them are containers, which no text starts like
        pytest.skip(f"{source} holds text: it is not the clip that its MANIFEST.tsv describes")
    result = tmp_path / f"out{source.suffix}"
    limit = ["--max-frames", str(frames)] if frames else []
    done = upscale(source, "-o", result, *limit)
    assert done.exit_code == 0, done.output
    assert_faithful(source, result, frames)
