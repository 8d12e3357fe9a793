"""How many threads an engine may have on the CPU."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from srtrt.errors import UsageError

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def allowed_processors() -> int:
    """Processors on which this process may run; `taskset` and containers leave some out."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_processors() -> int:
    """Processors that this process can keep busy: those allowed, within its CPU quota."""
    return max(1, math.ceil(min(allowed_processors(), *_quotas(), math.inf)))


def engine_threads(wanted: int) -> int:
    """The number of threads to demand of an engine, which has a thread for each core by itself.

    Engines do not look at CPU quotas, and ONNX Runtime computes on processors on which the process
    may not run.

    Args:
        wanted: what was asked for, 0 for what suits.

    Returns:
        The number; 0 leaves it to the engine.

    Raises:
        UsageError: if there are not so many processors.
    """
    allowed = allowed_processors()
    if wanted > allowed:
        raise UsageError(
            f"threads is {wanted}, and this process may run on {allowed} processors; "
            f"expected at most {allowed}, or 0 for as many as suit."
        )
    usable = usable_processors()
    if wanted or usable == (os.cpu_count() or 1):
        return wanted
    return min(usable, psutil.cpu_count(logical=False) or usable)


def _quotas() -> Iterator[float]:
    """Processors' worth of time that each control group around this process may use."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        version_1 = "cpu" in controllers.split(",")
        if not (version_1 or not controllers):
            continue
        # In a container, groups may be mounted from its own one down: paths are tried upwards.
        root = _CGROUPS / "cpu" if version_1 else _CGROUPS
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            quota = _quota_1(folder) if version_1 else _quota_2(folder)
            if quota is not None:
                yield quota
            if folder == root:
                break


def _quota_1(folder: Path) -> float | None:
    """The quota of a version 1 group; None if it has none."""
    try:
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _quota_2(folder: Path) -> float | None:
    """The quota of a version 2 group; None if it has none."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
