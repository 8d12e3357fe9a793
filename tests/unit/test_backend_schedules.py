"""PyTorch and ONNX Runtime on the simulated GPU under random schedules: right, and nothing left."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime_standin
import pytest
import simulated_gpu
import torch
import torch_standin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srtrt.errors import BackendError, DeviceMemoryError
from srtrt.runtime.backends import onnxruntime as ort_module
from srtrt.runtime.backends import onnxruntime_gpu, torch_streams
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeOptions
from srtrt.runtime.backends.torch import TorchBackend, TorchOptions
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import RingOptions
from srtrt.runtime.slots import Slot

PICTURE = read_pictures()[0]
SIZES = [(12, 8), (8, 10)]
QUIET = list(HealthCheck)


@dataclass(frozen=True)
class Models:
    """One network as a checkpoint and as a graph, read once for all schedules."""

    checkpoint: Model
    graph: Model


@pytest.fixture(scope="module")
def models(tiny_checkpoint: Path, tiny_graphs: dict[str, Path]) -> Models:
    return Models(find_model(str(tiny_checkpoint)), find_model(str(tiny_graphs["yuv420p8-fp32"])))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Frames of a hundred pixels take threads longer to share than to compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@st.composite
def schedules(draw: st.DrawFn, engine: str) -> dict[str, Any]:
    streams = draw(st.integers(1, 2))
    seldom = st.sampled_from([False] * 7 + [True])
    actions = st.sampled_from(["submit"] * 5 + ["collect"] * 4 + ["size"])
    return {
        "seed": draw(st.integers(0, 2**32)),
        "engine": engine,
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
def one_by_one(models: Models, size: int, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A frame and what PyTorch makes of it on the CPU."""
    width, height = SIZES[size]
    frame = form_inputs(np.ascontiguousarray(PICTURE[number : number + height, :width]), "yuv420p8")
    with TorchBackend(
        models.checkpoint, form="yuv420p8", device="cpu", precision="fp32"
    ) as backend:
        return frame, backend.infer(frame)


def kept(patch: pytest.MonkeyPatch) -> list[Any]:
    """All executors, which somebody may hold longer than they are open."""
    found: list[Any] = []
    for network in (torch_streams.TorchNetwork, ort_module._OrtNetwork):
        opens = network.executor

        def executor(self: Any, stream: Any, opens: Any = opens) -> Any:
            found.append(opens(self, stream))
            return found[-1]

        patch.setattr(network, "executor", executor)
    return found


Mutant = Callable[[pytest.MonkeyPatch], None]


