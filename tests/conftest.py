"""Fixtures that more than one test file needs."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest
import torch
from support import REPOSITORY, lively_generator

from srtrt.networks.checkpoint import generator_state, make_spec, save_checkpoint
from srtrt.networks.generator import GeneratorConfig
from srtrt.runtime.parity import read_pictures


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("SRTRT_REQUIRE_GPU") == "1":
        pytest.fail("SRTRT_REQUIRE_GPU=1, but PyTorch sees no CUDA device", pytrace=False)
    pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps the user's caches out of the tests, and the tests' out of the user's."""
    os.environ["SRTRT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures that come with srtrt, as a folder of PNG files to train on."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, picture in enumerate(read_pictures()):
        cv2.imwrite(str(folder / f"{index}.png"), picture[..., ::-1])
    return folder


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict in torchvision's layout up to block1_conv2, with random weights."""
    torch.manual_seed(5)
    state = {
        "features.0.weight": 0.2 * torch.randn(64, 3, 3, 3),
        "features.0.bias": torch.zeros(64),
        "features.2.weight": 0.05 * torch.randn(64, 64, 3, 3),
        "features.2.bias": torch.zeros(64),
    }
    path = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data that is not part of the project."""
    folder = Path(os.environ.get("SRTRT_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the data folder {folder} (set SRTRT_SHARED to its parent)")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two blocks and eight features, called ``tiny``."""
    net = lively_generator(GeneratorConfig(blocks=2, features=8))
    state = generator_state(net)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, state, make_spec(state, net.config, "tiny"))
    return path


@pytest.fixture(scope="session")
def tiny_graphs(tiny_checkpoint: Path) -> dict[str, Path]:
    """The exported graphs of ``tiny_checkpoint`` by form and precision, as ``rgb8-fp32``."""
    from srtrt.export.api import export_model

    written = export_model(
        str(tiny_checkpoint), tiny_checkpoint.parent, precisions=("fp32", "fp16")
    )
    return {f"{graph.spec.form}-{graph.spec.precision}": graph.path for graph in written}
