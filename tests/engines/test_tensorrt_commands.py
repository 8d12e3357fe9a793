"""The commands that run engines, on engines that are really built, with a stand-in runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from compare_video import compare
from tensorrt_standin import StandIn
from video_clips import VFR, make_clip

from srtrt.cli import main
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.parity import read_pictures


@pytest.fixture(autouse=True)
def cache(user_cache: EngineCache) -> EngineCache:
    return user_cache


@pytest.fixture
def model(tiny_graphs: dict[str, Path]) -> Path:
    return tiny_graphs["rgb8-fp32"]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_upscale_video_builds_its_engine_once(
    standin: StandIn, cache: EngineCache, model: Path, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "in.mp4", audio="aac")
    arguments = ["upscale-video", clip, "--model", model, "--backend", "tensorrt", "--overwrite"]
    arguments += ["--preset", "ultrafast", "--precision", "fp16"]
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    assert "there is none yet" in first.stderr
    assert f"{len(VFR)} frames" in first.stderr
    assert "engine: tensorrt-rtx fp16 (cuda:0): as asked for." in first.stderr
    failed = [each for each in compare(clip, tmp_path / "in_x4.mp4") if not each.ok]
    assert not failed, failed
    again = run(*arguments)
    assert again.exit_code == 0, again.output
    assert "Building" not in again.stderr
    assert len(standin.builds) == 1
    (entry,) = cache.entries()
    for path in cache.folder.glob("*.engine*"):
        path.chmod(0o622)
    trusted = run(*arguments, "--trust-engine")
    assert trusted.exit_code == 0, trusted.output
    assert len(standin.builds) == 1
    rebuilt = run(*arguments)
    assert "can be written by others" in rebuilt.stderr
    assert len(standin.builds) == 2
    (entry,) = cache.entries()
    assert entry.record is not None
    assert entry.record.parity is not None
    assert all(device.open_resources == 0 for device in standin.devices)


def test_a_run_whose_engine_is_wrong_leaves_nothing(
    standin: StandIn, cache: EngineCache, model: Path, tmp_path: Path
) -> None:
    standin.shift = 40
    clip = make_clip(tmp_path / "in.mp4")
    done = run("upscale-video", clip, "--model", model, "--backend", "tensorrt")
    assert done.exit_code == 1
    assert "does not compute what PyTorch computes" in done.stderr
    assert sorted(path.name for path in tmp_path.glob("*.mp4*")) == ["in.mp4"]
    assert cache.entries() == []


def test_upscale_image_gives_the_same_as_on_the_cpu(
    standin: StandIn, model: Path, tmp_path: Path
) -> None:
    picture = read_pictures()[0][:40, :56]
    cv2.imwrite(str(tmp_path / "in.png"), picture)
    results = []
    for backend in ("onnxruntime", "tensorrt"):
        target = tmp_path / f"{backend}.png"
        done = run(
            "upscale-image", tmp_path / "in.png", "-o", target, "--model", model,
            "--backend", backend, "--device", "auto" if backend == "tensorrt" else "cpu",
            "--precision", "fp32", "--tile", 64,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        results.append(cv2.imread(str(target)))
    np.testing.assert_array_equal(*results)
    assert standin.builds == ["1x1:64x64:64x64"]


@pytest.mark.parametrize("command", ["upscale-video", "upscale-image"])
def test_an_engine_that_cannot_be_loaded_does_not_end_the_command(
    command: str, standin: StandIn, cache: EngineCache, model: Path, tmp_path: Path
) -> None:
    if command == "upscale-video":
        source = make_clip(tmp_path / "in.mp4")
    else:
        source = tmp_path / "in.png"
        cv2.imwrite(str(source), read_pictures()[0][:40, :56])
    arguments = [command, source, "--model", model, "--backend", "tensorrt", "--overwrite"]
    if command == "upscale-image":
        arguments += ["--tile", 64]
    assert run(*arguments).exit_code == 0
    standin.graphs.clear()  # as another build of the library, of the same version, would refuse it
    again = run(*arguments)
    assert again.exit_code == 0, again.output
    told = " ".join(again.stderr.split())
    assert "the one that was there cannot be loaded here (TensorRT-RTX cannot load" in told
    assert len(standin.builds) == 2
    (entry,) = cache.entries()
    assert entry.problem is None
    listed = run("engines", "list")
    assert listed.exit_code == 0, listed.output
    assert f"{entry.path.stem} " in listed.output
    assert "usable" in listed.output
    explained = run("engines", "explain", entry.path.stem)
    assert explained.exit_code == 0, explained.output
    assert "Building" not in run(*arguments).stderr


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_exported_engines_are_judged_and_then_used(
    precision: str,
    standin: StandIn,
    cache: EngineCache,
    tiny_checkpoint: Path,
    model: Path,
    tmp_path: Path,
) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    exported = run(
        "export", tiny_checkpoint, "--format", "tensorrt-rtx", "--io", "yuv420p8",
        "--precision", precision, "--shape", "64x48",
    )  # fmt: skip
    assert exported.exit_code == 0, exported.output
    assert "takes 64x48, parity" in exported.output
    (entry,) = cache.entries()
    assert entry.record is not None
    assert entry.record.parity is not None
    assert entry.record.parity["against"] == "PyTorch fp32"
    done = run(
        "upscale-video", clip, "--model", model, "--backend", "tensorrt", "--precision", precision
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert standin.builds == ["64x48"]


def test_tune_prints_and_stores_the_fastest(
    standin: StandIn, cache: EngineCache, model: Path
) -> None:
    done = run("tune", model, "--shape", "32x24", "--seconds", "0", "--io", "rgb8")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("frames/s") == 18
    assert "1 streams, batch 1, with graphs: " in done.stdout
    assert "fastest: " in done.stdout
    assert len(list(cache.folder.glob("*.tune.json"))) == 1


@pytest.mark.parametrize("shape", ["2x32x24", "16x16:32x32:64x64"])
def test_tune_wants_one_size(shape: str, standin: StandIn, model: Path) -> None:
    done = run("tune", model, "--shape", shape)
    assert done.exit_code == 2
    assert "expected one size WxH" in done.output


def test_doctor_explains_what_tensorrt_lacks(standin: StandIn) -> None:
    text = run("doctor").output
    assert "pip install '.[tensorrt]'" in text
    assert "yes tensorrt on cuda:0 [fp16, bf16, fp32, int8, fp8]: TensorRT-RTX" in text


def test_doctor_without_a_gpu() -> None:
    text = run("doctor").output
    assert "no  tensorrt on cuda:0: TensorRT: no NVIDIA GPU with a driver was found" in text
    done = run("upscale-video", "in.mp4", "--backend", "tensorrt")
    assert done.exit_code == 1
