"""The PSNR-oriented stage: the generator alone, against a pixel loss.

An adversarial stage would sit beside this file with its own configuration and step, and share
:mod:`srtrt.train.data`, :mod:`srtrt.train.state` and :mod:`srtrt.train.validate` with it.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from srtrt.errors import TrainingError
from srtrt.files import replace_when_complete
from srtrt.networks.checkpoint import (
    generator_state,
    load_checkpoint,
    make_spec,
    round_to_half,
    save_checkpoint,
)
from srtrt.networks.generator import Generator
from srtrt.networks.initialise import initialise_as_interpolation
from srtrt.networks.rewrites import forward_with_folded_tail
from srtrt.train.config import PsnrConfig
from srtrt.train.data import Batch, PatchPool
from srtrt.train.state import Average, load_state, read_facts, save_state
from srtrt.train.validate import Validation

CHECKPOINT = "generator.safetensors"
STATE = "state.safetensors"
LOG = "log.jsonl"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands."""

    step: int
    """Updates done so far."""
    steps: int
    """Updates in the whole run."""
    loss: float
    """Mean pixel loss since the last report."""
    seconds_per_step: float
    """Mean time of an update since the last report."""
    psnr: float | None
    """Validation PSNR in dB of the averaged weights, when just measured."""

    @property
    def eta_seconds(self) -> float:
        """Expected time until the last update."""
        return (self.steps - self.step) * self.seconds_per_step


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a finished run left behind."""

    checkpoint: Path
    """The averaged weights with their spec."""
    steps: int
    """Updates done."""
    psnr: float | None
    """Validation PSNR in dB of the averaged weights, if there was a validation folder."""


class PsnrTrainer:
    """One run of the PSNR-oriented stage, resumable at its saved states."""

    def __init__(
        self,
        config: PsnrConfig,
        files: Sequence[Path],
        out: Path,
        *,
        name: str = "generator",
        validation_files: Sequence[Path] = (),
        device: torch.device | None = None,
        init: Path | None = None,
    ) -> None:
        """Reads the pictures and builds network and optimiser.

        Args:
            config: settings of the run.
            files: training pictures.
            out: run folder; created if missing.
            name: name of the model in its spec.
            validation_files: HR pictures for validation PSNR.
            device: where to compute; by default CUDA if present, else the CPU.
            init: checkpoint whose weights the run starts from.

        Raises:
            TrainingError: if pictures or ``init`` do not fit.
        """
        self.config, self.out, self.name = config, out, name
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.pool = PatchPool(
            files,
            patch=config.patch,
            batch=config.batch,
            seed=config.seed,
            device=self.device,
            recolour=config.recolour,
        )
        self.validation = Validation(validation_files, device=self.device)
        self.net = self._initial_network(init).to(self.device)
        # Module.to accepts a memory format, which its annotations leave out.
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Average(self.net, config.ema_decay)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=config.learning_rate)
        self.step = 0
        out.mkdir(parents=True, exist_ok=True)

    def _initial_network(self, init: Path | None) -> Generator:
        torch.manual_seed(self.config.seed)
        net = Generator(self.config.generator())
        if init is None:
            initialise_as_interpolation(net)
            return net
        start, _ = load_checkpoint(init)
        if start.config != net.config:
            raise TrainingError(
                f"{init} holds {start.config}; the settings ask for {net.config}. "
                "Give the same blocks, features and upsampler with --set."
            )
        return start

    def resume(self) -> None:
        """Goes back to the run folder's last saved state.

        Raises:
            TrainingError: if there is none, or it belongs to a run with other settings or data.
        """
        facts = read_facts(self.out / STATE)
        for key, value in self._identity().items():
            if facts.get(key) != value:
                raise TrainingError(
                    f"{self.out}: was started with {key}={facts.get(key)}, now it is {value}; "
                    "resume with the same settings and pictures, or choose a new --out."
                )
        load_state(self.out / STATE, self.net, self.optimiser, self.average)
        self.step = int(facts["step"])

    def _identity(self) -> dict[str, Any]:
        return {**json.loads(self.config.to_json()), "pictures": len(self.pool.names)}

    def run(
        self,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TrainingResult:
        """Trains to the end, or until ``should_stop`` says so between two updates, and saves.

        Raises:
            TrainingError: if the loss is no longer finite; the last saved state stays usable.
        """
        config = self.config
        with replace_when_complete(self.out / "config.json") as part:
            part.write_text(config.to_json() + "\n")
        losses = torch.zeros((), device=self.device)
        psnr, since, counted = None, time.perf_counter(), 0
        last = self.step == config.steps
        while not last:
            losses += self._update(self.pool.sample(self.step))
            self.step += 1
            counted += 1
            last = self.step == config.steps or should_stop()
            validated = self._due(config.validate_every) or last
            if validated or last or self._due(config.log_every):
                loss = float(losses) / counted
                seconds = (time.perf_counter() - since) / counted
                self._check_finite(loss)
                psnr = self._validate() if validated else None
                self._report(loss, seconds, psnr, on_progress)
                losses.zero_()
                since, counted = time.perf_counter(), 0
            if self._due(config.save_every) or last:
                self.save(psnr)
        return TrainingResult(checkpoint=self.out / CHECKPOINT, steps=self.step, psnr=psnr)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to zero (Loshchilov and Hutter, 2017)."""
        config = self.config
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))

    def _update(self, batch: Batch) -> torch.Tensor:
        self.net.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        lr = batch.lr.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            output = forward_with_folded_tail(self.net, lr)
        measure = functional.l1_loss if self.config.loss == "l1" else functional.mse_loss
        loss = measure(output.float(), batch.hr)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.average.update(self.net, self.step)
        return loss.detach()

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.step}; the last saved state is in {self.out}. "
                "Start again with a lower learning_rate (--set learning_rate=1e-4)."
            )

    def _validate(self) -> float | None:
        if not self.validation.pairs:
            return None
        return self.validation.psnr(self.average.network(self.net))

    def _report(
        self,
        loss: float,
        seconds: float,
        psnr: float | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        line = {"step": self.step, "loss": loss, "seconds_per_step": round(seconds, 4)}
        if psnr is not None:
            line["psnr"] = round(psnr, 4)
        with (self.out / LOG).open("a") as log:
            log.write(json.dumps(line) + "\n")
        if on_progress is not None:
            on_progress(
                Progress(
                    step=self.step,
                    steps=self.config.steps,
                    loss=loss,
                    seconds_per_step=seconds,
                    psnr=psnr,
                )
            )

    def save(self, psnr: float | None) -> None:
        """Writes the averaged weights as a checkpoint, and the state to resume from.

        The checkpoint's weights are float16 (its BatchNorm statistics float32), which halves the
        file; its network is defined by these rounded values.
        """
        state = round_to_half(generator_state(self.average.network(self.net)))
        training = {
            "stage": "psnr",
            "steps": self.step,
            "pictures": len(self.pool.names),
            "settings": json.loads(self.config.to_json()),
            "machine": f"{platform.machine()}, {self.device.type}",
            "torch": torch.__version__,
        }
        quality = {} if psnr is None else {"validation_psnr_y_db": round(psnr, 3)}
        spec = make_spec(
            state, self.config.generator(), self.name, training=training, quality=quality
        )
        save_checkpoint(self.out / CHECKPOINT, state, spec)
        facts = {"step": self.step, **self._identity()}
        save_state(self.out / STATE, self.net, self.optimiser, self.average, facts)
