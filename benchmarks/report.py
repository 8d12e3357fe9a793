"""What every result file holds: figures, machine, versions and date."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from srtrt.files import write_text
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


def write_report(path: Path, benchmark: str, results: Mapping[str, Any]) -> None:
    """Writes one JSON file with the results and where they come from.

    Raises:
        OutputError: if it cannot be written.
    """
    report = {"benchmark": benchmark, "machine": machine_facts(), **results}
    write_text(path, json.dumps(report, indent=2) + "\n")
