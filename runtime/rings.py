"""A ring for whatever size of frame comes next."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Protocol, runtime_checkable

import numpy as np

from srtrt.errors import BackendError
from srtrt.runtime.cuda import installed_binding, open_device
from srtrt.runtime.cuda.device import Device, Stream
from srtrt.runtime.cuda.plain import PlainDevice
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import form_layouts, input_size
from srtrt.runtime.ring import (
    Arrays,
    Executor,
    FrameRing,
    Pending,
    RingOptions,
    StageTimes,
    in_order,
)
from srtrt.spec import Form


class Network(Protocol):
    """A network made ready for one size of batch."""

    def executor(self, stream: Stream) -> Executor:
        """Opens it for a stream."""

    def close(self) -> None:
        """Releases it after its executors; harmless when repeated."""


@runtime_checkable
class ResizableNetwork(Network, Protocol):
    """A network that may serve further sizes of batch without being opened anew."""

    def resize(self, size: InputSize) -> bool:
        """Makes it ready for another size, once its executors are closed; False if it cannot."""


class FrameRings:
    """Holds one :class:`FrameRing`, and replaces it when frames of another size come.

    Closes the device with itself.
    """

    def __init__(
        self,
        device: Device,
        form: Form,
        open_network: Callable[[InputSize], Network],
        options_for: Callable[[InputSize], RingOptions],
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            device: where frames are computed.
            form: their form.
            open_network: makes the network ready for frames of a size, ``batch`` included.
            options_for: how to compute frames of a size; its ``batch`` is not looked at.
            on_note: told in a sentence if frames are computed otherwise than asked for, once.
        """
        self._device, self._form = device, form
        self._open_network, self._options_for = open_network, options_for
        self._on_note, self._told = on_note, set[str]()
        self._closed = False
        self._size: InputSize | None = None
        self._ring: FrameRing | None = None
        self._network: Network | None = None

    @property
    def capacity(self) -> int:
        """How many frames may be in flight; 1 before the first."""
        return self._ring.capacity if self._ring else 1

    def times(self) -> list[StageTimes]:
        """When the parts of each batch ran; empty unless its ring traces."""
        return self._ring.times() if self._ring else []

    def prepare(self, width: int, height: int) -> FrameRing:
        """The ring for frames of a size in LR pixels, opened if there is none.

        Raises:
            BackendError: if frames of another size are in flight, the network fails, or all was
                closed.
            DeviceMemoryError: if memory does not suffice.
        """
        if self._closed:
            raise BackendError("the device was closed; open it again.")
        size = InputSize(width=width, height=height)
        if self._ring is not None and size == self._size:
            return self._ring
        if self._ring is not None and self._ring.uncollected:
            raise BackendError(
                f"{self._ring.uncollected} frames of {self._size} are in flight; "
                f"collect them before frames of {size}."
            )
        options = self._options_for(size)
        batch = InputSize(width=width, height=height, batch=options.batch)
        self._release(but_for=batch)
        layouts = form_layouts(self._form, batch)
        try:
            with self._device.current():
                self._network = self._network or self._open_network(batch)
                ring = self._ring = FrameRing(
                    self._device, layouts, self._network.executor, options, self._tell
                )
        except BaseException:
            # Memory that ran out must be free before the next try.
            with suppress(Exception):
                self._release()
            raise
        self._size = size
        return ring

    def submit(self, inputs: Arrays) -> Pending:
        """Starts the frames of a batch; several are computed before it returns.

        Args:
            inputs: every input of the form.

        Returns:
            A function that waits for the outputs.
        """
        size = input_size(inputs)
        ring = self.prepare(size.width, size.height)
        if size.batch == 1:
            return ring.submit(inputs)
        images = [name for name, array in inputs.items() if array.dtype == np.uint8]
        singles = (
            {**inputs, **{name: inputs[name][index : index + 1] for name in images}}
            for index in range(size.batch)
        )
        results = list(in_order(ring.submit, lambda: ring.capacity, singles))
        whole = {name: np.concatenate([r[name] for r in results]) for name in results[0]}
        return lambda: whole

    def close(self) -> None:
        """Releases everything; harmless when repeated."""
        self._closed = True
        try:
            self._release()
        finally:
            self._device.close()

    def _tell(self, note: str) -> None:
        """Tells what a ring says, but nothing twice as sizes change."""
        if self._on_note is not None and note not in self._told:
            self._on_note(note)
        self._told.add(note)

    def _release(self, but_for: InputSize | None = None) -> None:
        """Closes ring and network, but a network that can serve a further size."""
        ring, self._ring = self._ring, None
        network, self._network = self._network, None
        try:
            if ring is not None:
                ring.close()
            if but_for and isinstance(network, ResizableNetwork) and network.resize(but_for):
                self._network, network = network, None
        finally:
            if network is not None:
                with ExitStack() as context:
                    with suppress(BackendError):  # a device that failed refuses
                        context.enter_context(self._device.current())
                    network.close()


def rings_for(
    device: str,
    form: Form,
    open_network: Callable[[InputSize], Network],
    ring: RingOptions | None,
    on_note: Callable[[str], None] | None = None,
) -> FrameRings | None:
    """The rings of a backend that can also compute one frame after the other.

    Args:
        device: ``cpu``, where threads stand for streams, or ``cuda:N``.
        form: form of the frames.
        open_network: see :class:`FrameRings`.
        ring: how frames are computed; None is the defaults on a GPU where a package to call CUDA
            is installed, and no rings elsewhere.
        on_note: see :class:`FrameRings`.

    Raises:
        BackendError: if the GPU cannot be used.
        MissingPackageError: if no package to call CUDA is installed.
    """
    if ring is None and (device == "cpu" or installed_binding() is None):
        return None
    chosen = ring or RingOptions()
    opened = PlainDevice() if device == "cpu" else open_device(device)
    return FrameRings(opened, form, open_network, lambda _size: chosen, on_note)
