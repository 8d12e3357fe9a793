"""Page-locked memory for results, which the caller may keep without a copy."""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, DeviceMemoryError
from srtrt.runtime.cuda.device import Device, Resource

Bytes = NDArray[np.uint8]

_PAGE = 4096
_LENT = 6
_LENT_BYTES = 256 * 2**20
"""Most results that callers hold without a copy: a queue before the encoder, and what it reads."""


class ResultMemory:
    """Memory for the results of single frames, each of one size.

    The device writes a result into memory of the pool. As long as enough remains for the frames
    in flight, the caller gets that memory itself, and it comes back when the last array over it
    is gone, in whatever thread; else the caller gets a copy. It never waits.

    The memory is numpy's own, and only locked for the device; so what a caller still holds when
    the pool is closed stays as it is.
    """

    def __init__(self, device: Device, nbytes: int, in_flight: int) -> None:
        """Allocates everything.

        Args:
            device: what writes the results; must be current.
            nbytes: size of one result.
            in_flight: how many are written before one must be handed over.

        Raises:
            DeviceMemoryError: if memory does not suffice.
        """
        self._device, self._nbytes, self._in_flight = device, nbytes, in_flight
        self._locks: list[Resource] = []
        self._free: deque[Bytes] = deque()
        self._taken = 0
        self._lends = device.locks_memory
        try:
            for _ in range(in_flight):
                self._free.append(self._allocate())
            with suppress(DeviceMemoryError):  # there is enough, with copies
                for _ in range(min(_LENT, _LENT_BYTES // nbytes) if self._lends else 0):
                    self._free.append(self._allocate())
        except BaseException:
            self.close()
            raise

    def _allocate(self) -> Bytes:
        # Whole pages, so that no other memory is locked with it.
        size = -(-self._nbytes // _PAGE) * _PAGE
        if self._lends:
            whole = np.empty(size + _PAGE, np.uint8)
            start = -whole.ctypes.data % _PAGE
            pages = whole[start : start + size]
            try:
                self._locks.append(self._device.lock_memory(pages))
                return pages[: self._nbytes]
            except DeviceMemoryError:
                raise
            except BackendError:  # some systems lock only memory that is CUDA's
                self._lends = False
        memory = self._device.host_memory(self._nbytes)
        self._locks.append(memory)
        return memory.array

    def take(self) -> Bytes:
        """Memory for a result, ``[nbytes]``; to be given to :meth:`hand_over` when it is there."""
        self._taken += 1
        return self._free.popleft()

    def give_back(self, memory: Bytes) -> None:
        """Takes back memory whose result nobody wants."""
        self._taken -= 1
        self._free.append(memory)

    def hand_over(self, memory: Bytes) -> Bytes:
        """The result as an array that is the caller's: ``memory`` itself, or a copy of it."""
        if not self._lends or len(self._free) + self._taken - 1 < self._in_flight:
            result = memory.copy()
            self.give_back(memory)
            return result
        self._taken -= 1
        lease = _Lease(memory)
        weakref.finalize(lease, self._free.append, memory).atexit = False
        return np.asarray(lease)

    def close(self) -> None:
        """Unlocks everything; results that were handed over stay as they are."""
        self._free.clear()
        locks, self._locks = self._locks, []
        for each in locks:
            each.close()


class _Lease:
    """Owner of an array over memory of the pool; it lives as long as any view of the array."""

    def __init__(self, memory: Bytes) -> None:
        self._memory = memory

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._memory.__array_interface__
