"""A machine with GPUs that differ: each is judged by its own facts, wherever it is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from engine_support import GPU
from tensorrt_api import INSTALLED
from video_clips import make_clip

from srtrt.cli import main
from srtrt.errors import BackendError
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.select import choose

if TYPE_CHECKING:
    from tensorrt_standin import StandIn

HOPPER = replace(GPU, name="NVIDIA H200", compute_capability="9.0", memory_bytes=140 << 30)
AMPERE = replace(GPU, name="NVIDIA A10", compute_capability="8.6", memory_bytes=24 << 30)
ADA = replace(GPU, name="NVIDIA L4", compute_capability="8.9", memory_bytes=22 << 30)


@pytest.fixture(autouse=True)
def cache(user_cache: EngineCache) -> EngineCache:
    return user_cache


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def have(standin: StandIn, *gpus: Any) -> None:
    standin.gpus.clear()
    standin.gpus.update({f"cuda:{index}": gpu for index, gpu in enumerate(gpus)})


@pytest.mark.parametrize("command", ["upscale-image", "upscale-video"])
def test_a_product_that_serves_only_the_second_gpu_is_used_there(
    command: str, standin: StandIn, tiny_graphs: dict[str, Path], picture: Path, tmp_path: Path
) -> None:
    have(standin, HOPPER, ADA)
    source = picture if command == "upscale-image" else make_clip(tmp_path / "in.mp4")
    arguments = [command, source, "--model", tiny_graphs["rgb8-fp32"], "--overwrite"]
    arguments += ["--tile", 64] if command == "upscale-image" else ["--preset", "ultrafast"]
    done = run(*arguments, "--device", "cuda:1")
    assert done.exit_code == 0, done.output
    assert "tensorrt-rtx fp16 (cuda:1)" in done.stderr
    assert set(standin.opened) == {"cuda:1"}
    for device in ("cuda", "cuda:0"):
        refused = run(*arguments, "--device", device)
        assert refused.exit_code == 1
        assert "does not serve NVIDIA H200" in " ".join(refused.stderr.split())
    missing = run(*arguments, "--device", "cuda:2")
    assert missing.exit_code == 1
    assert "cuda:2 does not exist; this machine has 2 GPU(s)" in " ".join(missing.stderr.split())
    assert set(standin.opened) == {"cuda:1"}


def test_a_product_that_serves_only_the_first_gpu_is_refused_on_the_second(
    standin: StandIn, tiny_graphs: dict[str, Path], picture: Path
) -> None:
    have(standin, ADA, HOPPER)
    done = run(
        "upscale-image", picture, "--model", tiny_graphs["rgb8-fp32"], "--device", "cuda:1"
    )  # fmt: skip
    assert done.exit_code == 1
    assert "does not serve NVIDIA H200" in " ".join(done.stderr.split())
    assert standin.builds == []


@pytest.mark.parametrize("standin", [["tensorrt 11.4", INSTALLED]], indirect=True)
def test_a_precision_is_offered_where_the_gpu_computes_it(
    standin: StandIn, picture: Path, tiny_graphs: dict[str, Path]
) -> None:
    have(standin, AMPERE, ADA)
    choice = choose("auto", "cuda:1", "fp8")
    assert (choice.backend, choice.device, choice.precision) == ("tensorrt", "cuda:1", "fp8")
    assert "on NVIDIA L4" in choice.reasoning
    with pytest.raises(BackendError, match=r"tensorrt on cuda:0 computes .* not fp8"):
        choose("tensorrt", "cuda:0", "fp8")
    have(standin, ADA, AMPERE)
    refused = run(
        "upscale-image", picture, "--model", tiny_graphs["rgb8-fp32"], "--device", "cuda:1",
        "--backend", "tensorrt", "--precision", "fp8",
    )  # fmt: skip
    assert refused.exit_code == 1
    assert "tensorrt on cuda:1 computes fp16, bf16, fp32, int8, not fp8" in refused.stderr


@pytest.mark.parametrize("standin", [["tensorrt 11.4", INSTALLED]], indirect=True)
def test_the_doctor_speaks_of_each_kind_of_gpu_once(standin: StandIn) -> None:
    have(standin, HOPPER, AMPERE, HOPPER, ADA)
    text = run("doctor").output
    for line in (
        "cuda:0 NVIDIA H200, compute capability 9.0, 140.0 GiB",
        "cuda:2 NVIDIA H200, compute capability 9.0, 140.0 GiB",
        "cuda:3 NVIDIA L4, compute capability 8.9, 22.0 GiB",
        "yes tensorrt on cuda:0 [fp16, bf16, fp32, int8, fp8]: TensorRT 11.4",
        "no  tensorrt on cuda:0: TensorRT-RTX",
        "yes tensorrt on cuda:1 [fp16, bf16, fp32, int8]: TensorRT-RTX",
        "yes tensorrt on cuda:3 [fp16, bf16, fp32, int8, fp8]: TensorRT-RTX",
    ):
        assert line in text
    assert "on cuda:2" not in text
    assert text.count("openvino on cpu") == 2, "once as a backend, once in the order"


def test_benchmarks_offer_what_the_gpu_they_are_given_runs(
    standin: StandIn, tiny_graphs: dict[str, Path]
) -> None:
    have(standin, HOPPER, ADA)

    def offers(device: str) -> dict[str, Any]:
        command = ["benchmark", "engines", "--model", tiny_graphs["rgb8-fp32"]]
        done = run(*command, "--device", device)
        assert done.exit_code == 0, done.output
        return {each["engine"]: each for each in json.loads(done.stdout)}

    first, second = offers("cuda:0")["tensorrt-rtx-fp16"], offers("cuda:1")["tensorrt-rtx-fp16"]
    assert (first["device"], first["usable"]) == ("cuda:0", False)
    assert "does not serve NVIDIA H200" in first["reason"]
    assert (second["device"], second["usable"]) == ("cuda:1", True)
    assert "on NVIDIA L4" in second["reason"]


@pytest.mark.parametrize("standin", ["tensorrt 11.4"], indirect=True)
def test_engines_of_every_gpu_are_listed_and_kept(
    standin: StandIn, cache: EngineCache, tiny_graphs: dict[str, Path], picture: Path
) -> None:
    """An engine of TensorRT is for one kind of GPU, which need not be the first."""
    have(standin, HOPPER, ADA)
    done = run(
        "upscale-image", picture, "--model", tiny_graphs["rgb8-fp32"], "--device", "cuda:1",
        "--tile", 64,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (entry,) = cache.entries()
    assert "usable on cuda:1" in run("engines", "list").output
    assert "Usable on cuda:1." in run("engines", "explain", entry.path.stem).output
    assert run("engines", "prune").exit_code == 0
    assert [each.path for each in cache.entries()] == [entry.path]
    have(standin, HOPPER)
    listed = run("engines", "list").output
    assert "usable on" not in listed
    assert "NVIDIA L4" in listed
    assert run("engines", "prune").exit_code == 0
    assert cache.entries() == []
