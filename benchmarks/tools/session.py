"""One model's turn: constant rate, a decay that branches off it, both resumable."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from srtrt.benchmarks.tools.stored import discriminator_path, load_discriminator
from srtrt.errors import TrainingError
from srtrt.files import file_sha256, write_text
from srtrt.plain_data import DataError, read_json_object
from srtrt.train.config import TrainConfig
from srtrt.train.loop import Trainer
from srtrt.train.pictures import Pictures
from srtrt.train.progress import Progress
from srtrt.train.run_folder import LOG, RunFolder
from srtrt.train.run_log import read_log

DECAY_SHARE = 0.1
"""Share of the time since the last release that its decay takes."""

_DECAY_RATIO = DECAY_SHARE / (1 - DECAY_SHARE)

_MARGIN = 0.95
"""Of the updates that the time for a decay seems to allow."""

_LEAST_UPDATES = 20
"""Updates before their rate is known."""

_SAVE_EVERY = 500
"""Updates that a kill may cost at most."""

_ENDLESS = 1_000_000_000
_ORIGIN = "origin.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a model is trained with."""

    name: str
    config: TrainConfig
    """The model's preset, as changed on the command line."""
    pictures: Pictures
    folder: Path
    """Where its runs are."""
    stored: Path
    content: nn.Module | None
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class Times:
    """Points in time, in seconds of :func:`time.time`."""

    end: float
    """When the decay shall have ended."""
    latest: float
    """When it is cut off, finished or not."""
    updates: int | None = None
    """Updates at a constant rate after which it begins, whatever the time."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a turn made."""

    checkpoint: Path
    """Averaged weights after the decay."""
    constant: Trainer
    """The run at a constant rate where the decay left it."""
    updates: int
    """Updates at a constant rate since the last release."""
    decay: int
    """Updates of the decay."""
    seconds: float
    """Seconds of both."""


