"""The memory-mapped picture cache: contents, reuse, rebuilding, damage, locks, full disks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

import srtrt.train.cache as cache_module
from srtrt.datasets import read_rgb8
from srtrt.errors import OutputError, TrainingError, UsageError
from srtrt.files import cache_folder
from srtrt.train.cache import PictureCache, open_cache

Usage = namedtuple("Usage", "total used free")
WAITER = """
import sys
from pathlib import Path
from srtrt.train.cache import open_cache
folder, *files = map(Path, sys.argv[1:])
print("ready", flush=True)
cache = open_cache(files, least=8, folder=folder)
print(cache.rebuilt_because, cache.sha256)
"""


def noise(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, rgb: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five pictures of different sizes and kinds, one of them turned by its EXIF tag."""
    made = [save(tmp_path / f"in/{i}.png", noise(20 + i, 30 - 2 * i, i)) for i in range(3)]
    turned, deep, exif = tmp_path / "in/turned.jpg", tmp_path / "in/deep.png", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(16, 24, 9)).save(turned, exif=exif)
    cv2.imwrite(str(deep), noise(12, 18, 5).astype(np.uint16) * 250)
    return [*made, turned, deep]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The pictures decoded since the test began."""
    seen: list[Path] = []

    def counted(path: Path) -> NDArray[np.uint8]:
        seen.append(path)
        return read_rgb8(path)

    monkeypatch.setattr(cache_module, "read_rgb8", counted)
    return seen


def picture(cache: PictureCache, i: int) -> NDArray[np.uint8]:
    start, height, width = (int(t[i]) for t in (cache.offsets, cache.heights, cache.widths))
    flat: NDArray[np.uint8] = cache.pixels[start : start + 3 * height * width].numpy()
    return flat.reshape(height, width, 3)


def same_pictures(cache: PictureCache, files: list[Path]) -> None:
    assert cache.files == tuple(files)
    for i, path in enumerate(files):
        np.testing.assert_array_equal(picture(cache, i), read_rgb8(path))


def data_file(folder: Path) -> Path:
    (path,) = folder.glob("*.u8")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_it_holds_what_read_rgb8_gives(files: list[Path], tmp_path: Path) -> None:
    cache = open_cache(files, least=8, folder=tmp_path / "a" / "b")
    same_pictures(cache, files)
    assert cache.skipped == ()
    assert cache.rebuilt_because == "built because there was none yet"
    assert cache.pixels.dtype == torch.uint8
    assert {t.dtype for t in (cache.offsets, cache.heights, cache.widths)} == {torch.int64}
    stored = data_file(tmp_path / "a" / "b").read_bytes()
    assert stored == cache.pixels.numpy().tobytes()
    assert cache.sha256 == hashlib.sha256(stored).hexdigest()
    assert names(tmp_path / "a" / "b") == [".json", ".lock", ".u8"]


def test_more_pictures_than_threads_keep_their_order(tmp_path: Path) -> None:
    files = [save(tmp_path / f"in/{i:02}.png", noise(8 + i % 3, 9, i)) for i in range(40)]
    done: list[tuple[int, int]] = []

    def note(*at: int) -> None:
        done.append((at[0], at[1]))

    same_pictures(open_cache(files, least=8, folder=tmp_path / "c", on_progress=note), files)
    assert done == [(i, 40) for i in range(1, 41)]


def test_second_opening_reads_no_source(
    files: list[Path], tmp_path: Path, decoded: list[Path]
) -> None:
    folder = tmp_path / "c"
    (tmp_path / "in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    files.append(tmp_path / "in/broken.png")
    first = open_cache(files, least=8, folder=folder)
    assert sorted(decoded) == sorted(files)
    second = open_cache(files, least=8, folder=folder)
    assert len(decoded) == len(files)
    assert second.rebuilt_because is None
    assert (second.sha256, second.skipped) == (first.sha256, first.skipped)
    same_pictures(second, files[:-1])


def test_sources_are_found_again_from_another_working_folder(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cache(files, least=8, folder=tmp_path / "c")
    monkeypatch.chdir(tmp_path / "in")
    relative = [Path(path.name) for path in files]
    cache = open_cache(relative, least=8, folder=tmp_path / "c")
    assert cache.rebuilt_because is None
    assert cache.files == tuple(relative)


def test_a_changed_source_rebuilds_the_same_file(files: list[Path], tmp_path: Path) -> None:
    before = open_cache(files, least=8, folder=tmp_path / "c")
    old = picture(before, 1).copy()
    save(files[1], noise(50, 40, 77))
    after = open_cache(files, least=8, folder=tmp_path / "c")
    assert after.rebuilt_because == "rebuilt because 1 of 5 pictures changed, e.g. 1.png"
    same_pictures(after, files)
    data_file(tmp_path / "c")  # there is still only one
    np.testing.assert_array_equal(picture(before, 1), old)  # the earlier mapping is left alone
    for path in files[:2]:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    touched = open_cache(files, least=8, folder=tmp_path / "c")
    assert touched.rebuilt_because == "rebuilt because 2 of 5 pictures changed, e.g. 0.png"


def test_an_added_source_and_other_settings_make_another_cache(
    files: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    open_cache(files[:-1], least=8, folder=folder)
    same_pictures(open_cache(files, least=8, folder=folder), files)
    assert len(open_cache(files, least=16, folder=folder).files) == 4
    open_cache(files, least=8, resize=16, folder=folder)
    assert len(list(folder.glob("*.u8"))) == 4
    assert open_cache(files[:-1], least=8, folder=folder).rebuilt_because is None


def test_a_skipped_source_that_was_repaired_is_used(files: list[Path], tmp_path: Path) -> None:
    good = files[2].read_bytes()
    files[2].write_bytes(good[:60])
    assert len(open_cache(files, least=8, folder=tmp_path / "c").files) == 4
    files[2].write_bytes(good)
    cache = open_cache(files, least=8, folder=tmp_path / "c")
    assert cache.rebuilt_because == "rebuilt because 1 of 5 pictures changed, e.g. 2.png"
    same_pictures(cache, files)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def older_format(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))


@pytest.mark.parametrize(
    ("suffix", "damage", "reason"),
    [
        ("u8", flip, "checksum of its data file is wrong"),
        ("u8", lambda path: os.truncate(path, 100), "has 100 bytes instead of 7080"),
        ("u8", Path.unlink, "data file cannot be read (No such file or directory)"),
        ("json", flip, "index is damaged"),
        ("json", lambda path: path.write_text("[]"), "index is damaged"),
        ("json", older_format, "index is of format 0 instead of 1"),
        ("json", Path.unlink, "built because there was none yet"),
    ],
)
def test_a_damaged_cache_is_rebuilt(
    files: list[Path], tmp_path: Path, suffix: str, damage: Callable[[Path], object], reason: str
) -> None:
    folder = tmp_path / "c"
    open_cache(files, least=8, folder=folder)
    damage(data_file(folder).with_suffix(f".{suffix}"))
    cache = open_cache(files, least=8, folder=folder)
    assert reason in str(cache.rebuilt_because)
    same_pictures(cache, files)
    assert open_cache(files, least=8, folder=folder).rebuilt_because is None


def test_unusable_pictures_are_skipped_with_the_reason(files: list[Path], tmp_path: Path) -> None:
    small = save(tmp_path / "in/small.png", noise(40, 11, 0))
    text = tmp_path / "in/text.png"
    text.write_text("not a picture")
    missing = tmp_path / "in/missing.png"
    cache = open_cache([small, *files[:2], text, missing], least=12, folder=tmp_path / "c")
    same_pictures(cache, files[:2])
    assert [path for path, _ in cache.skipped] == [small, text, missing]
    assert [reason for _, reason in cache.skipped] == [
        "11x40 is below 12x12",
        "not a PNG, JPEG, WebP, TIFF or BMP picture.",
        "no such file; expected a picture.",
    ]


def test_no_usable_picture_is_an_error(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none of 5 images .* first: .*0\.png: 30x20 is below"):
        open_cache(files, least=100, folder=tmp_path / "c")
    with pytest.raises(TrainingError, match="none of 0 images"):
        open_cache([], least=100, folder=tmp_path / "c")
    assert set(names(tmp_path / "c")) == {".lock"}


def test_a_build_that_breaks_off_leaves_nothing(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(path: Path) -> NDArray[np.uint8]:
        if path == files[3]:
            raise RuntimeError("killed")
        return read_rgb8(path)

    monkeypatch.setattr(cache_module, "read_rgb8", breaks)
    with pytest.raises(RuntimeError, match="killed"):
        open_cache(files, least=8, folder=tmp_path / "c")
    assert names(tmp_path / "c") == [".lock"]
    monkeypatch.setattr(cache_module, "read_rgb8", read_rgb8)
    same_pictures(open_cache(files, least=8, folder=tmp_path / "c"), files)


def test_a_rebuild_that_breaks_off_leaves_the_old_cache(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cache(files, least=8, folder=tmp_path / "c")
    before = data_file(tmp_path / "c").read_bytes()
    save(files[0], noise(30, 30, 1))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_cache(files, least=8, folder=tmp_path / "c", on_progress=stop)
    assert data_file(tmp_path / "c").read_bytes() == before
    assert names(tmp_path / "c") == [".json", ".lock", ".u8"]


def test_a_second_process_waits_and_uses_the_result_of_the_first(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = Event(), Event()

    def held(path: Path) -> NDArray[np.uint8]:
        begun.set()
        assert go_on.wait(60)
        return read_rgb8(path)

    monkeypatch.setattr(cache_module, "read_rgb8", held)
    folder = tmp_path / "c"
    ours: list[PictureCache] = []
    builder = Thread(target=lambda: ours.append(open_cache(files, least=8, folder=folder)))
    builder.start()
    try:
        assert begun.wait(60)
        command = [sys.executable, "-c", WAITER, folder, *files]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)  # without the lock it would build its own within milliseconds
            go_on.set()
            answer = process.stdout.read().split()
    finally:
        go_on.set()
        builder.join()
    assert answer == ["None", ours[0].sha256]
    assert ours[0].rebuilt_because == "built because there was none yet"


def test_resize_is_the_plain_cubic_of_opencv(files: list[Path], tmp_path: Path) -> None:
    cache = open_cache(files, least=1000, resize=16, folder=tmp_path / "c")
    assert cache.files == tuple(files)
    assert cache.heights.tolist() == cache.widths.tolist() == [16] * 5
    for i, path in enumerate(files):
        wanted = cv2.resize(read_rgb8(path), (16, 16), interpolation=cv2.INTER_CUBIC)
        np.testing.assert_array_equal(picture(cache, i), wanted)
    other = open_cache(files, least=5, resize=16, folder=tmp_path / "c")
    assert other.rebuilt_because is None  # `least` plays no part
    with pytest.raises(UsageError, match="resize is 0"):
        open_cache(files, least=8, resize=0, folder=tmp_path / "c")


def test_too_little_space_is_told_before_anything_is_decoded(
    files: list[Path], tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 7079))
    with pytest.raises(OutputError, match=r"c: the picture cache needs 0\.0 MB.*SRTRT_CACHE"):
        open_cache(files, least=8, folder=tmp_path / "c")
    assert decoded == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 7080))
    with pytest.raises(OutputError, match=r"needs 12\.0 GB, of which 12\.0 GB are not"):
        open_cache(files, least=8, resize=28284, folder=tmp_path / "c")
    assert len(open_cache(files, least=8, folder=tmp_path / "c").files) == 5


def test_a_disk_that_fills_up_meanwhile(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([7080, 7080, 100])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, next(left)))
    with pytest.raises(OutputError, match="SRTRT_CACHE"):
        open_cache(files, least=8, folder=tmp_path / "c")
    assert names(tmp_path / "c") == [".lock"]


def test_a_folder_that_cannot_be_written(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left .* needs 0\.0 MB.*SRTRT_CACHE") as caught:
        open_cache(files, least=8, folder=tmp_path / "c")
    assert str(tmp_path / "c") in str(caught.value)
    assert names(tmp_path / "c") == [".lock"]
    with pytest.raises(OutputError, match=r"cannot be made.*SRTRT_CACHE"):
        open_cache(files, least=8, folder=files[0] / "c")


def test_threads_do_not_disturb_settings_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Reading a picture changes and restores them; a TIFF even turns the error stream away."""
    limits = set()

    def watched(path: Path) -> NDArray[np.uint8]:
        limits.add(Image.MAX_IMAGE_PIXELS)
        time.sleep(0.01)
        return read_rgb8(path)

    monkeypatch.setattr(cache_module, "read_rgb8", watched)
    files = [tmp_path / f"{i}.tif" for i in range(8)]
    for i, path in enumerate(files):
        tifffile.imwrite(path, noise(64, 64, i), photometric="rgb")
    settings = (list(warnings.filters), Image.MAX_IMAGE_PIXELS, cv2.utils.logging.getLogLevel())
    same_pictures(open_cache(files, least=8, folder=tmp_path / "c"), files)
    after = (list(warnings.filters), Image.MAX_IMAGE_PIXELS, cv2.utils.logging.getLogLevel())
    assert after == settings
    assert limits == {None}  # set throughout: restoring it changes nothing
    os.write(2, b"still here")
    assert "still here" in capfd.readouterr().err


