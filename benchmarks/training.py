"""Updates per second of training, against a plain loop and against data that costs nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from srtrt.benchmarks.ceiling import matmul_flops
from srtrt.errors import UsageError
from srtrt.networks.generator import Generator
from srtrt.train.config import TrainConfig
from srtrt.train.data import Batch, Batches
from srtrt.train.distributed import World
from srtrt.train.pictures import Pictures
from srtrt.train.precision import Arithmetic
from srtrt.train.update import Update

_BACKWARD = 3
"""A forward and backward pass costs three times the multiply-accumulates of the forward."""


def measure_training(
    config: TrainConfig,
    folders: Sequence[Path],
    *,
    device: torch.device,
    steps: int = 10,
    rounds: int = 3,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Seconds per update of three loops, interleaved in one run.

    ``plain``: the same generator, untouched, in eager float32 and default memory format, with
    Adam and the pixel loss on one ready batch. ``synthetic``: srtrt's update on one ready batch.
    ``real``: srtrt's update with batches made from pictures.

    Args:
        config: settings without content and adversarial loss.
        folders: training pictures.
        device: where to compute.
        steps: updates in one round.
        rounds: rounds; medians are given.
        on_round: called with the number of rounds done.

    Raises:
        InputError, TrainingError: if there are no usable pictures.
        UsageError: if the settings have content or adversarial loss.
    """
    if config.loss.content_weight or config.loss.adversarial_weight:
        raise UsageError("only updates with a pixel loss alone are measured; try --preset psnr.")
    world = World()
    arithmetic = Arithmetic.choose(config, device, world)
    config = arithmetic.apply(config)
    pictures = Pictures.open(folders, config)
    batches = pictures.batches(config, device=device, share=slice(None))
    torch.manual_seed(0)
    ready = batches.sample(0)
    net = Generator(config.generator)
    update = Update(config, net, None, None, device=device, world=world)
    loops = {
        "plain": _plain(config, ready, device),
        "synthetic": lambda step: update(ready, step, 10**6),
        "real": _real(update, batches),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for function in loops.values():
        _time(function, 2, device)
    for done in range(rounds):
        for name, function in loops.items():
            seconds[name].append(_time(function, steps, device))
        if on_round is not None:
            on_round(done + 1)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return _report(config, arithmetic, medians, device)


def _report(
    config: TrainConfig, arithmetic: Arithmetic, medians: dict[str, float], device: torch.device
) -> dict[str, Any]:
    macs = config.generator.macs_per_lr_pixel * config.data.batch * config.data.patch**2
    ceiling = matmul_flops(device, arithmetic.precision)
    flops = 2 * _BACKWARD * macs / medians["real"]
    return {
        "settings": {"generator": config.to_dict()["generator"], "data": config.to_dict()["data"]},
        "precision": arithmetic.precision,
        "precision_because": arithmetic.reason,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "loops": {
            name: {"steps_per_second": round(1 / s, 3), "seconds_per_step": round(s, 4)}
            for name, s in medians.items()
        },
        "times_faster_than_plain": round(medians["plain"] / medians["real"], 2),
        "real_to_synthetic": round(medians["synthetic"] / medians["real"], 3),
        "teraflops": round(flops / 1e12, 6),
        "matmul_ceiling_teraflops": round(ceiling / 1e12, 6),
        "share_of_ceiling": round(flops / ceiling, 6),
    }


def _plain(config: TrainConfig, batch: Batch, device: torch.device) -> Callable[[int], Any]:
    net = Generator(config.generator).to(device).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-5)

    def step(_: int) -> None:
        loss = functional.l1_loss(net(batch.lr), batch.hr)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def _real(update: Update, batches: Batches) -> Callable[[int], Any]:
    return lambda step: update(batches.sample(step), step, 10**6)


def _time(function: Callable[[int], Any], steps: int, device: torch.device) -> float:
    """Mean seconds of one call."""
    _wait(device)
    start = time.perf_counter()
    for step in range(steps):
        function(step)
    _wait(device)
    return (time.perf_counter() - start) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
