"""What every result file holds: figures, machine, versions and date."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import psutil

from srtrt.packages import installed
from srtrt.processor import this_processor

_PACKAGES = ("srtrt", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "av")


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory, Python and the versions of the packages that matter."""
    return {
        "processor": str(this_processor()),
        "cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := installed(name))},
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def _gpu() -> str | None:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def full_report(benchmark: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a benchmark and where they come from."""
    return {"benchmark": benchmark, "machine": machine_facts(), **results}
