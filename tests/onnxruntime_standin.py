"""onnxruntime-gpu without a GPU: the installed package with another layer below its Python code.

Python's part of ONNX Runtime is the real one, its falling back to the CPU included. Below it,
providers load only if their libraries are there, names and spellings of provider options are those
that the libraries of onnxruntime-gpu 1.31.1 know, devices are counted, and device memory is not the
host's to read. What they compute is computed on the CPU, at once.
"""

from __future__ import annotations

import ctypes
import struct
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cuda_simulator import Gpu, RefusedError
from onnxruntime.capi import onnxruntime_inference_collection as collection

from srtrt.runtime.engines.gpu import GpuFacts

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
CUDA_LIBRARIES = ("libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudart.so.13")
TENSORRT_LIBRARIES = ("libcublas.so.13", "libnvinfer.so.10", "libnvonnxparser.so.10")
CUDNN = "libcudnn.so.9"
H100 = GpuFacts(
    name="NVIDIA H100",
    compute_capability="9.0",
    memory_bytes=80 << 30,
    driver="580.82.07",
    driver_cuda="13.0",
)

_REAL = collection.C


def _flag(text: str) -> bool:
    if text not in ("0", "1", "true", "True", "false", "False"):
        raise RuntimeError(f'Failed to parse value: "{text}"')
    return text in ("1", "true", "True")


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise RuntimeError(f'Failed to parse value: "{text}"')
    return int(text)


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise RuntimeError(f'Failed to map enum name to value: "{text}"')
        return text

    return read


CUDA_OPTIONS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        (
            "cudnn_conv1d_pad_to_nc1d",
            "cudnn_conv_use_max_workspace",
            "do_copy_in_default_stream",
            "enable_cuda_graph",
            "enable_cudnn",
            "enable_skip_layer_norm_strict_mode",
            "fuse_conv_bias",
            "has_user_compute_stream",
            "prefer_nhwc",
            "tunable_op_enable",
            "tunable_op_tuning_enable",
            "use_ep_level_unified_stream",
            "use_tf32",
        ),
        _flag,
    ),
    **dict.fromkeys(
        (
            "device_id",
            "gpu_external_alloc",
            "gpu_external_empty_cache",
            "gpu_external_free",
            "gpu_mem_limit",
            "sdpa_kernel",
            "tunable_op_max_tuning_duration_ms",
            "user_compute_stream",
        ),
        _number,
    ),
    "arena_extend_strategy": _one_of("kNextPowerOfTwo", "kSameAsRequested"),
    "cudnn_conv_algo_search": _one_of("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
}

_TRT_FLAGS = [
    "bf16_enable",
    "build_heuristics_enable",
    "context_memory_sharing_enable",
    "cuda_graph_enable",
    "detailed_build_log",
    "dla_enable",
    "dump_ep_context_model",
    "dump_subgraphs",
    "engine_cache_enable",
    "engine_decryption_enable",
    "engine_hw_compatible",
    "force_sequential_engine_build",
    "force_timing_cache",
    "fp16_enable",
    "int8_enable",
    "int8_use_native_calibration_table",
    "layer_norm_fp32_fallback",
    "sparsity_enable",
    "timing_cache_enable",
    "weight_stripped_engine_enable",
]
_TRT_NUMBERS = [
    "auxiliary_streams",
    "builder_optimization_level",
    "dla_core",
    "ep_context_embed_mode",
    "max_partition_iterations",
    "max_workspace_size",
    "min_subgraph_size",
    "onnx_bytestream",
    "onnx_bytestream_size",
]
_TRT_TEXTS = [
    "engine_cache_path",
    "engine_cache_prefix",
    "engine_decryption_lib_path",
    "ep_context_file_path",
    "extra_plugin_lib_paths",
    "int8_calibration_table_name",
    "onnx_model_folder_path",
    "op_types_to_exclude",
    "preview_features",
    "profile_max_shapes",
    "profile_min_shapes",
    "profile_opt_shapes",
    "tactic_sources",
    "timing_cache_path",
]


