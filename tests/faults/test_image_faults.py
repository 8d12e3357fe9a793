from __future__ import annotations

import io
import os
import resource
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, TiffImagePlugin

from srtrt.cli import main
from srtrt.runtime import session as sessions


class RepeatSession:
    """Stands in for a model: repeats every pixel 4x4."""

    scale = 4
    model = "repeat"
    description = "repeat on test"
    reason = "repeat on cpu: the test wants it."

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.notes: list[str] = []
        self.backend_options: dict[str, Any] = {}

    def prepare(self, _width: int, _height: int) -> None:
        pass

    def infer(self, inputs: Any) -> dict[str, np.ndarray]:
        if self.failure is not None:
            raise self.failure
        return {"rgb_x4": inputs["rgb"].repeat(4, axis=1).repeat(4, axis=2)}

    def close(self) -> None:
        pass

    def __enter__(self) -> RepeatSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture(autouse=True)
def _session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "open_session", lambda **_: RepeatSession())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["upscale-image", *map(str, arguments)])


def refused(result: Result, *words: str) -> None:
    """One sentence on stderr, no traceback, exit status 1."""
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    said = ("model: ", "engine: ")
    lines = [line for line in result.stderr.splitlines() if not line.startswith(said)]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("srtrt: ")
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.output


def encoded(kind: str, **options: Any) -> bytes:
    """A smooth coloured picture."""
    texture = np.random.default_rng(1).integers(0, 256, (96, 120, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(cv2.GaussianBlur(texture, (0, 0), 3)).save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces any size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_header(width: int, height: int) -> bytes:
    data = bytearray(encoded("BMP")[:60])
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def webp_header(width: int, height: int) -> bytes:
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + canvas
    body = b"WEBP" + extended + encoded("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_header(width: int, height: int) -> bytes:
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1)]
    entries += [(278, height), (279, 100)]
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


def tiff_tile_header(side: int, _: int) -> bytes:
    """A small picture in a huge tile."""
    entries = [(256, 16), (257, 16), (258, 8), (259, 5), (262, 1), (277, 1)]
    entries += [(322, side), (323, side), (324, 8), (325, 100)]
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


@pytest.fixture
def _little_memory() -> Iterator[None]:
    """Lets the process grow by half a gigabyte, far less than the announced pictures need."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit memory")
@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize(
    "announce", [png_header, jpeg_header, bmp_header, webp_header, tiff_header, tiff_tile_header]
)
def test_a_bomb_is_refused_by_its_header(
    tmp_path: Path, announce: Callable[[int, int], bytes]
) -> None:
    (tmp_path / "bomb.png").write_bytes(announce(30_000, 30_000))
    result = run(tmp_path / "bomb.png")
    refused(result, "announces 30000x30000 pixels; at most 256 megapixels")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_limits_of_opencv_give_a_sentence_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV reads its own limit of pixels from the environment, once per process."""
    deep = np.zeros((40, 40, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    script = "import sys; from srtrt.images import read_image; from pathlib import Path\n"
    script += "from srtrt.errors import InputError\n"
    script += "try: read_image(Path(sys.argv[1]))\nexcept InputError as error: print(error)"
    environment = os.environ | {"OPENCV_IO_MAX_IMAGE_PIXELS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "deep.png")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path / "deep.png"))
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("BMP", {}),
    ],
)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_truncated_pictures_are_refused_quietly(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    kind: str,
    options: dict[str, Any],
    share: float,
) -> None:
    data = encoded(kind, **options)
    (tmp_path / "cut.png").write_bytes(data[: int(len(data) * share)])
    refused(run(tmp_path / "cut.png"), "cut.png", "damaged")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.png"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_truncated_16_bit_pictures_are_refused_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], share: float
) -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (30, 40, 3), np.uint16)
    for name in ("cut.png", "cut.tif"):
        cv2.imwrite(str(tmp_path / name), deep)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        refused(run(tmp_path / name), name, "damaged")
    assert capfd.readouterr() == ("", "")


