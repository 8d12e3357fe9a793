"""The search for the fastest ring, on simulated GPUs that lack memory, refuse to record, or die."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Literal

import numpy as np
import pytest
from cuda_simulator import Gpu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_standin import Kernel, computed
from simulated_gpu import install_packages

from srtrt.errors import BackendError, DeviceMemoryError
from srtrt.runtime.cuda import open_device
from srtrt.runtime.cuda.device import Stream
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.engines.tuning import Measured, best_of, candidates, frames_per_second
from srtrt.runtime.layouts import form_layouts
from srtrt.runtime.ring import RingOptions
from srtrt.runtime.rings import FrameRings

QUIET = [HealthCheck.too_slow]
SIZE = InputSize(width=8, height=6)

CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1 << 16),
        "layer": st.sampled_from(["cuda-python", "pycuda"]),
        # Up to a little more than the largest ring takes.
        "memory": st.none() | st.integers(0, 250_000),
        "refuse": st.none() | st.sampled_from(["begin", "work", "end", "instantiate"]),
        "captures": st.integers(0, 20),
        "dies_at": st.none() | st.integers(0, 20),
        # Seldom all of them, as a few show as much in a quarter of the time.
        "places": st.sampled_from([None] + [5] * 7).flatmap(
            lambda most: (
                st.none()
                if most is None
                else st.sets(st.integers(0, 17), min_size=1, max_size=most)
            )
        ),
    }
)


@settings(max_examples=30, deadline=None, suppress_health_check=QUIET)
@given(case=CASES)
def test_any_tuning(case: dict[str, Any]) -> None:
    tune(**case)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, suppress_health_check=QUIET)
@given(case=CASES)
def test_many_tunings(case: dict[str, Any]) -> None:
    tune(**case)


def tune(
    seed: int,
    layer: Literal["cuda-python", "pycuda"],
    memory: int | None,
    refuse: str | None,
    captures: int,
    dies_at: int | None,
    places: set[int] | None,
) -> None:
    """Tunes once. Raises AssertionError if anything is not as it must be."""
    gpu = Gpu(seed)
    gpu.refuse_capture, gpu.captures_left = refuse, captures
    if memory is not None:
        gpu.memory_left = memory
    rings = list(candidates(graphs=layer == "cuda-python"))
    if places is not None:
        rings = [rings[place] for place in sorted({place % len(rings) for place in places})]
    measured: list[Measured] = []

    def measure(ring: RingOptions) -> float:
        if len(measured) == dies_at:
            gpu.poison()
        return speed_of(gpu, layer, ring)

    with pytest.MonkeyPatch.context() as patch:
        driver = install_packages(patch, gpu).driver
        failure, outcome = None, None
        try:
            outcome = best_of(measure, rings, measured.append)
        except BackendError as error:
            failure = str(error)
        if outcome is None:
            fits_nowhere = "no ring could be opened: GPU memory ran out"
            assert ("CUDA failed" if gpu.poisoned else fits_nowhere) in str(failure)
            assert gpu.poisoned or memory is not None
        else:
            best, found = outcome
            assert not gpu.poisoned, "a dead GPU ends the search"
            assert found == measured
            assert [each.ring for each in measured] == rings
            assert next(e for e in measured if e.ring == best).frames_per_second
            assert memory is not None or not any(each.problem for each in measured)
        assert (driver.depth, driver.retained) == (0, 0)
    gpu.check()


def speed_of(gpu: Gpu, layer: Literal["cuda-python", "pycuda"], ring: RingOptions) -> float:
    """Frames per second of a ring, whose every frame must be right."""
    frame = {"rgb": np.random.default_rng(0).integers(0, 256, (1, 6, 8, 3), np.uint8)}
    expected = computed(frame)["rgb_x4"]

    class Network:
        def __init__(self, size: InputSize) -> None:
            self.layouts = form_layouts("rgb8", size)

        def executor(self, stream: Stream) -> Kernel:
            return Kernel(gpu, self.layouts, stream)

        def close(self) -> None:
            pass

    device = open_device("cuda:0", layer)
    with closing(FrameRings(device, "rgb8", Network, lambda _: ring)) as rings:
        rings.prepare(SIZE.width, SIZE.height)

        def submit(inputs: Any) -> Any:
            pending = rings.submit(inputs)

            def checked() -> Any:
                result = pending()
                np.testing.assert_array_equal(result["rgb_x4"], expected)
                return result

            return checked

        return frames_per_second(submit, rings.capacity, frame, 0.0)


def test_a_ring_that_does_not_fit_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(1)
    gpu.memory_left = 100
    install_packages(monkeypatch, gpu)
    with pytest.raises(DeviceMemoryError, match="GPU memory ran out"):
        speed_of(gpu, "cuda-python", RingOptions())
    gpu.check()
