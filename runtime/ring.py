"""Frames in flight: copies and computing of several frames overlap on several streams.

A slot of the ring is one batch of frames: page-locked host memory, device memory, and an event.
Slots take turns on the streams. A frame is copied into its slot, and copy in, computing and copy
out are given to the slot's stream at once; copying in and computing are one recorded graph where
the device can record. Inputs that are no images (colour tables) go up only when they change. The
host waits for a slot only when its result is asked for, and hands over the memory it was written
to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, DeviceMemoryError, UsageError, forget_frames
from srtrt.runtime.cuda.device import Device, Event, Stream
from srtrt.runtime.layouts import TensorLayout
from srtrt.runtime.pinned import ResultMemory
from srtrt.runtime.slots import Arrays as Arrays
from srtrt.runtime.slots import Executor as Executor
from srtrt.runtime.slots import Slot, result_parts

Bytes = NDArray[np.uint8]
Pending = Callable[[], dict[str, NDArray[Any]]]
"""Waits for the outputs of one frame, which are the caller's from then on; called once."""


_MOST = 256
_TRACE_REFUSED = "only measurements read what it records; use `srtrt benchmark throughput`"


@dataclass(frozen=True, kw_only=True)
class RingOptions:
    """How many frames are computed at the same time.

    Raises:
        UsageError: if a number is not positive or far too large, or there are fewer slots than
            streams.
    """

    streams: int = 2
    """Streams, each with a copy of the network's working memory."""
    slots: int = 4
    """Batches in flight."""
    batch: int = 1
    """Frames computed at once."""
    graph: bool = field(default=True, metadata={"device": "cuda"})
    """Records copying in and computing as one graph, where device and network can."""
    trace: bool = field(default=False, metadata={"refused": _TRACE_REFUSED})
    """Measures when each part of a batch runs, see :meth:`FrameRing.times`; without such graphs."""

    def __post_init__(self) -> None:
        numbers = (self.streams, self.slots, self.batch)
        if min(numbers) < 1 or self.slots < self.streams:
            raise UsageError(
                f"ring of {self.slots} slots on {self.streams} streams with batch {self.batch}: "
                "expected positive numbers, and at least as many slots as streams "
                f"(such as slots={max(2 * self.streams, 1)})."
            )
        if max(numbers) > _MOST:
            raise UsageError(
                f"ring of {self.slots} slots on {self.streams} streams with batch {self.batch}: "
                f"expected no number above {_MOST}, as each takes memory of its own."
            )


