"""What ONNX Runtime's providers for NVIDIA GPUs need: libraries, a driver, a folder for engines.

A provider is a library of its own, which ONNX Runtime loads when a session asks for it. If that
fails, the session computes on the CPU and raises nothing, so the reason is looked for here.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import io
import json
import os
import stat
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from srtrt.errors import BackendError, OutputError, first_line, install_hint
from srtrt.files import cache_folder, make_own_folder
from srtrt.packages import onnxruntime_clash
from srtrt.runtime.engines.gpu import gpu_facts
from srtrt.runtime.nvidia import no_gpu

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_LIBRARIES = {
    CUDA: "libonnxruntime_providers_cuda.so",
    TENSORRT: "libonnxruntime_providers_tensorrt.so",
}
_CUDNN = "libcudnn.so.9"
"""Convolutions need it; since it is loaded on first use, the provider itself does not name it."""

_OPTION_SIGNS = ("EP option", "The value for the key", "provider option", "Failed to parse value")
_DEVICE_SIGNS = ("invalid device ordinal", "no CUDA-capable device", "Invalid device ID")


def obstacle(ort: Any, provider: str, device: str = "cuda:0") -> str | None:
    """Why a provider cannot compute on a GPU of this machine; None if nothing speaks against it.

    Asks the driver and loads the libraries, but opens no session.

    Args:
        ort: the module ``onnxruntime``.
        provider: :data:`CUDA` or :data:`TENSORRT`.
        device: ``cuda:N``.

    Returns:
        A clause without a full stop.
    """
    version = f"onnxruntime {ort.__version__}"
    if provider not in ort.get_available_providers():
        return (onnxruntime_clash() or "").rstrip(".") or (
            f"{version} has no {provider}; on an NVIDIA GPU replace it: "
            f"pip uninstall onnxruntime, then {install_hint('gpu')}"
        )
    try:
        facts = gpu_facts(device)
    except BackendError as error:
        return f"{version} with {provider}: {str(error).rstrip('.')}"
    if facts is None:
        return f"{version} has {provider}, but {no_gpu()}"
    built_for = str(getattr(ort, "cuda_version", None) or "")
    if built_for and _major(facts.driver_cuda) < _major(built_for):
        return (
            f"{version} is built for CUDA {built_for}, and the driver {facts.driver} of "
            f"{facts.name} goes up to CUDA {facts.driver_cuda}; install a newer driver, or an "
            f"onnxruntime-gpu for CUDA {_major(facts.driver_cuda)}"
        )
    return missing_library(ort, provider)


def missing_library(ort: Any, provider: str) -> str | None:
    """Which library a provider needs and cannot be loaded, in a clause; None if all are there."""
    preload(ort)
    own = Path(ort.__file__).parent / "capi" / _LIBRARIES[provider]
    try:
        needed = [name for name in needed_libraries(own) if not name.startswith("libonnxruntime")]
    except (OSError, ValueError) as error:
        return f"{provider} cannot be read ({own}: {first_line(error)})"
    for name in (*needed, _CUDNN):
        try:
            _load(name)
        except OSError as error:
            return (
                f"{provider} needs {name}, which cannot be loaded ({first_line(error)}); "
                f"{install_hint('gpu')}, or extend LD_LIBRARY_PATH by its folder"
            )
    return None


@functools.cache
def preload(ort: Any) -> None:
    """Loads CUDA and cuDNN from the nvidia-* packages, where the system's loader does not look.

    Harmless without them: what is missing then, :func:`missing_library` tells.
    """
    load = getattr(ort, "preload_dlls", None)
    if load is not None:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            load()


def opening_problem(error: Exception) -> str | None:
    """What an error at the opening of a session says of its provider; None if something else."""
    text = str(error)
    if any(sign in text for sign in _OPTION_SIGNS):
        return f"it refuses an option ({first_line(error)}); another version of onnxruntime may"
    if any(sign in text for sign in _DEVICE_SIGNS):
        return f"there is no such device ({first_line(error)}); `srtrt info` lists those there are"
    return None


def needed_libraries(path: Path) -> list[str]:
    """The libraries that an ELF file names as needed.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no such file of 64 bits.
    """
    with path.open("rb") as file:
        try:
            return list(_needed(file))
        except struct.error as error:
            raise ValueError("it ends too early") from error


def _needed(file: BinaryIO) -> Iterator[str]:
    head = file.read(64)
    if head[:6] != b"\x7fELF\x02\x01":
        raise ValueError("it is no ELF file of 64 bits")
    (start,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    file.seek(start)
    table = file.read(size * count)
    # Of a segment: kind, flags, offset, address, physical address, bytes in the file.
    segments = [struct.unpack_from("<IIQQQQ", table, size * each) for each in range(count)]
    _, _, offset, _, _, nbytes = next(each for each in segments if each[0] == _DYNAMIC)
    file.seek(offset)
    entries = list(struct.iter_unpack("<qQ", file.read(nbytes // 16 * 16)))
    address, length = (next(v for k, v in entries if k == kind) for kind in (_STRTAB, _STRSZ))
    holder = next(
        each for each in segments if each[0] == _LOAD and 0 <= address - each[3] < each[5]
    )
    file.seek(holder[2] + address - holder[3])
    names = file.read(length)
    for kind, position in entries:
        if kind == _NEEDED:
            yield names[position : names.index(b"\0", position)].decode()


_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRTAB, _STRSZ = 1, 5, 10


def _load(name: str) -> ctypes.CDLL:
    """Loads a library from where the system looks, or from the package of TensorRT's libraries.

    Once loaded from anywhere, it is found by its name.
    """
    try:
        return ctypes.CDLL(name)
    except OSError:
        package = find_spec("tensorrt_libs")
        for folder in (package.submodule_search_locations or []) if package else []:
            if (Path(folder) / name).is_file():
                return ctypes.CDLL(str(Path(folder) / name))
        raise


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def tensorrt_version(ort: Any) -> str:
    """The TensorRT that the provider loads, such as ``101303``; ``unknown`` if it does not tell."""
    own = Path(ort.__file__).parent / "capi" / _LIBRARIES[TENSORRT]
    try:
        name = next(each for each in needed_libraries(own) if each.startswith("libnvinfer.so"))
        return str(_load(name).getInferLibVersion())
    except (OSError, ValueError, StopIteration, AttributeError):
        return "unknown"


def engine_prefix(ort: Any, device: str, facts: Mapping[str, Any]) -> str:
    """A name for engines that no engine of other facts has, nor one made with other versions.

    ONNX Runtime names an engine after its graph's name and structure, so without this one of the
    same graph for another size, or with other weights, would be taken.

    Args:
        ort: the module ``onnxruntime``.
        device: ``cuda:N``.
        facts: what is built and how, as plain values.
    """
    gpu = gpu_facts(device)
    where = {
        "onnxruntime": ort.__version__,
        "tensorrt": tensorrt_version(ort),
        "gpu": gpu and [gpu.name, gpu.compute_capability, gpu.driver],
    }
    text = json.dumps({**where, **facts}, sort_keys=True)
    return f"srtrt_{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def engine_folder() -> Path:
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
