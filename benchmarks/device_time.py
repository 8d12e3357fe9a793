"""How long a device computes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def milliseconds(compute: Callable[[Tensor], Any], frame: Tensor) -> float:
    """Time of one computation, on a GPU between two events of its stream."""
    if frame.device.type != "cuda":
        start = time.perf_counter()
        compute(frame)
        return 1000 * (time.perf_counter() - start)
    with torch.cuda.device(frame.device):
        first = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        last = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        first.record()
        compute(frame)
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))
