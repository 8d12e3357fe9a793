"""Frames in flight under random schedules: right results, nothing undefined, nothing left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from ring_schedules import Run, Schedule, schedules

from srtrt.runtime.cuda import cuda_python, plain, pycuda
from srtrt.runtime.pinned import ResultMemory
from srtrt.runtime.ring import FrameRing
from srtrt.runtime.slots import Slot

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


def no_wait(patch: pytest.MonkeyPatch) -> None:
    """Results are read before the device has written them."""
    patch.setattr(Slot, "wait", lambda self: None)


def input_too_early(patch: pytest.MonkeyPatch) -> None:
    """The next frame is written to memory that the device has still to read."""
    start = Slot.start

    def hasty(self: Slot, tables: Any, results: Any) -> None:
        start(self, tables, results)
        for view in self._views.values():
            view[...] = 0

    patch.setattr(Slot, "start", hasty)


def no_drain(patch: pytest.MonkeyPatch) -> None:
    """Memory is given back while the device uses it."""
    for module in (cuda_python, pycuda, plain):
        patch.setattr(module._Stream, "synchronize", lambda self: None)


def result_too_early(patch: pytest.MonkeyPatch) -> None:
    """What a caller holds is written to again."""

    def hand_over(self: ResultMemory, memory: Any) -> Any:
        self.give_back(memory)
        return memory

    patch.setattr(ResultMemory, "hand_over", hand_over)


def old_tables(patch: pytest.MonkeyPatch) -> None:
    """Tables go up once, and not when they change."""
    start = Slot.start

    def once(self: Slot, tables: Any, results: Any) -> None:
        seen = self._tables
        warm = any(seen.values()) and set(map(len, seen.values())) != {0}
        start(self, seen if warm else tables, results)

    patch.setattr(Slot, "start", once)


def still_bound(patch: pytest.MonkeyPatch) -> None:
    """Networks outlive their streams."""
    patch.setattr(Slot, "unbind", lambda self: None)


def endless_capture(patch: pytest.MonkeyPatch) -> None:
    """A capture whose work failed is not ended."""
    patch.setattr(cuda_python.CudaPythonDevice, "_abandon", lambda self, stream: None)


def error_hidden(patch: pytest.MonkeyPatch) -> None:
    """After a failure the ring goes on as if nothing were."""
    patch.setattr(FrameRing, "_working", lambda self: self._device.current())


MUTANTS = [
    no_wait,
    input_too_early,
    no_drain,
    result_too_early,
    old_tables,
    still_bound,
    endless_capture,
    error_hidden,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_schedules_find_what_is_wrong(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)

    @settings(
        max_examples=1000,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=QUIET,
    )
    @given(schedule=schedules())
    def any_schedule(schedule: Schedule) -> None:
        Run(schedule).go()

    with pytest.raises((AssertionError, IndexError)):
        any_schedule()
