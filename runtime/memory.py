"""How much memory a network may take."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import psutil

from srtrt.errors import UsageError

MEMORY_VARIABLE = "SRTRT_MEMORY_LIMIT"
"""Environment variable with the memory the network may take, in MiB."""

_SHARE = 0.5
"""Share of the free memory that is taken without asking."""

_UNKNOWN = 4 << 30
"""Bytes that are taken to be free on a GPU that cannot be asked."""

_CGROUP = Path("/sys/fs/cgroup")


def memory_limit(device: str) -> int:
    """Bytes the network may use on a device: the variable, or half of what is free now.

    Raises:
        UsageError: if the variable is not a positive whole number.
    """
    text = os.environ.get(MEMORY_VARIABLE)
    if text is not None:
        if not text.isdigit() or int(text) == 0:
            raise UsageError(f"{MEMORY_VARIABLE}={text!r}: expected a whole number of MiB above 0.")
        return int(text) << 20
    if device == "cpu":
        return int(_SHARE * min(psutil.virtual_memory().available, _container_free()))
    return int(_SHARE * _cuda_free(device))


def _container_free() -> int:
    """Bytes left under the control group's limit (version 2), or a very large number."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        return max(0, int(limit) - used) if limit != "max" else 1 << 62
    except (OSError, ValueError):
        return 1 << 62


def _cuda_free(device: str) -> int:
    """Free bytes of a CUDA device from the driver, or 4 GiB where it cannot be asked."""
    import ctypes

    index = int(device.partition(":")[2] or 0)
    free, total, context = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
    handle = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return _UNKNOWN
    with ExitStack() as undo:
        # Only what was pushed may be popped: the caller's own context may lie beneath.
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), index):
            return _UNKNOWN
        if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle):
            return _UNKNOWN
        undo.callback(driver.cuDevicePrimaryCtxRelease_v2, handle)
        if driver.cuCtxPushCurrent_v2(context):
            return _UNKNOWN
        undo.callback(driver.cuCtxPopCurrent_v2, ctypes.byref(ctypes.c_void_p()))
        if driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)):
            return _UNKNOWN
        return free.value