def run(schedule: dict[str, Any], models: Models, mutant: Mutant | None = None) -> str:
    """Runs one; how it ended. Nothing is freed by chance: not by collecting, nor by forgetting."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return watched(schedule, models, mutant)
    finally:
        if enabled:
            gc.enable()


def watched(schedule: dict[str, Any], models: Models, mutant: Mutant | None) -> str:
    onnxruntime_gpu.preload.cache_clear()
    for size in range(len(SIZES)):
        for number in range(3):
            one_by_one(models, size, number)
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        gpu = simulated_gpu.install(patch, schedule["seed"])
        gpu.refuse_capture, gpu.allocations_left = schedule["refuse"], schedule["allocations"]
        sessions = onnxruntime_standin.install(patch, Path(folder))
        sessions.gpu = gpu
        graphs = torch_standin.install(patch, gpu)
        executors = kept(patch)
        if mutant is not None:
            mutant(patch)
        ring, common = schedule["ring"], {"form": "yuv420p8", "precision": "fp32"}

        def opened() -> Backend:
            if schedule["engine"] == "torch":
                options = TorchOptions(ring=ring)
                return TorchBackend(models.checkpoint, device="cuda:0", options=options, **common)  # type: ignore[arg-type]
            others = OnnxRuntimeOptions(ring=ring)
            return OnnxRuntimeBackend(models.graph, device="cuda:0", options=others, **common)  # type: ignore[arg-type]

        ended = used(opened, schedule, models)
        assert not sessions.alive
        assert not graphs.graphs
        assert all(len(pools) == 1 and None not in pools for pools in graphs.pools.values())
        assert executors or "submit" not in schedule["actions"] or ended == "no memory"
        gpu.check()
        assert not gpu.counts["launch"] or schedule["refuse"] is None
    return ended


def used(opened: Callable[[], Backend], schedule: dict[str, Any], models: Models) -> str:
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
                    inputs, wanted = one_by_one(models, size, count % 3)
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


ENGINES = pytest.mark.parametrize("engine", ["torch", "onnxruntime"])


@ENGINES
@settings(max_examples=20, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_backends_on_a_gpu(models: Models, engine: str, data: st.DataObject) -> None:
    run(data.draw(schedules(engine)), models)


@pytest.mark.slow
@ENGINES
@settings(max_examples=3000, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_backends_on_a_gpu_many_times(models: Models, engine: str, data: st.DataObject) -> None:
    run(data.draw(schedules(engine)), models)


def torch_left_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch_streams.TorchExecutor, "close", lambda self: None)


def session_left_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ort_module._OrtExecutor, "close", lambda self: None)


def binding_left(patch: pytest.MonkeyPatch) -> None:
    """The session is let go, and a binding keeps it."""

    def close(self: Any) -> None:
        self._session = self._run_options = None

    patch.setattr(ort_module._OrtExecutor, "close", close)


def weights_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("torch.cuda.synchronize", lambda device=None: None)


def pool_of_each_graph(patch: pytest.MonkeyPatch) -> None:
    recorded = torch_streams.TorchExecutor._recorded

    def alone(self: Any, launch: Any) -> Any:
        self._pool = self._torch.cuda.graph_pool_handle()
        return recorded(self, launch)

    patch.setattr(torch_streams.TorchExecutor, "_recorded", alone)


def pool_not_freed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch_streams.TorchExecutor, "close", lambda self: self._work.clear())


def copies_elsewhere(patch: pytest.MonkeyPatch) -> None:
    options = OnnxRuntimeBackend._cuda_options
    other = {"do_copy_in_default_stream": "0"}
    patch.setattr(OnnxRuntimeBackend, "_cuda_options", lambda self, s: options(self, s) | other)


def stream_of_its_own(patch: pytest.MonkeyPatch) -> None:
    options = OnnxRuntimeBackend._device_options
    patch.setattr(OnnxRuntimeBackend, "_device_options", lambda self, _: options(self, None))


def without_binding(patch: pytest.MonkeyPatch) -> None:
    def unbound(self: Any, number: int) -> None:
        inputs = {e.name: np.zeros(e.shape, e.dtype) for e in self._layouts if e.is_input}
        self._session.run(None, inputs)

    patch.setattr(ort_module._OrtExecutor, "_run", unbound)


def session_waits(patch: pytest.MonkeyPatch) -> None:
    def run_waiting(self: Any, number: int) -> None:
        self._session.run_with_iobinding(self._bindings[number], None)

    patch.setattr(ort_module._OrtExecutor, "_run", run_waiting)


def results_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slot, "wait", lambda self: None)


MUTANTS: list[tuple[str, Mutant]] = [
    ("torch", torch_left_open),
    ("torch", weights_not_waited_for),
    ("torch", pool_of_each_graph),
    ("torch", pool_not_freed),
    ("torch", results_not_waited_for),
    ("onnxruntime", session_left_open),
    ("onnxruntime", binding_left),
    ("onnxruntime", copies_elsewhere),
    ("onnxruntime", stream_of_its_own),
    ("onnxruntime", without_binding),
    ("onnxruntime", session_waits),
    ("onnxruntime", results_not_waited_for),
]


@pytest.mark.parametrize(
    ("engine", "mutant"), MUTANTS, ids=lambda each: getattr(each, "__name__", each)
)
def test_schedules_find_what_is_wrong(engine: str, mutant: Mutant, models: Models) -> None:
    schedule = {
        "engine": engine,
        "ring": RingOptions(streams=2, slots=3),
        "refuse": None,
        "allocations": None,
        "actions": ["submit"] * 4 + ["collect", "size"] + ["submit"] * 4,
    }

    def several(seeds: int, mutant: Mutant | None) -> None:
        for seed in range(seeds):
            run({**schedule, "seed": seed}, models, mutant)

    several(3, None)
    with pytest.raises((AssertionError, BackendError)):
        several(10, mutant)
