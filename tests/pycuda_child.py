"""Compares PyCUDA with the list of its names and carries frames through a ring on it.

A test runs this alone and reads what it prints.

It needs the stand-in of libcuda.so.1 on the loader's path, and PyCUDA on Python's.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pycuda.driver
import pycuda_names
from numpy.typing import NDArray

from srtrt.errors import BackendError, DeviceMemoryError
from srtrt.runtime.cuda import open_device
from srtrt.runtime.cuda.device import Stream
from srtrt.runtime.engines.gpu import all_gpus, gpu_facts
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import TensorLayout, form_layouts
from srtrt.runtime.memory import memory_limit
from srtrt.runtime.nvidia import gpu_problem
from srtrt.runtime.parity import form_inputs
from srtrt.runtime.ring import FrameRing, RingOptions

driver = ctypes.CDLL("libcuda.so.1")


class Enlarge:
    """The stand-in's network on one stream; see :class:`srtrt.runtime.ring.Executor`."""

    capturable = True

    def __init__(self, layouts: Sequence[TensorLayout], stream: Stream) -> None:
        self.layouts, self.stream = layouts, stream

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        inputs = [each for each in self.layouts if each.is_input]
        tables = [each for each in inputs if not each.is_image]
        places = (ctypes.c_char_p * 8)(*(addresses[each.name] for each in tables))
        lengths = (ctypes.c_size_t * 8)(*(each.nbytes for each in tables))
        calls = []
        for each in inputs:
            if each.is_image:
                shape = each.shape if each.name == "rgb" else (each.shape[0] * each.shape[1],)
                sizes = shape if each.name == "rgb" else (*shape, *each.shape[2:], 1)
                calls.append((f"{each.name}_x4", each.name, (ctypes.c_long * 4)(*sizes)))

        def compute() -> None:
            for target, source, sizes in calls:
                code = driver.standin_enlarge(
                    ctypes.c_void_p(self.stream.handle),
                    ctypes.c_void_p(addresses[target]),
                    ctypes.c_void_p(addresses[source]),
                    sizes,
                    places,
                    lengths,
                    len(tables),
                )
                assert code == 0, code

        return compute

    def close(self) -> None:
        pass


def parameters(function: Any, bound: bool) -> list[tuple[str, str | None]]:
    """Names and defaults; Boost tells them in the docstring, and ``argN`` where it has no name."""
    if inspect.isfunction(function) and not re.match(r"\w+\(", function.__doc__ or ""):
        found = [
            (each.name, None if each.default is each.empty else repr(each.default))
            for each in inspect.signature(function).parameters.values()
        ]
    else:
        line = (function.__doc__ or "").strip().splitlines()[0].partition(" -> ")[0]
        found = [
            (name, (default or "=?")[1:] if line[: at.start()].count("[") else None)
            for at in re.finditer(r"\(\w+\)(\w+)(=[^\s\],[]+)?", line)
            for name, default in [at.groups()]
        ]
    return found[bound:]


def differs(name: str, function: Any, wanted: str, *, bound: bool) -> list[str]:
    """How a function differs from what the list says of it."""
    names: dict[str, Any] = {}
    exec(f"def listed{wanted}: pass", names)
    listed = inspect.signature(names["listed"]).parameters.values()
    found = parameters(function, bound)
    same = len(found) == len(listed) and all(
        (name.startswith("arg") or name == each.name)
        and (default is None) == (each.default is each.empty)
        and default in (None, "?", repr(each.default))
        for (name, default), each in zip(found, listed, strict=True)
    )
    return [] if same else [f"{name}{wanted} is {found}"]


