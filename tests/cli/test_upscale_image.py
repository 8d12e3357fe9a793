from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageCms

from srtrt.cli import main
from srtrt.errors import BackendError, OutputCheckError
from srtrt.image_writing import write_image
from srtrt.images import Picture, read_image
from srtrt.runtime import session as sessions
from srtrt.runtime.images import upscale_images, upscale_picture

RNG = np.random.default_rng(5)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


class RepeatSession:
    """Stands in for a model: repeats every pixel 4x4, plus what a test asks for."""

    scale = 4
    model = "repeat"
    description = "repeat on test"
    reason = "repeat on cpu: the test wants it."

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self.notes = ["An engine was built again."]
        self.backend_options: dict[str, Any] = {}
        self.seen: list[np.ndarray] = []
        self.prepared: list[tuple[int, int]] = []
        self.closed = False

    def prepare(self, width: int, height: int) -> None:
        self.prepared.append((width, height))

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rgb = inputs["rgb"]
        assert self.prepared[-1:] in ([], [rgb.shape[2:0:-1]])
        assert rgb.dtype == np.uint8
        assert rgb.ndim == 4
        assert rgb.shape[3] == 3
        self.seen.append(rgb[0])
        enlarged = rgb.repeat(4, axis=1).repeat(4, axis=2).astype(int) + self.offset
        return {"rgb_x4": np.clip(enlarged, 0, 255).astype(np.uint8)}

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> RepeatSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> RepeatSession:
    fake = RepeatSession()
    monkeypatch.setattr(sessions, "open_session", lambda **_: fake)
    return fake


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["upscale-image", *map(str, arguments)])


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def save(path: Path, samples: np.ndarray | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(5, 7, 3) if samples is None else samples).save(path, **options)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_one_file_gets_its_default_name(tmp_path: Path, session: RepeatSession) -> None:
    source = save(tmp_path / "my photo.png", icc_profile=ICC)
    result = run(source)
    assert result.exit_code == 0, result.output
    target = tmp_path / "my photo_x4.png"
    np.testing.assert_array_equal(pixels(target), pixels(source).repeat(4, 0).repeat(4, 1))
    with Image.open(target) as written:
        assert written.info["icc_profile"] == ICC
    assert "(7x5 to 28x20," in result.stdout
    assert result.stderr.splitlines()[:3] == [
        "model: repeat",
        "engine: repeat on cpu: the test wants it.",
        "note: An engine was built again.",
    ]
    assert session.closed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my photo.png", "my photo_x4.png"]


def test_the_ending_of_the_output_selects_the_format(
    tmp_path: Path, session: RepeatSession
) -> None:
    source = save(tmp_path / "a.png", np.full((4, 4, 3), 77, np.uint8))
    for name, kind in (("b.jpg", "JPEG"), ("b.webp", "WEBP"), ("b.tif", "TIFF"), ("b.bmp", "BMP")):
        assert run(source, "-o", tmp_path / name).exit_code == 0
        with Image.open(tmp_path / name) as written:
            assert (written.format, written.size) == (kind, (16, 16))


def test_folders_and_patterns(tmp_path: Path, session: RepeatSession) -> None:
    for name in ("a.png", "b.JPG", "sub/c.png", ".hidden.png"):
        save(tmp_path / "in" / name, format="png")
    (tmp_path / "in" / "notes.txt").write_text("text")
    assert run(tmp_path / "in", "-o", tmp_path / "out").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_x4.png", "b_x4.JPG"]
    assert run(tmp_path / "in" / "**" / "*.png", "-o", tmp_path / "deep").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["a_x4.png", "c_x4.png"]
    assert run(tmp_path / "in" / "a.png", "-o", f"{tmp_path}/new/").exit_code == 0
    assert (tmp_path / "new" / "a_x4.png").is_file()


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path, session: RepeatSession) -> None:
    save(tmp_path / "a[1]*.png")
    save(tmp_path / "a1.png")
    assert run(tmp_path / "a[1]*.png").exit_code == 0
    assert (tmp_path / "a[1]*_x4.png").is_file()
    assert not (tmp_path / "a1_x4.png").exists()


