"""Signals at every moment: status 130 and one line, and nothing half done is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from video_clips import make_clip

from srtrt import signals

RUNNER = """
import time
import srtrt.runtime.session
from video_clips import NearestSession

class Slow(NearestSession):
    def infer(self, inputs):
        time.sleep(0.2)
        return super().infer(inputs)

srtrt.runtime.session.open_session = Slow
from srtrt.cli import main
main()
"""
SWALLOWS = """
import os, signal, sys
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(100):
        pass
except BaseException as error:
    raise ImportError("the library behind it cannot be loaded") from None
"""


def start(folder: Path, *command: str, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}"}
    return subprocess.Popen(
        [*command],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


def assert_interrupted(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "srtrt: interrupted."
    assert "Traceback" not in errors
    assert "not installed" not in errors


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_leaves_nothing_half_done(tmp_path: Path, number: signal.Signals) -> None:
    make_clip(tmp_path / "in.mp4", pts=range(0, 300000, 3000))
    process = start(tmp_path, sys.executable, "-c", RUNNER, "upscale-video", "in.mp4")
    wait_for_part(tmp_path)
    process.send_signal(number)
    assert_interrupted(process)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_nohup_is_respected(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mp4", pts=range(0, 9000, 3000))
    process = start(tmp_path, "nohup", sys.executable, "-c", RUNNER, "upscale-video", "in.mp4")
    wait_for_part(tmp_path)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (tmp_path / "in_x4.mp4").is_file()


def wait_for_part(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob(".in_x4.mp4*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("package", ["openvino", "onnxruntime"])
def test_ctrl_c_within_an_import_is_not_taken_for_a_missing_package(
    tmp_path: Path, package: str
) -> None:
    (tmp_path / f"{package}.py").write_text(SWALLOWS)
    assert_interrupted(start(tmp_path, sys.executable, "-m", "srtrt", "doctor"))


def test_ctrl_c_before_the_command_line_is_there(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(SWALLOWS)
    assert_interrupted(start(tmp_path, sys.executable, "-m", "srtrt", "doctor"))


def test_handlers_are_put_back() -> None:
    before = {number: signal.getsignal(number) for number in signals.ENDING}
    with signals.handled_by(signals.interrupt):
        assert signal.getsignal(signal.SIGHUP) is signals.interrupt
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
    assert {number: signal.getsignal(number) for number in signals.ENDING} == before


def test_handlers_of_others_and_ignored_signals_are_left_alone() -> None:
    def other(_number: int, _frame: object) -> None: ...

    before = [signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, other)]
    try:
        with signals.handled_by(signals.interrupt):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is other
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("command", ["upscale-video", "train", "export", "doctor"])
def test_ctrl_c_at_every_moment(tmp_path: Path, picture_folder: Path, command: str) -> None:
    make_clip(tmp_path / "in.mp4", pts=range(0, 90000, 3000))
    arguments = {
        "upscale-video": ["in.mp4", "--overwrite"],
        "train": [
            "--data",
            str(picture_folder),
            "--set",
            "data.rendered=0",
            "--set",
            "data.patch=8",
            "--set",
            "data.batch=2",
        ],
        "export": ["srresnet", "-o", "graphs", "--overwrite"],
        "doctor": [],
    }[command]
    for step in range(20):
        process = start(tmp_path, sys.executable, "-m", "srtrt", command, *arguments)
        wait_for_handlers(process)
        time.sleep(0.15 * step)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        # It may have ended by itself, or be about to: then Python leaves the signal to the system.
        if process.returncode not in (0, -signal.SIGINT):
            assert process.returncode == 130, errors
            assert errors.splitlines()[-1] == "srtrt: interrupted."
    assert not list(tmp_path.rglob("*.part"))


def wait_for_handlers(process: subprocess.Popen[str]) -> None:
    """Until its first line of Python has run: SIGHUP is then caught, which Python does not do."""
    status = Path(f"/proc/{process.pid}/status")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE)
        if caught and int(caught[1], 16) & 1:
            return
        time.sleep(0.005)
    raise AssertionError("it did not start")
