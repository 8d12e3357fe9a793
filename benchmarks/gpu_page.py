"""The page of what was measured on GPUs, from the summaries in ``benchmarks/results/gpu``.

``python -m srtrt.benchmarks.gpu_page > docs/gpu-results.md`` writes it anew. A summary is the file
``on-gpu.json`` that :mod:`srtrt.benchmarks.on_gpu` leaves, under a name of its machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srtrt.benchmarks.tables import table
from srtrt.terminal import put_text

RESULTS = Path(__file__).resolve().parent / "results" / "gpu"

_HEAD = """\
# Measured on GPUs

What `benchmarks/on_gpu.sh` found on machines with an NVIDIA GPU: one section for each, generated
from a file in `benchmarks/results/gpu/` by `python -m srtrt.benchmarks.gpu_page`; a test compares
the two. To add a machine, run the script there, or [the notebook](../notebooks/on_a_gpu.ipynb) on a
rented or free GPU, and send `on-gpu.json`, the one file it leaves.
"""
_NONE = "\nNo machine has been measured yet.\n"


def page(folder: Path = RESULTS) -> str:
    """The whole page.

    Args:
        folder: holds the summaries; it need not exist.
    """
    paths = sorted(folder.glob("*.json"))
    sections = [section(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return _HEAD + ("".join(f"\n{each}\n" for each in sections) or _NONE)


def section(report: Mapping[str, Any]) -> str:
    """What one machine showed, in markdown without a newline at its end."""
    machine = report["machine"]
    gpus = list(dict.fromkeys(gpu["name"] for gpu in machine["gpus"])) or [machine["processor"]]
    lines = [f"## {' and '.join(gpus)}, {machine['date']}", "", _machine(machine), ""]
    lines += [table(dict(report)), ""]
    for part in report["parts"]:
        shown = _table(part)
        if shown:
            lines += [f"`{part['part']}` on {part['device']}, {part['shows']}:", "", shown, ""]
    return "\n".join(lines).rstrip()


def _machine(machine: Mapping[str, Any]) -> str:
    """Facts of a machine in sentences."""
    cards = [
        f"{gpu['name']} ({_memory(gpu['memory_gib'])}compute capability "
        f"{gpu['compute_capability']}, driver {gpu['driver']})"
        for gpu in machine["gpus"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{'; '.join(cards) or 'No GPU'}; CUDA {machine['cuda'] or '-'} of the driver; "
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB. "
        f"Python {machine['python']}; {versions}."
    )


def _memory(gibibytes: float | None) -> str:
    return "" if gibibytes is None else f"{gibibytes:.0f} GiB, "


def _table(part: Mapping[str, Any]) -> str | None:
    """The table of what a part measured; None if it measured nothing that is one."""
    result = part.get("result") or {}
    if "stages" in result:
        result = {"benchmark": "video", **result}
    return table(dict(result)) if "benchmark" in result else None


if __name__ == "__main__":
    put_text(page())
