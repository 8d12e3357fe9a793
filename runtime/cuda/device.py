"""What the runtime needs of a device, and nothing more."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

_LOST = re.compile(
    r"illegal (memory access|instruction)|misaligned address|unspecified launch failure"
    r"|invalid program counter|hardware stack error|device-side assert|uncorrectable ecc"
    r"|launch timed out|operation not supported on global/shared address space",
    re.IGNORECASE,
)
"""CUDA's words for errors that every later call of the process gives again."""


def is_lost(message: str) -> bool:
    """Whether an error is one after which this process cannot use the GPU any more."""
    return bool(_LOST.search(message))


class Resource(Protocol):
    """Something that must be given back."""

    def close(self) -> None:
        """Gives it back; harmless when repeated."""


class Stream(Resource, Protocol):
    """Work that the device does in order, while the host goes on."""

    handle: int
    """The raw ``cudaStream_t``."""

    def synchronize(self) -> None:
        """Waits until all of its work is done. Raises BackendError if some of it failed."""


class Event(Resource, Protocol):
    """A mark in a stream."""

    def record(self, stream: Stream) -> None:
        """Marks what the stream has been given so far."""

    def wait(self) -> None:
        """Waits until the device reaches the last mark. Raises BackendError if work failed."""

    def milliseconds_since(self, earlier: Event) -> float:
        """Time between two marks that were reached; both events must be timed."""


class DeviceMemory(Resource, Protocol):
    """Memory of the device, aligned to 256 bytes."""

    address: int
    nbytes: int


class HostMemory(Resource, Protocol):
    """Page-locked memory of the host, which the device copies without a detour."""

    array: NDArray[np.uint8]
    """All of it, ``[nbytes]``; must not be used after :meth:`close`."""


class Graph(Resource, Protocol):
    """Work that was recorded once and is given to a stream as a whole."""

    def launch(self, stream: Stream) -> None:
        """Gives it to a stream."""


class Device(ABC):
    """One device, opened.

    Its methods and those of what it makes may be called from any thread inside :meth:`current`.
    They raise DeviceMemoryError if memory ran out and BackendError if the device fails otherwise.
    """

    label: ClassVar[str]
    """Name of the package behind it."""
    captures: ClassVar[bool]
    """Whether :meth:`capture` works."""
    locks_memory: ClassVar[bool]
    """Whether :meth:`lock_memory` works."""

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Within it, this thread talks to this device."""

    @abstractmethod
    def stream(self) -> Stream:
        """A new stream, independent of all others."""

    @abstractmethod
    def event(self, *, timed: bool = False) -> Event:
        """A new event."""

    @abstractmethod
    def device_memory(self, nbytes: int) -> DeviceMemory:
        """Allocates on the device."""

    @abstractmethod
    def host_memory(self, nbytes: int, *, write_combined: bool = False) -> HostMemory:
        """Allocates page-locked memory on the host.

        Args:
            nbytes: size.
            write_combined: faster for the device to read, very slow for the host to read.
        """

    @abstractmethod
    def lock_memory(self, array: NDArray[np.uint8]) -> Resource:
        """Page-locks memory that is not CUDA's, until what it returns is closed.

        Args:
            array: whole pages, which must stay where they are that long.
        """

    @abstractmethod
    def copy_in(self, target: int, source: NDArray[np.uint8], stream: Stream) -> None:
        """Gives a stream the copy of page-locked host memory to an address on the device."""

    @abstractmethod
    def copy_out(self, target: NDArray[np.uint8], source: int, stream: Stream) -> None:
        """Gives a stream the copy from an address on the device to page-locked host memory."""

    @abstractmethod
    def submit(self, stream: Stream, work: Callable[[], None]) -> None:
        """Calls ``work``, which gives kernels to the stream by its handle."""

    @abstractmethod
    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Records what ``work`` gives to the stream, through this device or by the handle.

        Nothing of it is done yet.
        """

    @abstractmethod
    def close(self) -> None:
        """Leaves the device; what it made must be closed before. Harmless when repeated."""

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
