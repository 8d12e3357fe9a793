"""Engines under random schedules: right results, nothing undefined, nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

pytest.importorskip("onnxruntime")
pytest.importorskip("tensorrt_rtx")
pytest.importorskip("cuda.bindings.runtime")

from cuda_simulator import Gpu
from engine_schedules import Made, Run, Schedule, schedules
from tensorrt_api import INSTALLED
from tensorrt_standin import SimulatedMachine, install

from srtrt.runtime.backends.tensorrt import TensorRtOptions
from srtrt.runtime.backends.tensorrt_tuning import tune_backend
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.engines.tuning import Measured, candidates
from srtrt.runtime.models import find_model

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def engines(tiny_graphs: dict[str, Path]) -> Made:
    return Made(tiny_graphs["rgb8-fp32"].read_bytes())


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(schedule=schedules())
def test_any_schedule(schedule: Schedule, engines: Made) -> None:
    Run(schedule, engines).go()


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=QUIET)
@given(schedule=schedules())
def test_many_schedules(schedule: Schedule, engines: Made) -> None:
    Run(schedule, engines).go()


@pytest.mark.parametrize(
    "product", [INSTALLED, pytest.param("tensorrt 11.4", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_tuning_on_a_simulated_gpu(
    seed: int,
    product: str,
    tiny_graphs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every ring computes there, captured or not, and the choice serves the next run."""
    gpu = Gpu(seed)
    standin = install(monkeypatch, product, machine=SimulatedMachine(gpu))
    seen: list[Measured] = []
    best, _ = tune_backend(
        find_model(str(tiny_graphs["rgb8-fp32"])),
        InputSize(width=16, height=12),
        form="rgb8",
        device="cuda:0",
        precision="fp32",
        seconds=0.0,
        options=TensorRtOptions(cache_folder=tmp_path),
        on_measured=seen.append,
    )
    assert best in [each.ring for each in seen]
    assert {each.ring for each in seen} == set(candidates(graphs=True))
    assert [each.problem for each in seen if each.problem] == []
    gpu.check()
    assert standin.violations == []
    assert list(standin.alive) == []
