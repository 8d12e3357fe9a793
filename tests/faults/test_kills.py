"""Two commands that want the same output, killed at random moments: never half a file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image
from video_clips import make_clip

FRAMES = 24
PAUSE = 0.01
"""Seconds that the stand-in for the network takes for each picture."""

RUNNER = f"""
import sys, time
import srtrt.runtime.session
import srtrt.runtime.image_command, srtrt.runtime.video.command
import srtrt.runtime.video.api, srtrt.runtime.video.terminal
from video_clips import NearestSession

class Slow(NearestSession):
    model = "nearest"
    def infer(self, inputs):
        time.sleep({PAUSE})
        return super().infer(inputs)
    def close(self):
        pass

srtrt.runtime.session.open_session = Slow
from srtrt.cli import main
print("ready", flush=True)
sys.stdin.readline()
sys.exit(main())
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
COMMANDS = {
    "video": (["upscale-video", "in.mp4", "-o", "out.mp4", "--preset", "ultrafast"], "out.mp4"),
    "image": (["upscale-image", "in.png", "-o", "out.png"], "out.png"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a clip and a picture, and a cache of its own."""
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    make_clip(work / "in.mp4", pts=range(0, FRAMES * 3000, 3000), size=(96, 64))
    noise = Image.effect_noise((500, 400), 90).convert("RGB")  # takes long to compress
    noise.save(work / "in.png")
    return work


def start(folder: Path, words: list[str]) -> Any:
    """A command that has imported everything and waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: Any) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def end(process: Any) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def require_whole(path: Path) -> None:
    """The output holds everything that it should."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
            assert image.size == (2000, 1600)
        return
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES


def seconds_of(folder: Path, kind: str) -> float:
    """How long the command takes alone."""
    words, name = COMMANDS[kind]
    process = start(folder, words)
    begin = time.monotonic()
    go(process)
    code, errors = end(process)
    assert code == 0, errors
    taken = time.monotonic() - begin
    (folder / name).unlink()
    return taken


def kill_once(folder: Path, kind: str, rng: random.Random, longest: float) -> str:
    """Starts two, kills one or both, and lets a third finish; what happened, for messages."""
    words, name = COMMANDS[kind]
    output = folder / name
    given = [*words, *rng.choice(([], ["--overwrite"]))]
    pair = [start(folder, given), start(folder, given)]
    for process in pair:
        go(process)
    pause = rng.uniform(0, longest)
    chosen, number = rng.choice((pair[:1], pair[1:], pair)), rng.choice(SIGNALS)
    what = f"{kind}: {number.name} to {len(chosen)} of 2 after {pause:.3f} s, {given}"
    time.sleep(pause)
    for process in chosen:
        process.send_signal(number)
    ended = [(process, *end(process)) for process in pair]
    assert not output.exists() or require_whole(output) is None, what
    for process, code, errors in ended:
        assert "Traceback" not in errors, f"{what}\n{errors}"
        killed = process in chosen and code in (-number, 128 + number, 130)
        if code != 0 and not killed:
            last = errors.splitlines()[-1]
            assert code == 1, f"{what}\n{errors}"
            assert last.startswith("srtrt: "), f"{what}\n{errors}"
            assert "is writing" in last or "exists" in last, f"{what}\n{errors}"
    if any(code == 0 for _, code, _ in ended):
        assert output.exists(), what
    require_next_run(folder, kind, what)
    return what


def require_next_run(folder: Path, kind: str, what: str) -> None:
    """The next command works, and clears what killed ones left."""
    words, name = COMMANDS[kind]
    process = start(folder, [*words, "--overwrite"])
    go(process)
    code, errors = end(process)
    assert code == 0, f"{what}\n{errors}"
    require_whole(folder / name)
    assert sorted(path.name for path in folder.iterdir()) == ["in.mp4", "in.png", name], what
    (folder / name).unlink()


@pytest.mark.parametrize("kind", COMMANDS)
def test_one_kill_of_two_commands(folder: Path, kind: str) -> None:
    kill_once(folder, kind, random.Random(f"one {kind}"), longest=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_kills_of_two_commands(folder: Path, kind: str) -> None:
    rng, longest = random.Random(f"many {kind}"), 1.3 * seconds_of(folder, kind)
    for _ in range(30):
        print(kill_once(folder, kind, rng, longest), flush=True)
