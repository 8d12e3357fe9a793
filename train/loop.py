"""A training run from its first update to its last, resumable at every saved state."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from srtrt.errors import TrainingError
from srtrt.networks.checkpoint import generator_state, make_spec, round_to_half, save_checkpoint
from srtrt.train.config import TrainConfig
from srtrt.train.content import content_facts, with_content
from srtrt.train.data import Batches
from srtrt.train.determinism import determinism, fix_workspace
from srtrt.train.distributed import World
from srtrt.train.looking import RunView
from srtrt.train.memory import memory_errors_said
from srtrt.train.networks import build_discriminator, build_generator
from srtrt.train.pictures import Pictures
from srtrt.train.precision import Arithmetic
from srtrt.train.progress import Progress, TrainingResult
from srtrt.train.run_folder import BEST, CHECKPOINT, LOG, MILESTONES, Counters, RunFolder
from srtrt.train.state import Average, TrainingState
from srtrt.train.update import Losses, Update, learning_rate
from srtrt.train.validate import Pair, Validation, picture_pairs

MANIFEST_KEY = "srtrt.data_manifest"
"""Metadata key of a checkpoint under which the manifest of its pictures is stored as JSON."""

_SAMPLES = 6
"""Pictures shown in a sample grid."""

_FREE_IN_A_BRANCH = ("discriminator.learning_rate", "discriminator.label_noise")
"""Settings of a network that may change while its tensors stay."""

_RECENT, _ENOUGH = 50, 5
"""Logged losses whose median is the usual value, and how many of them say anything."""


class Trainer:
    """One run: networks, batches, schedule, and the folder that keeps it."""

    @memory_errors_said
    def __init__(
        self,
        config: TrainConfig,
        pictures: Pictures,
        out: Path,
        *,
        name: str = "generator",
        validation_files: Sequence[Path] = (),
        device: torch.device | None = None,
        init: Path | None = None,
        content: nn.Module | None = None,
        world: World | None = None,
    ) -> None:
        """Builds networks and optimisers.

        Args:
            config: settings of the run.
            pictures: training pictures.
            out: run folder; created if missing.
            name: name of the model in its spec.
            validation_files: HR pictures for validation PSNR and sample grids.
            device: where to compute; by default CUDA if present, else the CPU.
            init: checkpoint whose generator the run starts from.
            content: content network; needed if loss.content_weight is above 0.
            world: the processes that train together; by default this one alone.

        Raises:
            TrainingError: if ``init`` or ``content`` does not fit, the settings name another file
                of the content network, or memory runs out.
        """
        if config.run.deterministic:
            fix_workspace()
        self.world = world or World()
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._free_precision = config.run.precision == "auto"
        self.arithmetic = Arithmetic.choose(config, self.device, self.world)
        config = with_content(self.arithmetic.apply(config), content)
        self.config, self.pictures, self.name = config, pictures, name
        if config.loss.content_weight and content is None:
            raise TrainingError("loss.content_weight is above 0, but there is no content network.")
        torch.manual_seed(config.run.seed)
        self.net = build_generator(config, init)
        self.update = Update(
            config,
            self.net,
            build_discriminator(config),
            content,
            device=self.device,
            world=self.world,
        )
        self.average = Average(self.net, config.schedule.ema_decay)
        self.state = TrainingState(self.update.networks, self.update.optimisers, self.average)
        share = self.world.share(config.data.batch)
        self.batches: Batches = pictures.batches(config, device=self.device, share=share)
        whole = config.data.patch if config.data.mode == "whole" else None
        files = validation_files if self.world.first else ()
        self.validation = Validation(
            picture_pairs(files, whole=whole),
            device=self.device,
            rgb=whole is not None,
            perceptual=config.run.perceptual == "auto",
        )
        self._epoch = config.schedule.updates_per_epoch(self.batches.steps_per_epoch)
        self._unit = self._epoch if config.schedule.unit == "epochs" else 1
        self.steps = config.schedule.updates(self.batches.steps_per_epoch)
        self.folder = RunFolder(out)
        self.step = 0
        self._psnr: float | None = None
        self._scores: dict[str, float] = {}
        self._best = -math.inf
        self._recent: list[float] = []

    def resume(self) -> tuple[str, ...]:
        """Goes back to the run folder's newest saved state that is intact.

        With ``run.precision`` auto the run goes on in the precision in which it was started, on
        whatever machine. On the CPU it ends with the weights of a run that was not stopped, bit for
        bit, and on a GPU with ``run.deterministic``; else they differ in rounding.

        Returns:
            Sentences on newer states that are damaged.

        Raises:
            TrainingError: if there is none, or it belongs to a run with other settings or data.
        """
        self._keep_precision()
        found, notes = self.folder.load_state(self.state, self._identity())
        self.step, self._best, self._psnr = found.step, found.best, found.psnr
        self._recent = list(found.recent)
        return notes

    def branch(self, source: Path) -> tuple[str, ...]:
        """Goes on from the newest intact state of another run under this run's settings.

        Networks, averaged weights and optimisers are the other run's. So is the count of updates:
        ``schedule.length`` is that of both together. The best validation is this run's own.

        Returns:
            Sentences on newer states that are damaged.

        Raises:
            TrainingError: if there is none, its networks are others, or it is at or past the end.
        """
        folder, adversarial = RunFolder(source), len(self.update.networks) > 1
        if bool(folder.started_with("loss.adversarial_weight")) != adversarial and folder.states():
            raise TrainingError(
                f"{source}: was trained {'without' if adversarial else 'with'} a discriminator; "
                "a branch keeps the networks of the run it leaves. Start from its "
                "generator.safetensors with --init."
            )
        kept = ("generator.", "discriminator.") if adversarial else "generator."
        same = {k: v for k, v in self._identity().items() if k.startswith(kept)}
        same = {k: v for k, v in same.items() if k not in _FREE_IN_A_BRANCH}
        found, notes = folder.load_state(self.state, same, branch=True)
        if found.step >= self.steps:
            raise TrainingError(
                f"{source}: has done {found.step} updates, and the run is {self.steps} long; "
                "give a longer schedule.length, which counts from the start of that run."
            )
        self.step = found.step
        return notes

    def _keep_precision(self) -> None:
        """Takes the precision of the saved states, unless the settings ask for the other one."""
        started = self.folder.started_with("run.precision")
        if started == self.config.run.precision or (started is not None and self._free_precision):
            self.arithmetic = Arithmetic.kept(started, self.device)
            self.config = self.update.config = self.arithmetic.apply(self.config)

    def _identity(self) -> dict[str, Any]:
        settings = self.config.to_dict()
        flat = {f"{s}.{k}": v for s, values in settings.items() for k, v in values.items()}
        return {**flat, "pictures": self.pictures.cache.sha256}

    @memory_errors_said
    def run(
        self,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TrainingResult:
        """Trains to the end, or until ``should_stop`` says so between two updates, and saves.

        Raises:
            TrainingError: if the loss is no longer finite or explodes, memory runs out, or
                something cannot be computed with ``run.deterministic``; saved states stay usable.
            OutputError: if a file cannot be written; saved states stay usable.
        """
        view = self._open_folder()
        try:
            with determinism(self.config.run.deterministic):
                stopped = self._loop(view, on_progress, should_stop)
        finally:
            if view is not None:
                view.close()
        return TrainingResult(
            checkpoint=self.folder.path / CHECKPOINT,
            steps=self.step,
            finished=not stopped,
            psnr=self._psnr,
        )

    def _open_folder(self) -> RunView | None:
        if not self.world.first:
            return None
        self.folder.start(self.config.to_yaml(), self._manifest())
        self.folder.forget_after(self.step)
        return RunView(self.folder.path, first_step=self.step)

    def _loop(
        self,
        view: RunView | None,
        on_progress: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool],
    ) -> bool:
        sums: Losses = {}
        counted, since, stopped = 0, time.perf_counter(), False
        while self.step < self.steps and not stopped:
            losses = self.update(self.batches.sample(self.step), self.step, self.steps)
            self.average.update(self.net, self.step)
            for key, value in losses.items():
                sums[key] = sums[key] + value if key in sums else value
            self.step += 1
            counted += 1
            run = self.config.run
            every = (run.log_every, run.save_every, run.validate_every, run.sample_every)
            look = self._at_milestone() or any(self._due(n) for n in every)
            # Several processes agree only now and then, because agreeing waits for the devices.
            if look or self.world.size == 1:
                stopped = self.world.agree(should_stop())
            last = stopped or self.step == self.steps
            if not (look or last):
                continue
            # Before anything is saved, so that a state never holds a broken network.
            means = {k: float(self.world.mean(v / counted)) for k, v in sums.items()}
            seconds = (time.perf_counter() - since) / counted
            self._check(means["generator"])
            if view is not None:
                self._look(view, means, seconds, last=last, on_progress=on_progress)
                if last or self._due(run.save_every):
                    self._save()
            sums, counted, since = {}, 0, time.perf_counter()
        return stopped

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % (every * self._unit) == 0

    def _at_milestone(self) -> bool:
        return any(self.step == each * self._unit for each in self.config.run.milestones)

    def _place(self) -> str:
        """Where the run stands, as a part of file names that sorts."""
        if self.config.schedule.unit == "steps":
            return f"step-{self.step:08d}"
        epoch, rest = divmod(self.step, self._unit)
        return f"epoch-{epoch:05d}" + (f"-step-{self.step:08d}" if rest else "")

    def _check(self, loss: float) -> None:
        advice = (
            f"Saved states are in {self.folder.path}; start again with a lower "
            f"schedule.learning_rate (now {self.config.schedule.learning_rate})."
        )
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {self.step}. {advice}")
        usual = median(self._recent) if len(self._recent) >= _ENOUGH else math.inf
        times = self.config.run.explosion
        if loss > times * usual:
            raise TrainingError(
                f"the loss is {loss:.4g} at step {self.step}, more than {times:g} times its usual "
                f"value {usual:.4g}: the run diverges. {advice}"
            )
        self._recent = [*self._recent[1 - _RECENT :], loss]

    def _look(
        self,
        view: RunView,
        means: dict[str, float],
        seconds: float,
        *,
        last: bool,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Validates, logs, draws and reports what is due."""
        run = self.config.run
        shown = last or self._at_milestone()
        line: dict[str, float] = {f"loss/{k}": v for k, v in means.items()}
        rate = learning_rate(self.config, self.config.schedule.learning_rate, self.step, self.steps)
        line |= {"learning_rate": rate, "steps_per_second": 1 / seconds}
        if self.validation.pairs and (shown or self._due(run.validate_every)):
            line |= self._validate()
        if self._at_milestone():
            self._write_checkpoint(f"{MILESTONES}/{self._place()}.safetensors")
        epoch = self.step / self._epoch
        self.folder.log({"step": self.step, "epoch": round(epoch, 4), **line})
        view.scalars(self.step, line)
        if shown or self._due(run.sample_every):
            self._draw(view)
        if on_progress is not None:
            on_progress(
                Progress(
                    step=self.step,
                    steps=self.steps,
                    epoch=epoch,
                    losses=means,
                    seconds_per_step=seconds,
                    psnr=self._psnr,
                )
            )

    def _validate(self) -> dict[str, float]:
        adversarial = "discriminator" in self.update.networks
        self._scores = self.validation.scores(self.average.network(self.net), mesh=adversarial)
        self._psnr = self._scores["psnr"]
        if self._psnr > self._best:
            self._best = self._psnr
            self._write_checkpoint(BEST)
        return self._scores

    def _draw(self, view: RunView) -> None:
        net = self.average.network(self.net)
        for kind, pairs in (
            ("training", self._training_pairs()),
            ("validation", self.validation.pairs[:_SAMPLES]),
        ):
            enlarged = Validation(pairs, device=self.device).enlarge(net)
            triples = [(lr, sr, hr) for (lr, hr), sr in zip(pairs, enlarged, strict=True)]
            if triples:
                view.samples(kind, self._place(), self.step, triples)
        view.plots(self.folder.path / LOG, self.config.loss.weights)

    def _training_pairs(self) -> list[Pair]:
        """The first of the run's first batch, the same in every grid."""
        batch = self.batches.sample(0)
        lr, hr = (
            (t * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            for t in (batch.lr, batch.hr)
        )
        return list(zip(lr, hr, strict=True))[:_SAMPLES]

    def _save(self) -> None:
        self._write_checkpoint(CHECKPOINT)
        counters = Counters(
            step=self.step, best=self._best, recent=tuple(self._recent), psnr=self._psnr
        )
        facts = {**counters.facts(), **self._identity()}
        self.folder.save_state(self.state, self.step, facts, self.config.run.keep)

    def _write_checkpoint(self, name: str) -> None:
        """Writes the averaged weights as float16 (BatchNorm statistics float32).

        This halves the file; the network is defined by the rounded values.
        """
        state = round_to_half(generator_state(self.average.network(self.net)))
        training = {
            "steps": self.step,
            "dataset": self.pictures.dataset.name,
            "pictures": len(self.pictures.photographs),
            "pixels_sha256": self.pictures.cache.sha256,
            "settings": self.config.to_dict(),
            "processes": self.world.size,
            "machine": f"{platform.machine()}, {self.device.type}",
            "torch": torch.__version__,
        }
        psnr, quality = self._psnr, {}
        if psnr is not None and math.isfinite(psnr):
            quality = {"validation_psnr_db": round(psnr, 3)}
        distances = {k: v for k, v in self._scores.items() if k != "psnr"}
        quality |= {f"validation_{k.split('/')[-1]}": round(v, 4) for k, v in distances.items()}
        config = self.config.generator
        spec = make_spec(state, config, self.name, training=training, quality=quality)
        manifest = {MANIFEST_KEY: json.dumps(self._manifest())}
        save_checkpoint(self.folder.path / name, state, spec, extra=manifest)

    def _manifest(self) -> dict[str, Any]:
        """What the run learns from: its pictures, and the weights of its content network."""
        return {**self.pictures.manifest(), **content_facts(self.config)}
