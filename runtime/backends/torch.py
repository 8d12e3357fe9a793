"""PyTorch: the reference everything else is compared with, on the CPU or CUDA."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, ModelError, PackageError
from srtrt.packages import unusable
from srtrt.processor import this_processor
from srtrt.runtime.backends.base import Backend, Capability
from srtrt.runtime.cuda.device import Stream
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import TensorLayout, form_layouts
from srtrt.runtime.models import Model
from srtrt.runtime.ring import Arrays, RingOptions
from srtrt.runtime.rings import rings_for
from srtrt.spec import Form, ModelSpec, Precision

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TorchOptions:
    """Settings of the engine."""

    rewritten: bool = True
    """Folds BatchNorm and the tail; false runs the generator exactly as it was trained."""
    channels_last: bool = True
    """Keeps activations in NHWC order, which is faster on CPU and GPU."""
    compile: bool = False
    """Lets torch.compile fuse kernels; the first frame of a size then takes a minute or so."""
    ring: RingOptions | None = None
    """Frames in flight, as soon as one of these is given, on the CPU with threads for streams; by
    default on a GPU where a package to call CUDA is installed, and one after the other elsewhere.
    """


class TorchBackend(Backend):
    """A checkpoint in PyTorch, dressed in the same forms as the exported graphs."""

    name = "torch"
    options_type = TorchOptions
    options: TorchOptions
    packages = ("torch", "safetensors")
    bytes_per_pixel = 12_000

    def __init__(
        self,
        model: Model,
        *,
        form: Form,
        device: str,
        precision: Precision,
        options: TorchOptions | None = None,
    ) -> None:
        torch = self._torch = _package()
        processor = this_processor()
        if device == "cpu" and precision == "bf16" and not processor.bf16:
            raise BackendError(
                "torch computes in bf16 on the cpu only where the processor does; "
                f"{processor.says_of_bf16}: {processor}. Use --precision fp32."
            )
        super().__init__(model, form=form, device=device, precision=precision, options=options)
        from srtrt.networks.rewrites import InferenceGenerator

        options = self.options
        generator = self._generator
        network = InferenceGenerator(generator) if options.rewritten else generator
        types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        self._dtype, self._layout = types[precision], layout
        network = network.eval().to(device, types[precision])
        # Module.to accepts a memory format, which its annotations leave out.
        self._network = network.to(memory_format=layout)  # type: ignore[call-overload]
        if options.compile:
            self._network.compile(dynamic=False)
        self._records = (options.ring or RingOptions()).graph
        self._rings = rings_for(device, form, self._network_for, options.ring, self.notes.append)

    def _read_spec(self, model: Model) -> ModelSpec:
        from srtrt.networks.checkpoint import load_checkpoint

        if model.checkpoint_path is None:
            raise ModelError(
                f"{model.graph_path}: the torch backend needs the checkpoint (.safetensors) "
                "a model was exported from; use the onnxruntime or openvino backend for a graph."
            )
        self._generator, spec = load_checkpoint(model.checkpoint_path)
        return spec

    @classmethod
    def capabilities(cls) -> Sequence[Capability]:
        """See :meth:`Backend.capabilities`."""
        try:
            torch = _package()
        except PackageError as error:
            return [Capability(device="cpu", precisions=(), reason=str(error))]
        version = f"torch {torch.__version__}"
        # PyTorch would emulate bfloat16, tens of times slower than float32.
        here: tuple[Precision, ...] = ("fp32", "bf16") if this_processor().bf16 else ("fp32",)
        cpu = Capability(device="cpu", precisions=here, reason=f"{version}, CPU")
        if torch.cuda.is_available():
            reason = f"{version} on {torch.cuda.get_device_name(0)}"
            cuda = Capability(device="cuda:0", precisions=("fp16", "bf16", "fp32"), reason=reason)
            return [cuda, cpu]
        reason = f"{version} sees no CUDA device"
        return [Capability(device="cuda:0", precisions=(), reason=reason), cpu]

    def _network_for(self, size: InputSize) -> _TorchNetwork:
        layouts = form_layouts(self.form, size)
        return _TorchNetwork(self._torch, self.device, layouts, self._forward, self._records)

    def _infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        torch = self._torch
        tensors = {k: torch.tensor(v, device=self.device) for k, v in inputs.items()}
        with torch.inference_mode():
            return {name: t.cpu().numpy() for name, t in self._forward(tensors).items()}

    def _forward(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return (self._rgb8 if self.form == "rgb8" else self._yuv420p8)(tensors)

    def _network_on(self, x: Tensor) -> Tensor:
        x = x.to(self._dtype).contiguous(memory_format=self._layout)
        y: Tensor = self._network(x)
        return y.float()

    def _to_bytes(self, x: Tensor) -> Tensor:
        return x.clamp(0, 255).round().to(self._torch.uint8).contiguous()

    def _rgb8(self, t: dict[str, Tensor]) -> dict[str, Tensor]:
        sr = self._network_on(t["rgb"].permute(0, 3, 1, 2).float() / 255)
        return {"rgb_x4": self._to_bytes(255 * sr.permute(0, 2, 3, 1))}

    def _yuv420p8(self, t: dict[str, Tensor]) -> dict[str, Tensor]:
        torch = self._torch
        chroma = _upsample_chroma(torch, t["uv"].float(), t["chroma_up"])
        yuv = torch.cat([t["y"].float(), chroma], dim=1)
        sr = self._network_on(_affine(torch, t["yuv_to_rgb"], yuv).clamp(0, 1))
        luma_chroma = _affine(torch, t["rgb_to_yuv"], sr)
        small = _downsample_chroma(torch, luma_chroma[:, 1:], t["chroma_down"])
        return {"y_x4": self._to_bytes(luma_chroma[:, :1]), "uv_x4": self._to_bytes(small)}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with super()._translated():
                yield
        except BackendError as error:
            if type(error.__cause__).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise BackendError(
                    f"{str(error).rstrip('.')}. torch.compile cannot be used here: leave "
                    "compile=true out, or give it what it lacks (on the CPU a C++ compiler, such "
                    "as the package g++)."
                ) from error.__cause__
            raise

    def _release(self) -> None:
        del self._network
        if self.device != "cpu":
            self._torch.cuda.empty_cache()


@dataclass(frozen=True)
class _TorchNetwork:
    """The network for one size of batch; it has nothing of its own to release."""

    torch: Any
    device: str
    layouts: Sequence[TensorLayout]
    forward: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    graph: bool

    def executor(self, stream: Stream) -> _TorchExecutor:
        return _TorchExecutor(self, stream)

    def close(self) -> None:
        pass


class _TorchExecutor:
    """The network on one stream, between addresses.

    On a GPU it records its kernels with PyTorch's own CUDA graphs, which keep the memory between
    them; a recording from outside would share that memory with whatever PyTorch does next.
    """

    capturable = False

    def __init__(self, network: _TorchNetwork, stream: Stream) -> None:
        self._network, self._torch = network, network.torch
        self._stream: Any = None
        if network.device != "cpu":
            self._stream = self._torch.cuda.ExternalStream(stream.handle, device=network.device)

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        torch, layouts = self._torch, self._network.layouts
        tensors = {each.name: self._tensor(addresses[each.name], each) for each in layouts}
        inputs = {each.name: tensors[each.name] for each in layouts if each.is_input}

        def compute() -> None:
            with torch.inference_mode():
                for name, result in self._network.forward(inputs).items():
                    tensors[name].copy_(result)

        if self._stream is None:
            return compute

        def in_stream() -> None:
            with torch.cuda.stream(self._stream):
                compute()

        in_stream()  # kernels are chosen on first use, which cannot be recorded
        self._stream.synchronize()
        if not self._network.graph:
            return in_stream
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            compute()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def _tensor(self, address: int, layout: TensorLayout) -> Tensor:
        """A tensor in memory that is not PyTorch's."""
        if self._stream is None:
            memory = (ctypes.c_uint8 * layout.nbytes).from_address(address)
            array = np.ctypeslib.as_array(memory).view(layout.dtype).reshape(layout.shape)
            host: Tensor = self._torch.from_numpy(array)
            return host
        described = _CudaArray(address, layout)
        tensor: Tensor = self._torch.as_tensor(described, device=self._network.device)
        return tensor

    def close(self) -> None:
        self._stream = None