def in_order(
    submit: Callable[[Arrays], Pending], capacity: Callable[[], int], inputs: Iterable[Arrays]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Computes batches with as many in flight as may be, and gives their outputs in order.

    Args:
        submit: starts a batch.
        capacity: how many may be uncollected; asked again after each, as the first may change it.
        inputs: of the batches.
    """
    waiting: deque[Pending] = deque()
    for each in inputs:
        waiting.append(submit(each))
        if len(waiting) >= capacity():
            yield waiting.popleft()()
    for pending in waiting:
        yield pending()


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """When the parts of one batch ran on the device, in milliseconds since the ring was ready."""

    stream: int
    copy_in: tuple[float, float]
    compute: tuple[float, float]
    copy_out: tuple[float, float]


@dataclass(kw_only=True)
class _Flight:
    """One use of a slot."""

    slot: Slot
    tables: dict[str, bytes]
    frames: int = 0
    memory: list[Bytes] = field(default_factory=list)
    """Where the results of its frames are written; empty until it is launched."""
    results: dict[int, dict[str, NDArray[Any]]] | None = None
    """Of the frames that were not asked for yet; from then on the slot is free."""


class FrameRing:
    """Computes frames of one size, several at the same time; a context manager.

    Frames come back in whatever order they are asked for. One thread at a time may use it.
    """

    def __init__(
        self,
        device: Device,
        layouts: Sequence[TensorLayout],
        open_executor: Callable[[Stream], Executor],
        options: RingOptions,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        """Allocates everything, and computes each slot once, so that nothing is left to fail.

        Args:
            device: where it computes.
            layouts: every tensor, with ``options.batch`` frames.
            open_executor: opens the network for a stream.
            options: how many frames are in flight.
            on_note: told in a sentence if frames are computed otherwise than asked for.

        Raises:
            DeviceMemoryError: if memory does not suffice.
            BackendError: if the network fails.
        """
        self._device, self._options = device, options
        self._inputs = [each for each in layouts if each.is_input]
        self._tell = on_note or (lambda _: None)
        self._times: list[StageTimes] = []
        self._next = self._uncollected = 0
        self._streams: list[Stream] = []
        self._slots: list[Slot] = []
        self._flights: dict[int, _Flight] = {}
        self._recorded = False
        self._failure: BackendError | None = None
        self._stack = ExitStack()
        try:
            with device.current():
                self._open(layouts, open_executor)
        except BaseException as error:
            forget_frames(error)
            with suppress(Exception):  # the first error is the one to see
                self.close()
            raise

    def _open(
        self, layouts: Sequence[TensorLayout], open_executor: Callable[[Stream], Executor]
    ) -> None:
        """Makes everything, in the order in which it must outlive one another."""
        device, options = self._device, self._options
        for _ in range(options.streams):
            self._streams.append(self._owned(device.stream()))
        for index in range(options.slots):
            stream = self._streams[index % options.streams]
            slot = Slot(device, layouts, stream, index, trace=options.trace)
            self._slots.append(self._owned(slot))
        parts = result_parts([each for each in layouts if not each.is_input])
        nbytes = sum(each for _, _, each in parts)
        self._memory = self._owned(ResultMemory(device, nbytes, self.capacity))
        executors = [self._owned(open_executor(each)) for each in self._streams]
        self._stack.callback(self._unbind)
        for slot in self._slots:
            slot.bind(executors[slot.index % options.streams])
        for slot in self._slots:
            self._warm_up(slot)
        if options.graph and device.captures and not options.trace:
            self._record([executor.capturable for executor in executors])
        if options.trace:
            self._origin: Event = self._owned(device.event(timed=True))
            self._origin.record(self._streams[0])
            self._origin.wait()

    def _owned(self, resource: Any) -> Any:
        self._stack.callback(resource.close)
        return resource

    def _unbind(self) -> None:
        """Lets go of the networks, which may keep their memory as long as they are bound."""
        for slot in self._slots:
            slot.unbind()

    def _warm_up(self, slot: Slot) -> None:
        """Computes once, as kernels are loaded on first use."""
        tables = {each.name: bytes(each.nbytes) for each in self._inputs if not each.is_image}
        memory = [self._memory.take() for _ in range(self._options.batch)]
        slot.start(tables, memory)
        slot.wait()
        for each in memory:
            self._memory.give_back(each)

    def _record(self, capturable: Sequence[bool]) -> None:
        """Records graphs; where that is refused, batches are launched piece by piece."""
        try:
            if all(capturable):
                for slot in self._slots:
                    slot.record()
                self._recorded = True
        except DeviceMemoryError:
            raise
        except BackendError as error:
            for slot in self._slots:
                slot.forget_graph()
                slot.stream.synchronize()  # a device that is dead says so here
            self._tell(
                f"The GPU's work could not be recorded as a graph ({str(error).rstrip('.')}), so "
                "it is launched piece by piece, which is slower for small frames."
            )

    @property
    def capacity(self) -> int:
        """How many frames may be submitted before one must be collected."""
        return self._options.slots * self._options.batch

    @property
    def uncollected(self) -> int:
        """How many frames were submitted and can still be collected."""
        return 0 if self._failure else self._uncollected

    @property
    def uses_graphs(self) -> bool:
        """Whether batches are launched as recorded graphs."""
        return self._recorded

    def submit(self, inputs: Arrays) -> Pending:
        """Starts one frame; returns before it is computed.

        Args:
            inputs: every input of the network, images with one frame.

        Returns:
            A function that waits for the frame. Frames of an incomplete batch are computed when
            one of them is asked for.

        Raises:
            UsageError: if an input is missing or has another shape.
            BackendError: if :attr:`capacity` frames are uncollected, or the ring failed before.
            DeviceMemoryError: if memory ran out.
        """
        self._check(inputs)
        tables = {
            each.name: inputs[each.name].tobytes() for each in self._inputs if not each.is_image
        }
        with self._working():
            flight = self._boarding(tables)
            if flight is not None:
                place = flight.frames
                flight.slot.put(inputs, place)
                flight.frames += 1
                if flight.frames == self._options.batch:
                    self._launch(flight)
        if flight is None:
            raise BackendError(
                f"{self._uncollected} frames are in flight and none was collected; "
                "collect one before submitting more."
            )
        self._uncollected += 1
        return lambda: self._collect(flight, place)

    def _boarding(self, tables: dict[str, bytes]) -> _Flight | None:
        """The batch that a frame with these tables joins; None if no slot is free."""
        flight = self._flights.get(self._next)
        if flight is not None and not flight.memory and flight.tables != tables:
            self._launch(flight)
            flight = self._flights.get(self._next)
        if flight is None:
            flight = _Flight(slot=self._slots[self._next], tables=tables)
            self._flights[self._next] = flight
        return None if flight.memory else flight

    def times(self) -> list[StageTimes]:
        """When the parts of each batch ran, in the order in which they were collected."""
        return self._times

    def close(self) -> None:
        """Waits for work under way and releases everything; harmless when repeated."""
        stack, self._stack = self._stack, ExitStack()
        self._failure = self._failure or BackendError("the ring was closed; open another.")
        with ExitStack() as context:
            # A device that failed refuses everything, and takes back what it can all the same.
            with suppress(BackendError):
                context.enter_context(self._device.current())
            for stream in self._streams:
                with suppress(BackendError):
                    stream.synchronize()
            self._streams.clear()
            self._flights.clear()
            stack.close()
            self._slots.clear()

    def __enter__(self) -> FrameRing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(*([Exception] if kind else [])):
            self.close()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Around what uses the device: after a failure nothing more is given to it."""
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))
        try:
            with self._device.current():
                yield
        except Exception as error:
            kind = DeviceMemoryError if isinstance(error, DeviceMemoryError) else BackendError
            self._failure = kind(str(error))
            forget_frames(error)
            raise

    def _check(self, inputs: Arrays) -> None:
        for layout in self._inputs:
            wanted = (1, *layout.shape[1:]) if layout.is_image else layout.shape
            found = inputs.get(layout.name)
            if found is None or found.shape != wanted or found.dtype != layout.dtype:
                shown = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise UsageError(
                    f"input {layout.name} is {shown}; expected {layout.dtype} {list(wanted)}."
                )

    def _launch(self, flight: _Flight) -> None:
        flight.memory = [self._memory.take() for _ in range(flight.frames)]
        flight.slot.start(flight.tables, flight.memory)
        self._next = (flight.slot.index + 1) % len(self._slots)

    def _collect(self, flight: _Flight, place: int) -> dict[str, NDArray[Any]]:
        if flight.results is None:
            with self._working():
                self._land(flight)
        assert flight.results is not None
        result = flight.results.pop(place)
        self._uncollected -= 1
        return result

    def _land(self, flight: _Flight) -> None:
        """Waits for a batch and frees its slot."""
        slot = flight.slot
        if not flight.memory:
            self._launch(flight)
        slot.wait()
        if self._options.trace:
            self._times.append(self._stage_times(slot))
        flight.results = {
            place: slot.arrays(self._memory.hand_over(memory))
            for place, memory in enumerate(flight.memory)
        }
        del self._flights[slot.index]

    def _stage_times(self, slot: Slot) -> StageTimes:
        start, copied, computed, end = slot.times(self._origin)
        return StageTimes(
            stream=slot.index % self._options.streams,
            copy_in=(start, copied),
            compute=(copied, computed),
            copy_out=(computed, end),
        )
