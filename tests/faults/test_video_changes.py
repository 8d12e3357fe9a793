"""A source that shrinks, grows or changes while it is read: nothing is published as complete."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from compare_video import read_facts
from numpy.typing import NDArray
from video_clips import NearestSession, make_clip

from srtrt.errors import TruncatedInputError
from srtrt.runtime.video.api import upscale_video

FRAMES = 60
AT = 20


def changing(change: Callable[[], Any]) -> type[NearestSession]:
    """A session in whose 20th frame something happens to the source, once."""

    class Changing(NearestSession):
        count = 0

        def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            self.count += 1
            if self.count == AT:
                worker = threading.Thread(target=change)
                worker.start()
                worker.join()
            return super().infer(inputs)

    return Changing


@pytest.fixture(params=[".mp4", ".mkv", ".ts"])
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_clip(
        tmp_path / f"in{request.param}", pts=range(0, FRAMES * 100, 100), size=(96, 64)
    )


def upscale(clip: Path, change: Callable[[], Any], **options: Any) -> Any:
    return upscale_video(
        clip, clip.with_name("out.mkv"), session_factory=changing(change), **options
    )


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(5000))


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"changed")
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def replace(path: Path) -> None:
    other = path.with_suffix(".other")
    shutil.copy2(path, other)
    other.replace(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: os.truncate(path, path.stat().st_size // 2), "it shrank from"),
        (append, "as a recording or download in progress does"),
        (rewrite, "it was changed while it was read"),
        (replace, "it was replaced by another file while it was read"),
    ],
)
def test_change_while_it_is_read(clip: Path, change: Callable[[Path], None], words: str) -> None:
    with pytest.raises(TruncatedInputError) as caught:
        upscale(clip, lambda: change(clip))
    message = str(caught.value)
    assert words in message
    assert "run again when it is complete" in message
    assert "damaged" not in message
    assert AT <= caught.value.good_frames <= FRAMES
    assert [p.name for p in clip.parent.iterdir()] == [clip.name]


def test_frames_before_the_change_can_be_kept(clip: Path) -> None:
    half = clip.stat().st_size // 2
    report = upscale(clip, lambda: os.truncate(clip, half), keep_going=True)
    assert not report.complete
    assert report.damage is not None
    assert "it shrank from" in report.damage
    assert AT <= report.frames < FRAMES
    assert len(read_facts(clip.with_name("out.mkv")).times) == report.frames


def test_a_part_of_a_growing_file_is_fine(clip: Path) -> None:
    report = upscale(clip, lambda: append(clip), max_frames=30)
    assert report.complete
    assert report.frames == 30


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.rename(path.with_name("new"))])
def test_a_file_that_is_moved_or_deleted_stays_whole(
    clip: Path, change: Callable[[Path], None]
) -> None:
    assert upscale(clip, lambda: change(clip)).frames == FRAMES
