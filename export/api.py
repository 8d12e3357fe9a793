"""Exporting a checkpoint to verified graphs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtrt.errors import InputError, ModelError, OutputError, UsageError
from srtrt.export.making import QUANTISED, GraphMaker
from srtrt.export.onnx_graph import network_graph
from srtrt.graph import graph_file_name, load_graph, save_graph
from srtrt.locks import output_claimed
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.networks.rewrites import REWRITES
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import GATES, Parity, read_originals, read_pictures
from srtrt.spec import Form, ModelSpec, Precision

_RUN_CHECKPOINTS = ("run/generator.safetensors", "generator.safetensors")
"""Where ``srtrt train`` leaves a generator: in its default folder, or in this one."""


@dataclass(frozen=True, kw_only=True)
class ExportedGraph:
    """A graph that was verified and written."""

    path: Path
    spec: ModelSpec
    parity: Parity
    kept: bool = False
    """It was there already, the same graph, and nothing was written."""

    @property
    def layers(self) -> str:
        """Which layers do not compute in the graph's precision, and why; empty for fp32."""
        typed, calibrated = (self.spec.quality.get(k) for k in ("typed", "quantisation"))
        facts = typed or calibrated
        if not facts:
            return ""
        if not facts["kept"]:
            return f"all convolutions in {self.spec.precision}"
        reasons = ", ".join(f"{name} ({why})" for name, why in facts["kept"].items())
        return f"kept in {'fp32' if typed else 'higher precision'}: {reasons}"


def export_model(
    model: str,
    out: Path | None = None,
    *,
    forms: Sequence[Form] = ("rgb8", "yuv420p8"),
    precisions: Sequence[Precision] = ("fp32",),
    verify: Path | None = None,
    calibrate: Path | None = None,
    overwrite: bool = False,
    on_graph: Callable[[ExportedGraph], None] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> list[ExportedGraph]:
    """Writes one ONNX file for each form and precision, each compared with PyTorch first.

    A file that holds the same graph already is left as it is.

    The reference is the generator exactly as trained, in PyTorch float32; the graph runs in
    ONNX Runtime on the CPU. The figures are stored in the spec inside the file.

    Args:
        model: a ``.safetensors`` checkpoint or the name of a bundled model.
        out: folder of the graphs; by default the current one.
        forms: see :mod:`srtrt.forms`.
        precisions: ``fp32``; ``fp16`` or ``bf16`` (typed graph, in which layers that overflow or
            cost too much accuracy stay float32); ``int8`` or ``fp8`` (calibrated graph).
        verify: folder of pictures to compare on; by default a few that come with srtrt.
        calibrate: folder of photographs, reduced 4x, whose ranges ``int8`` and ``fp8`` take; by
            default the pictures that come with srtrt.
        overwrite: replace existing files.
        on_graph: called after each written graph.
        on_progress: told a few words before each step of what takes long.

    Raises:
        InputError, ModelError: if the checkpoint is missing or unusable.
        UsageError: if a precision cannot be exported, or nothing is calibrated on ``calibrate``.
        OutputError: if a file exists that is not the same graph, or cannot be written.
        ParityError: if a graph is under its gate, with the nearest precision that passes; it is
            not written.
    """
    source = checkpoint_of(model)
    out = out or Path()
    for precision in precisions:
        if precision not in GATES:
            raise UsageError(
                f"precision {precision!r} cannot be exported; expected {', '.join(GATES)}."
            )
    if calibrate is not None and not set(precisions) & set(QUANTISED):
        raise UsageError(
            "pictures to calibrate on were given, but no precision that is calibrated; "
            f"expected {' or '.join(QUANTISED)} among the precisions."
        )
    assert source.checkpoint_path is not None
    net, spec = load_checkpoint(source.checkpoint_path)
    written = []
    spec = spec.with_(rewrites=REWRITES)
    with _claimed_targets(out, spec, forms, precisions, overwrite) as targets:
        maker = GraphMaker(
            source,
            network_graph(net),
            spec,
            forms,
            read_pictures(verify),
            originals=read_originals(verify),
            calibrate=calibrate,
            on_progress=on_progress,
        )
        for path, form, precision in targets:
            same = maker.same(path, form, precision) if path.exists() and not overwrite else None
            if same is None:
                if path.exists() and not overwrite:
                    raise _in_the_way(path)
                made = maker.make(form, precision)
                save_graph(path, made.graph, replace=overwrite)
                result = ExportedGraph(path=path, spec=made.spec, parity=made.parity)
            else:
                result = ExportedGraph(path=path, spec=same.spec, parity=same.parity, kept=True)
            written.append(result)
            if on_graph is not None:
                on_graph(result)
    return written


def checkpoint_of(model: str) -> Model:
    """The checkpoint behind a name or path.

    Raises:
        InputError: if there is no such model.
        ModelError: if there is only a graph.
    """
    found = find_model(model)
    if found.checkpoint_path is None:
        raise ModelError(
            f"{found.graph_path} is a graph already; export starts from a .safetensors checkpoint."
        )
    return found


def finished_run(folder: Path) -> tuple[Path | None, str]:
    """The checkpoint that a finished training left in a folder.

    Args:
        folder: of the run, or where ``srtrt train`` put its run ``run``.

    Returns:
        The checkpoint, or None; and why, as a clause.
    """
    problem = f"no {_RUN_CHECKPOINTS[0]} or {_RUN_CHECKPOINTS[1]} lies here"
    for name in _RUN_CHECKPOINTS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            _, spec = load_checkpoint(path)
        except (InputError, ModelError) as error:
            problem = str(error).rstrip(".")
            continue
        done, wanted = spec.training.get("steps"), _steps_wanted(spec.training)
        if isinstance(done, int) and wanted is not None and done < wanted:
            problem = f"the run of {path} is not finished, with {done} of {wanted} updates"
            continue
        return path, f"the run in this folder, {done} updates" if done else "it lies here"
    return None, f"the default model, as {problem}"


def _steps_wanted(training: Mapping[str, Any]) -> int | None:
    """Updates that the settings in a spec ask for; None if they count otherwise or say nothing."""
    settings = training.get("settings")
    schedule = settings.get("schedule") if isinstance(settings, Mapping) else None
    if not isinstance(schedule, Mapping) or schedule.get("unit") != "steps":
        return None
    wanted = schedule.get("length")
    return wanted if isinstance(wanted, int) else None


@contextmanager
def _claimed_targets(
    out: Path,
    spec: ModelSpec,
    forms: Sequence[Form],
    precisions: Sequence[Precision],
    overwrite: bool,
) -> Iterator[list[tuple[Path, Form, Precision]]]:
    """Where each graph goes, refused early if something is in the way or another run writes it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made a folder ({error.strerror}).") from error
    targets = {
        out / graph_file_name(spec.with_(form=form, precision=precision)): (form, precision)
        for form in forms
        for precision in precisions
    }
    with ExitStack() as claims:
        for path in targets:
            claims.enter_context(output_claimed(path))
            if os.path.lexists(path) and not overwrite and not _may_be_ours(path, spec):
                raise _in_the_way(path)
        yield [(path, form, precision) for path, (form, precision) in targets.items()]


def _may_be_ours(path: Path, spec: ModelSpec) -> bool:
    """Whether a file claims to be a graph of the same weights, which is then proven or refused."""
    try:
        _, found = load_graph(path)
    except (InputError, ModelError):
        return False
    return (found.weights_sha256, found.rewrites) == (spec.weights_sha256, spec.rewrites)


def _in_the_way(path: Path) -> OutputError:
    return OutputError(f"{path} exists and is another graph; add --overwrite to replace it.")
