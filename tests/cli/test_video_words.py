"""What `srtrt upscale-video` says, and when: the plan before the first frame, nothing twice."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from video_clips import VFR, NearestSession, make_clip

import srtrt
import srtrt.runtime.session
from srtrt.cli import main
from srtrt.errors import BackendError
from srtrt.runtime.video.plan import Estimate, Progress, VideoPlan, VideoWatcher
from srtrt.runtime.video.terminal import LineWatcher

RUNNER = """
import sys
import srtrt.runtime.session
from video_clips import NearestSession

class Saying(NearestSession):
    def infer(self, inputs):
        print("FRAME", file=sys.stderr, flush=True)
        return super().infer(inputs)

srtrt.runtime.session.open_session = Saying
from srtrt.cli import main
main()
"""


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)


def upscale(source: Path, *options: str | Path) -> Result:
    return CliRunner().invoke(main, ["upscale-video", *map(str, options), str(source)])


def run_in(terminal: bool, *arguments: str | Path) -> list[str]:
    """Lines on stderr of a process whose network says FRAME whenever it computes one."""
    command = [sys.executable, "-c", RUNNER, "upscale-video", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "250"}
    if not terminal:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, env=environment, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    heard = b""
    while True:
        try:
            heard += os.read(ours, 65536)
        except OSError:  # the other end was closed
            break
    os.close(ours)
    assert process.wait(timeout=60) == 0, heard.decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", heard.decode())
    return [line.strip() for line in re.split(r"[\r\n]+", plain)]


def interlaced(path: Path) -> Path:
    options = {"x264-params": "tff=1"}
    return make_clip(path, pts=range(0, 30000, 3000), options=options, size=(64, 64))


CASES = {
    "interlaced": "The video is interlaced",
    "ten bits": "The source is yuv420p10le; it is rounded to 8 bits",
    "untagged": "BT.601 (525 lines) is assumed",
    "cover": "The mov container does not take stream 1",
    "avi": "The output is .mp4, because srtrt does not write .avi files",
}


def clip_for(case: str, folder: Path) -> tuple[Path, list[str | Path]]:
    if case == "interlaced":
        return interlaced(folder / "in.mp4"), []
    if case == "ten bits":
        return make_clip(folder / "in.mkv", pix_fmt="yuv420p10le", codec="ffv1"), []
    if case == "cover":
        return make_clip(folder / "in.mp4", cover=True), ["-o", folder / "out.mov"]
    if case == "avi":
        clip = make_clip(folder / "in.avi", codec="mpeg4", pts=range(6), time_base=Fraction(1, 25))
        return clip, []
    return make_clip(folder / "in.mp4"), []


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_lost_is_said_before_the_first_frame(
    tmp_path: Path, case: str, terminal: bool
) -> None:
    clip, options = clip_for(case, tmp_path)
    lines = run_in(terminal, *options, clip)
    first = lines.index("FRAME")
    told = [index for index, line in enumerate(lines) if CASES[case] in line]
    assert len(told) == 1, f"told {len(told)} times: {lines}"
    assert told[0] < first
    kinds = [line.partition(":")[0] for line in lines[:first] if ": " in line]
    assert [k for k in kinds if k != "note"] == ["input", "model", "engine", "output"]


def test_the_plan_names_input_model_engine_and_output(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", audio="aac")
    done = upscale(clip)
    assert done.exit_code == 0, done.output
    told = dict(line.split(": ", 1) for line in done.stderr.splitlines()[:4])
    assert told["input"].startswith(f"{clip}, h264 64x48 yuv420p, ")
    assert told["input"].endswith(f"{len(VFR)} frames")
    assert told["model"].startswith("srresnet: the source has ")
    assert told["engine"] == "nearest neighbour on cpu: the test wants it."
    assert told["output"].startswith(f"{tmp_path / 'in_x4.mp4'}, 256x192, h264 (libx264), crf 17")
    assert told["output"].endswith("copied: audio aac, nor")


def test_notes_of_the_end_come_at_the_end_and_once(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    lines = run_in(False, "-o", tmp_path / "out.mkv", clip)
    rounded = [i for i, line in enumerate(lines) if "rounded to the milliseconds" in line]
    last_frame = max(i for i, line in enumerate(lines) if line == "FRAME")
    assert len(rounded) == 1
    assert rounded[0] > last_frame
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == len(set(notes))


def test_quiet_says_nothing(tmp_path: Path) -> None:
    clip = interlaced(tmp_path / "in.mp4")
    done = upscale(clip, "--quiet")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_progress_is_told_where_there_is_no_terminal(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=range(0, 300000, 3000))
    lines = upscale(clip).stderr.splitlines()
    progress = [line for line in lines if re.match(r"\d+ of 100 frames \(\d+ %\), ", line)]
    assert progress
    assert progress[0].startswith("3 of 100 frames (3 %)")
    assert "frames/s, about " in progress[0]
    assert progress[0].endswith(" left")


@pytest.mark.parametrize("hours", [0.01, 1, 24, 168])
@pytest.mark.parametrize("known", [True, False], ids=["length known", "length unknown"])
def test_lines_of_progress_are_bounded(
    hours: float, known: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = 20_000
    seconds = hours * 3600
    watcher = LineWatcher()
    for frame in range(1, frames + 1):
        watcher.progressed(
            Progress(
                frames=frame,
                expected_frames=frames if known else None,
                seconds=seconds * frame / frames,
                encoded_frames=0,
                encoded_bytes=0,
            )
        )
    lines = capsys.readouterr().err.splitlines()
    assert min(3, hours * 100) <= len(lines) <= 300
    assert all(line.startswith(tuple("123456789")) for line in lines)


def test_expected_size_is_told_only_when_it_is_known() -> None:
    def expected(encoded: int, total: int | None) -> int | None:
        return Progress(
            frames=encoded,
            expected_frames=total,
            seconds=1,
            encoded_frames=encoded,
            encoded_bytes=1000 * encoded,
        ).expected_bytes

    assert expected(40, 10_000) is None
    assert expected(250, 10_000) == 10_000_000
    assert expected(300, None) is None
    assert expected(6, 10) == 10_000


class Recorder(VideoWatcher):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def planned(self, plan: VideoPlan) -> None:
        self.events.append(plan)

    def noted(self, note: str) -> None:
        self.events.append(note)

    def estimated(self, estimate: Estimate) -> None:
        self.events.append(estimate)

    def progressed(self, progress: Progress) -> None:
        self.events.append(progress)


def test_python_gets_the_same_facts_before_the_work(tmp_path: Path) -> None:
    clip = interlaced(tmp_path / "in.mp4")
    recorder = Recorder()
    report = srtrt.upscale_video(
        clip, tmp_path / "out.mkv", watcher=recorder, session_factory=NearestSession
    )
    plan, estimate, *rest = recorder.events
    assert isinstance(plan, VideoPlan)
    assert isinstance(estimate, Estimate)
    assert any("interlaced" in note for note in plan.notes)
    assert plan.expected_frames == estimate.frames == report.frames == 10
    late = [event for event in rest if isinstance(event, str)]
    assert report.notes == (*plan.notes, *late)
    assert late == ["Timestamps are rounded to the milliseconds that Matroska and WebM count in."]
    assert [event.frames for event in rest if isinstance(event, Progress)] == list(range(1, 11))
    with pytest.raises(AttributeError):
        plan.model = "other"  # type: ignore[misc]


def test_the_report_holds_the_plan(tmp_path: Path) -> None:
    clip = interlaced(tmp_path / "in.mp4")
    assert upscale(clip, "--json", tmp_path / "r.json").exit_code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["source_codec"] == "h264"
    assert report["bits_per_pixel"] > 0
    assert report["model_reason"]
    assert report["engine_reason"] == "nearest neighbour on cpu: the test wants it."
    assert report["estimate"]["frames"] == report["frames"] == report["expected_frames"] == 10
    size = sum(p.size for p in av.open(str(tmp_path / "in_x4.mp4")).demux(0))
    assert report["encoded_bytes"] == pytest.approx(size, rel=0.01)


def test_the_final_figure_counts_the_drain_and_not_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowToOpen(NearestSession):
        def prepare(self, width: int, height: int) -> None:
            time.sleep(0.7)

    from srtrt.runtime.video.sink import VideoSink

    finish = VideoSink.finish

    def slow_drain(sink: VideoSink, end: Fraction | None) -> None:
        time.sleep(0.5)
        finish(sink, end)

    monkeypatch.setattr(VideoSink, "finish", slow_drain)
    clip = make_clip(tmp_path / "in.mp4")
    report = srtrt.upscale_video(clip, session_factory=SlowToOpen)
    assert report.startup_seconds >= 0.7
    assert report.seconds >= 0.5
    assert report.frames_per_second == pytest.approx(len(VFR) / report.seconds, rel=0.01)
    encode = next(stage for stage in report.stages if stage.name == "encode")
    assert encode.busy_seconds >= 0.5
    assert "of start-up" in report.summary()


class Slow(NearestSession):
    """Every frame takes half a second, less with `fast` or int8; the fifth one fails."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pause = 0.1 if options["model"] == "fast" else 0.5
        if options["precision"] == "int8":
            self.pause /= 2
        self.computed = 0

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.computed += 1
        if self.options["form"] != "rgb8" and self.computed == 5:
            raise BackendError("This is enough for a test.")
        time.sleep(self.pause)
        return super().infer(inputs)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8,000 frames: at half a second for each of them, more than an hour."""
    grey = np.full((16, 16, 3), 128, np.uint8)
    return make_clip(
        tmp_path_factory.mktemp("long") / "in.mp4",
        pts=range(0, 8000 * 3000, 3000),
        size=(16, 16),
        pictures=[grey] * 8000,
        options={"g": "250", "bf": "0"},
    )


def estimates(result: Result) -> list[str]:
    lines = result.stderr.splitlines()
    assert lines[-1] == "srtrt: This is enough for a test."
    found = [i for i, line in enumerate(lines) if line.startswith("estimate: ")]
    progress = [i for i, line in enumerate(lines) if " of 8000 frames" in line]
    assert not found or not progress or max(found) < min(progress)
    return [lines[i] for i in found]


def test_hours_are_said_with_what_would_take_less(
    long_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", Slow)
    lines = estimates(upscale(long_clip, "-o", tmp_path / "out.mp4", "--model", "srresnet"))
    assert re.match(
        r"estimate: about \d+ h .*for 8000 frames \(\d\.\d+ s a frame, measured", lines[0]
    )
    fast = re.match(
        r"estimate: about .+ with --model fast \(BSD100 ([\d.]+) dB instead of ([\d.]+)\)", lines[1]
    )
    assert fast
    assert 26 < float(fast[1]) < float(fast[2]) < 28
    assert re.match(r"estimate: about .+ with --precision int8 \(up to 0\.10 dB less\)", lines[2])
    assert len(lines) == 3


def test_what_does_not_help_or_does_not_run_is_not_offered(
    long_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_session(**options: Any) -> NearestSession:
        if options["precision"] == "int8":
            raise BackendError("There is no int8 here.")
        session = Slow(**options)
        session.pause = 0.5
        return session

    monkeypatch.setattr(srtrt.runtime.session, "open_session", open_session)
    lines = estimates(upscale(long_clip, "-o", tmp_path / "out.mp4", "--model", "srresnet"))
    assert len(lines) == 1


def test_short_jobs_are_not_held_up_by_measurements(tmp_path: Path) -> None:
    opened: list[str] = []

    def open_session(**options: Any) -> NearestSession:
        opened.append(options["model"])
        return NearestSession(**options)

    clip = make_clip(tmp_path / "in.mp4")
    srtrt.upscale_video(clip, session_factory=open_session)
    assert opened == ["srresnet"]