class Session:
    """The runs of one model, which outlive the command."""

    def __init__(self, job: Job, say: Callable[[str], None]) -> None:
        """Takes up the runs in the job's folder, or begins them.

        Raises:
            TrainingError: if they were begun from other stored weights.
        """
        self.job, self._say = job, say
        self.constant, self.decay = job.folder / "constant", job.folder / "decay"
        self._origin = self._read_origin()

    def _read_origin(self) -> dict[str, Any]:
        path, found = self.job.folder / _ORIGIN, file_sha256(self.job.stored)
        if not path.is_file():
            return {"stored": [found], "released": 0}
        try:
            origin = read_json_object(path.read_bytes())
            known, released = list(origin["stored"]), int(origin["released"])
        except (OSError, DataError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(
                f"{path}: cannot be read ({error}); move {self.job.folder} away to begin anew."
            ) from error
        if found not in known:
            raise TrainingError(
                f"{self.job.folder}: its runs were begun from other weights than {self.job.stored} "
                "holds now. Move the folder away, or put those weights back."
            )
        return {"stored": known, "released": released}

    @property
    def begun(self) -> bool:
        """Whether there is a run to go on with."""
        return bool(RunFolder(self.constant).states())

    def seconds_so_far(self) -> float:
        """Seconds of training at a constant rate since the last release, by its log."""
        if not (self.constant / LOG).is_file():
            return 0.0
        seconds, last = 0.0, 0
        for line in read_log(self.constant / LOG):
            step, rate = line.values.get("step"), line.values.get("steps_per_second")
            if isinstance(step, int) and isinstance(rate, float) and rate > 0:
                if step > self._origin["released"]:
                    seconds += (step - last) / rate
                last = step
        return seconds

    def train(self, times: Times, should_stop: Callable[[], bool]) -> Trained:
        """Goes on at a constant rate until a decay must begin, then decays.

        Raises:
            KeyboardInterrupt: if ``should_stop`` said so; everything is kept.
            TrainingError: if the time is up before the first updates, or the run diverges.
        """
        job, start = self.job, time.time()
        job.folder.mkdir(parents=True, exist_ok=True)
        write_text(job.folder / _ORIGIN, json.dumps(self._origin) + "\n")
        constant = self._constant_trainer()
        first, before = constant.step, self.seconds_so_far()
        begun = time.time()

        def branch_now() -> bool:
            now = time.time()
            if should_stop() or now >= times.latest:
                return True
            if times.updates is not None:
                return self._done >= times.updates
            decay = _DECAY_RATIO * (before + now - begun)
            known = self._done >= _LEAST_UPDATES
            return known and now + decay >= times.end

        self._done = 0
        constant.run(
            on_progress=self._show("constant rate"), should_stop=self._counting(branch_now)
        )
        if should_stop():
            raise KeyboardInterrupt
        rate = (constant.step - first) / (time.time() - begun)
        length = self._decay_length(times, rate)
        self._say(
            f"{job.name}: {constant.step - first} updates at a constant rate, {rate:.2f} a second; "
            f"a decay of {length} updates branches off"
        )
        decayed = self._decay(constant.step, length, times, should_stop)
        return Trained(
            checkpoint=decayed,
            constant=constant,
            updates=constant.step - self._origin["released"],
            decay=self._done,
            seconds=before + time.time() - start,
        )

    @staticmethod
    def _decay_length(times: Times, rate: float) -> int:
        """Updates of a decay, at so many updates a second."""
        if times.updates is not None:
            return max(1, round(_DECAY_RATIO * times.updates))
        return max(1, int(_MARGIN * rate * max(0.0, times.end - time.time())))

    def _counting(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """``should_stop``, which is asked after each update, counting them."""

        def asked() -> bool:
            self._done += 1
            return should_stop()

        return asked

    def _constant_trainer(self) -> Trainer:
        job = self.job
        trainer = self._trainer(constant_rate(job.config), self.constant, init=job.stored)
        if self.begun:
            for note in trainer.resume():
                self._say(f"{job.name}: {note}")
            return trainer
        judge, stored = trainer.update.networks.get("discriminator"), discriminator_path(job.stored)
        if judge is not None and stored.is_file():
            load_discriminator(stored, judge)
        return trainer

    def _decay(self, step: int, length: int, times: Times, should_stop: Callable[[], bool]) -> Path:
        shutil.rmtree(self.decay, ignore_errors=True)  # of a turn that was cut off
        config = decaying(self.job.config, step, length)
        trainer = self._trainer(config, self.decay, init=None)
        for note in trainer.branch(self.constant):
            self._say(f"{self.job.name}: {note}")
        self._done = 0
        result = trainer.run(
            on_progress=self._show("decay"),
            should_stop=self._counting(lambda: should_stop() or time.time() >= times.latest),
        )
        if should_stop():
            raise KeyboardInterrupt
        if not result.finished:
            self._say(
                f"{self.job.name}: the decay was cut off after {self._done} of {length} updates, "
                "as the time was up"
            )
        return result.checkpoint

    def _trainer(self, config: TrainConfig, out: Path, init: Path | None) -> Trainer:
        job = self.job
        return Trainer(
            config,
            job.pictures,
            out,
            name=job.name,
            device=job.device,
            init=init,
            content=job.content,
        )

    def _show(self, phase: str) -> Callable[[Progress], None]:
        def show(progress: Progress) -> None:
            losses = "  ".join(f"{key} {value:.5f}" for key, value in progress.losses.items())
            rate = 1 / progress.seconds_per_step
            self._say(f"{self.job.name}, {phase}: update {progress.step}  {losses}  {rate:.2f}/s")

        return show

    def expect(self, stored_sha256: str) -> None:
        """Lets the runs go on from stored weights that are about to replace the present ones."""
        self._origin["stored"] = [file_sha256(self.job.stored), stored_sha256]
        write_text(self.job.folder / _ORIGIN, json.dumps(self._origin) + "\n")

    def released(self, step: int) -> None:
        """Notes at which update of the run at a constant rate a release left it."""
        self._origin = {"stored": [file_sha256(self.job.stored)], "released": step}
        write_text(self.job.folder / _ORIGIN, json.dumps(self._origin) + "\n")


def constant_rate(config: TrainConfig) -> TrainConfig:
    """Settings of the endless run: nothing of what presets do towards the end of a run."""
    return replace(
        config,
        schedule=replace(
            config.schedule,
            unit="steps", length=_ENDLESS, decay="constant", freeze_batchnorm_share=0.0,
        ),
        data=replace(config.data, final_patch=0),
        loss=replace(config.loss, final_mse_share=0.0),
        run=replace(
            config.run,
            validate_every=0, sample_every=0, save_every=min(_SAVE_EVERY, config.run.save_every),
        ),
    )  # fmt: skip


def decaying(config: TrainConfig, step: int, length: int) -> TrainConfig:
    """Settings of a branch that decays for ``length`` updates after ``step`` others.

    What a preset does in shares at the end of a run it does here in the same proportion to the
    decay, as far as the branch reaches back.
    """
    steps = step + length
    tail = length / steps
    scale = tail / config.schedule.tail

    def share(value: float) -> float:
        return min(tail, value * scale)

    return replace(
        config,
        schedule=replace(
            config.schedule,
            unit="steps", length=steps, decay="tail", tail=tail,
            freeze_batchnorm_share=share(config.schedule.freeze_batchnorm_share),
        ),
        data=replace(config.data, final_patch_share=share(config.data.final_patch_share)),
        loss=replace(config.loss, final_mse_share=share(config.loss.final_mse_share)),
        run=replace(config.run, validate_every=0, sample_every=0),
    )  # fmt: skip
