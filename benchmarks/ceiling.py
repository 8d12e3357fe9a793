"""The matrix product: how fast a device computes at best."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from srtrt.spec import Precision

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""PyTorch's type of each precision that PyTorch computes in."""

_SMALLEST, _LARGEST = 256, 8192
"""Sides of the matrices. The largest three take 0.8 GB in float32, and keep any GPU busy."""

_ONE, _BATCH = 1 / 16, 1 / 8
"""Shares of the time in which one product and one batch of products are large enough."""


def matmul_flops(device: torch.device, precision: Precision, seconds: float = 0.5) -> float:
    """Floating-point operations per second of square matrix products on a device.

    Args:
        device: where to compute.
        precision: of the matrices: fp32, fp16 or bf16.
        seconds: time for what counts; with what goes before, it takes two to three times as long.
    """
    matrices: dict[int, torch.Tensor] = {}

    def multiply(side: int, times: int) -> None:
        if side not in matrices:
            matrices.clear()
            matrices[side] = torch.rand(side, side, device=device).to(TYPES[precision])
        for _ in range(times):
            matrices[side] @ matrices[side]
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return best_rate(multiply, seconds)


def best_rate(
    multiply: Callable[[int, int], None],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Floating-point operations per second of the best of several batches of products.

    The side of the matrices is doubled until one product takes a while, then the batch, so that
    it takes about as long on any machine, also on one that emulates the precision.

    Args:
        multiply: multiplies two matrices of a side so many times, and waits for the result.
        seconds: time for the batches that count; finding their size may take twice as long again.
        clock: seconds that pass.
    """

    def took(side: int, times: int) -> float:
        start = clock()
        multiply(side, times)
        return max(clock() - start, 1e-9)

    side, times = _SMALLEST, 1
    took(side, 1)  # threads start and kernels are chosen, as with every new size
    # Beside other work a single short product may seem slow.
    while side < _LARGEST and any(took(side, 1) < _ONE * seconds for _ in range(2)):
        side *= 2
        took(side, 1)
    while (batch := took(side, times)) < _BATCH * seconds:
        times *= 2
    best, left = batch, seconds - batch
    while left > 0:
        batch = took(side, times)
        best, left = min(best, batch), left - batch
    return 2.0 * side**3 * times / best
