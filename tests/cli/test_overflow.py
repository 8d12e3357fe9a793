"""What the commands do with an overflow, and with pictures that only look like one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hard_pictures import PICTURES
from overflow_graphs import overflowing, session_of, with_end
from PIL import Image
from video_clips import make_clip

from srtrt.cli import main
from srtrt.runtime import session as sessions
from srtrt.runtime.parity import read_pictures

DIM = (read_pictures()[0][:48, :64] // 3 + 20).astype(np.uint8)
BRIGHT = DIM.copy()
BRIGHT[16:32, 24:40] = (190, 180, 200)


@pytest.fixture
def overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is one that overflows in float16 on what is bright."""

    def open_session(*, form: Any, **_: Any) -> sessions.Session:
        return session_of(with_end(form, overflowing), form)

    monkeypatch.setattr(sessions, "open_session", open_session)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def count_frames(path: Path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


@pytest.mark.parametrize("bright", [1, 7])
def test_a_video_ends_at_the_frame_that_overflows(
    bright: int, tmp_path: Path, overflows: None
) -> None:
    shown = [BRIGHT if k == bright else DIM for k in range(1, 10)]
    clip = make_clip(tmp_path / "in.mp4", pts=range(0, 27000, 3000), pictures=shown)
    done = run("upscale-video", clip)
    assert done.exit_code == 1
    assert f"frame {bright} came out" in done.stderr
    assert "numbers left the range of fp16" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_batch_goes_on_after_a_picture_that_overflows(tmp_path: Path, overflows: None) -> None:
    files = []
    for name, picture in (("a", DIM), ("b", BRIGHT), ("c", DIM)):
        files.append(tmp_path / f"{name}.png")
        Image.fromarray(picture).save(files[-1])
    done = run("upscale-image", *files)
    assert done.exit_code == 1
    assert f"srtrt: {files[1]}: made on onnxruntime fp16" in done.stderr
    assert "the picture came out black" in done.stderr
    assert sorted(p.name for p in tmp_path.glob("*_x4.png")) == ["a_x4.png", "c_x4.png"]


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_hard_edges_are_upscaled_without_a_word(tmp_path: Path, precision: str) -> None:
    files = []
    for name in ("print small", "stars", "halftone", "test card", "title slate"):
        files.append(tmp_path / f"{name}.png")
        Image.fromarray(PICTURES[name]()).save(files[-1])
    options = ("--model", "fast", "--backend", "openvino", "--precision", precision)
    done = run("upscale-image", *files, *options)
    assert done.exit_code == 0, done.stderr
    assert "looks" not in done.stderr
    pages = [PICTURES[name]() for name in ("print small", "print bold", "title slate", "stars")]
    clip = make_clip(tmp_path / "in.mkv", pts=range(0, 12000, 3000), size=(128, 96), pictures=pages)
    done = run("upscale-video", clip, *options)
    assert done.exit_code == 0, done.stderr
    assert count_frames(tmp_path / "in_x4.mkv") == 4


@pytest.mark.parametrize("name", ["faults/page_tv.mp4", "video/fragmented_captions_h265.mp4"])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_clips_of_print_and_captions_are_upscaled(
    name: str, precision: str, shared: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mp4"
    options = ("--model", "fast", "--backend", "openvino", "--precision", precision)
    done = run(
        "upscale-video", shared / name, "-o", output, "--max-frames", 2, *options,
        "--preset", "ultrafast",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "came out" not in done.stderr
    assert count_frames(output) == 2
