"""PyTorch and ONNX Runtime on the simulated GPU under random schedules: right, and nothing left."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime_standin
import pytest
import simulated_gpu
import torch_standin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srtrt.errors import DeviceMemoryError
from srtrt.runtime.backends import onnxruntime_gpu
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeOptions
from srtrt.runtime.backends.torch import TorchBackend, TorchOptions
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import RingOptions

PICTURE = read_pictures()[0]
SIZES = [(12, 8), (8, 10)]
QUIET = list(HealthCheck)


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    streams = draw(st.integers(1, 2))
    seldom = st.sampled_from([False] * 7 + [True])
    actions = st.sampled_from(["submit"] * 5 + ["collect"] * 4 + ["size"])
    return {
        "seed": draw(st.integers(0, 2**32)),
        "engine": draw(st.sampled_from(["torch", "onnxruntime"])),
        "ring": RingOptions(
            streams=streams,
            slots=draw(st.integers(streams, streams + 1)),
            batch=draw(st.sampled_from([1, 1, 2])),
            graph=not draw(seldom),
        ),
        "refuse": draw(st.sampled_from([None, None, "begin", "work", "end", "instantiate"])),
        "allocations": draw(st.integers(0, 30)) if draw(seldom) else None,
        "actions": draw(st.lists(actions, min_size=4, max_size=14)),
    }


@cache
def one_by_one(checkpoint: Path, size: int, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A frame and what PyTorch makes of it on the CPU."""
    width, height = SIZES[size]
    frame = form_inputs(np.ascontiguousarray(PICTURE[number : number + height, :width]), "yuv420p8")
    with TorchBackend(
        find_model(str(checkpoint)), form="yuv420p8", device="cpu", precision="fp32"
    ) as backend:
        return frame, backend.infer(frame)


def run(schedule: dict[str, Any], checkpoint: Path, graph: Path) -> str:
    """Runs one; how it ended."""
    onnxruntime_gpu.preload.cache_clear()
    for size in range(len(SIZES)):
        for number in range(3):
            one_by_one(checkpoint, size, number)
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        gpu = simulated_gpu.install(patch, schedule["seed"])
        gpu.refuse_capture, gpu.allocations_left = schedule["refuse"], schedule["allocations"]
        sessions = onnxruntime_standin.install(patch, Path(folder))
        sessions.gpu = gpu
        graphs = torch_standin.install(patch, gpu)
        ring, common = schedule["ring"], {"form": "yuv420p8", "precision": "fp32"}

        def opened() -> Backend:
            if schedule["engine"] == "torch":
                model, options = find_model(str(checkpoint)), TorchOptions(ring=ring)
                return TorchBackend(model, device="cuda:0", options=options, **common)  # type: ignore[arg-type]
            others = OnnxRuntimeOptions(ring=ring)
            model = find_model(str(graph))
            return OnnxRuntimeBackend(model, device="cuda:0", options=others, **common)  # type: ignore[arg-type]

        ended = used(opened, schedule, checkpoint)
        assert not sessions.alive
        assert not graphs.graphs
        gpu.check()
        assert not gpu.counts["launch"] or schedule["refuse"] is None
    return ended


def used(opened: Callable[[], Backend], schedule: dict[str, Any], checkpoint: Path) -> str:
    pending: list[tuple[Any, dict[str, Any]]] = []
    size = count = 0

    def collect() -> None:
        result, wanted = pending.pop(0)
        for name, plane in result().items():
            assert np.abs(plane.astype(int) - wanted[name]).max() <= 1

    try:
        with opened() as backend:
            for action in schedule["actions"]:
                if action == "submit":
                    if len(pending) == backend.in_flight:
                        collect()
                    inputs, wanted = one_by_one(checkpoint, size, count % 3)
                    pending.append((backend.submit(inputs), wanted))
                    count += 1
                elif action == "collect" and pending:
                    collect()
                elif action == "size":
                    while pending:
                        collect()
                    size = 1 - size
            while pending:
                collect()
    except DeviceMemoryError:
        assert schedule["allocations"] is not None
        return "no memory"
    return "done"


@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(schedule=schedules())
def test_backends_on_a_gpu(
    tiny_checkpoint: Path, tiny_graphs: dict[str, Path], schedule: dict[str, Any]
) -> None:
    run(schedule, tiny_checkpoint, tiny_graphs["yuv420p8-fp32"])


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=QUIET)
@given(schedule=schedules())
def test_backends_on_a_gpu_many_times(
    tiny_checkpoint: Path, tiny_graphs: dict[str, Path], schedule: dict[str, Any]
) -> None:
    run(schedule, tiny_checkpoint, tiny_graphs["yuv420p8-fp32"])
