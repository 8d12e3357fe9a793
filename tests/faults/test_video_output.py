"""Outputs that cannot be written, networks that fail, and interruptions: nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from video_clips import NearestSession, make_clip

import srtrt.runtime.session
from srtrt.cli import main
from srtrt.errors import BackendError
from srtrt.runtime.video import api
from srtrt.runtime.video.sink import VideoSink

RUNNER = """
import sys, time
import srtrt.runtime.session
from video_clips import NearestSession

class Slow(NearestSession):
    def infer(self, inputs):
        time.sleep({pause})
        return super().infer(inputs)

srtrt.runtime.session.open_session = Slow
from srtrt.cli import main
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)


def upscale(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["upscale-video", *map(str, arguments)])


def start(folder: Path, *arguments: str, pause: float = 0, limit: int = 0) -> Any:
    command = [sys.executable, "-c", RUNNER.format(pause=pause), "upscale-video", *arguments]
    if limit:
        command = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash", *command]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_refused(done: Result, words: str) -> None:
    """Refused before anything else was said, in one line."""
    assert done.exit_code == 1, done.output
    assert words in done.stderr
    assert done.stderr.count("\n") == 1, f"more than one line: {done.stderr}"


def assert_failed(code: int, errors: str, words: str) -> None:
    """Failed after the work had begun, in one line that comes last."""
    assert code == 1, errors
    assert words in errors.splitlines()[-1]
    assert [line.startswith("srtrt: ") for line in errors.splitlines()].count(True) == 1, errors
    assert "Traceback" not in errors


def test_output_equal_to_input(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    before = clip.read_bytes()
    (tmp_path / "soft.mp4").symlink_to(clip)
    (tmp_path / "hard.mp4").hardlink_to(clip)
    for name in ("in.mp4", "soft.mp4", "hard.mp4", "../" + tmp_path.name + "/in.mp4"):
        done = upscale(clip, "-o", tmp_path / name, "--overwrite")
        assert_refused(done, "is the input itself")
    assert clip.read_bytes() == before


def test_existing_output(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    (tmp_path / "in_x4.mp4").write_text("precious")
    assert_refused(upscale(clip), "exists; use --overwrite")
    assert (tmp_path / "in_x4.mp4").read_text() == "precious"
    assert upscale(clip, "--overwrite").exit_code == 0
    assert (tmp_path / "in_x4.mp4").stat().st_size > 1000


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    assert_refused(upscale(clip, "-o", tmp_path / "no" / "out.mp4"), "is not a directory")
    assert_refused(upscale(clip, "-o", tmp_path), "is a directory")
    assert_refused(upscale(clip, "-o", "/proc/out.mp4"), "/proc/out.mp4: cannot be")
    assert_refused(upscale(clip, "-o", tmp_path / "out.xyz"), "expected one of .mp4")
    assert_refused(upscale(clip, "-o", tmp_path / "out"), "'(none)' is not a container")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_report_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    assert_refused(upscale(clip, "--json", tmp_path / "no" / "r.json"), "does not exist")
    assert_refused(upscale(clip, "--json", clip / "r.json"), "Not a directory")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_failing_report_does_not_take_the_video(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    done = upscale(clip, "--json", "/dev/full")
    assert_failed(done.exit_code, done.stderr, "its report could not be written")
    assert (tmp_path / "in_x4.mp4").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--codec", "hevc"], "refuses 4x4"),
        (["--preset", "sideways"], "libx264 takes one of ultrafast, superfast"),
        (["--encoder", "mpeg4", "--preset", "fast"], "--preset has no meaning for"),
    ],
)
def test_encoder_refuses(tmp_path: Path, options: list[str], words: str) -> None:
    clip = make_clip(tmp_path / "in.mkv", size=(1, 1), codec="ffv1", pix_fmt="yuv444p")
    done = upscale(clip, "-o", tmp_path / "out.mkv", *options)
    assert done.exit_code in (1, 2), done.output
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv"]


def test_failing_network_stops_everything(tmp_path: Path) -> None:
    class Failing(NearestSession):
        calls = 0

        def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            self.calls += 1
            if self.calls == 3:
                raise BackendError("The engine fell over.")
            return super().infer(inputs)

    clip = make_clip(tmp_path / "in.mp4", pts=range(0, 90000, 1000), audio="aac")
    started = time.monotonic()
    with pytest.raises(BackendError, match="fell over"):
        api.upscale_video(clip, session_factory=Failing)
    assert time.monotonic() - started < 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_network_that_cannot_be_opened(tmp_path: Path) -> None:
    def refuse(**_: Any) -> NearestSession:
        raise BackendError("No engine here.")

    clip = make_clip(tmp_path / "in.mp4")
    with pytest.raises(BackendError, match="No engine"):
        api.upscale_video(clip, session_factory=refuse)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_lost_frame_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    encode = VideoSink.encode

    def losing(sink: VideoSink, frame: Any, pts: int, duration: int) -> None:
        if pts != 6007:
            encode(sink, frame, pts, duration)

    monkeypatch.setattr(VideoSink, "encode", losing)
    done = upscale(clip)
    assert_failed(done.exit_code, done.stderr, "8 frames were decoded, 8 encoded and 7 written")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_disk_full(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=range(0, 30000, 3000), size=(160, 120))
    process = start(tmp_path, str(clip), "--crf", "1", limit=16)
    _, errors = process.communicate(timeout=30)
    assert_failed(process.returncode, errors, "No space left to write")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=range(0, 300000, 3000))
    process = start(tmp_path, str(clip), pause=0.2)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob(".in_x4.mp4*.part")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    asked = time.monotonic()
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - asked < 3
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def wait_for_part(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob(".in_x4.mp4*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


STUCK = """
import atexit, sys, threading
import srtrt.runtime.session
from srtrt.runtime.video import pipeline
from video_clips import NearestSession

class Stuck(NearestSession):
    def infer(self, inputs):
        print("stuck", flush=True)
        threading.Event().wait()

srtrt.runtime.session.open_session = Stuck
pipeline._JOIN_SECONDS = 0.2
atexit.register(lambda: print("torn down", file=sys.stderr))
from srtrt.cli import main
sys.exit(main())
"""


def test_interrupted_inside_of_a_long_call(tmp_path: Path) -> None:
    """The libraries that a thread is in are not torn down under it."""
    clip = make_clip(tmp_path / "in.mp4")
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, "upscale-video", str(clip)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "srtrt: interrupted."
    assert "torn down" not in errors
    assert names(tmp_path) == ["in.mp4"]


def test_planted_links_and_pipes_are_left_alone(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".in_x4.mp4.part").symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / ".r.json.part")
    process = start(tmp_path, str(clip), "--json", "r.json")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / ".in_x4.mp4.part").is_symlink()
    assert (tmp_path / "r.json").stat().st_size > 100


