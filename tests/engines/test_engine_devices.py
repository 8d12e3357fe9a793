"""Which GPU engines are built on and run on, and what serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from engine_support import GPU, RTX
from tensorrt_api import INSTALLED

from srtrt.cli import main
from srtrt.errors import BackendError, MissingPackageError, UsageError
from srtrt.export.engines import engine_plan
from srtrt.runtime.backends.base import Capability
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend
from srtrt.runtime.backends.tensorrt import TensorRtBackend, TensorRtOptions
from srtrt.runtime.engines import attempt as attempt_module
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.key import EngineShape
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.select import choose
from srtrt.spec import Precision

if TYPE_CHECKING:
    from tensorrt_standin import StandIn

HOPPER = replace(GPU, name="NVIDIA H100", compute_capability="9.0")
TURING = replace(GPU, name="NVIDIA Tesla T4", compute_capability="7.5")
BOTH = ["tensorrt 11.4", INSTALLED]

Open = Callable[..., TensorRtBackend]


@pytest.fixture
def opened(standin: StandIn, tiny_graphs: dict[str, Path], tmp_path: Path) -> Open:
    def open_backend(device: str = "cuda:0", precision: Precision = "fp32", **options: Any) -> Any:
        return TensorRtBackend(
            find_model(str(tiny_graphs["rgb8-fp32"])),
            form="rgb8",
            device=device,
            precision=precision,
            options=TensorRtOptions(cache_folder=tmp_path, **options),
        )

    return open_backend


def frame() -> Any:
    return form_inputs(np.ascontiguousarray(read_pictures()[0][:24, :32]), "rgb8")


@pytest.mark.parametrize("standin", [BOTH], indirect=True)
@pytest.mark.parametrize("gpu", [GPU, HOPPER, TURING], ids=lambda gpu: gpu.compute_capability)
def test_auto_takes_the_product_that_serves_the_gpu(
    gpu: Any, standin: StandIn, opened: Open
) -> None:
    """TensorRT comes first; an engine built there runs on every one of these."""
    standin.gpus["cuda:0"] = gpu
    with opened() as backend:
        assert backend.description == "tensorrt fp32 (cuda:0)"
        backend.infer(frame())
    plain, rtx = TensorRtBackend.capabilities()
    assert plain.usable
    assert rtx.usable == (gpu is not HOPPER)


def test_hopper_is_refused_by_tensorrt_rtx_with_what_serves_it(
    standin: StandIn, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.gpus["cuda:0"] = HOPPER
    reason = (
        r"TensorRT-RTX 1\.7\S* does not serve NVIDIA H100 \(compute capability 9\.0; expected "
        r"7\.5, 8\.0, .*\); TensorRT does: pip install '\.\[tensorrt\]'"
    )
    with pytest.raises(BackendError, match=reason):
        opened(product="tensorrt-rtx")
    with pytest.raises(BackendError, match=reason):
        choose("tensorrt")
    cuda = Capability(device="cuda:0", precisions=("fp16", "fp32"), reason="onnxruntime-gpu")
    monkeypatch.setattr(OnnxRuntimeBackend, "capabilities", classmethod(lambda *_: [cuda]))
    choice = choose()
    assert (choice.backend, choice.device) == ("onnxruntime", "cuda:0")
    assert "TensorRT does: pip install" in choice.reasoning


@pytest.mark.parametrize("standin", [INSTALLED, "tensorrt 10.13"], indirect=True)
def test_another_gpu_than_the_first_is_used_throughout(
    standin: StandIn, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its facts are in the key, its memory is the workspace, and it is the one that is opened."""
    asked: list[str] = []
    monkeypatch.setattr(attempt_module, "memory_limit", lambda d: asked.append(d) or 1 << 30)
    standin.gpus["cuda:1"] = TURING
    with opened("cuda:1") as backend:
        assert backend._gpu == TURING
        backend.infer(frame())
    assert set(standin.opened) == {"cuda:1"}
    assert asked == ["cuda:1"]
    (plan,) = standin.graphs.values()
    assert plan.gpu == TURING or plan.targets == ("7.5",)
    with opened("cuda:0") as backend:  # an engine of its own, as that one does not run here
        backend.infer(frame())
    assert len(standin.builds) == 2


def test_gpus_of_one_machine_may_compute_different_precisions(
    standin: StandIn, opened: Open
) -> None:
    standin.gpus["cuda:1"] = TURING
    with pytest.raises(BackendError, match=r"Tesla T4 \(cuda:1, .* 7.5\) does not compute in fp8"):
        opened("cuda:1", "fp8")
    with pytest.raises(BackendError, match="cuda:7 does not exist"):
        opened("cuda:7")


@pytest.mark.parametrize("standin", [INSTALLED, "tensorrt 11.4"], indirect=True)
def test_export_builds_on_the_gpu_it_is_told(
    standin: StandIn, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    standin.gpus["cuda:1"] = TURING
    product = "tensorrt-rtx" if "tensorrt_rtx" in standin.apis else "tensorrt"
    done = CliRunner().invoke(
        main,
        [
            *("export", str(tiny_checkpoint), "--format", product, "--device", "cuda:1"),
            *("--shape", "32x24", "--precision", "fp32", "-o", str(tmp_path / "engines")),
        ],
    )
    assert done.exit_code == 0, done.output
    assert set(standin.opened) == {"cuda:1"}
    (plan,) = standin.graphs.values()
    assert plan.gpu == TURING or plan.targets == ("7.5",)
    said = "for compute capability 7.5, that of NVIDIA Tesla T4, which TensorRT-RTX leaves out"
    assert (said in " ".join(done.stderr.split())) == (product == "tensorrt-rtx")


@pytest.mark.parametrize("device", ["cpu", "gpu", "cuda:", "cuda:-1", "cuda:x", "1"])
def test_a_device_that_is_none_is_refused(device: str, standin: StandIn, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected cuda:N, such as cuda:0"):
        engine_plan("fast", RTX, device=device)


def test_devices_are_for_engines(tmp_path: Path, tiny_checkpoint: Path) -> None:
    pytest.importorskip("torch")
    done = CliRunner().invoke(
        main, ["export", str(tiny_checkpoint), "--device", "cuda:1", "-o", str(tmp_path)]
    )
    assert done.exit_code == 2
    assert "--device are for engines" in " ".join(done.output.split())


def test_a_folder_without_the_package_is_a_missing_package(
    monkeypatch: pytest.MonkeyPatch, tiny_graphs: dict[str, Path]
) -> None:
    """Type stubs of TensorRT, or what an uninstallation leaves, can be imported as well."""
    monkeypatch.setattr("importlib.import_module", lambda _: ModuleType("tensorrt"))
    with pytest.raises(MissingPackageError, match=r"pip install '\.\[tensorrt\]'"):
        build_engine(
            tiny_graphs["rgb8-fp32"].read_bytes(),
            EngineShape.static(32, 24),
            flavour=FLAVOURS["tensorrt"],
        )
