"""Streams that are closed, full or left by their reader, and reports on stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from video_clips import NearestSession, make_clip

import srtrt.runtime.session
from srtrt.cli import main
from srtrt.runtime import session as sessions
from srtrt.runtime.models import weights_folder

COMMAND = f"{sys.executable} -m srtrt"
RUNNER = """
import srtrt.runtime.session
from video_clips import NearestSession
srtrt.runtime.session.open_session = NearestSession
from srtrt.cli import main
main()
"""
needs_full_device = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs a device that is always full"
)


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=120,
    )


def upscale(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["upscale-video", *map(str, arguments)])


@pytest.fixture
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_files(tmp_path: Path, closed: str) -> None:
    """A closed stream neither ends the command nor becomes a name for the next file."""
    make_clip(tmp_path / "in.mp4", pts=(0, 3000))
    (tmp_path / "run.py").write_text(RUNNER)
    done = shell(f"{sys.executable} run.py upscale-video in.mp4 {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "in_x4.mp4").read_bytes()
    assert written[4:8] == b"ftyp"
    assert b"bottleneck" not in written
    if ">&-" not in closed.replace("2>&-", ""):
        assert done.stdout == "in_x4.mp4\n"


def test_errors_have_their_status_where_stderr_is_closed(tmp_path: Path) -> None:
    assert shell(f"{COMMAND} models nosuch 2>&-", tmp_path).returncode == 1
    assert shell(f"{COMMAND} nosuch 2>&-", tmp_path).returncode == 2


@needs_full_device
@pytest.mark.parametrize("command", ["--help", "models fast"])
def test_results_that_cannot_be_printed_are_one_sentence(tmp_path: Path, command: str) -> None:
    done = shell(f"{COMMAND} {command} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("srtrt: stdout: cannot be written (No space left on device)")
    assert done.stderr.count("\n") == 1


@needs_full_device
def test_what_cannot_be_said_is_lost_and_the_work_goes_on(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mp4", pts=(0, 3000))
    (tmp_path / "run.py").write_text(RUNNER)
    done = shell(f"{sys.executable} run.py upscale-video in.mp4 2> /dev/full", tmp_path)
    assert (done.returncode, done.stdout) == (0, "in_x4.mp4\n")


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    """``head`` takes a byte and closes the pipe before the rest is printed."""
    slow = f"{sys.executable} -c 'import sys; sys.stdin.close()'"
    done = shell(f"({COMMAND} models fast; echo $? >&2) | {slow}", tmp_path)
    assert done.stderr in ("0\n", "1\n")


@pytest.mark.usefixtures("nearest")
def test_a_report_on_stdout_is_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=(0, 3000))
    monkeypatch.chdir(tmp_path)
    done = upscale(clip, "--json", "-")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["frames"] == 2
    assert "2 frames to 256x192" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "in_x4.mp4"]


def test_a_report_of_pictures_on_stdout_is_all_of_it(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session(NearestSession):
        model = "nearest"

        def close(self) -> None:
            pass

    monkeypatch.setattr(sessions, "open_session", Session)
    done = CliRunner().invoke(main, ["upscale-image", str(picture), "--json", "-"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"][0]["output"].endswith("in_x4.png")
    assert "32x24 to 128x96" in done.stderr


def test_results_of_pictures_reach_a_file_while_bars_are_shown(picture: Path) -> None:
    """On a terminal, lines printed above the bars went to it even where stdout was a file."""
    code = (
        "import pty, sys;"
        f"sys.exit(pty.spawn(['bash', '-c', '{COMMAND} upscale-image {picture} --model fast > "
        f"{picture.parent}/list']) >> 8)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, stdin=subprocess.DEVNULL, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert "in_x4.png (32x24 to 128x96" in (picture.parent / "list").read_text()


@pytest.mark.usefixtures("nearest")
def test_a_path_is_printed_byte_for_byte_for_programs(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=(0, 3000))
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\n\x1b[31mb.mp4"))
    clip.rename(odd)
    done = upscale(odd)
    assert done.exit_code == 0, done.stderr
    assert done.stdout_bytes == os.fsencode(odd.with_name(f"{odd.stem}_x4.mp4")) + b"\n"
    assert "a\\xff\\n\\x1b[31mb.mp4" in done.stderr
    assert "\x1b" not in done.stderr


def test_any_encoding_takes_what_is_printed(tmp_path: Path) -> None:
    done = shell(f"PYTHONIOENCODING=ascii {COMMAND} models srresnet", tmp_path)
    assert done.returncode == 0, done.stderr
    card = (weights_folder() / "srresnet.md").read_text(encoding="utf-8")
    assert done.stdout.splitlines()[0] == card.splitlines()[0]


def test_pictures_with_names_of_all_kinds(tmp_path: Path) -> None:
    for name in (b"[red]x.png", b"a\xff.png", b"\x1b]0;title\x07.png", b"two\nlines.png"):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        Image.new("RGB", (1, 1)).save(path)
    done = shell(f"LC_ALL=C {COMMAND} upscale-image . -o out.png", tmp_path)
    assert done.returncode == 1
    assert "several pictures need a folder" in done.stderr
    done = shell(f"LC_ALL=C {COMMAND} upscale-image * --quality 5", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("PNG has no quality setting; leave --quality out.\n") == 4
    assert "[red]x_x4.png" in done.stderr
    assert "\\x1b]0;title\\x07_x4.png" in done.stderr
    assert "two\\nlines_x4.png" in done.stderr
    assert "a\\xff_x4.png" in done.stderr
