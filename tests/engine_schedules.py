"""Random uses of engines by frames in flight, with whatever may go wrong in TensorRT or CUDA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cuda_simulator import Gpu
from engine_support import RTX
from hypothesis import strategies as st
from numpy.typing import NDArray
from tensorrt_api import INSTALLED
from tensorrt_runtime import session_of
from tensorrt_standin import SimulatedMachine, StandIn, install

from srtrt.errors import BackendError, DeviceMemoryError
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.execution import LoadedEngine
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.key import EngineShape, InputSize
from srtrt.runtime.ring import RingOptions
from srtrt.runtime.rings import FrameRings

PRODUCTS = [INSTALLED, "tensorrt 10.13", "tensorrt 11.4"]
TAKES = EngineShape.parse("8x8:16x12:2x24x16")
SIZES = [(16, 12), (8, 8), (24, 16), (32, 24)]
"""The last one needs an engine of its own."""

OUT_OF_MEMORY = "Error Code 2: OutOfMemory (Requested size was 123 bytes.)"
ACTIONS = [
    *["submit"] * 7,
    *["collect"] * 5,
    "size",
    "failure",
    "no memory",
    "sticky",
    "recover",
    "close",
]


class Made:
    """Engines for a range of sizes, and for the one beyond it, built once."""

    def __init__(self, graph: bytes) -> None:
        self.graph, beyond = graph, EngineShape.parse("8x8:32x24:2x32x24")
        with pytest.MonkeyPatch.context() as patch:
            standin = install(patch)
            self.engines = [build_engine(graph, each, flavour=RTX) for each in (TAKES, beyond)]
        self.plans = standin.graphs


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One use from beginning to end."""

    seed: int
    product: str
    binding: str
    options: RingOptions
    capturable: bool
    refuse: str | None
    captures: int
    allocations: int | None
    contexts: int | None
    actions: tuple[tuple[str, int], ...]


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any schedule; in most nothing goes wrong."""
    streams = draw(st.integers(1, 3))
    seldom = st.sampled_from([False] * 7 + [True])
    actions = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5))
    return Schedule(
        seed=draw(st.integers(0, 2**32)),
        product=draw(st.sampled_from(PRODUCTS)),
        binding=draw(st.sampled_from(["cuda-python", "cuda-python", "pycuda"])),
        options=RingOptions(
            streams=streams,
            slots=draw(st.integers(streams, streams + 2)),
            batch=draw(st.sampled_from([1, 1, 2])),
            graph=not draw(seldom),
            trace=draw(seldom),
        ),
        capturable=not draw(seldom),
        refuse=draw(st.sampled_from([None] * 5 + ["begin", "work", "end", "instantiate"])),
        captures=draw(st.integers(0, 2)),
        allocations=draw(st.integers(0, 60)) if draw(seldom) else None,
        contexts=draw(st.integers(0, 6)) if draw(seldom) else None,
        actions=tuple(draw(st.lists(actions, min_size=10, max_size=30))),
    )


@dataclass
class Run:
    """A schedule being run.

    Attributes:
        frames: how many came back and were right.
        failures: what was raised, in words.
    """

    schedule: Schedule
    made: Made
    frames: int = 0
    failures: list[str] = field(default_factory=list)
    pending: list[tuple[dict[str, Any], Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faulty: bool = False
    scarce: bool = False
    closed: bool = False
    size: int = 0

    def go(self) -> Run:
        """Runs it. Raises AssertionError if anything is not as it must be."""
        schedule = self.schedule
        self.gpu = gpu = Gpu(schedule.seed)
        gpu.refuse_capture, gpu.captures_left = schedule.refuse, schedule.captures
        self.random = np.random.default_rng(schedule.seed)
        with pytest.MonkeyPatch.context() as patch:
            machine = SimulatedMachine(gpu, schedule.binding)
            self.standin = standin = install(patch, schedule.product, machine=machine)
            standin.graphs = self.made.plans
            standin.capturable = schedule.capturable
            with machine.open() as device:
                self.device = device
                gpu.allocations_left = schedule.allocations
                standin.contexts_for = 1 << 62 if schedule.contexts is None else schedule.contexts
                self.scarce = {schedule.allocations, schedule.contexts} != {None}
                self._use()
        self._check(standin)
        return self

    def _check(self, standin: StandIn) -> None:
        self.gpu.check()
        assert standin.violations == []
        assert list(standin.alive) == []
        said = [note for note in self.notes if "be recorded as a CUDA graph" in note]
        sizes = 1 + sum(name in ("size", "recover") for name, _ in self.schedule.actions)
        assert len(said) <= sizes

    def _use(self) -> None:
        options = self.schedule.options
        self.rings = FrameRings(
            self.device, "rgb8", self._network, lambda _: options, self.notes.append
        )
        try:
            for name, number in self.schedule.actions:
                getattr(self, f"_{name.replace(' ', '_')}")(number)
            while self.pending:
                self._collect(0)
        finally:
            self.rings.close()

    def _network(self, size: InputSize) -> LoadedEngine:
        built = self.made.engines[0 if TAKES.covers(EngineShape.of(size)) else 1]
        return LoadedEngine(
            built.plan,
            form="rgb8",
            size=size,
            flavour=FLAVOURS["tensorrt-rtx" if "rtx" in self.schedule.product else "tensorrt"],
            device=self.device,
            takes=EngineShape.parse(built.facts["shape"]),
            on_note=self.notes.append,
        )

    def _submit(self, _number: int) -> None:
        width, height = SIZES[self.size]
        inputs = {"rgb": self.random.integers(0, 256, (1, height, width, 3), np.uint8)}
        try:
            pending = self.rings.submit(inputs)
        except BackendError as error:
            # The slot whose turn it is may hold a frame that was not asked for yet.
            self._failed(error, misuse=self.closed or bool(self.pending))
            return
        self.pending.append((inputs, pending))

    def _collect(self, number: int) -> None:
        if not self.pending:
            return
        inputs, pending = self.pending.pop(number % len(self.pending))
        try:
            outputs = pending()
        except BackendError as error:
            self._failed(error, misuse=self.closed)
            return
        expected = self._expected(inputs)
        np.testing.assert_allclose(outputs["rgb_x4"].astype(int), expected.astype(int), atol=1)
        self.frames += 1

    def _expected(self, inputs: dict[str, Any]) -> NDArray[np.uint8]:
        (found,) = session_of(self.made.graph).run(["rgb_x4"], inputs)
        return np.asarray(found)

    def _failed(self, error: BackendError, *, misuse: bool) -> None:
        text = str(error)
        self.failures.append(text)
        if isinstance(error, DeviceMemoryError):
            assert self.scarce, text
            return
        assert self.faulty or misuse or self.scarce, text
        assert "address" not in text or self.gpu.poisoned, text

    def _size(self, number: int) -> None:
        if not self.pending:
            self.size = number % len(SIZES)

    def _failure(self, number: int) -> None:
        """The next computations that are started are refused; the GPU is well."""
        if number == 0:
            self.faulty = True
            self.standin.failure = "Error Code 1: Myelin (a kernel failed)"

    def _no_memory(self, number: int) -> None:
        if number == 0:
            self.scarce = True
            self.standin.contexts_for = 1

    def _sticky(self, number: int) -> None:
        if number == 0:
            self.faulty = True
            self.standin.sticky = "cudaErrorIllegalAddress"

    def _recover(self, _number: int) -> None:
        """What can be mended is."""
        self.standin.failure = None
        self.standin.contexts_for = 1 << 62
        self.gpu.allocations_left = None

    def _close(self, number: int) -> None:
        if number == 0:
            self.closed = True
            self.rings.close()
