from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from srtrt.cli import main
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.networks.generator import Generator
from srtrt.perceptual import INSTALL, load_lpips, missing_packages, vgg16_features
from srtrt.perceptual.weights import LPIPS_PACKAGE
from srtrt.train.config import TrainConfig
from srtrt.train.content import load_content
from srtrt.train.data import Batch
from srtrt.train.distributed import World
from srtrt.train.update import Update

pytestmark = pytest.mark.skipif(
    bool(missing_packages([LPIPS_PACKAGE])), reason=f"needs weights: {INSTALL}"
)
TINY = [
    "generator.blocks=1", "generator.features=8", "data.batch=2", "data.patch=8",
    "data.rendered=0",
    "run.precision=fp32", "schedule.warmup_steps=0", "schedule.learning_rate=1e-9",
]  # fmt: skip


def losses(*settings: str, updates: int = 1) -> tuple[dict[str, torch.Tensor], torch.Tensor, Batch]:
    """The losses of the last update with a fixed batch, and the first output of the generator."""
    frozen = ["schedule.freeze_batchnorm_share=1", "schedule.decay=constant"]
    config = TrainConfig().with_settings([*TINY, *frozen, *settings])
    torch.manual_seed(0)
    net = Generator(config.generator)
    hr = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    batch = Batch(lr=functional.avg_pool2d(hr, 4), hr=hr)
    with torch.no_grad():
        output = net.eval()(batch.lr)
    content = load_content(config, None)
    update = Update(config, net, None, content, device=torch.device("cpu"), world=World())
    found = [update(batch, step, updates) for step in range(updates)]
    return found[-1], output, batch


@pytest.mark.parametrize("layer", ["block2_conv2", "block5_conv3"])
def test_content_from_vgg16_is_the_distance_of_its_features(layer: str) -> None:
    found, output, batch = losses(
        "loss.content_network=vgg16", f"loss.content_layer={layer}", "loss.content_weight=0.25"
    )
    features = vgg16_features(layer)
    expected = float(functional.mse_loss(features(output), features(batch.hr)))
    assert float(found["content"]) == pytest.approx(expected, rel=1e-3)
    assert float(found["generator"]) == pytest.approx(
        float(found["pixel"]) + 0.25 * expected, rel=1e-3
    )


def test_content_can_be_lpips_itself() -> None:
    found, output, batch = losses("loss.content_network=lpips", "loss.content_weight=0.5")
    expected = float(load_lpips("vgg")(output, batch.hr).mean())
    assert float(found["content"]) == pytest.approx(expected, rel=1e-3)
    half, _, _ = losses(
        "loss.content_network=lpips", "loss.content_weight=0.5", "run.precision=bf16"
    )
    assert float(half["content"]) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("network", ["vgg16", "lpips"])
def test_the_generator_learns_from_either(network: str) -> None:
    settings = [
        f"loss.content_network={network}", "loss.content_weight=1", "loss.pixel_weight=0",
        "schedule.learning_rate=2e-3",
    ]  # fmt: skip
    first, last = (float(losses(*settings, updates=n)[0]["content"]) for n in (1, 16))
    assert last < 0.95 * first


@pytest.mark.parametrize("network", ["vgg16", "lpips"])
def test_the_files_of_a_run_name_its_content_network(
    network: str, picture_folder: Path, tmp_path: Path
) -> None:
    settings = [
        *TINY, "schedule.length=2", "loss.content_weight=1", "loss.content_layer=block3_conv3",
        f"loss.content_network={network}",
    ]  # fmt: skip
    options = [part for setting in settings for part in ("--set", setting)]
    done = CliRunner().invoke(
        main, ["train", *options, "--data", str(picture_folder), "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert "VGG16" in manifest["content"]["network"]
    assert LPIPS_PACKAGE in manifest["content"]["network"]
    assert manifest["content"].get("layer") == (None if network == "lpips" else "block3_conv3")
    _, spec = load_checkpoint(tmp_path / "run/generator.safetensors")
    assert spec.training["settings"]["loss"]["content_network"] == network


def test_weights_of_vgg19_do_not_serve_the_others(
    picture_folder: Path, tmp_path: Path, vgg_file: Path
) -> None:
    arguments = ["--set", "loss.content_weight=1", "--set", "loss.content_network=vgg16"]
    done = CliRunner().invoke(
        main,
        ["train", *arguments, "--vgg", str(vgg_file), "--data", str(picture_folder), "--out",
         str(tmp_path / "run")],
    )  # fmt: skip
    assert done.exit_code == 2
    words = " ".join(done.output.split())
    assert "expected none with loss.content_network vgg16" in words
    assert not (tmp_path / "run").exists()