def test_what_libpng_prints_stays_off_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (30, 40, 3), np.uint16)
    data = cv2.imencode(".png", deep)[1].tobytes()
    (tmp_path / "endless.png").write_bytes(data[: data.rindex(b"IEND") - 4])
    run(tmp_path / "endless.png")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", ["no profile", 7])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_profiles_of_another_type_are_left_out(tmp_path: Path, value: Any, ending: str) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[34675] = 2 if isinstance(value, str) else 4
    tags[34675] = value
    Image.new("RGB", (6, 5)).save(tmp_path / "in.tif", tiffinfo=tags)
    result = run(tmp_path / "in.tif", "-o", tmp_path / f"out.{ending}")
    assert result.exit_code == 0, result.output
    assert "its ICC colour profile is damaged and is left out" in result.stderr
    with Image.open(tmp_path / f"out.{ending}") as image:
        assert "icc_profile" not in image.info


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_corrupt_pictures_are_refused_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    data = bytearray(encoded(kind, **options))
    middle = len(data) // 2
    data[middle : middle + 60] = b"\xa5" * 60
    (tmp_path / "bad.png").write_bytes(data)
    refused(run(tmp_path / "bad.png"), "damaged")
    assert capfd.readouterr() == ("", "")


def test_any_bytes_after_a_picture_signature_give_a_sentence(tmp_path: Path) -> None:
    generator = np.random.default_rng(9)
    whole = [encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")]
    for trial in range(60):
        data = bytearray(whole[trial % len(whole)])
        for position in generator.integers(4, min(400, len(data)), 12):
            data[position] = generator.integers(256)
        (tmp_path / "odd.png").write_bytes(data)
        result = run(tmp_path / "odd.png", "--quiet", "--overwrite")
        assert result.exit_code in (0, 1)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        if result.exit_code:
            refused(result)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("Once upon a time\n")
    (tmp_path / "gif.png").write_bytes(b"GIF89a" + bytes(40))
    (tmp_path / "folder").mkdir()
    refused(run(tmp_path / "none.png"), "none.png: no such file")
    refused(run(tmp_path / "empty.png"), "the file is empty")
    refused(run(tmp_path / "text.png"), "not a PNG, JPEG, WebP, TIFF or BMP picture")
    refused(run(tmp_path / "gif.png"), "not a PNG")
    refused(run(tmp_path / "folder"), "no picture directly in this folder")
    refused(run(tmp_path / "*.jpg"), "no picture matches")
    os.mkfifo(tmp_path / "pipe.png")
    refused(run(tmp_path / "pipe.png"), "not a plain file")


def test_outputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    source.write_bytes(encoded("PNG"))
    (tmp_path / "b.png").write_bytes(encoded("PNG"))
    before = sorted(path.name for path in tmp_path.iterdir())
    refused(run(source, "-o", source, "--overwrite"), "the output is one of the inputs")
    refused(run(source, "-o", tmp_path / "none" / "x.png"), "none does not exist; create it first")
    refused(run(source, "-o", tmp_path / "b.png"), "already exists")
    refused(run(source, "-o", tmp_path / "x.gif"), "'.gif' names no known format")
    refused(run(source, "-o", "/proc/x.png"), "/proc/x.png")
    both = run(source, tmp_path / "b.png", "-o", tmp_path / "x.png")
    refused(both, "several pictures need a folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert source.read_bytes() == encoded("PNG")


def test_a_hard_link_to_the_input_is_the_input(tmp_path: Path) -> None:
    source, link = tmp_path / "a.png", tmp_path / "b.png"
    source.write_bytes(encoded("PNG"))
    link.symlink_to(source)
    refused(run(source, "-o", link, "--overwrite"), "one of the inputs")


def test_a_result_too_large_for_its_format_is_refused_before_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "open_session", lambda **_: RepeatSession(AssertionError()))
    Image.new("RGB", (4096, 1)).save(tmp_path / "wide.webp")
    Image.new("RGB", (16_500, 1)).save(tmp_path / "wide.jpg")
    refused(run(tmp_path / "wide.webp"), "16384x4", "at most 16383", "Write PNG")
    refused(run(tmp_path / "wide.jpg"), "66000x4", "at most 65500", "Write PNG")


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes(encoded("PNG"))
    (tmp_path / "b.png").write_text("no picture")
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "b.png: not a PNG" in result.stderr
    assert "2 of 3 pictures upscaled, 1 failed." in result.stderr
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.png", "a_x4.png", "b.png", "c.png", "c_x4.png"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """The kernel refuses to let files grow beyond 2 kB, as a full disk would."""
    source = tmp_path / "a.png"
    source.write_bytes(encoded("PNG"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        result = run(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    refused(result, "a_x4.png: cannot be written", "File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_ctrl_c_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded("PNG"))
    monkeypatch.setattr(sessions, "open_session", lambda **_: RepeatSession(KeyboardInterrupt()))
    result = run(tmp_path)
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    monkeypatch.setattr(sessions, "open_session", lambda **_: RepeatSession(MemoryError()))
    refused(run(tmp_path / "a.png"), "not enough memory for a result of 480x384 pixels")