def parse_cuda(options: Mapping[str, str]) -> dict[str, Any]:
    """As the CUDA provider reads its options."""
    for name in options:
        if name not in CUDA_OPTIONS:
            raise RuntimeError(f'Unknown provider option: "{name}".')
    return {name: CUDA_OPTIONS[name](text) for name, text in options.items()}


def parse_tensorrt(options: Mapping[str, str]) -> dict[str, Any]:
    """As the TensorRT provider reads its options: flags are spelled out."""
    found: dict[str, Any] = {}
    for name, text in options.items():
        short = name.removeprefix("trt_")
        if name.startswith("trt_") and short in _TRT_FLAGS:
            if text not in ("True", "true", "False", "false"):
                raise RuntimeError(
                    f"[ERROR] [TensorRT] The value for the key '{name}' should be 'True' or "
                    "'False'. Default value is 'False'.\n"
                )
            found[name] = text in ("True", "true")
        elif name in ("device_id", "user_compute_stream") or (
            name.startswith("trt_") and short in _TRT_NUMBERS
        ):
            if not text.isdigit():
                raise RuntimeError(
                    f"[ERROR] [TensorRT] The value for the key '{name}' should be a number i.e. "
                    "'0'.\n"
                )
            found[name] = int(text)
        elif name.startswith("trt_") and short in _TRT_TEXTS:
            if not text:
                raise RuntimeError(f"[ERROR] [TensorRT] The value for the key '{name}' should be a")
            found[name] = text
        else:
            raise RuntimeError(f"Invalid TensorRT EP option: {name}")
    return found


@dataclass
class OrtGpu:
    """One machine, and what was done on it."""

    libraries: set[str]
    """What the loader finds."""
    gpu: Gpu = field(default_factory=Gpu)
    """Where sessions on a given stream compute; the others do at once."""
    facts: GpuFacts | None = H100
    left_out: set[str] = field(default_factory=set)
    """Providers that do not start although their libraries are there."""
    leaves_convolutions: bool = False
    """Whether the CUDA provider has no kernel for them."""
    memory_left: int = 1 << 60
    """Bytes that sessions may still ask for, each as much as its graph has."""
    no_memory: str = "Failed to allocate memory for requested buffer of size 1000"
    """What is said where there is none left."""
    options: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Providers of the sessions that were opened, with their options as they were understood."""
    uploads: list[int] = field(default_factory=list)
    """Bytes of each copy to the device."""
    preloads: int = 0
    engines: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Name of an engine's file to what the engine is for."""
    alive: weakref.WeakSet[Session] = field(default_factory=weakref.WeakSet)

    def streams_in_use(self) -> set[int]:
        """Streams that a session still refers to."""
        return {stream for each in self.alive for stream in each.streams}


