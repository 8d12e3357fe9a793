"""Facts about an NVIDIA GPU and its driver, asked of the driver's own libraries."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

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
    """Facts about a GPU; None if this machine has no NVIDIA driver or no GPU at all.

    Args:
        device: ``cuda:N``, in CUDA's order.

    Raises:
        BackendError: if there are GPUs, but not this one, or the driver fails.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, version = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or not count.value:
        return None
    index = int(device.partition(":")[2] or 0)
    if not 0 <= index < count.value:
        raise BackendError(f"{device} does not exist; this machine has {count.value} GPU(s).")
    handle, memory = ctypes.c_int(), ctypes.c_size_t()
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
