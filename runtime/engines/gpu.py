"""Facts about an NVIDIA GPU and its driver, asked of the driver's own libraries."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtrt.errors import BackendError

_MAJOR, _MINOR = 75, 76
"""Attributes CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API."""


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """What an engine depends on."""

    name: str
    """As the driver calls it, such as ``NVIDIA H200``."""
    compute_capability: str
    """Such as ``9.0``."""
    memory_bytes: int
    """All of its memory."""
    driver: str
    """Version of the driver, ``unknown`` if it does not tell."""
    driver_cuda: str
    """Newest CUDA version the driver supports, such as ``13.0``."""


def gpu_facts(device: str = "cuda:0") -> GpuFacts | None:
    """Facts about a GPU; None if CUDA finds none, see :func:`srtrt.runtime.nvidia.gpu_problem`.

    Args:
        device: ``cuda:N``, in CUDA's order.

    Raises:
        BackendError: if there are GPUs, but not this one, or the driver fails.
    """
    cuda, count = _driver()
    if not count:
        return None
    index = int(device.partition(":")[2] or 0)
    if not 0 <= index < count:
        raise BackendError(f"{device} does not exist; {_there_are(count)}.")
    handle, memory, version = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    failed = (
        cuda.cuDeviceGet(ctypes.byref(handle), index)
        or cuda.cuDeviceGetName(name, len(name), handle)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
        or cuda.cuDriverGetVersion(ctypes.byref(version))
    )
    if failed:
        raise BackendError(f"the CUDA driver cannot describe {device} (error {failed}).")
    return GpuFacts(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        memory_bytes=memory.value,
        driver=_driver_version(),
        driver_cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def all_gpus() -> list[GpuFacts]:
    """Facts about every GPU that CUDA shows this process, in CUDA's order.

    Raises:
        BackendError: if the driver cannot describe one.
    """
    _, count = _driver()
    return [gpu for index in range(count) if (gpu := gpu_facts(f"cuda:{index}")) is not None]


def bus_address(index: int) -> str | None:
    """Where a GPU is on the PCI bus, such as ``0000:65:00.0``; None if the driver does not tell.

    Args:
        index: in CUDA's order, which need not be that of nvidia-smi.
    """
    cuda, count = _driver()
    handle, text = ctypes.c_int(), ctypes.create_string_buffer(32)
    if index >= count or cuda.cuDeviceGet(ctypes.byref(handle), index) != 0:
        return None
    if cuda.cuDeviceGetPCIBusId(text, len(text), handle) != 0:
        return None
    return text.value.decode(errors="replace").lower()


def _driver() -> tuple[Any, int]:
    """The driver's library, and how many GPUs it shows this process; 0 if it does not work."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, 0
    count = ctypes.c_int()
    failed = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    return cuda, 0 if failed else count.value


def _there_are(count: int) -> str:
    """How many GPUs there are, and what hides others."""
    names = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}, in CUDA's order"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
    return f"this process sees {names}{hidden}"


def _driver_version() -> str:
    """From NVIDIA's management library, else from the kernel module."""
    text = ctypes.create_string_buffer(96)
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() == 0:
            known = nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0
            nvml.nvmlShutdown()
            if known:
                return text.value.decode(errors="replace")
    except OSError:
        pass
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return "unknown"