class Session:
    """``C.InferenceSession``."""

    machine: OrtGpu

    def __init__(self, settings: Any, model: Any, from_file: bool, from_config: bool) -> None:
        # A GPU has no threads to start, which takes longer than all else.
        settings.intra_op_num_threads = settings.intra_op_num_threads or 1
        self.real = _REAL.InferenceSession(settings, model, from_file, from_config)
        self.nbytes = len(model)
        self.started: list[str] = []
        self.streams: set[int] = set()
        self.ends: list[Callable[[], None]] = []
        self.machine.alive.add(self)

    def __del__(self) -> None:
        for end in self.ends:
            end()

    def initialize_session(
        self, providers: Sequence[str], options: Sequence[Mapping[str, str]], disabled: Any
    ) -> None:
        for name, given in zip(providers, options, strict=True):
            if name != "CPUExecutionProvider":
                self._start(name, {str(k): str(v) for k, v in given.items()})
        self.real.initialize_session(["CPUExecutionProvider"], [{}], disabled)
        shapes = tuple(tuple(each.shape) for each in self.real.inputs_meta)
        for name, found in self.machine.options[-len(self.started) :] if self.started else ():
            if name == TENSORRT and found.get("trt_engine_cache_enable"):
                self._take_engine(found, shapes)

    def _start(self, name: str, given: dict[str, str]) -> None:
        machine = self.machine
        found = parse_tensorrt(given) if name == TENSORRT else parse_cuda(given)
        needed = TENSORRT_LIBRARIES if name == TENSORRT else CUDA_LIBRARIES
        if not {*needed, CUDNN} <= machine.libraries or name in machine.left_out:
            return  # only logged
        if machine.facts is None or found.get("device_id", 0) > 0:
            raise RuntimeError("CUDA failure 101: invalid device ordinal ; GPU=-1 ; hostname=here")
        if self.nbytes > machine.memory_left:
            raise RuntimeError(machine.no_memory)
        if "user_compute_stream" in found:
            if not found.get("do_copy_in_default_stream", True):
                machine.gpu.violate("copies of a session do not wait for its kernels")
            stream = found["user_compute_stream"]
            self.ends.append(machine.gpu.hold(stream, "a session on it"))
            self.streams.add(stream)
        self.started.append(name)
        machine.options.append((name, found))

    def _take_engine(self, found: Mapping[str, Any], shapes: tuple[Any, ...]) -> None:
        """Loads an engine of that name, whatever it was built for, or builds one."""
        prefix = found.get("trt_engine_cache_prefix") or "TensorrtExecutionProvider_TRTKernel_graph"
        name = f"{found['trt_engine_cache_path']}/{prefix}_1234567890_0_fp16_sm90.engine"
        built_for = self.machine.engines.setdefault(name, (shapes, self.nbytes))
        if built_for != (shapes, self.nbytes):
            raise RuntimeError(f"TensorRT EP failed: engine of {built_for} for {shapes}")

    def get_providers(self) -> list[str]:
        return [*self.started, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> Any:
        if self.machine.leaves_convolutions:
            return self.real.get_provider_graph_assignment_info()
        return []

    def run_with_iobinding(self, binding: Binding, run_options: Any) -> None:
        if not self.streams:
            self.real.run_with_iobinding(binding.real, run_options)
            return
        (stream,) = self.streams
        gpu, real, bound, uses = self.machine.gpu, self.real, binding.real, binding.uses
        if gpu.is_capturing(stream):
            gpu.violate("a session allocates and copies while its stream is captured")
        try:
            gpu.enqueue(stream, lambda: real.run_with_iobinding(bound, None), uses)
            if not _leaves_waiting(run_options):
                gpu.violate("a session waits for its stream, which others wait for")
        except RefusedError as refused:
            raise RuntimeError(f"CUDA failure: {refused}") from refused

    def run(self, names: Any, inputs: Any, run_options: Any) -> Any:
        assert not self.started, "copies all inputs and outputs of a GPU's session, each time"
        return self.real.run(names, inputs, run_options)

    def __getattr__(self, name: str) -> Any:
        if name == "real":
            raise AttributeError(name)
        return getattr(self.real, name)


class Binding:
    """``C.SessionIOBinding``; keeps its session alive."""

    def __init__(self, session: Session) -> None:
        self.session, self.real = session, _REAL.SessionIOBinding(session.real)
        self.uses: list[tuple[int, int]] = []

    def bind_input(self, name: str, device: Any, kind: Any, shape: Any, address: int) -> None:
        self._at(address, kind, shape)
        self.real.bind_input(name, _host(device), kind, shape, address)

    def bind_output(self, name: str, device: Any, kind: Any, shape: Any, address: int) -> None:
        self._at(address, kind, shape)
        self.real.bind_output(name, _host(device), kind, shape, address)

    def _at(self, address: int, kind: Any, shape: Any) -> None:
        nbytes = int(np.prod(shape)) * np.dtype(kind).itemsize
        if not self.session.streams:
            self.session.machine.gpu.violate(
                "a session on a stream of its own uses a ring's memory"
            )
        self.session.machine.gpu.view(address, nbytes)
        self.uses.append((address, nbytes))

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.real.bind_ortvalue_input(name, value.real)

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        self.real.bind_ortvalue_output(name, value.real)


class Value:
    """``C.OrtValue`` in device memory."""

    machine: OrtGpu

    def __init__(self, real: Any) -> None:
        self.real = real

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: Any, kind: Any, device: Any) -> Value:
        return cls(_REAL.OrtValue.ortvalue_from_shape_and_type(shape, kind, _host(device)))

    def update_inplace(self, array: Any) -> None:
        self.machine.uploads.append(array.nbytes)
        self.real.update_inplace(array)

    def numpy(self) -> Any:
        return np.array(self.real.numpy())

    def __getattr__(self, name: str) -> Any:
        if name == "real":
            raise AttributeError(name)
        return getattr(self.real, name)