def test_a_second_run_on_an_output_is_refused_at_its_start(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=range(0, 60000, 3000))
    first = start(tmp_path, str(clip), pause=0.2)
    wait_for_part(tmp_path)
    done = upscale(clip, "--overwrite")
    assert_refused(done, f"Another srtrt (process {first.pid}, started ")
    assert f"is writing {tmp_path / 'in_x4.mp4'}. " in done.stderr
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert names(tmp_path) == ["in.mp4", "in_x4.mp4"]


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    process = start(tmp_path, str(clip), pause=0.1)
    wait_for_part(tmp_path)
    (tmp_path / "in_x4.mp4").write_text("of another")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"kept as {tmp_path / 'in_x4-1.mp4'}" in errors
    assert (tmp_path / "in_x4.mp4").read_text() == "of another"
    assert names(tmp_path) == ["in.mp4", "in_x4-1.mp4", "in_x4.mp4"]
    assert upscale(tmp_path / "in_x4-1.mp4", "-o", tmp_path / "b.mkv").exit_code == 0


def test_a_killed_run_leaves_no_output_and_the_next_one_clears_up(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    for _ in range(2):
        process = start(tmp_path, str(clip), pause=0.5)
        wait_for_part(tmp_path)
        process.kill()
        process.communicate(timeout=60)
        assert len(names(tmp_path)) == 2
        assert not (tmp_path / "in_x4.mp4").exists()
        stale = list(tmp_path.glob(".*.part"))
        done = upscale(clip, "--encoder", "none")
        assert done.exit_code != 0
        assert list(tmp_path.glob(".*.part")) == stale, "it never came to writing"
        assert upscale(clip).exit_code == 0
        assert names(tmp_path) == ["in.mp4", "in_x4.mp4"]
        (tmp_path / "in_x4.mp4").unlink()


@pytest.mark.parametrize("length", [255, 256])
def test_long_names(tmp_path: Path, length: int) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    output = tmp_path / ("n" * (length - 4) + ".mkv")
    done = upscale(clip, "-o", output)
    if length > 255:
        assert_refused(done, "File name too long")
    else:
        assert done.exit_code == 0, done.output
        assert names(tmp_path) == ["in.mp4", output.name]