class _CudaArray:
    """Memory on a GPU, described by version 3 of the CUDA array interface."""

    def __init__(self, address: int, layout: TensorLayout) -> None:
        self.__cuda_array_interface__ = {
            "shape": layout.shape,
            "typestr": layout.dtype.str,
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


def _affine(torch: Any, matrix: Tensor, x: Tensor) -> Tensor:
    """Applies ``[3, 4]`` (matrix and offset) to the channels of ``[N, 3, H, W]``."""
    y: Tensor = torch.einsum("oc,nchw->nohw", matrix[:, :3], x)
    return y + matrix[:, 3].reshape(1, 3, 1, 1)


def _upsample_chroma(torch: Any, uv: Tensor, taps: Tensor) -> Tensor:
    """``[N, 2, h, w]`` to ``[N, 2, 2h, 2w]`` with the taps of ``YuvColour.chroma_up``."""
    kernel = torch.einsum("pi,qj->pqij", taps[0], taps[1]).reshape(4, 1, 3, 3)
    padded = torch.nn.functional.pad(uv, (1, 1, 1, 1), mode="replicate")
    planes = padded.flatten(0, 1)[:, None]
    phases = torch.nn.functional.conv2d(planes, kernel)
    fine: Tensor = torch.nn.functional.pixel_shuffle(phases, 2)
    return fine.reshape(uv.shape[0], 2, 2 * uv.shape[2], 2 * uv.shape[3])


def _downsample_chroma(torch: Any, uv: Tensor, taps: Tensor) -> Tensor:
    """``[N, 2, 2h, 2w]`` to ``[N, 2, h, w]`` with the taps of ``YuvColour.chroma_down``."""
    kernel = torch.outer(taps[0], taps[1])[None, None].repeat(2, 1, 1, 1)
    padded = torch.nn.functional.pad(uv, (1, 0, 1, 0), mode="replicate")
    small: Tensor = torch.nn.functional.conv2d(padded, kernel, stride=2, groups=2)
    return small


def _package() -> Any:
    for name in ("safetensors", "torch"):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise unusable(name, error, "train", "the torch backend") from error
    return module
