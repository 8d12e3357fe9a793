"""ONNX Runtime on the CPU or, through its CUDA provider, on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from srtrt.errors import BackendError, MissingPackageError
from srtrt.runtime.backends.base import Arrays, Backend, Capability
from srtrt.runtime.models import Model
from srtrt.spec import Form, Precision


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeOptions:
    """Settings of the engine."""

    threads: int = 0
    """Threads of one operator on the CPU; 0 is one per physical core."""
    optimise: bool = True
    """False runs the graph node by node as it is written."""


class OnnxRuntimeBackend(Backend):
    """An exported graph on ONNX Runtime."""

    name = "onnxruntime"
    bytes_per_pixel = 9_000
    failures = (Exception,)  # its own exceptions share no other base

    def __init__(
        self,
        model: Model,
        *,
        form: Form,
        device: str,
        precision: Precision,
        options: OnnxRuntimeOptions | None = None,
    ) -> None:
        super().__init__(model, form=form, device=device, precision=precision)
        ort = _package()
        settings = ort.SessionOptions()
        options = options or OnnxRuntimeOptions()
        settings.intra_op_num_threads = options.threads
        settings.log_severity_level = 3
        if not options.optimise:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        provider: Any = "CPUExecutionProvider"
        if device != "cpu":
            index = int(device.partition(":")[2] or 0)
            provider = ("CUDAExecutionProvider", {"device_id": index, "use_tf32": 0})
        graph = model.graph(form, precision).SerializeToString()
        try:
            self._session = ort.InferenceSession(graph, settings, providers=[provider])
        except self.failures as error:
            raise BackendError(f"onnxruntime cannot open {model.name}: {error}") from error
        used = self._session.get_providers()[0]
        if device != "cpu" and used != "CUDAExecutionProvider":
            raise BackendError(
                f"onnxruntime could not start CUDA and would run on {used}; "
                "check that the CUDA and cuDNN libraries it needs are installed."
            )
        self._outputs = [output.name for output in self._session.get_outputs()]

    @classmethod
    def capabilities(cls) -> Sequence[Capability]:
        """See :meth:`Backend.capabilities`."""
        try:
            ort = _package()
        except MissingPackageError as error:
            return [Capability(device="cpu", precisions=(), reason=str(error))]
        version = f"onnxruntime {ort.__version__}"
        cpu = Capability(device="cpu", precisions=("fp32",), reason=f"{version}, CPU")
        if "CUDAExecutionProvider" in ort.get_available_providers():
            reason = f"{version} with its CUDA provider"
            return [Capability(device="cuda:0", precisions=("fp16", "fp32"), reason=reason), cpu]
        reason = (
            f"{version} has no CUDA provider; on an NVIDIA GPU replace it: "
            "pip uninstall onnxruntime, then pip install 'srtrt[gpu]'"
        )
        return [Capability(device="cuda:0", precisions=(), reason=reason), cpu]

    def _infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        results = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, results, strict=True))

    def _release(self) -> None:
        del self._session


def _package() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("onnxruntime", "cpu", "the onnxruntime backend") from error
    return onnxruntime
