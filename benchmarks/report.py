"""What every result file holds: figures, machine, versions and date."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import psutil

from srtrt.errors import BackendError
from srtrt.packages import installed
from srtrt.processor import this_processor
from srtrt.runtime.engines.gpu import gpu_facts

_PACKAGES = (
    "srtrt",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torch",
    "triton",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-python",
    "cuda-bindings",
    "pycuda",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "av",
)
_QUERY = ("name", "driver_version", "memory.total", "compute_cap")


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory, GPUs, CUDA, Python and the versions of the packages that matter."""
    return {
        "processor": str(this_processor()),
        "cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus(),
        "cuda": _cuda(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := installed(name))},
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def gpus() -> list[dict[str, Any]]:
    """Every NVIDIA GPU: name, driver, memory in GiB and compute capability; none without driver."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split(", ") for line in result.stdout.splitlines())
    return [_gpu(*row) for row in rows if len(row) == len(_QUERY)]


def _gpu(name: str, driver: str, mebibytes: str, capability: str) -> dict[str, Any]:
    known = mebibytes.strip().isdigit()  # where memory is shared with the processor it is not
    return {
        "name": name.strip(),
        "driver": driver.strip(),
        "memory_gib": round(int(mebibytes) / 1024, 1) if known else None,
        "compute_capability": capability.strip(),
    }


def _cuda() -> str | None:
    """Newest version of CUDA that the driver supports."""
    try:
        facts = gpu_facts()
    except BackendError:
        return None
    return None if facts is None else facts.driver_cuda


def full_report(benchmark: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a benchmark and where they come from."""
    return {"benchmark": benchmark, "machine": machine_facts(), **results}
