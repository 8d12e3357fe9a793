"""One batch of a ring: its memory, and how it is given to its stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from srtrt.runtime.cuda.device import Device, Event, Graph, Resource, Stream
from srtrt.runtime.layouts import TensorLayout

Arrays = Mapping[str, NDArray[Any]]
Bytes = NDArray[np.uint8]
T = TypeVar("T")


class Executor(Protocol):
    """A network that computes on one stream, between memory whose addresses it is told."""

    @property
    def capturable(self) -> bool:
        """Whether its work can be recorded; asked after the first computation."""

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        """Prepares computing between these addresses of all tensors; called once for each slot.

        Returns:
            A function that gives one computation to the stream, and does not wait for it.
        """

    def close(self) -> None:
        """Releases it; harmless when repeated."""


class Slot:
    """Room for one batch: page-locked memory for what goes in, and memory of the device.

    Attributes:
        index: its number in the ring.
        stream: what computes it.
        graph: copying images in and computing, recorded; None where it is launched piece by piece.
    """

    def __init__(
        self,
        device: Device,
        layouts: Sequence[TensorLayout],
        stream: Stream,
        index: int,
        *,
        trace: bool,
    ) -> None:
        """Allocates it.

        Args:
            device: where it computes; must be current.
            layouts: every tensor of the batch.
            stream: what computes it.
            index: its number.
            trace: whether events mark when each part runs.

        Raises:
            DeviceMemoryError: if memory does not suffice; nothing is left allocated.
        """
        self.index, self.stream = index, stream
        self.graph: Graph | None = None
        self._device = device
        self._images = [each for each in layouts if each.is_input and each.is_image]
        self._outputs = [each for each in layouts if not each.is_input]
        self._host: dict[str, Bytes] = {}
        self._views: dict[str, NDArray[Any]] = {}
        self._on_device: dict[str, int] = {}
        self._tables = {each.name: b"" for each in layouts if each.is_input and not each.is_image}
        """What the device has of each table."""
        self._compute: Callable[[], None] | None = None
        with ExitStack() as owned:
            for each in layouts:
                self._allocate(owned, each)
            self._done: Event = _owned(owned, device.event(timed=trace))
            marks = 3 if trace else 0
            self._marks = [_owned(owned, device.event(timed=True)) for _ in range(marks)]
            self._owned = owned.pop_all()

    def _allocate(self, owned: ExitStack, layout: TensorLayout) -> None:
        name = layout.name
        self._on_device[name] = _owned(owned, self._device.device_memory(layout.nbytes)).address
        if layout.is_input:
            # Write-combined memory is for what the host writes once and never reads.
            memory = self._device.host_memory(layout.nbytes, write_combined=True)
            self._host[name] = _owned(owned, memory).array
            self._views[name] = self._host[name].view(layout.dtype).reshape(layout.shape)
            self._views[name][...] = 0

    def bind(self, executor: Executor) -> None:
        """Prepares computing by the network of its stream."""
        self._compute = _without_trace(lambda: executor.bind(self._on_device))

    def put(self, inputs: Arrays, place: int) -> None:
        """Copies the images of one frame to where the device takes them from."""
        for each in self._images:
            self._views[each.name][place] = inputs[each.name][0]

    def start(self, tables: Mapping[str, bytes], results: Sequence[Bytes]) -> None:
        """Gives the batch to the stream.

        Args:
            tables: the inputs that are not images, as bytes; those which the device has are not
                copied again.
            results: page-locked memory for the outputs of each frame, one after the other.
        """
        self._mark(0)
        for name, values in tables.items():
            if self._tables[name] != values:
                self._host[name][...] = np.frombuffer(values, np.uint8)
                self._copy_in(name)
                self._tables[name] = values
        if self.graph is not None:
            self.graph.launch(self.stream)
        else:
            self._work()
        self._mark(2)
        for place, memory in enumerate(results):
            for name, start, nbytes in self._parts():
                source = self._on_device[name] + place * nbytes
                self._device.copy_out(memory[start : start + nbytes], source, self.stream)
        self._done.record(self.stream)

    def record(self) -> None:
        """Records copying images in and computing; raises BackendError if that is refused."""
        self.graph = self._device.capture(self.stream, self._work)

    def forget_graph(self) -> None:
        """Goes back to launching piece by piece."""
        graph, self.graph = self.graph, None
        if graph is not None:
            graph.close()

    def wait(self) -> None:
        """Waits until the batch that was started is done."""
        self._done.wait()

    def arrays(self, result: Bytes) -> dict[str, NDArray[Any]]:
        """The outputs of one frame as views of their memory, each with a batch of one."""
        shapes = {each.name: (each.dtype, (1, *each.shape[1:])) for each in self._outputs}
        found = {}
        for name, start, nbytes in self._parts():
            dtype, shape = shapes[name]
            found[name] = result[start : start + nbytes].view(dtype).reshape(shape)
        return found

    def times(self, origin: Event) -> tuple[float, float, float, float]:
        """When copying in began, computing, copying out, and when all was done, in ms."""
        start, copied, computed, end = (
            event.milliseconds_since(origin) for event in (*self._marks, self._done)
        )
        return start, copied, computed, end

    def unbind(self) -> None:
        """Lets go of the network, which is released before the memory it computes on."""
        self.forget_graph()
        self._compute = None

    def close(self) -> None:
        """Gives its memory back; harmless when repeated."""
        self._host.clear()
        self._views.clear()
        self._owned.close()

    def _work(self) -> None:
        """What can be recorded."""
        for each in self._images:
            self._copy_in(each.name)
        self._mark(1)
        compute = self._compute
        assert compute is not None
        _without_trace(lambda: self._device.submit(self.stream, compute))

    def _copy_in(self, name: str) -> None:
        self._device.copy_in(self._on_device[name], self._host[name], self.stream)

    def _mark(self, which: int) -> None:
        if self._marks:
            self._marks[which].record(self.stream)

    def _parts(self) -> list[tuple[str, int, int]]:
        """Name, start and bytes of each output in the memory of a frame."""
        return result_parts(self._outputs)


def result_parts(outputs: Sequence[TensorLayout]) -> list[tuple[str, int, int]]:
    """Where the outputs of one frame lie, one after the other: name, first byte, bytes."""
    found, start = [], 0
    for each in outputs:
        nbytes = each.nbytes // each.shape[0]
        found.append((each.name, start, nbytes))
        start += nbytes
    return found


def _without_trace(call: Callable[[], T]) -> T:
    """Calls a network, whose errors must not keep it alive longer than its stream.

    A traceback refers to functions, and they to what they were made with, such as a session.
    """
    try:
        return call()
    except Exception as error:
        seen: BaseException | None = error
        while seen is not None:
            seen.__traceback__ = None
            seen = seen.__cause__ or seen.__context__
        raise error


def _owned(stack: ExitStack, resource: Any) -> Any:
    closing: Resource = resource
    stack.callback(closing.close)
    return resource
