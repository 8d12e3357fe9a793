"""ONNX Runtime on the CPU or, through its CUDA or TensorRT provider, on an NVIDIA GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, OutputError, PackageError, first_line, forget_frames
from srtrt.packages import unusable
from srtrt.runtime.backends.base import Backend, Capability, require_at_least
from srtrt.runtime.backends.onnxruntime_gpu import (
    CUDA,
    TENSORRT,
    engine_folder,
    engine_prefix,
    missing_library,
    obstacle,
    opening_problem,
)
from srtrt.runtime.cuda.device import Stream
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import form_layouts, input_size
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
    prefer_nhwc: bool | None = field(default=None, metadata={"device": "cuda"})
    """Keeps activations in NHWC order in the CUDA provider, as Tensor Cores read them; none is true
    in fp16. In fp32, which is computed without Tensor Cores, nothing is won by it."""
    ring: RingOptions | None = field(default=None, metadata={"refused": {"graph": _NO_GRAPHS}})
    """Frames in flight, as soon as one of these is given, on the CPU with threads for streams; by
    default on a GPU where a package to call CUDA is installed, and one after the other elsewhere.
    """

    def __post_init__(self) -> None:
        require_at_least(threads=(self.threads, 0))


class OnnxRuntimeBackend(Backend):
    """An exported graph on ONNX Runtime; on a GPU through its CUDA provider.

    On a GPU each size of batch has a session of its own, whose shapes are all known beforehand.
    """

    name = "onnxruntime"
    options_type = OnnxRuntimeOptions
    options: OnnxRuntimeOptions
    packages = ("onnxruntime", "onnxruntime-gpu")
    bytes_per_pixel = 9_000
    failures = (Exception,)  # its own exceptions share no other base
    gpu_provider: ClassVar[str] = CUDA
    gpu_precisions: ClassVar[tuple[Precision, ...]] = ("fp16", "fp32")
    """Those that convolutions have kernels for; int8 would be computed in float32, with more work
    around it."""

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
        self._place = ("cpu", 0)
        self._session: Any = None
        self._direct: _DirectRun | None = None
        if device != "cpu":
            self._place = ("cuda", int(device.partition(":")[2] or 0))
            problem = obstacle(self._ort, self.gpu_provider, device)
            if problem:
                raise BackendError(f"{self.description} cannot be used: {problem}.")
        self._rings = rings_for(
            device, form, self._network_for, self.options.ring, self.notes.append
        )
        if device == "cpu" and self._rings is None:
            self._session = self._open()

    def _open(self, size: InputSize | None = None, stream: Stream | None = None) -> Any:
        """A session.

        Args:
            size: of all its batches; None leaves it open.
            stream: what it computes on; None is a stream of its own.
        """
        settings = self._ort.SessionOptions()
        settings.intra_op_num_threads = self._threads
        settings.log_severity_level = 4  # what it raises it need not print
        if not self.options.optimise:
            settings.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self.device == "cpu" or size is None:
            return self._started(settings, [("CPUExecutionProvider", {})])
        for name, length in _lengths(size).items():
            settings.add_free_dimension_override_by_name(name, length)
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = self._started(settings, self._providers(size, stream))
        _require_on_gpu(session, self.description)
        return session

    def _started(self, settings: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
        """A session that really has these providers."""
        try:
            with _frames_cleared():
                session = self._ort.InferenceSession(
                    self._graph, settings, providers=providers, enable_fallback=0
                )
        except self.failures as error:
            where, problem = f"{self.name} cannot open {self.model.name}", opening_problem(error)
            if self.device != "cpu" and problem is None:
                raise  # perhaps memory ran out
            raise BackendError(f"{where}: {problem or first_line(error)}.") from error
        started = session.get_providers()
        for name, _ in providers:
            if name not in started:
                why = missing_library(self._ort, name) or "it does not say why"
                raise BackendError(
                    f"{self.name} asked for {name}, and ONNX Runtime would compute on "
                    f"{started[0]} without it: {why}."
                )
        return session

    def _providers(
        self, size: InputSize, stream: Stream | None
    ) -> list[tuple[str, dict[str, str]]]:
        """Providers with their options, the one to be asked first first."""
        return [(CUDA, self._cuda_options(stream))]

    def _device_options(self, stream: Stream | None) -> dict[str, str]:
        options = {"device_id": str(self._place[1])}
        return options if stream is None else options | {"user_compute_stream": str(stream.handle)}

    def _cuda_options(self, stream: Stream | None) -> dict[str, str]:
        nhwc = self.options.prefer_nhwc
        return self._device_options(stream) | {
            # Without TF32, which rounds the inputs of float32 convolutions to 10 bits of mantissa.
            "use_tf32": "0",
            "prefer_nhwc": str(int(self.precision == "fp16" if nhwc is None else nhwc)),
            # Sizes stay the same, so trying all algorithms pays, with all the workspace they want.
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            # Copies wait for the kernels before them only on the same stream.
            "do_copy_in_default_stream": "1",
        }

    @classmethod
    def capabilities(cls, gpu: str = "cuda:0") -> Sequence[Capability]:
        """See :meth:`Backend.capabilities`."""
        try:
            ort = _package()
        except PackageError as error:
            return [Capability(device="cpu", precisions=(), reason=str(error))]
        version = f"onnxruntime {ort.__version__}"
        cpu = Capability(device="cpu", precisions=("fp32", "int8"), reason=f"{version}, CPU")
        return [cls._gpu_capability(ort, version, gpu), cpu]

    @classmethod
    def _gpu_capability(cls, ort: Any, version: str, gpu: str) -> Capability:
        problem = obstacle(ort, cls.gpu_provider, gpu)
        if problem:
            return Capability(device=gpu, precisions=(), reason=problem)
        reason = f"{version} with its {cls.gpu_provider}"
        return Capability(device=gpu, precisions=cls.gpu_precisions, reason=reason)

    def _network_for(self, size: InputSize) -> _OrtNetwork:
        return _OrtNetwork(self, size)

    def prepare(self, width: int, height: int) -> None:
        """See :meth:`Backend.prepare`."""
        super().prepare(width, height)
        if self.device != "cpu" and self._rings is None:
            with self._translated():
                self._direct_for(InputSize(width=width, height=height))

    def _infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        if self._session is None:
            return self._direct_for(input_size(inputs))(inputs)
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def _direct_for(self, size: InputSize) -> _DirectRun:
        """The session for frames of a size, one after the other; the last one is given up."""
        if self._direct is None or self._direct.size != size:
            self._direct = None
            self._direct = _DirectRun(self, size)
        return self._direct

    def _release(self) -> None:
        self._direct = self._session = None


class OnnxRuntimeTensorRtBackend(OnnxRuntimeBackend):
    """An exported graph on ONNX Runtime's TensorRT provider, which builds its own engines.

    They are kept in the user's engine cache, and are not compared with PyTorch.
    """

    name = "onnxruntime-tensorrt"
    builds_engines = True
    gpu_provider = TENSORRT
    # Its engines multiply float32 in TF32, and no option of the provider turns that off.
    gpu_precisions = ("fp16",)

    @classmethod
    def capabilities(cls, gpu: str = "cuda:0") -> Sequence[Capability]:
        """See :meth:`Backend.capabilities`; it computes on a GPU only."""
        return super().capabilities(gpu)[:1]

    def _providers(
        self, size: InputSize, stream: Stream | None
    ) -> list[tuple[str, dict[str, str]]]:
        # CUDA takes the nodes that TensorRT leaves; else they would go to the CPU.
        second = (CUDA, self._cuda_options(stream))
        # Networks are not strongly typed here, so a float16 graph needs the flag as well.
        built = {"trt_fp16_enable": "True" if self.precision == "fp16" else "False"}
        return [(TENSORRT, self._device_options(stream) | built | self._kept(size, built)), second]

    def _kept(self, size: InputSize, built: Mapping[str, str]) -> dict[str, str]:
        """Options that keep engines for the next time."""
        try:
            folder = str(engine_folder())
        except OutputError as error:
            note = f"The engine of {self.name} is built anew each time: {error}"
            self.notes += [note] if note not in self.notes else []
            return {}
        facts = {
            "graph": hashlib.sha256(self._graph).hexdigest(),
            "size": str(size),
            "precision": self.precision,
            "options": dict(built),
            "optimise": self.options.optimise,
        }
        return {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": folder,
            "trt_engine_cache_prefix": engine_prefix(self._ort, self.device, facts),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": folder,
        }


@dataclass(frozen=True)
class _OrtNetwork:
    """The graph for one size of batch; each stream has its own session."""

    backend: OnnxRuntimeBackend
    size: InputSize

    def executor(self, stream: Stream) -> _OrtExecutor:
        return _OrtExecutor(self.backend, self.size, stream)

    def close(self) -> None:
        pass


class _OrtExecutor:
    """A session on one stream, with inputs and outputs bound to addresses.

    It alone refers to the session, so that closing it gives everything back at once.
    """

    capturable = False  # it may copy and allocate between kernels

    def __init__(self, backend: OnnxRuntimeBackend, size: InputSize, stream: Stream) -> None:
        self._layouts, self._place = form_layouts(backend.form, size), backend._place
        self._session: Any = backend._open(size, stream)
        self._bindings: list[Any] = []
        self._run_options: Any = backend._ort.RunOptions()
        if backend.device != "cpu":
            # The ring waits for its own events; the session must not wait as well.
            self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        number = len(self._bindings)
        self._bindings.append(self._session.io_binding())
        for each in self._layouts:
            binding = self._bindings[number]
            bind = binding.bind_input if each.is_input else binding.bind_output
            bind(each.name, *self._place, each.dtype.type, each.shape, addresses[each.name])
        return lambda: self._run(number)

    def _run(self, number: int) -> None:
        with _frames_cleared():
            self._session.run_with_iobinding(self._bindings[number], self._run_options)

    def close(self) -> None:
        # A binding belongs to its session, so it goes first.
        self._bindings.clear()
        self._session = self._run_options = None


class _DirectRun:
    """A session for one size, with inputs and outputs kept in device memory.

    Tables that stay the same from frame to frame go up once.
    """

    def __init__(self, backend: OnnxRuntimeBackend, size: InputSize) -> None:
        self.size = size
        self._layouts = form_layouts(backend.form, size)
        self._session: Any = backend._open(size)
        self._values = {
            each.name: backend._ort.OrtValue.ortvalue_from_shape_and_type(
                each.shape, each.dtype.type, *backend._place
            )
            for each in self._layouts
        }
        self._tables: dict[str, NDArray[Any]] = {}
        self._binding = self._session.io_binding()
        for each in self._layouts:
            bound = self._binding
            bind = bound.bind_ortvalue_input if each.is_input else bound.bind_ortvalue_output
            bind(each.name, self._values[each.name])

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        for each in self._layouts:
            if not each.is_input:
                continue
            array, known = inputs[each.name], self._tables.get(each.name)
            if known is None or not np.array_equal(known, array):
                self._values[each.name].update_inplace(array)
                if not each.is_image:
                    self._tables[each.name] = np.array(array)
        with _frames_cleared():
            self._session.run_with_iobinding(self._binding)
        return {
            each.name: self._values[each.name].numpy()
            for each in self._layouts
            if not each.is_input
        }


@contextmanager
def _frames_cleared() -> Iterator[None]:
    """Lets an error keep nothing alive of what failed, such as a session on a stream."""
    try:
        yield
    except Exception as error:
        forget_frames(error)
        raise


def _lengths(size: InputSize) -> dict[str, int]:
    """The lengths of the dimensions that a form names, see :mod:`srtrt.forms`."""
    height, width = size.height, size.width
    return {"N": size.batch, "H": height, "W": width, "H/2": height // 2, "W/2": width // 2}


def _require_on_gpu(session: Any, description: str) -> None:
    """Refuses a session that computes convolutions on the CPU.

    A provider leaves nodes that it has no kernel for to the next one, and the CPU is always last.
    """
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    for part in tell() if tell else ():
        if part.ep_name == "CPUExecutionProvider" and "Conv" in {
            node.op_type for node in part.get_nodes()
        }:
            raise BackendError(
                f"{description} would compute convolutions on the CPU, as its provider has no "
                "kernel for them; choose another precision or backend."
            )


def _package() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise unusable("onnxruntime", error, "cpu", "the onnxruntime backend") from error
    return onnxruntime