def _leaves_waiting(run_options: Any) -> bool:
    if run_options is None:
        return False
    try:
        name = "disable_synchronize_execution_providers"
        return bool(run_options.get_run_config_entry(name) == "1")
    except RuntimeError:
        return False


def _host(device: Any) -> Any:
    assert device.device_type() == _REAL.OrtDevice.cuda(), "not in the memory of the GPU"
    return _REAL.OrtDevice(_REAL.OrtDevice.cpu(), _REAL.OrtDevice.default_memory(), 0)


class _Below:
    """``onnxruntime.capi._pybind_state`` of onnxruntime-gpu."""

    InferenceSession, SessionIOBinding, OrtValue = Session, Binding, Value

    @staticmethod
    def get_available_providers() -> list[str]:
        return [TENSORRT, CUDA, "CPUExecutionProvider"]

    @staticmethod
    def register_tensorrt_plugins_as_custom_ops(_settings: Any, _options: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(_REAL, name)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> OrtGpu:
    """Makes the installed onnxruntime an onnxruntime-gpu 1.31.1 for CUDA 13, on an H100.

    Args:
        monkeypatch: undoes it.
        folder: empty, for the providers' libraries.
    """
    machine = OrtGpu(libraries={*CUDA_LIBRARIES, *TENSORRT_LIBRARIES, CUDNN})
    (folder / "capi").mkdir()
    for name, needed in (("cuda", CUDA_LIBRARIES), ("tensorrt", TENSORRT_LIBRARIES)):
        path = folder / "capi" / f"libonnxruntime_providers_{name}.so"
        path.write_bytes(elf([*needed, "libc.so.6"]))
    real_load, real_preload = ctypes.CDLL, onnxruntime.preload_dlls

    def load(name: Any, *arguments: Any, **named: Any) -> Any:
        file = Path(str(name)).name
        if not file.startswith(("libcu", "libnv", "libcudnn")):
            return real_load(name, *arguments, **named)
        if file not in machine.libraries:
            raise OSError(f"{file}: cannot open shared object file: No such file or directory")
        return object()

    def preload_dlls() -> None:
        machine.preloads += 1
        real_preload()

    for kind in (Session, Value):
        monkeypatch.setattr(kind, "machine", machine, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(collection, "C", _Below())
    monkeypatch.setattr(onnxruntime, "get_available_providers", _Below.get_available_providers)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload_dlls)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    monkeypatch.setattr(onnxruntime, "__file__", str(folder / "__init__.py"))
    monkeypatch.setattr(
        "srtrt.runtime.backends.onnxruntime_gpu.gpu_facts", lambda _device: machine.facts
    )
    return machine


def elf(needed: Sequence[str]) -> bytes:
    """A shared library of 64 bits that has nothing but the names of those it needs."""
    names, positions = b"\0", []
    for each in needed:
        positions.append(len(names))
        names += each.encode() + b"\0"
    base, start = 0x10000, 64 + 2 * 56
    entries = [(1, position) for position in positions]
    at = start + 16 * (len(entries) + 3)
    entries += [(5, base + at), (10, len(names)), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *each) for each in entries)
    size = at + len(names)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096)
    table = struct.pack("<IIQQQQQQ", 2, 6, start, base + start, 0, len(dynamic), len(dynamic), 8)
    return head + load + table + dynamic + names
