"""Options of the TensorRT backend through the commands: each reaches the build or the ring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tensorrt_standin import StandIn

from srtrt.cli import main
from srtrt.runtime.backends import tensorrt as backend_module
from srtrt.runtime.backends.tensorrt import TensorRtOptions
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.ring import RingOptions


@pytest.fixture(autouse=True)
def cache(user_cache: EngineCache) -> EngineCache:
    return user_cache


@pytest.fixture
def model(tiny_graphs: dict[str, Path]) -> Path:
    return tiny_graphs["rgb8-fp32"]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def upscaled(picture: Path, model: Path, *options: str, tile: str = "64") -> Result:
    """Upscales with an engine of small tiles, which serve pictures of all sizes, too."""
    given = [f"--backend-option={option}" for option in options]
    report = picture.with_suffix(".json")
    return run(
        "upscale-image", picture, "--model", model, "--backend", "tensorrt", "--precision", "fp32",
        "--tile", tile, "--overwrite", "--json", report, *given,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "part", "value"),
    [
        ("level=5", "level", 5),
        ("workspace=512", "workspace_bytes", 512 << 20),
        ("tf32=yes", "tf32", True),
        ("aux_streams=2", "aux_streams", 2),
        ("tactics=plain", "tactics", "plain"),
        ("fusion=false", "fusion", False),
        ("compute_capabilities=8.6,8.9", "compute_capabilities", "8.6, 8.9"),
        ("product=tensorrt-rtx", "flavour", "tensorrt-rtx"),
    ],
)
def test_options_of_the_build_reach_the_engine(
    option: str,
    part: str,
    value: Any,
    standin: StandIn,
    cache: EngineCache,
    model: Path,
    picture: Path,
) -> None:
    done = upscaled(picture, model, option)
    assert done.exit_code == 0, done.output
    (entry,) = cache.entries()
    assert entry.record is not None
    assert (entry.record.key | entry.record.built)[part] == value
    assert f"with {option.replace('yes', 'true')}" in done.stderr
    again = upscaled(picture, model, option)
    assert again.exit_code == 0, again.output
    assert len(standin.builds) == 1, "the engine that was built is found"


def test_a_level_that_changes_nothing_is_said(standin: StandIn, model: Path, picture: Path) -> None:
    said = "TensorRT-RTX has no optimisation levels, so level=5 changes nothing."
    assert said in upscaled(picture, model, "level=5").stderr
    assert "optimisation levels" not in upscaled(picture, model, "level=3").stderr


def test_the_ring_the_binding_and_the_folder_are_those_asked_for(
    standin: StandIn,
    model: Path,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[Any, ...]] = []
    rings: list[RingOptions] = []
    device, ring = backend_module.open_device, backend_module.FrameRings

    def open_device(*arguments: Any) -> Any:
        opened.append(arguments)
        return device(*arguments)

    def open_rings(plain: Any, form: Any, network: Any, options_for: Any, *more: Any) -> Any:
        def seen(size: Any) -> RingOptions:
            rings.append(options_for(size))
            return rings[-1]

        return ring(plain, form, network, seen, *more)

    monkeypatch.setattr(backend_module, "open_device", open_device)
    monkeypatch.setattr(backend_module, "FrameRings", open_rings)
    folder = tmp_path / "elsewhere"
    done = upscaled(
        picture, model, "streams=1", "slots=3", "batch=2", "graph=no",
        "binding=pycuda", f"cache_folder={folder}",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert opened == [("cuda:0", "pycuda")]
    assert rings == [RingOptions(streams=1, slots=3, batch=2, graph=False)]
    assert standin.builds == ["2x1x1:2x64x64:2x64x64"]
    assert len(EngineCache(folder).entries()) == 1
    report = json.loads(picture.with_suffix(".json").read_text())
    assert report["backend_options"] == {
        "streams": 1, "slots": 3, "batch": 2, "graph": False,
        "binding": "pycuda", "cache_folder": str(folder),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("level=6", "optimisation level is 6; expected a number from 0 to 5"),
        ("workspace=0", "workspace is 0; expected at least 1"),
        ("workspace=512MiB", "workspace is '512MiB'; expected a whole number of MiB or none"),
        (f"workspace={10**17}", "expected at most"),
        (f"aux_streams={10**17}", "expected at most"),
        ("product=rtx", "'rtx'; expected auto or tensorrt or tensorrt-rtx"),
        ("product=tensorrt", "needs the package 'tensorrt'"),
        ("flavour=tensorrt", "tensorrt has no option 'flavour'"),
        ("compute_capabilities=8.6", "NVIDIA Test has 8.9"),
        ("compute_capabilities=8.9,", "'8.9,'; expected values with commas between"),
        ("cache_folder=", "cache_folder is ''; expected a path or none"),
        ("trace=true", "cannot be given: only measurements"),
        ("threads=2", "it is one of onnxruntime"),
    ],
)
def test_what_cannot_be_met_is_refused(
    option: str, message: str, standin: StandIn, model: Path, picture: Path
) -> None:
    done = upscaled(picture, model, option)
    assert done.exit_code in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert standin.builds == []
    assert all(device.open_resources == 0 for device in standin.devices)


def test_a_threads_option_is_for_the_cpu(standin: StandIn) -> None:
    from srtrt.errors import UsageError
    from srtrt.runtime.backends.options import choose_options

    with pytest.raises(UsageError, match="threads is for the CPU, and onnxruntime runs on cuda:0"):
        choose_options("onnxruntime", "cuda:0", {"threads": 2})


def test_tuning_is_for_the_same_options_as_upscaling(
    standin: StandIn, model: Path, picture: Path
) -> None:
    """What was found is kept with the options of the build, and used with them."""
    size = ("--shape", "32x24", "--seconds", "0", "--io", "rgb8", "--precision", "fp32")
    done = run("tune", model, *size, "--backend-option", "tf32=true")
    assert done.exit_code == 0, done.output
    builds = list(standin.builds)
    refused = run("tune", model, *size, "--backend-option", "streams=2")
    assert refused.exit_code == 2
    assert "streams=2: frames in flight are what is measured; leave them out" in refused.output
    unknown = run("tune", model, *size, "--backend-option", "threads=2")
    assert unknown.exit_code == 2
    assert "it is one of onnxruntime" in unknown.output
    assert upscaled(picture, model, "tf32=true", tile="none").exit_code == 0
    assert standin.builds == builds, "tuning built the engine"
    other = upscaled(picture, model, "tf32=true", "streams=3", "slots=5", tile="none")
    assert "tune` is not used: other frames in flight were asked for" in other.stderr


def test_the_dataclass_says_mebibytes_as_the_names_do(standin: StandIn, model: Path) -> None:
    from srtrt import Upscaler
    from srtrt.runtime.engines.key import EngineOptions

    options = TensorRtOptions(build=EngineOptions(workspace_bytes=64 << 20, level=4))
    with Upscaler(
        str(model), backend="tensorrt", precision="fp32", backend_options=options
    ) as upscale:
        assert upscale.description.endswith("with level=4, workspace=64")
