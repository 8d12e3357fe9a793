"""The files of one training run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srtrt.errors import OutputError, TrainingError
from srtrt.files import write_text
from srtrt.train.state import TrainingState, read_facts

CHECKPOINT = "generator.safetensors"
BEST = "best.safetensors"
CONFIG = "config.yaml"
MANIFEST = "manifest.json"
LOG = "log.jsonl"
STATES = "states"


class RunFolder:
    """Names, writes and finds the files of a run.

    ::

        config.yaml             the resolved settings
        manifest.json           the pictures, by name and size in bytes
        log.jsonl               one line of figures at each logged step
        generator.safetensors   the averaged weights, newest
        best.safetensors        the averaged weights of the best validation PSNR
        states/                 the newest states to resume from
        samples/ plots/ tensorboard/
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def states(self) -> list[Path]:
        """Saved states, newest first."""
        return sorted((self.path / STATES).glob("state-*.safetensors"), reverse=True)

    def start(self, config: str, manifest: Mapping[str, Any]) -> None:
        """Creates the folder with settings and manifest.

        Raises:
            OutputError: if it cannot be written.
        """
        try:
            (self.path / STATES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be made ({error.strerror}).") from error
        self.write(CONFIG, config)
        self.write(MANIFEST, json.dumps(manifest, indent=1) + "\n")

    def write(self, name: str, text: str) -> None:
        """Writes a text file of the folder; the old one stays until the new one is complete."""
        write_text(self.path / name, text)

    def manifest(self) -> dict[str, Any]:
        """The manifest of an earlier start.

        Raises:
            TrainingError: if there is none.
        """
        try:
            found: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"{self.path}: nothing to resume from; start without --resume."
            ) from error
        return found

    def log(self, line: Mapping[str, Any]) -> None:
        """Appends one line of figures.

        Raises:
            OutputError: if it cannot be written.
        """
        try:
            with (self.path / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(line)) + "\n")
        except OSError as error:
            raise OutputError(
                f"{self.path / LOG}: cannot be written ({error.strerror}); "
                "make room and continue with --resume."
            ) from error

    def forget_after(self, step: int) -> None:
        """Drops the lines of the log after a step, which a resumed run writes again."""
        path = self.path / LOG
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):  # cut off by a crash
                continue
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

    def load_state(self, state: TrainingState, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Restores the newest state that can be read, and returns its facts.

        Raises:
            TrainingError: if there is none, or it belongs to other settings or pictures.
        """
        reasons = []
        for path in self.states():
            try:
                facts = read_facts(path)
                self._check(facts, identity)
                state.load(path)
            except TrainingError as error:
                reasons.append(str(error))
                continue
            return facts
        if reasons:
            raise TrainingError(reasons[0])
        raise TrainingError(f"{self.path}: nothing to resume from; start without --resume.")

    def started_with(self, setting: str) -> Any:
        """The value of a setting in the newest state that can be read; None without one."""
        for path in self.states():
            try:
                return read_facts(path).get(setting)
            except TrainingError:
                continue
        return None

    def _check(self, facts: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        for key, value in identity.items():
            if facts.get(key) != value:
                raise TrainingError(
                    f"{self.path}: was started with {key}={facts.get(key)}, now it is {value}; "
                    "resume with the same settings and pictures, or choose a new --out."
                )
