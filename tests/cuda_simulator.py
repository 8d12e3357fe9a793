"""A GPU in host memory that is as unkind as a real one may be.

What is given to a stream waits there until a synchronisation needs it; which stream goes on, and
how far, is drawn from a seed. Copies read and write memory when they are done, not when they are
given. Memory that was freed stays mapped, filled with a pattern, so that whoever still uses it is
found out instead of crashing the tests. What CUDA calls undefined is written down in
:attr:`Gpu.violations`.

Stand-ins of engines give their work with :meth:`Gpu.enqueue`; ``tests/cuda_standin.py`` puts the
names of cuda-python and PyCUDA in front of it.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Range = tuple[int, int]

_ALIGNMENT = 256
_FREED, _GUARD = 0xA5, 0x5A
UNSUPPORTED = "cudaErrorStreamCaptureUnsupported"
INVALIDATED = "cudaErrorStreamCaptureInvalidated"
BAD_HANDLE = "cudaErrorInvalidResourceHandle"
NO_MEMORY = "cudaErrorMemoryAllocation"


class RefusedError(Exception):
    """A call that CUDA answers with an error, by its name in the runtime."""


class CudaFaultError(Exception):
    """Raised by work on the device; the context is dead afterwards, with the error named."""


@dataclass(eq=False)
class _Op:
    """Something a stream has still to do."""

    act: Callable[[], None]
    uses: Sequence[Range] = ()


@dataclass
class _Capture:
    mode: str
    thread: int
    ops: list[_Op] = field(default_factory=list)
    invalid: bool = False


@dataclass
class _Stream:
    queue: deque[_Op] = field(default_factory=deque)
    capture: _Capture | None = None
    holders: list[str] = field(default_factory=list)


@dataclass
class _Mark:
    done: bool = False
    time: float = 0.0


@dataclass
class _Event:
    timed: bool
    mark: _Mark | None = None
    captured: bool = False


@dataclass
class _Memory:
    kind: str
    array: Bytes
    whole: Bytes
    """With guards on both sides."""


class Gpu:
    """One simulated GPU.

    Attributes:
        violations: what a real GPU would have answered with undefined behaviour, in sentences.
        counts: how often and how many bytes: ``copy in``, ``bytes in``, ``launch`` and so on.
        memory_left: bytes that may still be allocated, on either side.
        allocations_left: how many more allocations succeed; None is all.
        refuse_capture: the stage at which captures are refused: ``begin``, ``work``, ``end`` or
            ``instantiate``; None for none.
        refuse_register: whether only memory of CUDA's own can be page-locked.
        captures_left: how many captures still succeed before :attr:`refuse_capture` counts.
    """

    def __init__(self, seed: int = 0) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self.memory_left = 1 << 40
        self.allocations_left: int | None = None
        self.refuse_capture: str | None = None
        self.captures_left = 0
        self.refuse_register = False
        self.poisoned: str | None = None
        self._random = random.Random(seed)
        # Some devices are slow, and some have done everything before anyone looks.
        self._eagerness = self._random.choice([0.0, 0.0, 0.2, 0.7, 0.95])
        self._lock = threading.RLock()
        self._alive: dict[int, Any] = {}
        self._memories: dict[int, _Memory] = {}
        self._freed: list[_Memory] = []
        self._handles = itertools.count(0x7000, 16)
        self._clock = itertools.count(1)

    # What tests and stand-ins of engines use.

    def enqueue(self, stream: int, work: Callable[[], None], uses: Sequence[Range] = ()) -> None:
        """Gives work to a stream, as a kernel launch does; recorded while it is captured.

        Args:
            stream: its handle.
            work: called when the device comes to it, in whatever thread waits.
            uses: address and size of the memory that it needs, so that freeing it early shows.
        """
        with self._call():
            self.counts["kernel"] += 1
            self._give(stream, _Op(work, uses))

    def view(self, address: int, nbytes: int) -> Bytes:
        """The memory of the device or host at an address, for work that is being done."""
        memory = self._memory_at(address, nbytes)
        if memory is None:
            self.violate(f"{nbytes} bytes at {address:#x} are used, which are not allocated")
            return np.zeros(nbytes, np.uint8)
        start = address - memory.array.ctypes.data
        return memory.array[start : start + nbytes]

    def is_capturing(self, stream: int) -> bool:
        """Whether a stream is being captured."""
        return self._live(stream, _Stream).capture is not None

    def poison(self, error: str = "cudaErrorIllegalAddress") -> None:
        """Makes this and every later call fail, as after an error of a kernel."""
        with self._lock:
            self.poisoned = self.poisoned or error
            for stream in self._streams():
                stream.queue.clear()

    def hold(self, stream: int, what: str) -> Callable[[], None]:
        """Notes that something needs a stream to exist; returns the function that ends it."""
        holders = self._live(stream, _Stream).holders
        holders.append(what)
        return lambda: holders.remove(what)

    def violate(self, sentence: str) -> None:
        """Writes down what a real GPU would not forgive."""
        self.violations.append(sentence)

    def leaks(self) -> list[str]:
        """What was made and not given back."""
        kinds = [type(each).__name__.strip("_").lower() for each in self._alive.values()]
        return sorted(kinds + [each.kind for each in self._memories.values()])

    def check(self) -> None:
        """Raises AssertionError for violations, leaks and writes to what was freed or beyond."""
        for each in self._freed:
            if (each.array != _FREED).any():
                self.violate(f"{each.kind} memory was written after it was freed")
        for each in (*self._freed, *self._memories.values()):
            self._check_guards(each)
        assert not self.violations, self.violations
        assert not self.leaks(), self.leaks()

    # What the packages' names are put in front of.

    def allocate(self, kind: str, nbytes: int) -> int:
        with self._call():
            self._forbidden_in_capture()
            if nbytes <= 0:
                raise RefusedError("cudaErrorInvalidValue")
            self._may_allocate(nbytes)
            whole = np.full(nbytes + 3 * _ALIGNMENT, _GUARD, np.uint8)
            start = _ALIGNMENT + -whole.ctypes.data % _ALIGNMENT
            array = whole[start : start + nbytes]
            array[...] = np.frombuffer(self._random.randbytes(nbytes), np.uint8)
            self._memories[array.ctypes.data] = _Memory(kind, array, whole)
            return int(array.ctypes.data)

    def free(self, kind: str, address: int) -> None:
        with self._closing():
            self._forbidden_in_capture()
            memory = self._memories.get(address)
            if memory is None or memory.kind != kind:
                self.violate(f"{kind} memory at {address:#x} is freed, which is not allocated")
                raise RefusedError("cudaErrorInvalidValue")
            self._unused((address, memory.array.nbytes), "freed")
            del self._memories[address]
            self.memory_left += memory.array.nbytes
            memory.array[...] = _FREED
            self._freed.append(memory)

    def register(self, address: int, nbytes: int) -> None:
        """Page-locks memory that is the caller's."""
        with self._call():
            self._forbidden_in_capture()
            if self.refuse_register:
                raise RefusedError("cudaErrorNotSupported")
            self._may_allocate(nbytes)
            if self._overlapping(address, nbytes):
                raise RefusedError("cudaErrorHostMemoryAlreadyRegistered")
            buffer = (ctypes.c_uint8 * nbytes).from_address(address)
            array = np.ctypeslib.as_array(buffer)
            self._memories[address] = _Memory("registered", array, array)

    def unregister(self, address: int) -> None:
        with self._closing():
            self._forbidden_in_capture()
            memory = self._memories.get(address)
            if memory is None or memory.kind != "registered":
                self.violate(f"memory at {address:#x} is unregistered, which is not registered")
                raise RefusedError("cudaErrorHostMemoryNotRegistered")
            self._unused((address, memory.array.nbytes), "unregistered")
            del self._memories[address]
            self.memory_left += memory.array.nbytes

    def check_alive(self) -> None:
        """What every call does first."""
        with self._call():
            pass

    def new_stream(self) -> int:
        with self._call():
            self._may_allocate(0)
            return self._new(_Stream())

    def end_stream(self, handle: int) -> None:
        with self._closing():
            stream = self._live(handle, _Stream)
            if stream.queue:
                self.violate("a stream is destroyed before its work is done")
            if stream.capture is not None:
                self.violate("a stream is destroyed while it is captured")
            if stream.holders:
                self.violate(f"a stream is destroyed before {', '.join(stream.holders)}")
            del self._alive[handle]

    def synchronize(self, handle: int) -> None:
        with self._call():
            stream = self._live(handle, _Stream)
            self._forbidden_in_capture(stream)
            last = stream.queue[-1] if stream.queue else None
            self._run_until(stream, lambda: last is None or last not in stream.queue)

    def new_event(self, timed: bool) -> int:
        with self._call():
            self._may_allocate(0)
            return self._new(_Event(timed))

    def end_event(self, handle: int) -> None:
        with self._closing():
            self._live(handle, _Event)
            del self._alive[handle]

    def record(self, event: int, handle: int) -> None:
        with self._call():
            marked, mark = self._live(event, _Event), _Mark()
            marked.captured = self._live(handle, _Stream).capture is not None

            def reach() -> None:
                mark.done, mark.time = True, float(next(self._clock))

            self._give(handle, _Op(reach))
            marked.mark = mark

    def wait(self, event: int) -> None:
        with self._call():
            marked = self._live(event, _Event)
            self._forbidden_in_capture()
            if marked.captured:
                raise RefusedError("cudaErrorCapturedEvent")
            mark = marked.mark
            self._run_until(None, lambda: mark is None or mark.done)

    def elapsed(self, start: int, end: int) -> float:
        with self._call():
            marks = []
            for handle in (start, end):
                event = self._live(handle, _Event)
                if not event.timed or event.mark is None:
                    raise RefusedError(BAD_HANDLE)
                if not event.mark.done:
                    raise RefusedError("cudaErrorNotReady")
                marks.append(event.mark.time)
            return marks[1] - marks[0]

    def copy(self, target: int, source: int, nbytes: int, inward: bool, stream: int) -> None:
        with self._call():
            for address, kinds in ((source, inward), (target, not inward)):
                memory = self._memory_at(address, nbytes)
                wanted = ("host", "registered") if kinds else ("device",)
                if memory is None or memory.kind not in wanted:
                    self.violate(f"a copy at {address:#x}, which is not {wanted[0]} memory")
                    raise RefusedError("cudaErrorInvalidValue")
            way = "in" if inward else "out"

            def act() -> None:
                self.counts[f"copy {way}"] += 1
                self.counts[f"bytes {way}"] += nbytes
                self.view(target, nbytes)[...] = self.view(source, nbytes)

            self._give(stream, _Op(act, ((target, nbytes), (source, nbytes))))

    def begin_capture(self, handle: int, mode: str) -> None:
        with self._call():
            stream = self._live(handle, _Stream)
            if stream.capture is not None:
                raise RefusedError("cudaErrorIllegalState")
            self._refused_at("begin")
            stream.capture = _Capture(mode, threading.get_ident())

    def end_capture(self, handle: int) -> int:
        with self._call():
            stream = self._live(handle, _Stream)
            capture, stream.capture = stream.capture, None
            if capture is None:
                raise RefusedError("cudaErrorIllegalState")
            if capture.mode != "relaxed" and capture.thread != threading.get_ident():
                raise RefusedError("cudaErrorStreamCaptureWrongThread")
            if capture.invalid:
                raise RefusedError(INVALIDATED)
            self._refused_at("end")
            return self._new(Graph(capture.ops))

    def instantiate(self, graph: int) -> int:
        with self._call():
            recorded = self._live(graph, Graph)
            self._refused_at("instantiate")
            self._may_allocate(0)
            self.captures_left -= 1
            return self._new(Executable(list(recorded.ops)))

    def end_graph(self, handle: int, kind: type) -> None:
        with self._closing():
            self._live(handle, kind)
            del self._alive[handle]

    def launch(self, executable: int, stream: int) -> None:
        with self._call():
            self.counts["launch"] += 1
            for op in self._live(executable, Executable).ops:
                self._give(stream, _Op(op.act, op.uses))

    # How it works.

    def _streams(self) -> list[_Stream]:
        return [each for each in self._alive.values() if isinstance(each, _Stream)]

    def _new(self, what: Any) -> int:
        handle = next(self._handles)
        self._alive[handle] = what
        return handle

    def _live(self, handle: int, kind: type) -> Any:
        found = self._alive.get(int(handle))
        if not isinstance(found, kind):
            name = kind.__name__.strip("_").lower()
            self.violate(f"{handle:#x} is used as a {name}, which it is not (any more)")
            raise RefusedError(BAD_HANDLE)
        return found

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Around every call: what is in flight may go on, and a dead context refuses."""
        with self._lock:
            while self.poisoned is None and self._random.random() < self._eagerness:
                if not self._step(None):
                    break
            if self.poisoned is not None:
                raise RefusedError(self.poisoned)
            yield
            if self.poisoned is not None:
                raise RefusedError(self.poisoned)

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """Around calls that give back: a dead context refuses, but takes back all the same."""
        with self._lock:
            yield
            if self.poisoned is not None:
                raise RefusedError(self.poisoned)

    def _may_allocate(self, nbytes: int) -> None:
        if self.allocations_left is not None:
            if self.allocations_left <= 0:
                raise RefusedError(NO_MEMORY)
            self.allocations_left -= 1
        if nbytes > self.memory_left:
            raise RefusedError(NO_MEMORY)
        self.memory_left -= nbytes

    def _refused_at(self, stage: str) -> None:
        if self.refuse_capture == stage and self.captures_left <= 0:
            raise RefusedError("cudaErrorNotSupported" if stage == "instantiate" else UNSUPPORTED)

    def _give(self, handle: int, op: _Op) -> None:
        stream = self._live(handle, _Stream)
        capture = stream.capture
        if capture is None:
            stream.queue.append(op)
            return
        if capture.invalid:
            raise RefusedError(INVALIDATED)
        if self.refuse_capture == "work" and self.captures_left <= 0:
            capture.invalid = True
            raise RefusedError(UNSUPPORTED)
        capture.ops.append(op)

    def _forbidden_in_capture(self, waited_for: _Stream | None = None) -> None:
        """Ends captures that a call breaks, which is refused then."""
        for stream in self._streams():
            capture = stream.capture
            if capture is None:
                continue
            mine = capture.mode == "thread" and capture.thread == threading.get_ident()
            if mine or capture.mode == "global" or stream is waited_for:
                capture.invalid = True
                raise RefusedError(UNSUPPORTED)

    def _run_until(self, stream: _Stream | None, reached: Callable[[], bool]) -> None:
        while not reached():
            if not self._step(stream if self._random.random() < 0.5 else None):
                raise RefusedError(self.poisoned or "cudaErrorUnknown")
        # Others, and this one, may have gone further.
        for _ in range(self._random.choice([0, 0, 1, 3])):
            self._step(None)

    def _step(self, stream: _Stream | None) -> bool:
        """Does one piece of work of a stream, or of any; False if there is none."""
        waiting = [each for each in self._streams() if each.queue]
        if not waiting:
            return False
        chosen = stream if stream is not None and stream.queue else self._random.choice(waiting)
        op = chosen.queue[0]
        try:
            op.act()
        except CudaFaultError as fault:
            self.poison(str(fault) or "cudaErrorIllegalAddress")
            return False
        chosen.queue.popleft()
        return True

    def _memory_at(self, address: int, nbytes: int) -> _Memory | None:
        for start, memory in self._memories.items():
            if start <= address and address + nbytes <= start + memory.array.nbytes:
                return memory
        return None

    def _overlapping(self, address: int, nbytes: int) -> bool:
        return any(
            start < address + nbytes and address < start + memory.array.nbytes
            for start, memory in self._memories.items()
        )

    def _unused(self, memory: Range, how: str) -> None:
        start, nbytes = memory
        for stream in self._streams():
            for op in stream.queue:
                if any(start < at + n and at < start + nbytes for at, n in op.uses):
                    self.violate(f"memory is {how} before the work that uses it is done")
                    return

    def _check_guards(self, memory: _Memory) -> None:
        start = memory.array.ctypes.data - memory.whole.ctypes.data
        around = (memory.whole[:start], memory.whole[start + memory.array.nbytes :])
        if any((each != _GUARD).any() for each in around):
            self.violate(f"{memory.kind} memory was written beyond its end")


@dataclass
class Graph:
    """What was captured."""

    ops: list[_Op]


@dataclass
class Executable:
    """What can be launched."""

    ops: list[_Op]
