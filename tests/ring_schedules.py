"""Random uses of frames in flight, on every device layer, with whatever may go wrong."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cuda_simulator import CudaFaultError, Gpu, RefusedError
from hypothesis import strategies as st
from kernel_standin import Kernel, computed
from numpy.typing import NDArray
from simulated_gpu import install_packages

from srtrt.errors import BackendError, DeviceMemoryError
from srtrt.runtime.cuda import open_device
from srtrt.runtime.cuda.device import Device, Stream
from srtrt.runtime.cuda.plain import PlainDevice
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import form_layouts
from srtrt.runtime.ring import RingOptions
from srtrt.runtime.rings import FrameRings

Action = tuple[str, int]

SIZES = [(4, 2), (2, 4), (6, 2)]
LAYERS = ["cuda-python", "cuda-python", "pycuda", "plain"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One use from beginning to end."""

    seed: int
    layer: str
    form: Any
    options: RingOptions
    capturable: bool
    refuse: str | None
    captures: int
    registers: bool
    allocations: int | None
    actions: tuple[Action, ...]


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any schedule; most have nothing go wrong."""
    streams = draw(st.integers(1, 3))
    seldom = st.sampled_from([False] * 9 + [True])
    stages = [None] * 7 + ["begin", "work", "end", "instantiate"]
    actions = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7))
    return Schedule(
        seed=draw(st.integers(0, 2**32)),
        layer=draw(st.sampled_from(LAYERS)),
        form=draw(st.sampled_from(["yuv420p8", "rgb8"])),
        options=RingOptions(
            streams=streams,
            slots=draw(st.integers(streams, streams + 2)),
            batch=draw(st.sampled_from([1, 1, 2, 3])),
            graph=not draw(seldom),
            trace=draw(seldom),
        ),
        capturable=not draw(seldom),
        refuse=draw(st.sampled_from(stages)),
        captures=draw(st.integers(0, 2)),
        registers=not draw(seldom),
        allocations=draw(st.integers(0, 80)) if draw(seldom) else None,
        actions=tuple(draw(st.lists(actions, min_size=12, max_size=40))),
    )


ACTIONS = [
    *["submit"] * 6,
    *["collect"] * 5,
    "forget",
    "size",
    "poison",
    "kernel fault",
    "network fault",
    "close",
]
_FAULTS = {"poison", "kernel fault", "network fault"}


@dataclass
class Run:
    """A schedule being run.

    Attributes:
        frames: how many came back and were right.
        failures: what was raised, in words.
    """

    schedule: Schedule
    frames: int = 0
    failures: list[str] = field(default_factory=list)
    pending: list[tuple[dict[str, Any], Any]] = field(default_factory=list)
    held: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    networks: int = 0
    faulty: bool = False
    closed: bool = False
    size: int = 0

    def __post_init__(self) -> None:
        self.gpu = Gpu(self.schedule.seed)
        self.gpu.allocations_left = self.schedule.allocations
        self.gpu.refuse_capture = self.schedule.refuse
        self.gpu.captures_left = self.schedule.captures
        self.gpu.refuse_register = not self.schedule.registers
        self.random = np.random.default_rng(self.schedule.seed)
        self.notes: list[str] = []

    def go(self) -> Run:
        """Runs it. Raises AssertionError if anything is not as it must be."""
        with pytest.MonkeyPatch.context() as patch:
            runtime, driver = install_packages(patch, self.gpu)
            try:
                self.device = self._open()
            except DeviceMemoryError:
                assert self.schedule.allocations is not None
                return self
            self._use()
            assert (driver.depth, driver.retained) == (0, 0)
            assert self.gpu.poisoned or runtime.left_error() is None
        if isinstance(self.device, PlainDevice):
            assert self.device.open_resources == 0
        # What callers hold is theirs, whatever came later.
        for inputs, outputs in self.held:
            self._compare(inputs, outputs)
        self.gpu.check()
        assert self.networks == 0
        assert [each.session for each in self.kernels] == [None] * len(self.kernels)
        assert len(self.notes) == len(set(self.notes))
        return self

    def _open(self) -> Device:
        if self.schedule.layer == "plain":
            return PlainDevice()
        return open_device("cuda:0", self.schedule.layer)  # type: ignore[arg-type]

    def _use(self) -> None:
        schedule = self.schedule
        self.rings = FrameRings(
            self.device, schedule.form, self._network, lambda _: schedule.options, self.notes.append
        )
        try:
            for name, number in schedule.actions:
                getattr(self, f"_{name.replace(' ', '_')}")(number)
            while self.pending:
                self._collect(0)
        finally:
            self.rings.close()
            self.rings.close()

    def _network(self, size: InputSize) -> Any:
        run, layouts = self, form_layouts(self.schedule.form, size)
        where = self.device if isinstance(self.device, PlainDevice) else self.gpu
        run.networks += 1

        class Network:
            def executor(self, stream: Stream) -> Kernel:
                kernel = Kernel(where, layouts, stream, capturable=run.schedule.capturable)
                run.kernels.append(kernel)
                return kernel

            def close(self) -> None:
                run.networks -= 1

        return Network()

    def _submit(self, number: int) -> None:
        inputs = self._inputs(number)
        kept = {name: array.copy() for name, array in inputs.items()}
        full = len(self.pending) >= self.rings.capacity > 0 and bool(self.pending)
        try:
            pending = self.rings.submit(inputs)
        except BackendError as error:
            self._failed(error, misuse=full or self.closed or bool(self.pending))
            return
        assert not self.closed
        for array in inputs.values():  # they may be changed as soon as it returns
            array.view(np.uint8)[...] = number
        self.pending.append((kept, pending))

    def _inputs(self, number: int) -> dict[str, NDArray[Any]]:
        """Frames of one of few tables, as a video's, or of tables of their own."""
        width, height = SIZES[self.size]
        tables = np.random.default_rng(number % 3)
        return {
            each.name: (self.random if each.is_image else tables)
            .integers(0, 256, each.nbytes, np.uint8)
            .view(each.dtype)
            .reshape(each.shape)
            for each in form_layouts(self.schedule.form, InputSize(width=width, height=height))
            if each.is_input
        }

    def _collect(self, number: int) -> None:
        if not self.pending:
            return
        inputs, pending = self.pending.pop(number % len(self.pending))
        try:
            outputs = pending()
        except BackendError as error:
            self._failed(error, misuse=self.closed)
            return
        self._compare(inputs, outputs)
        self.frames += 1
        self.held.append((inputs, outputs))

    def _compare(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        expected = computed(inputs)
        assert expected.keys() == outputs.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(outputs[name], array)

    def _failed(self, error: BackendError, *, misuse: bool) -> None:
        self.failures.append(str(error))
        if isinstance(error, DeviceMemoryError):
            assert self.schedule.allocations is not None, error
            return
        assert self.faulty or misuse or self.schedule.allocations is not None, error
        if self.gpu.poisoned and not misuse:
            assert "CUDA failed" in str(error) or "the network failed" in str(error), error

    def _forget(self, number: int) -> None:
        """Lets go of results, whose memory is used again then."""
        del self.held[: number % (len(self.held) + 1)]

    def _size(self, number: int) -> None:
        if not self.pending or number == 0:
            self.size = number % len(SIZES)

    def _poison(self, number: int) -> None:
        if self.schedule.layer != "plain" and number == 0:
            self.faulty = True
            self.gpu.poison()

    def _kernel_fault(self, number: int) -> None:
        if self.schedule.layer != "plain" and number == 0:
            live = [each for each in self.kernels if each.session is not None]
            if live and not self.gpu.poisoned:
                self.faulty = True
                with suppress(RefusedError):
                    self.gpu.enqueue(live[-1].stream.handle, _fault)

    def _network_fault(self, number: int) -> None:
        if number == 0 and self.kernels:
            self.faulty = True
            self.kernels[-1].fails_at = 0

    def _close(self, number: int) -> None:
        if number == 0:
            self.closed = True
            self.rings.close()


def _fault() -> None:
    raise CudaFaultError("cudaErrorIllegalAddress")
