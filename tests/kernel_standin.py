"""A network that computes something of every input, on whatever device a ring runs on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cuda_simulator import Gpu, RefusedError
from numpy.typing import NDArray

from srtrt.errors import BackendError
from srtrt.runtime.cuda.device import Stream
from srtrt.runtime.cuda.plain import PlainDevice
from srtrt.runtime.layouts import TensorLayout

Arrays = Mapping[str, NDArray[Any]]


def computed(inputs: Arrays) -> dict[str, NDArray[np.uint8]]:
    """What the network makes of the inputs of one frame or a batch.

    Every output depends on all values of its image and of all tables.
    """
    images = {name: array for name, array in inputs.items() if array.dtype == np.uint8}
    tables = b"".join(inputs[name].tobytes() for name in sorted(inputs) if name not in images)
    offset = np.uint8(zlib.crc32(tables) % 256)
    return {
        f"{name}_x4": array.repeat(4, axis).repeat(4, axis + 1) + offset
        for name, array in images.items()
        for axis in [1 if name == "rgb" else 2]
    }


class Session:
    """What an engine keeps for a stream: it must be gone before the stream."""

    def __init__(self, gpu: Gpu | None, stream: Stream) -> None:
        self._release = gpu.hold(stream.handle, "a session on it") if gpu else lambda: None

    def __del__(self) -> None:
        self._release()


class Kernel:
    """The network on one stream; see :class:`srtrt.runtime.ring.Executor`."""

    def __init__(
        self,
        device: Gpu | PlainDevice,
        layouts: Sequence[TensorLayout],
        stream: Stream,
        *,
        capturable: bool = True,
    ) -> None:
        self.device, self.layouts, self.stream = device, layouts, stream
        self.capturable = capturable
        self.bound: list[Mapping[str, int]] = []
        self.launched = 0
        self.fails_at: int | None = None
        self.failure: type[BackendError] = BackendError
        self.session: Session | None = Session(device if isinstance(device, Gpu) else None, stream)

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        assert addresses not in self.bound, "a slot is bound once"
        self.bound.append(dict(addresses))
        session = self.session

        def work() -> None:
            views = {
                each.name: self.device.view(addresses[each.name], each.nbytes)
                .view(each.dtype)
                .reshape(each.shape)
                for each in self.layouts
            }
            inputs = {each.name: views[each.name] for each in self.layouts if each.is_input}
            for name, output in computed(inputs).items():
                views[name][...] = output

        if isinstance(self.device, PlainDevice):
            return work
        uses = [(addresses[each.name], each.nbytes) for each in self.layouts]
        gpu = self.device

        def launch() -> None:
            assert session is not None
            self.launched += 1
            if self.fails_at is not None and self.launched >= self.fails_at:
                raise self.failure("the network failed")
            try:
                gpu.enqueue(self.stream.handle, work, uses)
            except RefusedError as error:
                raise BackendError(f"the network failed: {error}") from error

        return launch

    def close(self) -> None:
        self.session = None
