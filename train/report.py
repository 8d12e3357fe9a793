"""The report's experiment: both upsamplers on three datasets, each run resumable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from srtrt.datasets import squeeze
from srtrt.errors import InputError, TrainingError, UsageError
from srtrt.files import write_text
from srtrt.metrics import psnr
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.plain_data import DataError, read_json_object, shown
from srtrt.reading import read_plain
from srtrt.train.config import TrainConfig, config_from_dict, preset
from srtrt.train.loop import Trainer
from srtrt.train.pictures import Pictures
from srtrt.train.progress import Progress
from srtrt.train.report_data import ReportData
from srtrt.train.report_figures import METHODS, ReportRow
from srtrt.train.run_folder import MILESTONES, STATES, RunFolder
from srtrt.train.validate import Pair, Validation, picture_pairs

Epoch = Literal["batch", "pass"]

UPSAMPLERS = ("pixelshuffle", "nearest")
EXPERIMENT = "experiment.json"
RESULT = "result.json"
TABLES = "tables.md"

_CADENCE: dict[str, dict[str, int]] = {
    "batch": {"log_every": 5, "validate_every": 50, "save_every": 50, "sample_every": 100},
    "pass": {"log_every": 1, "validate_every": 10, "save_every": 10, "sample_every": 50},
}
"""Epochs between two of each: with a state of 1.3 GB, saving must not take longer than training."""

_OWN = {
    "generator.upsampler": "both are run",
    "schedule.unit": "it is epochs",
    "schedule.epoch": "use --epoch",
    "schedule.length": "use --epochs",
    "run.milestones": "use --epochs",
}
"""Settings that belong to the experiment, and what to do instead."""

_MAX_BYTES = 1 << 24


def report_settings(epoch: Epoch, epochs: Sequence[int], assignments: Sequence[str]) -> TrainConfig:
    """The settings of every run but for the upsampler: the preset ``report``, changed.

    Args:
        epoch: what an epoch is, see ``schedule.epoch``; decides how often a run saves and looks.
        epochs: when to measure, at least one; the largest is the length of a run.
        assignments: texts such as ``data.batch=8``.

    Raises:
        UsageError: if a text is no setting, or one that is not free here.
    """
    for text in assignments:
        key = text.partition("=")[0]
        if key in _OWN:
            raise UsageError(f"--set {shown(text)}: not for train-report, {_OWN[key]}.")
    plain = preset("report").to_dict()
    plain["schedule"] |= {"epoch": epoch, "length": max(epochs)}
    plain["run"] |= {**_CADENCE[epoch], "milestones": sorted({*epochs})}
    return config_from_dict(plain, source="preset report").with_settings(assignments)


@dataclass(frozen=True)
class ReportRun:
    """One of the six runs."""

    upsampler: str
    data: str
    folder: Path
    config: TrainConfig

    @property
    def name(self) -> str:
        """As it is called for people."""
        return f"{METHODS[self.upsampler]} on {self.data}"

    @property
    def newest_step(self) -> int:
        """Updates in the newest saved state; 0 without one."""
        states = RunFolder(self.folder).states()
        digits = states[0].stem.rpartition("-")[2] if states else "0"
        return int(digits) if digits.isdigit() else 0

    def result(self) -> list[ReportRow] | None:
        """What was measured, if the run is over.

        Raises:
            InputError: if the file is damaged.
        """
        path = self.folder / RESULT
        if not path.exists():
            return None
        try:
            text = read_plain(path, "the result of a run", most=_MAX_BYTES)
            return [ReportRow(**row) for row in read_json_object(text)["rows"]]
        except (DataError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: is damaged; remove it, and the run is measured again, or {self.folder}, "
                "and it is run again."
            ) from error


class Experiment:
    """The six runs below one folder.

    ::

        experiment.json         settings and pictures, which must stay as they are
        tables.md               the tables, as far as the runs have come
        pixelshuffle-DIV2K/ ... run folders, see RunFolder; result.json when a run is over
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        data: ReportData,
        *,
        content: nn.Module | None,
        device: torch.device,
    ) -> None:
        """Finds where the experiment stands.

        Raises:
            TrainingError: if it was begun with other settings or pictures.
            InputError: if its notes are damaged.
        """
        self.folder, self.config, self.data = folder, config, data
        self.content, self.device = content, device
        self.runs = [
            ReportRun(upsampler, name, folder / f"{upsampler}-{name}", _with(config, upsampler))
            for name in data.training
            for upsampler in UPSAMPLERS
        ]
        self._require_same()

    def begin(self) -> None:
        """Notes what the experiment is about.

        Raises:
            OutputError: if it cannot be written.
        """
        write_text(self.folder / EXPERIMENT, json.dumps(self._identity(), indent=1) + "\n")

    def updates(self, run: ReportRun) -> int:
        """Updates of a whole run."""
        pictures = len(self.data.training[run.data].files)
        return run.config.schedule.updates(-(-pictures // run.config.data.batch))

    def pairs(self) -> list[Pair]:
        """LR and HR of the validation pictures, by the report's protocol.

        Raises:
            InputError: if one cannot be read.
        """
        return picture_pairs(self.data.validation, whole=self.config.data.patch)

    def rows(self) -> list[ReportRow]:
        """What was measured so far, in the order of the report."""
        return [row for run in self.runs for row in run.result() or ()]

    def unfinished(self) -> Iterator[ReportRun]:
        """The runs that are not over, one after the other; those that are lose their states.

        What trains on an unfinished run must end with :meth:`measure`.
        """
        for run in self.runs:
            if run.result() is None:
                yield run
            shutil.rmtree(run.folder / STATES, ignore_errors=True)

    def train(
        self,
        run: ReportRun,
        pictures: Pictures,
        *,
        tell: Callable[[str], None],
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> bool:
        """Trains a run from where it stands; False if it was asked to stop before the end.

        Raises:
            TrainingError, OutputError: see :class:`srtrt.train.loop.Trainer`.
        """
        trainer = Trainer(
            run.config,
            pictures,
            run.folder,
            name=f"{run.upsampler}-{run.data}",
            validation_files=self.data.validation,
            device=self.device,
            content=self.content,
        )
        if RunFolder(run.folder).states():
            for note in trainer.resume():
                tell(f"note: {note}")
        return trainer.run(on_progress=on_progress, should_stop=should_stop).finished

    def measure(self, run: ReportRun, pairs: Sequence[Pair]) -> list[ReportRow]:
        """Measures the checkpoints of a run that has come to its end, and notes the result.

        Raises:
            InputError, ModelError: if a checkpoint cannot be read.
            OutputError: if the result cannot be written.
        """
        validation = Validation(pairs, device=self.device, rgb=True)
        rows = []
        for epoch in run.config.run.milestones:
            path = run.folder / MILESTONES / f"epoch-{epoch:05d}.safetensors"
            net, spec = load_checkpoint(path)
            rows.append(
                ReportRow(
                    method=METHODS[run.upsampler],
                    data=run.data,
                    epoch=epoch,
                    updates=int(spec.training["steps"]),
                    psnr_db=validation.psnr(net),
                )
            )
        text = json.dumps({"rows": [asdict(row) for row in rows]}, indent=1)
        write_text(run.folder / RESULT, text + "\n")
        return rows

    def _identity(self) -> dict[str, Any]:
        """All that must stay as it is, by name."""
        sections = self.config.to_dict()
        flat = {f"{s}.{k}": v for s, keys in sections.items() for k, v in keys.items()}
        return {**flat, **{f"pictures of {k}": v for k, v in self.data.fingerprints().items()}}

    def _require_same(self) -> None:
        path, now = self.folder / EXPERIMENT, self._identity()
        if not path.exists():
            return
        try:
            begun = read_json_object(read_plain(path, "notes of an experiment", most=_MAX_BYTES))
        except DataError as error:
            raise InputError(f"{path}: is damaged ({error}); choose another --out.") from error
        for name in [*now, *begun]:
            if begun.get(name) != now.get(name):
                raise TrainingError(_differs(self.folder, name, begun.get(name), now.get(name)))


def bicubic_psnr(pairs: Sequence[Pair]) -> float:
    """PSNR in dB of OpenCV's bicubic enlargement, by the report's protocol."""
    return float(np.mean([psnr(squeeze(lr, hr.shape[0]), hr) for lr, hr in pairs]))


def _with(config: TrainConfig, upsampler: str) -> TrainConfig:
    plain: dict[str, Any] = config.to_dict()
    plain["generator"]["upsampler"] = upsampler
    return replace(config, generator=config_from_dict(plain, source="preset report").generator)


def _differs(folder: Path, name: str, begun: object, now: object) -> str:
    what = f"{name}={shown(begun)}, now it is {shown(now)}"
    if name.startswith("pictures of"):
        what = f"other {name}"
    if name == "loss.content_sha256":
        what = f"VGG19 weights of SHA-256 {begun}, now it is {now}"
    return (
        f"{folder}: was begun with {what}; give the same folders, weights and options to go on, or "
        "choose another --out."
    )