def test_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[Path]
) -> None:
    monkeypatch.delenv("SRTRT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder("pictures") == tmp_path / ".cache/srtrt/pictures"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("engines") == tmp_path / "xdg/srtrt/engines"
    monkeypatch.setenv("SRTRT_CACHE", "~/own")
    assert cache_folder("pictures") == tmp_path / "own/pictures"
    open_cache(files, least=8)
    assert names(tmp_path / "own/pictures") == [".json", ".lock", ".u8"]


def test_only_formats_that_are_read_are_tried(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow has decoders of many more, some of which start other programs."""
    Image.init()
    asked: list[str] = []

    def accept(prefix: bytes) -> bool:
        asked.append("accept")
        return True

    def opens(file: Any, name: Any) -> Any:
        asked.append("open")
        raise SyntaxError("not mine")

    monkeypatch.setitem(Image.OPEN, "SPY", (opens, accept))
    monkeypatch.setattr(Image, "ID", ["SPY", *Image.ID])
    odd = tmp_path / "in" / "odd.png"
    Image.fromarray(noise(40, 40, 1)).save(odd, "GIF")
    cache = open_cache([*files[:2], odd], least=12, folder=tmp_path / "c")
    assert [path for path, _ in cache.skipped] == [odd]
    assert asked == []


def test_an_index_that_claims_other_places_is_not_believed(
    files: list[Path], tmp_path: Path
) -> None:
    open_cache(files, least=12, folder=tmp_path / "c")
    (index,) = (tmp_path / "c").glob("*.json")
    good = json.loads(index.read_text())
    for change in (
        {"offset": 3}, {"height": -1}, {"width": 0}, {"height": 1.5}, {"skipped": 7},
        {"skipped": "all of it"},
    ):  # fmt: skip
        body = json.loads(json.dumps(good))
        del body["check"]
        for entry in body["files"]:
            entry.update(change)
        text = json.dumps(body, sort_keys=True)
        body["check"] = hashlib.sha256(text.encode()).hexdigest()
        index.write_text(json.dumps(body))
        cache = open_cache(files, least=12, folder=tmp_path / "c")
        assert cache.rebuilt_because == "rebuilt because its index is damaged"
        same_pictures(cache, files)
