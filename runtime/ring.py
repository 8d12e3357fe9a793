"""Frames in flight: copies and computing of several frames overlap on several streams.

A slot of the ring is one batch of frames: page-locked host memory, device memory, and an event.
Slots take turns on the streams. A frame is copied into its slot, and copy in, computing and copy
out are given to the slot's stream at once, as one recorded graph where the device can record. The
host waits for a slot only when its result is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, UsageError
from srtrt.runtime.cuda.device import Device, DeviceMemory, Event, Graph, HostMemory, Stream
from srtrt.runtime.layouts import TensorLayout

Arrays = Mapping[str, NDArray[Any]]
Pending = Callable[[], dict[str, NDArray[Any]]]
"""Waits for the outputs of one frame and returns them as new arrays; called once."""


class Executor(Protocol):
    """A network that computes on one stream, between memory whose addresses it is told."""

    @property
    def capturable(self) -> bool:
        """Whether its work can be recorded; asked after the first computation."""

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        """Prepares computing between these addresses of all tensors.

        Returns:
            A function that gives one computation to the stream, and does not wait for it.
        """

    def close(self) -> None:
        """Releases it; harmless when repeated."""


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
    """Records copy in, computing and copy out as one graph, where device and network can."""
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
class _Slot:
    """One batch on its way."""

    index: int
    stream: Stream
    host: dict[str, HostMemory]
    device: dict[str, DeviceMemory]
    views: dict[str, NDArray[Any]]
    """The host memory as arrays of the tensors' shapes."""
    done: Event
    marks: list[Event]
    """Start, copied in, computed; only if traced."""
    executor: Executor
    compute: Callable[[], None]
    graph: Graph | None = None
    flight: _Flight | None = None
    """What is in it; None if it is free."""


