"""PyTorch: the reference everything else is compared with, on the CPU or CUDA."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from srtrt.errors import BackendError, ModelError, PackageError, first_line
from srtrt.packages import unusable
from srtrt.processor import this_processor
from srtrt.runtime.backends.base import Backend, Capability
from srtrt.runtime.backends.torch_streams import Compute, Tensors, TorchNetwork, arithmetic
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import form_layouts, input_size
from srtrt.runtime.models import Model
from srtrt.runtime.nvidia import no_gpu
from srtrt.runtime.ring import Arrays, RingOptions
from srtrt.runtime.rings import rings_for
from srtrt.spec import Form, ModelSpec, Precision
from srtrt.text import foreign

if TYPE_CHECKING:
    from torch import Tensor

# Without CUDA graphs of its own: a ring records the compiled kernels with all others.
_COMPILER: dict[str, Any] = {"backend": "inductor", "options": {"triton.cudagraphs": False}}

_BF16_CAPABILITY = (8, 0)
"""Compute capability of the first NVIDIA GPUs that multiply in bfloat16; others emulate it."""


@dataclass(frozen=True, kw_only=True)
class TorchOptions:
    """Settings of the engine."""

    rewritten: bool = True
    """Folds BatchNorm and the tail; false runs the generator exactly as it was trained."""
    channels_last: bool = True
    """Keeps activations in NHWC order, which is faster on CPU and GPU."""
    compile: bool = False
    """Lets torch.compile fuse kernels, from the bytes of a frame to those of its result; the first
    frame of a size then takes a minute or so."""
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
        if device != "cpu":
            # Weights were cast on the default stream, and streams of a ring do not wait for it.
            torch.cuda.synchronize(device)
        self._compiled: tuple[InputSize, Compute] | None = None
        self._size: InputSize | None = None
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
    def capabilities(cls, gpu: str = "cuda:0") -> Sequence[Capability]:
        """See :meth:`Backend.capabilities`."""
        try:
            torch = _package()
        except PackageError as error:
            return [Capability(device="cpu", precisions=(), reason=str(error))]
        version = f"torch {torch.__version__}"
        # PyTorch would emulate bfloat16, tens of times slower than float32.
        here: tuple[Precision, ...] = ("fp32", "bf16") if this_processor().bf16 else ("fp32",)
        cpu = Capability(device="cpu", precisions=here, reason=f"{version}, CPU")
        return [_gpu_capability(torch, version, gpu), cpu]

    def _network_for(self, size: InputSize) -> TorchNetwork:
        return TorchNetwork(
            torch=self._torch,
            device=self.device,
            layouts=form_layouts(self.form, size),
            compute=self._compute_for(size),
            graph=self._records,
            tell=self.notes.append,
        )

    def _compute_for(self, size: InputSize) -> Compute:
        """The whole form, from inputs into outputs; compiled, if asked for, for this size alone."""

        def compute(inputs: Tensors, outputs: Tensors) -> None:
            for name, result in self._forward(inputs).items():
                outputs[name].copy_(result)

        if not self.options.compile:
            return compute
        if self._compiled is None or self._compiled[0] != size:
            own = _with_own_code(compute)
            compiled = self._torch.compile(own, dynamic=False, fullgraph=True, **_COMPILER)
            self._compiled = size, compiled
        return self._compiled[1]

    def _infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        torch, size = self._torch, input_size(inputs)
        compute = self._compute_for(size)
        if self.device != "cpu" and self._size not in (None, size):
            torch.cuda.empty_cache()  # pieces of another size only lie in the way
        self._size = size
        given = {name: torch.tensor(array, device=self.device) for name, array in inputs.items()}
        results = {
            each.name: torch.empty(each.shape, dtype=torch.uint8, device=self.device)
            for each in form_layouts(self.form, size)
            if not each.is_input
        }
        with arithmetic(torch, self.device, fixed_size=False), torch.inference_mode():
            compute(given, results)
            return {name: result.cpu().numpy() for name, result in results.items()}

    def _forward(self, tensors: Tensors) -> dict[str, Tensor]:
        return (self._rgb8 if self.form == "rgb8" else self._yuv420p8)(tensors)

    def _network_on(self, x: Tensor) -> Tensor:
        x = x.to(self._dtype).contiguous(memory_format=self._layout)
        y: Tensor = self._network(x)
        return y.float()

    def _to_bytes(self, x: Tensor) -> Tensor:
        return x.clamp(0, 255).round().to(self._torch.uint8).contiguous()

    def _rgb8(self, t: Tensors) -> dict[str, Tensor]:
        sr = self._network_on(t["rgb"].permute(0, 3, 1, 2).float() / 255)
        return {"rgb_x4": self._to_bytes(255 * sr.permute(0, 2, 3, 1))}

    def _yuv420p8(self, t: Tensors) -> dict[str, Tensor]:
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
        del self._network, self._generator
        self._compiled = None
        if self.device != "cpu":
            self._torch.cuda.empty_cache()


def _gpu_capability(torch: Any, version: str, gpu: str) -> Capability:
    """What PyTorch can do on a GPU; a driver that is there and fails is warned of."""
    index = int(gpu.partition(":")[2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if torch.cuda.is_available():
                name = torch.cuda.get_device_name(index)
                bf16 = torch.cuda.get_device_capability(index) >= _BF16_CAPABILITY
                kinds: tuple[Precision, ...] = (
                    ("fp16", "bf16", "fp32") if bf16 else ("fp16", "fp32")
                )
                reason = f"{version} on {name}{_said(caught)}"
                return Capability(device=gpu, precisions=kinds, reason=reason)
            problem = _said(caught)
        except (RuntimeError, AssertionError) as error:
            problem = f": {first_line(error)}"
    if torch.version.cuda:
        what = "CUDA device" if index == 0 else gpu
        reason = f"{version} sees no {what}{problem or f': {no_gpu()}'}"
    else:
        reason = f"{version} is built without CUDA{problem}"
    return Capability(device=gpu, precisions=(), reason=reason)


def _said(caught: list[warnings.WarningMessage]) -> str:
    """The first warning, as the end of a sentence."""
    return f": {foreign(str(caught[0].message).splitlines()[0])}" if caught else ""


def _with_own_code(function: Any) -> Any:
    """The same function, whose compiled versions count for no other.

    PyTorch compiles a function for a few sizes only and then silently stops.
    """
    return FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


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
