"""Fixtures that more than one test file needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from support import REPOSITORY, lively_generator

from srtrt.networks.checkpoint import generator_state, make_spec, save_checkpoint
from srtrt.networks.generator import GeneratorConfig


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("SRTRT_REQUIRE_GPU") == "1":
        pytest.fail("SRTRT_REQUIRE_GPU=1, but PyTorch sees no CUDA device", pytrace=False)
    pytest.skip("needs an NVIDIA GPU")


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
