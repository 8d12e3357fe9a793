"""Puts a new version of a bundled model together, beside the repository, and then in its place.

Nothing in the repository changes before all of it is there: checkpoint, graph, int8 graph, figures,
card, and the weights that training goes on from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srtrt.benchmarks.bundle import extra_metadata, quality_facts, write_model
from srtrt.benchmarks.bundle_int8 import int8_graph
from srtrt.benchmarks.calibrated import measure_int8
from srtrt.benchmarks.report import full_report
from srtrt.benchmarks.tools import figures
from srtrt.errors import ParityError, UsageError
from srtrt.files import replace_when_complete, write_text
from srtrt.graph import save_graph
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.runtime.models import Model, weights_folder

Say = Callable[[str], None]


@dataclass(frozen=True)
class Repository:
    """Where a clone of srtrt keeps what a release changes."""

    root: Path

    def require(self, name: str) -> None:
        """Refuses a folder that is no clone, or has no such model.

        Raises:
            UsageError: with what is missing.
        """
        for path in (self.weights, self.results):
            if not path.is_dir():
                raise UsageError(
                    f"{self.root}: has no folder {path.relative_to(self.root)}; run this in a "
                    "clone of srtrt, or name one with --repository."
                )
        if not self.checkpoint(name).is_file():
            known = sorted(p.stem for p in self.weights.glob("*.safetensors"))
            raise UsageError(f"--model {name!r}: not bundled; expected one of {', '.join(known)}.")

    @property
    def weights(self) -> Path:
        """The folder of bundled models."""
        return self.root / "src" / "srtrt" / "weights"

    @property
    def results(self) -> Path:
        """The folder of result files."""
        return self.root / "benchmarks" / "results"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint of a bundled model."""
        return self.weights / f"{name}.safetensors"

    def int8(self, name: str) -> Path:
        """Its int8 graph, which not every model has."""
        return self.weights / f"{name}-int8.onnx"

    def stored(self, name: str) -> Path:
        """The weights from which its training goes on."""
        return self.root / "train" / "weights" / f"{name}.safetensors"

    def documents(self) -> list[Path]:
        """Pages that quote figures."""
        pages = [self.root / "README.md", *sorted((self.root / "docs").glob("*.md"))]
        return [path for path in (*pages, *sorted(self.weights.glob("*.md"))) if path.is_file()]


