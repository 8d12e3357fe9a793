"""Fixtures that more than one test file needs."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import cv2
import pytest
from PIL import Image
from processors import PROCESSORS
from support import REPOSITORY

from srtrt.runtime.parity import read_pictures

HAS_TORCH = importlib.util.find_spec("torch") is not None
NEEDS_TORCH = "needs PyTorch, which is not installed"


LACKING_ON_GPU_MACHINES = ("av", "hypothesis", "onnxruntime", "openvino")
"""Modules without which a machine that is lent for its GPU must do; the tests that need none of
them run there. Elsewhere their absence is an error."""


def pytest_configure() -> None:
    """Lets programs under test see Ctrl-C where these tests run in a shell's background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skips a file of tests that imports PyTorch where there is none."""
    report = yield
    gpu_alone = collector.config.option.markexpr == "gpu"
    for module in ("torch", *(LACKING_ON_GPU_MACHINES if gpu_alone else ())):
        missing = report.failed and f"No module named '{module}" in str(report.longrepr)
        if missing and importlib.util.find_spec(module) is None:
            reason = NEEDS_TORCH if module == "torch" else f"needs {module}, which is not installed"
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 1, f"Skipped: {reason}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skips a test that comes to need PyTorch where there is none."""
    error = call.excinfo.value if call.excinfo else None
    if error is not None and not HAS_TORCH and _lacks_torch(error):
        skipped = pytest.skip.Exception(NEEDS_TORCH).with_traceback(error.__traceback__)
        call.excinfo = pytest.ExceptionInfo.from_exception(skipped)
    return (yield)


def _lacks_torch(error: BaseException | None) -> bool:
    """Whether PyTorch's absence is the cause, or what a user was told."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            return True
        error = error.__cause__
    return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or _has_gpu():
        return
    if os.environ.get("SRTRT_REQUIRE_GPU") == "1":
        pytest.fail("SRTRT_REQUIRE_GPU=1, but PyTorch sees no CUDA device", pytrace=False)
    pytest.skip("needs an NVIDIA GPU")


def _has_gpu() -> bool:
    if not HAS_TORCH:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def on_processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes srtrt believe that this is another processor, by its name in :mod:`processors`."""

    def become(name: str) -> None:
        text = PROCESSORS[name][0]
        monkeypatch.setattr("srtrt.processor._first_core", lambda: text)
        for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
            monkeypatch.delenv(variable, raising=False)

    return become


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
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of them, as a folder of PNG files to measure on."""
    folder = tmp_path_factory.mktemp("photos")
    for index, photo in enumerate(read_pictures()[:2]):
        cv2.imwrite(str(folder / f"{index}.png"), photo[..., ::-1])
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file with a small part of a picture that comes with srtrt, 32x24 pixels."""
    path = tmp_path / "in.png"
    Image.fromarray(read_pictures()[0][:24, :32]).save(path)
    return path


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict in torchvision's layout up to block1_conv2, with random weights."""
    import torch
    from networks import small_vgg_state

    path = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save(small_vgg_state(), path)
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
    from networks import lively_generator

    from srtrt.networks.checkpoint import generator_state, make_spec, save_checkpoint
    from srtrt.networks.generator import GeneratorConfig

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
