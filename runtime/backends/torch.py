"""PyTorch: the reference everything else is compared with, on the CPU or CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from srtrt.errors import MissingPackageError, ModelError
from srtrt.runtime.backends.base import Arrays, Backend, Capability
from srtrt.runtime.models import Model
from srtrt.spec import Form, ModelSpec, Precision

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TorchOptions:
    """Settings of the engine."""

    rewritten: bool = True
    """Fold BatchNorm and the tail; False runs the generator exactly as it was trained."""
    channels_last: bool = True
    """Keep activations in NHWC order, which is faster on CPU and GPU."""


class TorchBackend(Backend):
    """A checkpoint in PyTorch, dressed in the same forms as the exported graphs."""

    name = "torch"
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
        super().__init__(model, form=form, device=device, precision=precision)
        from srtrt.networks.rewrites import InferenceGenerator

        options = options or TorchOptions()
        generator = self._generator
        network = InferenceGenerator(generator) if options.rewritten else generator
        types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        self._dtype, self._layout = types[precision], layout
        network = network.eval().to(device, types[precision])
        # Module.to accepts a memory format, which its annotations leave out.
        self._network = network.to(memory_format=layout)  # type: ignore[call-overload]

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
        except MissingPackageError as error:
            return [Capability(device="cpu", precisions=(), reason=str(error))]
        version = f"torch {torch.__version__}"
        cpu = Capability(device="cpu", precisions=("fp32", "bf16"), reason=f"{version}, CPU")
        if torch.cuda.is_available():
            reason = f"{version} on {torch.cuda.get_device_name(0)}"
            cuda = Capability(device="cuda:0", precisions=("fp16", "bf16", "fp32"), reason=reason)
            return [cuda, cpu]
        reason = f"{version} sees no CUDA device"
        return [Capability(device="cuda:0", precisions=(), reason=reason), cpu]

    def _infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        torch = self._torch
        tensors = {k: torch.tensor(v, device=self.device) for k, v in inputs.items()}
        with torch.inference_mode():
            results = (self._rgb8 if self.form == "rgb8" else self._yuv420p8)(tensors)
            return {name: tensor.cpu().numpy() for name, tensor in results.items()}

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

    def _release(self) -> None:
        del self._network
        if self.device != "cpu":
            self._torch.cuda.empty_cache()


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
    try:
        import safetensors  # noqa: F401
        import torch
    except ImportError as error:
        raise MissingPackageError(error.name or "torch", "train", "the torch backend") from error
    return torch
