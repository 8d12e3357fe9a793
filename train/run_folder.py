"""The files of one training run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtrt.errors import OutputError, TrainingError
from srtrt.files import stale_parts, write_text
from srtrt.plain_data import shown
from srtrt.train.run_log import read_log
from srtrt.train.state import DamagedStateError, TrainingState, read_facts

CHECKPOINT = "generator.safetensors"
BEST = "best.safetensors"
CONFIG = "config.yaml"
MANIFEST = "manifest.json"
LOG = "log.jsonl"
STATES = "states"
MILESTONES = "milestones"

_RESUME = "resume with the same settings and pictures, or choose a new --out."
_BRANCH = (
    "a branch keeps the networks of the run it leaves. Give the same value, or start from its "
    "generator.safetensors with --init."
)


class RunFolder:
    """Names, writes and finds the files of a run.

    ::

        config.yaml             the resolved settings
        manifest.json           the pictures, by name and size in bytes; the content network
        log.jsonl               one line of figures at each logged step
        generator.safetensors   the averaged weights, newest
        best.safetensors        the averaged weights of the best validation PSNR
        states/                 the newest states to resume from
        milestones/             the averaged weights at each of run.milestones
        samples/ plots/ tensorboard/
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def states(self) -> list[Path]:
        """Saved states, newest first."""
        return sorted((self.path / STATES).glob("state-*.safetensors"), reverse=True)

    def start(self, config: str, manifest: Mapping[str, Any]) -> None:
        """Creates the folder with settings and manifest; unfinished files of killed runs go.

        Raises:
            OutputError: if it cannot be written.
        """
        try:
            for name in (STATES, MILESTONES):
                (self.path / name).mkdir(parents=True, exist_ok=True)
                stale_parts(self.path / name, remove=True)  # of a state, they may be large
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be made ({error.strerror}).") from error
        self.write(CONFIG, config)
        self.write(MANIFEST, json.dumps(manifest, indent=1) + "\n")

    def write(self, name: str, text: str) -> None:
        """Writes a text file of the folder; the old one stays until the new one is complete."""
        write_text(self.path / name, text)

    def log(self, line: Mapping[str, Any]) -> None:
        """Appends one line of figures; those that are not finite become null.

        Raises:
            OutputError: if it cannot be written.
        """
        try:
            with (self.path / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps({k: _finite(v) for k, v in line.items()}) + "\n")
        except OSError as error:
            raise OutputError(
                f"{self.path / LOG}: cannot be written ({error.strerror}); "
                "make room and continue with --resume."
            ) from error

    def forget_after(self, step: int) -> None:
        """Drops the lines of the log after a step, which a resumed run writes again.

        Damaged lines go, too: a crash may leave one.

        Raises:
            InputError: if the log cannot be read.
            OutputError: if it cannot be written.
        """
        path = self.path / LOG
        if not os.path.lexists(path):
            return
        kept = []
        for line in read_log(path):
            found = line.values.get("step")
            if isinstance(found, (int, float)) and found <= step:
                kept.append(line.text + "\n")
        self.write(LOG, "".join(kept))

    def save_state(
        self, state: TrainingState, step: int, facts: Mapping[str, Any], keep: int
    ) -> None:
        """Writes the state of a step, then removes all but the newest ``keep``.

        Raises:
            OutputError: if it cannot be written; earlier states stay.
        """
        state.save(self.path / STATES / f"state-{step:08d}.safetensors", facts)
        for old in self.states()[keep:]:
            old.unlink(missing_ok=True)

    def load_state(
        self, state: TrainingState, identity: Mapping[str, Any], *, branch: bool = False
    ) -> tuple[Counters, tuple[str, ...]]:
        """Restores the newest state that is intact.

        Args:
            state: gets its tensors.
            identity: what must be as it was: settings and pictures.
            branch: whether whatever else the state says may be otherwise in the run it starts.

        Returns:
            What the run had counted, and a sentence for each newer state that is damaged.

        Raises:
            TrainingError: if there is none, or it belongs to other settings or pictures.
        """
        nothing = "to branch off from" if branch else "to resume from; start without --resume"
        damaged: list[str] = []
        for path in self.states():
            try:
                facts = read_facts(path)
                self._check(facts, identity, _BRANCH if branch else _RESUME)
                counters = Counters.of(facts, facts if branch else identity, path)
                state.load(path)
            except DamagedStateError as error:
                damaged.append(str(error))
                continue
            notes = tuple(f"{reason} Going on from {path.name} instead." for reason in damaged)
            return counters, notes
        if damaged:
            raise TrainingError(
                f"{damaged[0]} No other state is intact, either: put back a good copy, or start "
                "again with another --out, from generator.safetensors of this run with --init."
            )
        raise TrainingError(f"{self.path}: holds no saved state, so there is nothing {nothing}.")

    def started_with(self, setting: str) -> Any:
        """The value of a setting in the newest state that is intact; None without one."""
        for path in self.states():
            try:
                return read_facts(path).get(setting)
            except DamagedStateError:
                continue
        return None

    def _check(self, facts: Mapping[str, Any], identity: Mapping[str, Any], advice: str) -> None:
        for key, value in identity.items():
            if facts.get(key) != value:
                raise TrainingError(
                    f"{self.path}: was started with {key}={shown(facts.get(key))}, now it is "
                    f"{shown(value)}; {advice}"
                )


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a run has counted besides its tensors."""

    step: int
    """Updates done."""
    best: float
    """Highest validation PSNR in dB; infinite below zero without a validation."""
    recent: tuple[float, ...]
    """The last logged losses."""
    psnr: float | None
    """Newest validation PSNR in dB, if there was one."""

    def facts(self) -> dict[str, Any]:
        """As plain values; those that may be infinite as text."""
        psnr = None if self.psnr is None else str(self.psnr)
        recent = [float(loss) for loss in self.recent]
        return {"step": self.step, "best": str(self.best), "recent": recent, "psnr": psnr}

    @classmethod
    def of(cls, facts: Mapping[str, Any], identity: Mapping[str, Any], path: Path) -> Counters:
        """Reads what :meth:`facts` gave.

        Raises:
            DamagedStateError: if one is missing or impossible, or there are others.
        """
        wanted = {*cls.__dataclass_fields__, *identity}
        for name in sorted(wanted ^ facts.keys()):
            state = "missing" if name in wanted else "unknown"
            raise DamagedStateError(path, f"the fact {shown(name)} is {state}")
        try:
            found = cls(
                step=facts["step"],
                best=float(facts["best"]),
                recent=tuple(map(float, facts["recent"])),
                psnr=None if facts["psnr"] is None else float(facts["psnr"]),
            )
        except (TypeError, ValueError) as error:
            raise DamagedStateError(path, f"its counters are wrong ({error})") from error
        if type(found.step) is not int or found.step < 1:
            raise DamagedStateError(path, "its counters are wrong")
        return found


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