def differences() -> list[str]:
    """What the list of names says otherwise than PyCUDA."""
    there, wrong = pycuda.driver, []
    for name in pycuda_names.NAMES:
        if not hasattr(there, name):
            wrong.append(f"{name} is missing")
    for name, wanted in pycuda_names.FUNCTIONS.items():
        wrong += differs(name, getattr(there, name), wanted, bound=False)
    for kind, methods in pycuda_names.CLASSES.items():
        owner = getattr(there, kind)
        if kind in pycuda_names.CONSTRUCTORS:
            wanted = pycuda_names.CONSTRUCTORS[kind]
            wrong += differs(kind, owner.__init__, wanted, bound=True)
        elif "cannot be instantiated" not in owner.__init__.__doc__:
            wrong.append(f"{kind} can be made")
        for name, signature in methods.items():
            raw = inspect.getattr_static(owner, name)
            static = isinstance(raw, staticmethod)
            if static != ((kind, name) in pycuda_names.STATIC):
                wrong.append(f"{kind}.{name} is {type(raw).__name__}")
            if signature is None:
                wrong += [] if isinstance(raw, property) else [f"{kind}.{name} is no attribute"]
            else:
                function = getattr(owner, name)
                wrong += differs(f"{kind}.{name}", function, signature, bound=not static)
    for name, flags in pycuda_names.FLAGS.items():
        for flag, value in flags.items():
            if int(getattr(getattr(there, name), flag)) != value:
                wrong.append(f"{name}.{flag} is not {value}")
    for name in pycuda_names.ERRORS:
        if not issubclass(getattr(there, name), there.Error):
            wrong.append(f"{name} is no Error")
    return wrong + (["stream_flags is there"] if hasattr(there, "stream_flags") else [])


def expected(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.uint8]]:
    images = {name: each for name, each in inputs.items() if each.dtype == np.uint8}
    tables = b"".join(each.tobytes() for name, each in inputs.items() if name not in images)
    add = np.uint8(sum(tables) % 256)
    axes = {"rgb": 1}
    return {
        f"{name}_x4": 255 - each.repeat(4, axes.get(name, 2)).repeat(4, axes.get(name, 2) + 1) + add
        for name, each in images.items()
    }


def carry(form: Any, options: RingOptions, count: int) -> int:
    """Frames that came back right."""
    layouts = form_layouts(form, InputSize(width=36, height=20, batch=options.batch))
    random = np.random.default_rng(count)
    right = 0
    with (
        open_device("cuda:0", "pycuda") as gpu,
        FrameRing(gpu, layouts, lambda stream: Enlarge(layouts, stream), options) as ring,
    ):
        frames = [
            form_inputs(random.integers(0, 256, (20, 36, 3), np.uint8), form) for _ in range(count)
        ]
        pending: list[Any] = []
        found = []
        for frame in frames:
            if len(pending) == ring.capacity:
                found.append({k: v.copy() for k, v in pending.pop(0)().items()})
            pending.append(ring.submit(frame))
        found += [{k: v.copy() for k, v in each().items()} for each in pending]
        for frame, outputs in zip(frames, found, strict=True):
            wanted = expected(frame)
            right += all(np.array_equal(outputs[name], each) for name, each in wanted.items())
    return right


def errors() -> dict[str, str]:
    """What failures become."""
    said = {}
    with open_device("cuda:0", "pycuda") as gpu, gpu.current():
        try:
            gpu.device_memory(1 << 50)
        except DeviceMemoryError as error:
            said["memory"] = str(error)
        stream, host = gpu.stream(), np.zeros(64, np.uint8)
        try:
            gpu.copy_in(12345, host, stream)
        except BackendError as error:
            said["address"] = str(error)
    return said


def main() -> None:
    results: dict[str, Any] = {
        "facts": repr(gpu_facts("cuda:0")),
        "gpus": len(all_gpus()),
        "memory_limit": memory_limit("cuda:0"),
        "problem": gpu_problem(),
        "differences": differences(),
    }
    rings = [
        RingOptions(),
        RingOptions(streams=2, slots=2, batch=2),
        RingOptions(streams=3, slots=6),
        RingOptions(streams=1, slots=1),
    ]
    results["frames"] = [
        carry(form, options, 24) for form in ("rgb8", "yuv420p8") for options in rings
    ]
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(carry("rgb8", RingOptions(), 24)))
    thread.start()
    thread.join()
    results["frames"] += done
    results["left open"] = driver.standin_open()
    results |= errors()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
