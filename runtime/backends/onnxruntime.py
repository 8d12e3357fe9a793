"""ONNX Runtime on the CPU or, through its CUDA or TensorRT provider, on an NVIDIA GPU."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from srtrt.errors import BackendError, OutputError, PackageError, first_line, install_hint
from srtrt.files import cache_folder, make_own_folder
from srtrt.packages import unusable
from srtrt.runtime.backends.base import Backend, Capability, require_at_least
from srtrt.runtime.cuda.device import Stream
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import TensorLayout, form_layouts
from srtrt.runtime.models import Model
from srtrt.runtime.ring import Arrays, RingOptions
from srtrt.runtime.rings import rings_for
from srtrt.runtime.threads import engine_threads
from srtrt.spec import Form, Precision

_NO_GRAPHS = "ONNX Runtime may copy and allocate between kernels, so nothing is recorded"


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeOptions:
    """Settings of the engine.

    Raises:
        UsageError: if a number is negative.
    """

    threads: int = field(default=0, metadata={"device": "cpu"})
    """Threads of one stream; 0 is one for each core that the process may keep busy."""
    optimise: bool = True
    """Fuses and folds nodes; false runs the graph node by node as it is written."""
    ring: RingOptions | None = field(default=None, metadata={"refused": {"graph": _NO_GRAPHS}})
    """Frames in flight, as soon as one of these is given, on the CPU with threads for streams; by
    default on a GPU where a package to call CUDA is installed, and one after the other elsewhere.
    """

    def __post_init__(self) -> None:
        require_at_least(threads=(self.threads, 0))


class OnnxRuntimeBackend(Backend):
    """An exported graph on ONNX Runtime; on a GPU through its CUDA provider."""

    name = "onnxruntime"
    options_type = OnnxRuntimeOptions
    options: OnnxRuntimeOptions
    packages = ("onnxruntime", "onnxruntime-gpu")
    bytes_per_pixel = 9_000
    failures = (Exception,)  # its own exceptions share no other base
    gpu_provider: ClassVar[str] = "CUDAExecutionProvider"

    def __init__(
        self,
        model: Model,
        *,
        form: Form,
        device: str,
        precision: Precision,
        options: OnnxRuntimeOptions | None = None,
    ) -> None:
        super().__init__(model, form=form, device=device, precision=precision, options=options)
        self._ort = _package()
        self._threads = engine_threads(self.options.threads) if device == "cpu" else 0
        self._graph = model.graph(form, precision).SerializeToString()
        self._rings = rings_for(
            device, form, self._network_for, self.options.ring, self.notes.append
        )
        self._session = None if self._rings else self._open()

    def _open(self, stream: Stream | None = None) -> Any:
        """A session, on a GPU one that computes on the stream if there is one."""
        ort, settings = self._ort, self._ort.SessionOptions()
        settings.intra_op_num_threads = self._threads
        settings.log_severity_level = 4  # what it raises it need not print
        if not self.options.optimise:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        wanted = "CPUExecutionProvider" if self.device == "cpu" else self.gpu_provider
        facts = {} if self.device == "cpu" else self._provider_options(stream)
        try:
            session = ort.InferenceSession(self._graph, settings, providers=[(wanted, facts)])
        except self.failures as error:
            raise BackendError(
                f"{self.name} cannot open {self.model.name}: {first_line(error)}"
            ) from error
        used = session.get_providers()[0]
        if used != wanted:
            raise BackendError(
                f"{self.name} could not start {wanted} and would run on {used}; "
                "check that the CUDA, cuDNN and TensorRT libraries it needs are installed."
            )
        return session

    def _provider_options(self, stream: Stream | None) -> dict[str, str]:
        options = {"device_id": self.device.partition(":")[2] or "0"}
        if stream is not None:
            options["user_compute_stream"] = str(stream.handle)
        return options | self._more_options()

    def _more_options(self) -> dict[str, str]:
        # Without TF32, which rounds the inputs of float32 convolutions to 10 bits of mantissa.
        return {"use_tf32": "0"}

    @classmethod
    def capabilities(cls) -> Sequence[Capability]:
        """See :meth:`Backend.capabilities`."""
        try:
            ort = _package()
        except PackageError as error:
            return [Capability(device="cpu", precisions=(), reason=str(error))]
        version = f"onnxruntime {ort.__version__}"
        cpu = Capability(device="cpu", precisions=("fp32", "int8"), reason=f"{version}, CPU")
        return [cls._gpu_capability(ort, version), cpu]

    @classmethod
    def _gpu_capability(cls, ort: Any, version: str) -> Capability:
        if cls.gpu_provider in ort.get_available_providers():
            reason = f"{version} with its {cls.gpu_provider}"
            return Capability(device="cuda:0", precisions=("fp16", "fp32"), reason=reason)
        reason = (
            f"{version} has no {cls.gpu_provider}; on an NVIDIA GPU replace it: "
            f"pip uninstall onnxruntime, then {install_hint('gpu')}"
        )
        return Capability(device="cuda:0", precisions=(), reason=reason)

    def _network_for(self, size: InputSize) -> _OrtNetwork:
        return _OrtNetwork(self, form_layouts(self.form, size))

    def _infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        assert self._session is not None
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def _release(self) -> None:
        del self._session


class OnnxRuntimeTensorRtBackend(OnnxRuntimeBackend):
    """An exported graph on ONNX Runtime's TensorRT provider, which builds its own engines.

    They are kept in the user's engine cache, and are not compared with PyTorch.
    """

    name = "onnxruntime-tensorrt"
    builds_engines = True
    gpu_provider = "TensorrtExecutionProvider"

    @classmethod
    def capabilities(cls) -> Sequence[Capability]:
        """See :meth:`Backend.capabilities`; it computes on a GPU only."""
        return super().capabilities()[:1]

    def _more_options(self) -> dict[str, str]:
        # Its networks are not strongly typed, so a float16 graph needs the flag as well.
        options = {"trt_fp16_enable": str(int(self.precision == "fp16"))}
        try:
            folder = str(_engine_folder())
        except OutputError as error:
            note = f"The engine of {self.name} is built anew each time: {error}"
            self.notes += [note] if note not in self.notes else []
            return options
        return options | {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
        }


def _engine_folder() -> Path:
    """Where ONNX Runtime keeps engines, which are code that it loads whoever wrote them.

    So nobody else may enter the folder, and what is in it must be this user's.

    Raises:
        OutputError: if it cannot be made, or others could have written what is in it.
    """
    folder = make_own_folder(cache_folder("engines") / "onnxruntime")
    try:
        folder.chmod(0o700)
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
                    raise OutputError(
                        f"{entry.path}: is not a plain file of yours, and an engine is code; "
                        "remove it."
                    )
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read ({error.strerror or error}).") from error
    return folder


@dataclass(frozen=True)
class _OrtNetwork:
    """The graph for one size of batch; each stream has its own session."""

    backend: OnnxRuntimeBackend
    layouts: Sequence[TensorLayout]

    def executor(self, stream: Stream) -> _OrtExecutor:
        return _OrtExecutor(self.backend, self.layouts, stream)

    def close(self) -> None:
        pass


class _OrtExecutor:
    """A session on one stream, with inputs and outputs bound to addresses."""

    capturable = False  # it may copy and allocate between kernels

    def __init__(
        self, backend: OnnxRuntimeBackend, layouts: Sequence[TensorLayout], stream: Stream
    ) -> None:
        self._layouts = layouts
        self._session: Any = backend._open(stream)
        self._place = ("cpu", 0)
        self._run_options = backend._ort.RunOptions()
        if backend.device != "cpu":
            self._place = ("cuda", int(backend.device.partition(":")[2] or 0))
            # The ring waits for its own events; the session must not wait as well.
            self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        session, options = self._session, self._run_options
        binding = session.io_binding()
        for each in self._layouts:
            bind = binding.bind_input if each.is_input else binding.bind_output
            bind(each.name, *self._place, each.dtype.type, each.shape, addresses[each.name])
        return lambda: session.run_with_iobinding(binding, options)

    def close(self) -> None:
        self._session = None


def _package() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise unusable("onnxruntime", error, "cpu", "the onnxruntime backend") from error
    return onnxruntime