@dataclass(kw_only=True)
class _Flight:
    """One use of a slot."""

    slot: _Slot
    frames: int = 0
    launched: bool = False
    tables: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: dict[str, NDArray[Any]] | None = None
    """Of all frames, once the first was asked for; from then on the slot is free."""


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
        self._device, self._layouts, self._options = device, layouts, options
        self._inputs = [each for each in layouts if each.is_input]
        self._outputs = [each for each in layouts if not each.is_input]
        self._tell = on_note or (lambda _: None)
        self._times: list[StageTimes] = []
        self._next = self._uncollected = 0
        with ExitStack() as stack, device.current():
            self._streams = [self._owned(stack, device.stream()) for _ in range(options.streams)]
            try:
                executors = [self._owned(stack, open_executor(each)) for each in self._streams]
                self._slots = [
                    self._slot(stack, index, executors[index % options.streams])
                    for index in range(options.slots)
                ]
                for slot in self._slots:
                    self._warm_up(stack, slot)
                if options.trace:
                    self._origin: Event = self._owned(stack, device.event(timed=True))
                    self._origin.record(self._streams[0])
                    self._origin.wait()
            except BaseException:
                # Work that is under way must end before anything it uses is given back.
                self._drain()
                raise
            self._stack = stack.pop_all()

    @property
    def capacity(self) -> int:
        """How many frames may be submitted before one must be collected."""
        return self._options.slots * self._options.batch

    @property
    def uncollected(self) -> int:
        """How many frames were submitted and not collected."""
        return self._uncollected

    @property
    def uses_graphs(self) -> bool:
        """Whether batches are launched as recorded graphs."""
        return all(slot.graph is not None for slot in self._slots)

    def submit(self, inputs: Arrays) -> Pending:
        """Starts one frame; returns before it is computed.

        Args:
            inputs: every input of the network, images with one frame.

        Returns:
            A function that waits for the frame. Frames of an incomplete batch are computed when
            one of them is asked for.

        Raises:
            UsageError: if an input is missing or has another shape.
            BackendError: if :attr:`capacity` frames are uncollected.
        """
        self._check(inputs)
        with self._device.current():
            flight = self._boarding(inputs)
            place = flight.frames
            views = flight.slot.views
            for layout in self._inputs:
                if layout.is_image:
                    views[layout.name][place] = inputs[layout.name][0]
                elif place == 0:
                    views[layout.name][...] = inputs[layout.name]
                    flight.tables[layout.name] = np.array(inputs[layout.name])
            flight.frames += 1
            self._uncollected += 1
            if flight.frames == self._options.batch:
                self._launch(flight)
        return lambda: self._collect(flight, place)

    def _boarding(self, inputs: Arrays) -> _Flight:
        """The batch that the next frame joins."""
        flight = self._slots[self._next].flight
        if flight is not None and not flight.launched and not _same_tables(flight, inputs):
            self._launch(flight)
            flight = self._slots[self._next].flight
        if flight is None:
            slot = self._slots[self._next]
            flight = slot.flight = _Flight(slot=slot)
        elif flight.launched:
            raise BackendError(
                f"{self._uncollected} frames are in flight and none was collected; "
                "collect one before submitting more."
            )
        return flight

    def times(self) -> list[StageTimes]:
        """When the parts of each batch ran, in the order in which they were collected."""
        return self._times

    def close(self) -> None:
        """Waits for work under way and releases everything; harmless when repeated."""
        with self._device.current():
            self._drain()
            self._stack.close()

    def __enter__(self) -> FrameRing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _owned(stack: ExitStack, resource: Any) -> Any:
        stack.callback(resource.close)
        return resource

    def _slot(self, stack: ExitStack, index: int, executor: Executor) -> _Slot:
        host, device, views = {}, {}, {}
        for layout in self._layouts:
            # Write-combined memory is for what the host writes once and never reads.
            memory = self._device.host_memory(layout.nbytes, write_combined=layout.is_input)
            host[layout.name] = self._owned(stack, memory)
            device[layout.name] = self._owned(stack, self._device.device_memory(layout.nbytes))
            views[layout.name] = memory.array.view(layout.dtype).reshape(layout.shape)
            views[layout.name][...] = 0
        return _Slot(
            index=index,
            stream=self._streams[index % len(self._streams)],
            host=host,
            device=device,
            views=views,
            done=self._owned(stack, self._device.event(timed=self._options.trace)),
            marks=[
                self._owned(stack, self._device.event(timed=True))
                for _ in range(3 if self._options.trace else 0)
            ],
            executor=executor,
            compute=executor.bind({name: memory.address for name, memory in device.items()}),
        )

    def _warm_up(self, stack: ExitStack, slot: _Slot) -> None:
        """Computes once, as kernels are loaded on first use, and then records the graph."""
        self._enqueue(slot)
        slot.stream.synchronize()
        wanted = self._options.graph and self._device.captures and not self._options.trace
        if wanted and slot.executor.capturable:
            graph = self._device.capture(slot.stream, lambda: self._enqueue(slot))
            slot.graph = self._owned(stack, graph)

    def _check(self, inputs: Arrays) -> None:
        for layout in self._inputs:
            wanted = (1, *layout.shape[1:]) if layout.is_image else layout.shape
            found = inputs.get(layout.name)
            if found is None or found.shape != wanted or found.dtype != layout.dtype:
                shown = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise UsageError(
                    f"input {layout.name} is {shown}; expected {layout.dtype} {list(wanted)}."
                )

    def _enqueue(self, slot: _Slot) -> None:
        """Gives a batch to its stream."""
        device, stream = self._device, slot.stream
        self._mark(slot, 0)
        for layout in self._inputs:
            name = layout.name
            device.copy_in(slot.device[name].address, slot.host[name].array, stream)
        self._mark(slot, 1)
        device.submit(stream, slot.compute)
        self._mark(slot, 2)
        for layout in self._outputs:
            name = layout.name
            device.copy_out(slot.host[name].array, slot.device[name].address, stream)

    def _mark(self, slot: _Slot, which: int) -> None:
        if self._options.trace:
            slot.marks[which].record(slot.stream)

    def _launch(self, flight: _Flight) -> None:
        slot = flight.slot
        if slot.graph is not None:
            slot.graph.launch(slot.stream)
        else:
            self._enqueue(slot)
        slot.done.record(slot.stream)
        flight.launched = True
        self._next = (slot.index + 1) % len(self._slots)

    def _collect(self, flight: _Flight, place: int) -> dict[str, NDArray[Any]]:
        if flight.outputs is None:
            flight.outputs = self._landed(flight)
        self._uncollected -= 1
        return {name: array[place : place + 1] for name, array in flight.outputs.items()}

    def _landed(self, flight: _Flight) -> dict[str, NDArray[Any]]:
        """Waits for a batch, copies it, and frees its slot."""
        slot = flight.slot
        with self._device.current():
            if not flight.launched:
                self._launch(flight)
            slot.done.wait()
            if self._options.trace:
                self._times.append(self._stage_times(slot))
        outputs = {
            layout.name: np.array(slot.views[layout.name][: flight.frames])
            for layout in self._outputs
        }
        slot.flight = None
        return outputs

    def _stage_times(self, slot: _Slot) -> StageTimes:
        start, copied, computed, end = (
            event.milliseconds_since(self._origin) for event in (*slot.marks, slot.done)
        )
        return StageTimes(
            stream=slot.index % self._options.streams,
            copy_in=(start, copied),
            compute=(copied, computed),
            copy_out=(computed, end),
        )

    def _drain(self) -> None:
        """Waits for all streams, whatever they failed with."""
        for stream in self._streams:
            with suppress(BackendError):
                stream.synchronize()


def _same_tables(flight: _Flight, inputs: Arrays) -> bool:
    return all(np.array_equal(table, inputs[name]) for name, table in flight.tables.items())
