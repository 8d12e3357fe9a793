"""What the report's experiment will take: time, measured by a few updates, and room on the disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch

from srtrt.errors import OutputError
from srtrt.train.config import TrainConfig
from srtrt.train.data import Batch
from srtrt.train.distributed import World
from srtrt.train.memory import memory_errors_said
from srtrt.train.networks import build_discriminator, build_generator
from srtrt.train.precision import Arithmetic
from srtrt.train.report import Experiment, ReportRun
from srtrt.train.state import Average, TrainingState
from srtrt.train.update import Update

_WARM_UP = 2
"""Updates that are not timed: kernels are chosen, and perhaps compiled, in them."""

_ROOM_PER_RUN = 30_000_000
"""Bytes of plots, TensorBoard files and logs, generously."""

_ROOM_PER_GRID = 4_000_000
"""Bytes of the grids of one look, twice, as TensorBoard keeps them too."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one update, and of one saved state."""

    seconds: float
    state_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is still to be done."""

    updates: int
    seconds: float
    peak_bytes: int
    """Of the run folders, at most; one run's states are there at a time."""
    cache_bytes: int
    """Of the cached pictures, wherever the cache lies."""

    def __str__(self) -> str:
        seconds = timedelta(seconds=round(self.seconds))
        return (
            f"{self.updates:,} updates, about {seconds} without validating and saving; on the disk "
            f"at most {_size(self.peak_bytes)} of runs and {_size(self.cache_bytes)} of cached "
            "pictures"
        )

    def require_room(self, folder: Path) -> None:
        """Refuses a disk that is too full.

        Raises:
            OutputError: with what is needed and what is left.
        """
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        usage = shutil.disk_usage(place)
        held = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        missing = self.peak_bytes - held
        if usage.total and usage.free < missing:
            raise OutputError(
                f"{folder}: the runs need {_size(missing)}, and the disk has {_size(usage.free)} "
                "left. Free some space, or choose an --out on another disk."
            )


@memory_errors_said
def measure_cost(experiment: Experiment, run: ReportRun) -> Cost:
    """Makes a few updates of random pictures with a run's networks, and forgets them.

    Raises:
        TrainingError: if they do not fit into memory.
    """
    world, device = World(), experiment.device
    config = Arithmetic.choose(run.config, device, world).apply(run.config)
    net = build_generator(config, None)
    update = Update(
        config,
        net,
        build_discriminator(config),
        experiment.content,
        device=device,
        world=world,
    )
    batch = _random_batch(config, device)
    began = 0.0
    for step in range(_WARM_UP + 1):
        if step == _WARM_UP:
            began = _now(device)
        update(batch, step, _WARM_UP + 1)
    seconds = _now(device) - began
    average = Average(net, config.schedule.ema_decay)
    state = TrainingState(update.networks, update.optimisers, average)
    weights = 2 * sum(tensor.numel() for tensor in average.tensors.values())
    return Cost(seconds=seconds, state_bytes=state.size, checkpoint_bytes=weights)


def plan(experiment: Experiment, costs: Mapping[str, Cost]) -> Plan:
    """What the runs that are not over will take.

    Args:
        experiment: the runs.
        costs: by upsampler.
    """
    open_runs = [run for run in experiment.runs if run.result() is None]
    rest = [(max(experiment.updates(r) - r.newest_step, 0), r.upsampler) for r in open_runs]
    settings = experiment.config.run
    looks = 2 + experiment.config.schedule.length // max(settings.sample_every, 1)
    kept = max((cost.checkpoint_bytes for cost in costs.values()), default=0)
    per_run = (len(settings.milestones) + 3) * kept + _ROOM_PER_RUN + looks * _ROOM_PER_GRID
    # The new state is written before the oldest goes.
    states = (settings.keep + 1) * max((c.state_bytes for c in costs.values()), default=0)
    side = 4 * experiment.config.data.patch
    pictures = sum(len(each.files) for each in experiment.data.training.values())
    return Plan(
        updates=sum(count for count, _ in rest),
        seconds=sum(count * costs[upsampler].seconds for count, upsampler in rest),
        peak_bytes=len(experiment.runs) * per_run + states,
        cache_bytes=3 * side * side * pictures,
    )


def _random_batch(config: TrainConfig, device: torch.device) -> Batch:
    side = config.data.patch
    lr, hr = (torch.rand(config.data.batch, 3, s, s, device=device) for s in (side, 4 * side))
    return Batch(lr=lr, hr=hr)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
