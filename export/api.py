"""Exporting a checkpoint to verified graphs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from srtrt.errors import InputError, ModelError, OutputError, UsageError
from srtrt.export.making import QUANTISED, GraphMaker
from srtrt.export.onnx_graph import network_graph
from srtrt.graph import graph_file_name, save_graph
from srtrt.locks import output_claimed
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.networks.rewrites import REWRITES
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import GATES, Parity, read_pictures
from srtrt.spec import Form, ModelSpec, Precision


@dataclass(frozen=True, kw_only=True)
class ExportedGraph:
    """A graph that was verified and written."""

    path: Path
    spec: ModelSpec
    parity: Parity

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
        OutputError: if a file exists or cannot be written.
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
    with _claimed_targets(out, spec, forms, precisions, overwrite) as targets:
        maker = GraphMaker(
            source,
            network_graph(net),
            spec.with_(rewrites=REWRITES),
            forms,
            read_pictures(verify),
            calibrate=calibrate,
            on_progress=on_progress,
        )
        for path, form, precision in targets:
            made = maker.make(form, precision)
            save_graph(path, made.graph, replace=overwrite)
            result = ExportedGraph(path=path, spec=made.spec, parity=made.parity)
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
    try:
        found = find_model(model)
    except InputError:
        if not Path(model).exists():
            raise
        raise InputError(
            f"{model}: expected a .safetensors checkpoint written by `srtrt train`."
        ) from None
    if found.checkpoint_path is None:
        raise ModelError(
            f"{found.graph_path} is a graph already; export starts from a .safetensors checkpoint."
        )
    return found


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
            if os.path.lexists(path) and not overwrite:
                raise OutputError(f"{path} exists; add --overwrite to replace it.")
        yield [(path, form, precision) for path, (form, precision) in targets.items()]