def int8_set(folders: Sequence[Path]) -> Path | None:
    """The set on which an int8 graph must not lose more than it may."""
    return next((folder for folder in folders if folder.name == "Set14"), None)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is to be released."""

    name: str
    checkpoint: Path
    """Averaged weights with their spec and the manifest of their pictures."""
    report: dict[str, Any]
    """Its quality on public sets, as :func:`srtrt.benchmarks.bundle.measured_as` gives it."""
    training: dict[str, Any]
    """Facts for its spec."""
    history: str
    """A line for its card."""
    calibrate: Path
    """Photographs for the int8 graph."""
    int8_data: Path | None
    """See :func:`int8_set`; needed where there is an int8 graph."""


@dataclass
class Release:
    """Files that wait to be put in place: those of ``stage``, under the names they will have."""

    repository: Repository
    stage: Path
    removed: list[Path] = field(default_factory=list)
    """Files of the repository that go."""

    def place(self, path: Path) -> Path:
        """Where a file of the repository waits; its folder is made."""
        target = self.stage / path.relative_to(self.repository.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def text(self, path: Path) -> str:
        """A document as it will be."""
        waiting = self.place(path)
        return (waiting if waiting.exists() else path).read_text(encoding="utf-8")

    def install(self) -> list[Path]:
        """Puts everything in its place, file by file; returns what changed."""
        changed = []
        for source in sorted(p for p in self.stage.rglob("*") if p.is_file()):
            target = self.repository.root / source.relative_to(self.stage)
            if target.is_file() and target.read_bytes() == source.read_bytes():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with replace_when_complete(target) as part:
                shutil.copyfile(source, part)
            changed.append(target)
        for path in self.removed:
            path.unlink(missing_ok=True)
            changed.append(path)
        shutil.rmtree(self.stage)
        return changed


def prepare(repository: Repository, candidate: Candidate, stage: Path, say: Say) -> Release:
    """Makes everything that a release changes, but for the stored weights.

    Raises:
        ParityError: if the float32 graph misses its gate.
    """
    shutil.rmtree(stage, ignore_errors=True)
    release = Release(repository, stage)
    name, checkpoint = candidate.name, release.place(repository.checkpoint(candidate.name))
    net, spec = load_checkpoint(candidate.checkpoint)
    quality = quality_facts(candidate.report, name)
    final = spec.with_(name=name, training=candidate.training, quality=quality)
    parity = write_model(checkpoint, net, final, extra=extra_metadata(candidate.checkpoint))
    say(f"{name}: the float32 graph agrees with PyTorch: {parity}")
    _add_int8(release, candidate, say)
    _add_figures(release, candidate)
    return release


def _add_int8(release: Release, candidate: Candidate, say: Say) -> None:
    old = release.repository.int8(candidate.name)
    if not old.is_file():
        return
    assert candidate.int8_data is not None, "asked for before training"
    checkpoint = release.place(release.repository.checkpoint(candidate.name))
    model = Model(candidate.name, checkpoint.with_suffix(".onnx"), checkpoint)
    try:
        graph = int8_graph(model, candidate.calibrate, candidate.int8_data)
    except ParityError as error:
        say(f"{candidate.name}: released without an int8 graph: {error}")
        say(f"{candidate.name}: what its card says of int8 must be taken out by hand")
        release.removed.append(old)
        return
    save_graph(release.place(old), graph)


def _add_figures(release: Release, candidate: Candidate) -> None:
    repository, name = release.repository, candidate.name
    path = repository.results / f"quality-{name}.json"
    new = full_report("quality", candidate.report)
    old = figures.read_result(path)
    release.place(path).write_text(figures.result_text(new), encoding="utf-8")
    psnr = candidate.report["sets"].get("Set5", {}).get(name, {}).get("psnr_db")
    for document in repository.documents():
        text = release.text(document)
        changed = figures.requoted(text, old, new) if old else text
        if document.name == "README.md" and psnr is not None:
            changed = figures.model_row(changed, name, psnr)
        if document == repository.weights / f"{name}.md":
            changed = figures.with_history(changed, candidate.history)
        if changed != text:
            release.place(document).write_text(changed, encoding="utf-8")


def stale_results(repository: Repository, name: str) -> list[str]:
    """Result files with figures of a model that a release does not measure again."""
    found = []
    for path in sorted(repository.results.glob("*.json")):
        report = figures.read_result(path)
        if path.name != f"quality-{name}.json" and report and figures.mentions(report, name):
            found.append(path.name)
    return found


def refresh_int8(repository: Repository, name: str, folders: Sequence[Path]) -> list[Path]:
    """Measures again what the int8 graph of an installed release loses; its speed is kept.

    Returns:
        The files that changed; none where srtrt is not installed from this repository, or the
        model has no int8 graph.
    """
    path = repository.results / "int8-cpu.json"
    old = figures.read_result(path)
    ours = repository.weights.resolve() == weights_folder().resolve()
    if not ours or old is None or name not in old["models"] or not folders:
        return []
    if not repository.int8(name).is_file():
        return []
    row = measure_int8([name], folders, sizes=(), rounds=1)["models"][name]
    sets = {**old["models"][name]["sets"], **row["sets"]}
    row = {**row, "sets": sets, "speed": old["models"][name]["speed"]}
    new = {**old, "models": {**old["models"], name: row}}
    changed = [path]
    write_text(path, figures.result_text(new))
    alone = [{**report, "models": {name: report["models"][name]}} for report in (old, new)]
    for document in repository.documents():
        text = document.read_text(encoding="utf-8")
        now = figures.requoted(figures.requoted(text, old, new), alone[0], alone[1])
        if now != text:
            write_text(document, now)
            changed.append(document)
    return changed
