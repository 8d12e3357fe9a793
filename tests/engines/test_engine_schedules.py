"""Engines under random schedules: right results, nothing undefined, nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

pytest.importorskip("onnxruntime")
pytest.importorskip("tensorrt_rtx")
pytest.importorskip("cuda.bindings.runtime")

from engine_schedules import Made, Run, Schedule, schedules

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
