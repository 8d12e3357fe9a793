"""Frames in flight under random schedules: right results, nothing undefined, nothing left."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from ring_schedules import Run, Schedule, schedules

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(schedule=schedules())
def test_any_schedule(schedule: Schedule) -> None:
    Run(schedule).go()


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=QUIET)
@given(schedule=schedules())
def test_many_schedules(schedule: Schedule) -> None:
    Run(schedule).go()