def test_results_of_an_earlier_run_are_not_enlarged_again(
    tmp_path: Path, session: RepeatSession
) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "lonely_x4.png")
    assert run(tmp_path).exit_code == 0
    assert run(tmp_path, "--overwrite").exit_code == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.png", "a_x4.png", "lonely_x4.png", "lonely_x4_x4.png"]


def test_existing_files_stay_unless_told_otherwise(tmp_path: Path, session: RepeatSession) -> None:
    source = save(tmp_path / "a.png")
    (tmp_path / "a_x4.png").write_bytes(b"precious")
    refused = run(source)
    assert refused.exit_code == 1
    assert "already exists; use --overwrite" in refused.stderr
    assert (tmp_path / "a_x4.png").read_bytes() == b"precious"
    assert run(source, "--overwrite").exit_code == 0
    assert pixels(tmp_path / "a_x4.png").shape == (20, 28, 3)


def test_json_and_quiet(tmp_path: Path, session: RepeatSession) -> None:
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    result = run(tmp_path / "in", "--quiet", "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "1 of 2 pictures upscaled, 1 failed" in result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["engine"] == "repeat on test"
    good, bad = report["images"]
    assert good["output"] == str(tmp_path / "in" / "a_x4.png")
    assert (good["input_size"], good["output_size"], good["error"]) == ([7, 5], [28, 20], None)
    assert bad["output"] is None
    assert "bad.png" in bad["error"]
    assert str(tmp_path / "in" / "bad.png") in result.stderr
    assert run(tmp_path / "in" / "a.png", "--quiet", "--overwrite").output == ""


def test_two_sources_of_one_target_are_refused_before_any_work(
    tmp_path: Path, session: RepeatSession
) -> None:
    first, second = save(tmp_path / "one" / "a.png"), save(tmp_path / "two" / "a.png")
    result = run(first, second, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "would both be written to" in result.stderr
    assert session.seen == []
    assert not (tmp_path / "out").exists()
    assert run(first, first, "-o", tmp_path / "out").exit_code == 0


def test_a_report_replaces_no_picture(tmp_path: Path, session: RepeatSession) -> None:
    source = save(tmp_path / "a.png")
    before = source.read_bytes()
    for report, message in (
        (source, "this file is no report"),
        (tmp_path / "a_x4.png", "the result itself goes there"),
    ):
        done = run(source, "--json", report)
        assert done.exit_code == 1
        assert message in done.stderr
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_options_reach_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def open_session(**options: Any) -> RepeatSession:
        asked.update(options)
        return RepeatSession()

    monkeypatch.setattr(sessions, "open_session", open_session)
    source = save(tmp_path / "a.png")
    engine = {"model": "m", "backend": "torch", "device": "cpu", "precision": "fp32", "tile": "64"}
    flags = [part for name, value in engine.items() for part in (f"--{name}", value)]
    flags += ["--backend-option", "x=1", "--backend-option", "y=2"]
    assert run(source, *flags).exit_code == 0
    assert asked.pop("backend_options") == ("x=1", "y=2")
    assert callable(asked.pop("on_build"))
    assert callable(asked.pop("on_note"))
    assert asked == engine | {"form": "rgb8", "trust_engine": False, "any_size": True}


def test_real_kinds_of_pictures(tmp_path: Path, session: RepeatSession) -> None:
    """Depth, grayscale, alpha and odd sizes survive the whole command."""
    deep = noise(3, 5, 3).astype(np.uint16) * 200 + 13
    write_image(tmp_path / "deep.png", Picture(rgb=deep))
    write_image(tmp_path / "deep.tif", Picture(rgb=deep, icc_profile=ICC))
    save(tmp_path / "gray.png", noise(1, 1))
    save(tmp_path / "gray-alpha.png", noise(9, 2, 2))
    save(tmp_path / "rgba.webp", noise(6, 6, 4), lossless=True, exact=True)
    names = ["deep.png", "deep.tif", "gray.png", "gray-alpha.png", "rgba.webp"]
    assert run(*(tmp_path / name for name in names)).exit_code == 0
    for name in names:
        before = read_image(tmp_path / name)
        after = read_image(tmp_path / name.replace(".", "_x4."))
        assert (after.height, after.width) == (4 * before.height, 4 * before.width)
        assert after.rgb.dtype == before.rgb.dtype
        assert after.gray == before.gray
        assert (after.alpha is None) == (before.alpha is None)
        assert after.icc_profile == before.icc_profile


def test_gray_stays_gray_whatever_the_network_does() -> None:
    class Tinting(RepeatSession):
        def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            enlarged = super().infer(inputs)["rgb_x4"]
            enlarged[..., 0] += 2
            return {"rgb_x4": enlarged}

    gray = np.repeat(RNG.integers(0, 250, (4, 4, 1), np.uint8), 3, axis=2)
    result = upscale_picture(Picture(rgb=gray, gray=True), Tinting())  # type: ignore[arg-type]
    expected = gray.repeat(4, 0).repeat(4, 1) + 1  # a third of 2, to the nearest
    np.testing.assert_array_equal(result.rgb, expected)


def test_hidden_colours_do_not_reach_the_network(session: RepeatSession) -> None:
    rgb = np.full((12, 12, 3), (255, 0, 255), np.uint8)
    rgb[4:8, 4:8] = (10, 120, 30)
    alpha = np.zeros((12, 12), np.uint8)
    alpha[4:8, 4:8] = 255
    result = upscale_picture(Picture(rgb=rgb, alpha=alpha), session)  # type: ignore[arg-type]
    assert (session.seen[0] == (10, 120, 30)).all()
    assert result.alpha is not None
    np.testing.assert_array_equal(result.alpha, alpha.repeat(4, 0).repeat(4, 1))


def test_alpha_stays_within_its_surroundings() -> None:
    """A network that brightens everything must not make clear areas visible."""
    alpha = np.zeros((12, 12), np.uint8)
    alpha[:, 6:] = 255
    picture = Picture(rgb=noise(12, 12, 3), alpha=alpha)
    for offset in (40, -40):
        result = upscale_picture(picture, RepeatSession(offset))  # type: ignore[arg-type]
        assert result.alpha is not None
        assert (result.alpha[:, :20] == 0).all()
        assert (result.alpha[:, 28:] == 255).all()
    opaque = Picture(rgb=noise(4, 4, 3), alpha=np.full((4, 4), 255, np.uint8))
    result = upscale_picture(opaque, RepeatSession(-40))  # type: ignore[arg-type]
    assert result.alpha is not None
    assert (result.alpha == 255).all()


def test_16_bit_gradients_stay_smooth(session: RepeatSession) -> None:
    """A gradient over 6 steps of 8 bits, which the network sees as 6 stairs, has no stairs."""
    ramp = np.linspace(20_000, 21_500, 64).astype(np.uint16)
    rgb = np.repeat(np.tile(ramp, (8, 1))[..., None], 3, axis=2)
    result = upscale_picture(Picture(rgb=rgb), session).rgb  # type: ignore[arg-type]
    row = result[16, 8:-8, 0].astype(int)
    assert result.dtype == np.uint16
    assert len(np.unique(row)) > 200
    assert np.diff(row).min() >= 0
    assert np.diff(row).max() <= 30


def test_16_bit_pictures_get_the_detail_of_the_network(session: RepeatSession) -> None:
    """A hard edge, which bicubic enlargement would blur, is as hard as the network makes it."""
    rgb = np.zeros((8, 8, 3), np.uint16)
    rgb[:, 4:] = 51_400  # 200 * 257
    result = upscale_picture(Picture(rgb=rgb), session).rgb  # type: ignore[arg-type]
    expected = rgb.repeat(4, 0).repeat(4, 1)
    assert np.abs(result.astype(int) - expected).max() <= 258  # one 8-bit step


def test_the_function_returns_results_in_order(tmp_path: Path, session: RepeatSession) -> None:
    good, missing = save(tmp_path / "a.png"), tmp_path / "none.png"
    results = upscale_images([missing, good])
    assert [result.source for result in results] == [missing, good]
    assert results[0].error is not None
    assert results[1].error is None
    assert results[1].output_size == (28, 20)


class FailingSession(RepeatSession):
    """Fails on pictures whose first sample is 13; on all pictures from then on where it is 66."""

    def __init__(self, dead: list[bool]) -> None:
        super().__init__()
        self.dead = dead

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        first = int(inputs["rgb"][0, 0, 0, 0])
        if first == 66:
            self.dead.append(True)
        if self.dead:
            raise BackendError("repeat on test failed: the device is gone")
        if first == 13:
            raise BackendError("repeat on test failed: unlucky picture")
        if first == 99:
            raise OutputCheckError("repeat on test: the picture came out black in 12 %")
        return super().infer(inputs)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[RepeatSession]:
    """Sessions that were opened; all share one device, which can die."""
    found: list[RepeatSession] = []
    dead: list[bool] = []

    def open_session(**_: Any) -> RepeatSession:
        found.append(FailingSession(dead))
        return found[-1]

    monkeypatch.setattr(sessions, "open_session", open_session)
    return found


def pictures(folder: Path, *values: int) -> list[Path]:
    return [
        save(folder / f"{k}.png", np.full((4, 4, 3), value, np.uint8))
        for k, value in enumerate(values)
    ]


def test_a_refused_picture_does_not_stop_the_others(
    tmp_path: Path, opened: list[RepeatSession]
) -> None:
    files = pictures(tmp_path, 20, 99, 99, 30)
    result = run(*files, "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert f"srtrt: {files[1]}: repeat on test: the picture came out black" in result.stderr
    assert "2 of 4 pictures upscaled, 2 failed" in result.stderr
    assert sorted(p.name for p in tmp_path.glob("*_x4.png")) == ["0_x4.png", "3_x4.png"]
    errors = [
        image["error"] for image in json.loads((tmp_path / "report.json").read_text())["images"]
    ]
    assert [error is None for error in errors] == [True, False, False, True]
    assert len(opened) == 1, "an engine that computed is not opened again"


def test_an_engine_that_failed_is_opened_again_for_the_next_picture(
    tmp_path: Path, opened: list[RepeatSession]
) -> None:
    files = pictures(tmp_path, 13, 20, 13, 30)
    result = run(*files)
    assert result.exit_code == 1
    assert f"srtrt: {files[2]}: repeat on test failed: unlucky picture" in result.stderr
    assert sorted(p.name for p in tmp_path.glob("*_x4.png")) == ["1_x4.png", "3_x4.png"]
    assert [session.closed for session in opened] == [True, True, True]


def test_a_dead_engine_ends_the_batch(tmp_path: Path, opened: list[RepeatSession]) -> None:
    files = pictures(tmp_path, 20, 66, 30, 40, 50)
    result = run(*files)
    assert result.exit_code == 1
    assert [p.name for p in tmp_path.glob("*_x4.png")] == ["0_x4.png"]
    assert f"{files[1]}: repeat on test failed: the device is gone" in result.stderr
    assert f"{files[2]}: repeat on test failed: the device is gone" in result.stderr
    assert str(files[3]) not in result.stderr
    assert len(opened) == 2


def test_a_model_that_cannot_be_opened_ends_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_session(**_: Any) -> RepeatSession:
        raise BackendError("no such engine")

    monkeypatch.setattr(sessions, "open_session", open_session)
    result = run(*pictures(tmp_path, 20, 30))
    assert result.exit_code == 1
    assert result.stderr.count("no such engine") == 1
