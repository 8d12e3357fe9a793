"""PyTorch on the streams of a ring, and with which arithmetic it computes on a GPU."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from srtrt.errors import first_line
from srtrt.runtime.cuda.device import Stream
from srtrt.runtime.layouts import TensorLayout

Tensors = Mapping[str, Any]
Compute = Callable[[Tensors, Tensors], None]
"""Computes from input tensors into output tensors, by the names of a form."""

_settings_lock = threading.RLock()


def arithmetic(torch: Any, device: str, *, fixed_size: bool) -> AbstractContextManager[None]:
    """In which settings of PyTorch a network computes; those of the process come back after it.

    On a GPU float32 is float32: TF32, with 10 bits of mantissa, gives 62 dB where 70 are promised,
    and colours are converted in float32 whatever the network's precision is.

    Args:
        torch: the module.
        device: ``cpu`` or ``cuda:N``.
        fixed_size: let cuDNN try its algorithms, as frames of the same size are to come.
    """
    return nullcontext() if device == "cpu" else _on_gpu(torch, fixed_size)


@contextmanager
def _on_gpu(torch: Any, benchmark: bool) -> Iterator[None]:
    cudnn = torch.backends.cudnn
    # The settings are the process's; another thread must not put them back in between.
    with _settings_lock:
        precisions, tried = _Precisions(torch), cudnn.benchmark
        try:
            cudnn.benchmark = benchmark
            precisions.set_exact()
            yield
        finally:
            precisions.restore()
            cudnn.benchmark = tried


class _Precisions:
    """PyTorch's settings of float32.

    Since 2.9 each kind of operation has one, beside the two older ones for all. PyTorch refuses to
    read an older one that says something else, so both are set alike, and where they were not
    alike, the older one was the opposite.
    """

    def __init__(self, torch: Any) -> None:
        self._torch, self._cudnn = torch, torch.backends.cudnn
        self._kinds: list[Any] = []
        if hasattr(self._cudnn, "conv"):
            backends = torch.backends
            self._kinds = [
                self._cudnn.conv,
                self._cudnn.rnn,
                backends.cuda.matmul,
                backends.mkldnn.matmul,
            ]
        self._found = [each.fp32_precision for each in self._kinds]
        try:
            self._convolutions = self._cudnn.allow_tf32
        except RuntimeError:
            self._convolutions = self._found[0] != self._found[1] or self._found[0] != "tf32"
        try:
            self._products = torch.get_float32_matmul_precision()
        except RuntimeError:
            self._products = "highest" if self._found[2] == "tf32" else "high"

    def set_exact(self) -> None:
        self._cudnn.allow_tf32 = False
        self._torch.set_float32_matmul_precision("highest")
        for each in self._kinds:
            each.fp32_precision = "ieee"

    def restore(self) -> None:
        self._cudnn.allow_tf32 = self._convolutions
        self._torch.set_float32_matmul_precision(self._products)
        for each, precision in zip(self._kinds, self._found, strict=True):
            each.fp32_precision = precision


@dataclass
class TorchNetwork:
    """The network for one size of batch; it has nothing of its own to release."""

    torch: Any
    device: str
    layouts: Sequence[TensorLayout]
    compute: Compute
    graph: bool
    """Whether kernels are recorded; no longer once that failed."""
    tell: Callable[[str], None]
    """Takes a sentence for the user."""

    def executor(self, stream: Stream) -> TorchExecutor:
        """Opens it for a stream."""
        return TorchExecutor(self, stream)

    def close(self) -> None:
        """Does nothing; all memory belongs to the executors."""


class TorchExecutor:
    """The network on one stream, between addresses.

    On a GPU it records its kernels with PyTorch's own CUDA graphs, which keep the memory between
    them; a recording from outside would share that memory with whatever PyTorch does next. Graphs
    of a stream never run at once, so they share one pool of memory.
    """

    capturable = False

    def __init__(self, network: TorchNetwork, stream: Stream) -> None:
        self._network, self._torch = network, network.torch
        self._work: list[Callable[[], None]] = []
        self._stream: Any = None
        self._pool: Any = None
        if network.device != "cpu":
            cuda = self._torch.cuda
            self._stream = cuda.ExternalStream(stream.handle, device=network.device)
            self._pool = cuda.graph_pool_handle()

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        """See :meth:`srtrt.runtime.ring.Executor.bind`."""
        network = self._network
        tensors = {each.name: self._tensor(addresses[each.name], each) for each in network.layouts}
        inputs = {each.name: tensors.pop(each.name) for each in network.layouts if each.is_input}

        def compute() -> None:
            with self._torch.inference_mode():
                network.compute(inputs, tensors)

        number = len(self._work)
        self._work.append(compute if self._stream is None else self._on_stream(compute))
        return lambda: self._work[number]()

    def _on_stream(self, compute: Callable[[], None]) -> Callable[[], None]:
        torch, stream = self._torch, self._stream

        def launch() -> None:
            with (
                arithmetic(torch, self._network.device, fixed_size=True),
                torch.cuda.stream(stream),
            ):
                compute()

        launch()  # kernels are chosen on first use, which cannot be recorded
        stream.synchronize()
        graph = self._recorded(launch) if self._network.graph else None
        if graph is None:
            return launch

        def replay() -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        return replay

    def _recorded(self, launch: Callable[[], None]) -> Any:
        """The kernels as a graph; None, once said, if they cannot be recorded."""
        torch, stream = self._torch, self._stream
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer one puts the current stream back, which a failed recording leaves changed.
            # Thread-local, so that other threads may allocate meanwhile.
            with (
                torch.cuda.stream(stream),
                torch.cuda.graph(
                    graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
                ),
            ):
                launch()
            return graph
        except RuntimeError as error:
            problem = first_line(error)
        del graph  # before its stream, should the next launch fail
        self._network.graph = False
        # Ends what a failed recording may leave open in PyTorch's allocator.
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(stream.device.index, self._pool)
        launch()  # raises if more than the recording failed
        stream.synchronize()
        self._network.tell(
            f"The network's kernels cannot be recorded as a CUDA graph ({problem}); "
            "they are launched one by one."
        )
        return None

    def _tensor(self, address: int, layout: TensorLayout) -> Any:
        """A tensor in memory that is not PyTorch's."""
        if self._stream is None:
            memory = (ctypes.c_uint8 * layout.nbytes).from_address(address)
            array = np.ctypeslib.as_array(memory).view(layout.dtype).reshape(layout.shape)
            return self._torch.from_numpy(array)
        return self._torch.as_tensor(CudaArray(address, layout), device=self._network.device)

    def close(self) -> None:
        """Gives graphs and memory back to the driver, for rings do not allocate through PyTorch."""
        self._work.clear()
        if self._stream is not None:
            self._stream = self._pool = None
            self._torch.cuda.empty_cache()


class CudaArray:
    """Memory on a GPU, described by version 3 of the CUDA array interface."""

    def __init__(self, address: int, layout: TensorLayout) -> None:
        self.__cuda_array_interface__ = {
            "shape": layout.shape,
            "typestr": layout.dtype.str,
            "data": (address, False),
            "strides": None,
            "version": 3,
        }
