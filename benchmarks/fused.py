"""A kernel of our own for what follows the last convolution, against PyTorch's operators.

Pixel shuffle, scaling, clamping, rounding and interleaving of ``rgb8`` are five operators that each
read and write the whole enlarged picture; here they are one kernel in Triton::

    python -m srtrt.benchmarks.fused --device cuda:0 --size 480x270 -o FILE.json
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from srtrt.benchmarks.command_parts import frame_size
from srtrt.benchmarks.device_time import milliseconds
from srtrt.benchmarks.engines import require_torch
from srtrt.benchmarks.report import full_report
from srtrt.files import write_text

_BLOCK = 1024
_ROUNDER = tl.constexpr(12582912.0)
"""1.5 * 2**23: float32 numbers beside it are whole, so adding it rounds to the nearest, ties to
even, as PyTorch does."""


@triton.jit  # type: ignore[untyped-decorator]
def _pixels_kernel(
    phases: Any,
    pixels: Any,
    samples: Any,
    width: Any,
    channels: tl.constexpr,
    side: tl.constexpr,
    block: tl.constexpr,
) -> None:
    index = tl.program_id(0) * block + tl.arange(0, block)
    inside = index < samples
    colour = index % channels
    column = index // channels % (side * width)
    row = index // (channels * side * width)
    cell = row // side * width + column // side
    phase = (colour * side + row % side) * side + column % side
    value = tl.load(phases + cell * (channels * side * side) + phase, mask=inside, other=0.0)
    value = tl.minimum(tl.maximum(value.to(tl.float32) * 255.0, 0.0), 255.0)
    tl.store(pixels + index, ((value + _ROUNDER) - _ROUNDER).to(tl.uint8), mask=inside)


def fused_pixels(phases: Tensor, side: int) -> Tensor:
    """The picture that phases stand for, in one kernel.

    Args:
        phases: float16, bfloat16 or float32 ``[1, 3 * side**2, H, W]`` in channels-last memory,
            RGB in [0, 1] as before PixelShuffle(side).
        side: cells of the enlarged grid a side.

    Returns:
        uint8 ``[1, side * H, side * W, 3]``, rounded to nearest after clamping.
    """
    height, width = phases.shape[2:]
    channels = phases.shape[1] // side**2
    flat = phases.permute(0, 2, 3, 1)
    assert flat.is_contiguous()
    shape = (1, side * height, side * width, channels)
    pixels = torch.empty(shape, dtype=torch.uint8, device=phases.device)
    grid = (triton.cdiv(pixels.numel(), _BLOCK),)
    _pixels_kernel[grid](flat, pixels, pixels.numel(), width, channels, side, _BLOCK)
    return pixels


def plain_pixels(phases: Tensor, side: int) -> Tensor:
    """The same with PyTorch's operators, as the torch backend computes it."""
    picture = functional.pixel_shuffle(phases, side).float()
    return (255 * picture.permute(0, 2, 3, 1)).clamp(0, 255).round().to(torch.uint8).contiguous()


def measure_fused(device: str, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Times both for phases of the LR grid and of the 2x grid, and compares every sample.

    Args:
        device: ``cuda:N``; or ``cpu`` where Triton interprets (``TRITON_INTERPRET=1``).
        size: width and height of the LR frame.
        rounds: how often each is timed.

    Raises:
        BackendError: if PyTorch cannot compute there.
    """
    precision = "fp32" if device == "cpu" else "fp16"
    require_torch(device, precision)  # type: ignore[arg-type]
    width, height = size
    rows = {}
    for name, side, scale in (("LR grid", 4, 1), ("2x grid", 2, 2)):
        random = torch.Generator().manual_seed(0)
        shape = (1, 3 * side**2, scale * height, scale * width)
        phases = torch.rand(shape, generator=random) * 1.2 - 0.1
        phases = phases.to(device, torch.float32 if device == "cpu" else torch.float16)
        phases = phases.contiguous(memory_format=torch.channels_last)
        ways = {"PyTorch": plain_pixels, "Triton": fused_pixels}
        found = [way(phases, side) for way in ways.values()]
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, compute in ways.items():
                times[way].append(milliseconds(partial(compute, side=side), phases))
        unequal = int((found[0] != found[1]).sum())
        medians = {f"{way}, ms": round(float(np.median(t)), 4) for way, t in times.items()}
        rows[name] = {**medians, "unequal_samples": unequal}
    return {"device": device, "precision": precision, "frame": f"{width}x{height}", "grids": rows}


@click.command()
@click.option("--device", default="cuda:0", show_default=True)
@click.option("--size", default="480x270", show_default=True, metavar="WxH")
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def fused(device: str, size: str, rounds: int, output: Path) -> None:
    """Measures the kernel and writes a JSON file."""
    result = measure_fused(device, frame_size(size), rounds)
    write_text(output, json.dumps(full_report("fused", result), indent=2) + "\n")
    assert all(not row["unequal_samples"] for row in result["grids"].values()), result


if __name__ == "__main__":
    fused()
