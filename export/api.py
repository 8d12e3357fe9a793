"""Exporting a checkpoint to verified graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from srtrt.errors import InputError, ModelError, OutputError, UsageError
from srtrt.export.onnx_graph import network_graph
from srtrt.graph import dress, graph_file_name, save_graph, stamp, to_half
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import (
    Parity,
    Picture,
    graph_backend,
    measure_parity,
    read_pictures,
    reference_backend,
    require_parity,
)
from srtrt.spec import Form, ModelSpec, Precision

GRAPH_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
"""Precisions a graph can be typed in."""


@dataclass(frozen=True, kw_only=True)
class ExportedGraph:
    """A graph that was verified and written."""

    path: Path
    spec: ModelSpec
    parity: Parity


def export_model(
    model: str,
    out: Path | None = None,
    *,
    forms: Sequence[Form] = ("rgb8", "yuv420p8"),
    precisions: Sequence[Precision] = ("fp32",),
    verify: Path | None = None,
    overwrite: bool = False,
    on_graph: Callable[[ExportedGraph], None] | None = None,
) -> list[ExportedGraph]:
    """Writes one ONNX file for each form and precision, each compared with PyTorch first.

    The reference is the generator exactly as trained, in PyTorch float32; the graph runs in
    ONNX Runtime on the CPU. The figures are stored in the spec inside the file.

    Args:
        model: a ``.safetensors`` checkpoint or the name of a bundled model.
        out: folder of the graphs; by default the current one.
        forms: see :mod:`srtrt.forms`.
        precisions: ``fp32`` or ``fp16`` (typed graph).
        verify: folder of pictures to compare on; by default a few that come with srtrt.
        overwrite: replace existing files.
        on_graph: called after each written graph.

    Raises:
        InputError, ModelError: if the checkpoint is missing or unusable.
        UsageError: if a precision cannot be exported.
        OutputError: if a file exists or cannot be written.
        ParityError: if a graph is under its gate; it is not written.
    """
    source = checkpoint_of(model)
    out = out or Path()
    for precision in precisions:
        if precision not in GRAPH_PRECISIONS:
            raise UsageError(
                f"precision {precision!r} cannot be exported; "
                f"expected {' or '.join(GRAPH_PRECISIONS)}."
            )
    assert source.checkpoint_path is not None
    net, spec = load_checkpoint(source.checkpoint_path)
    targets = _targets(out, spec, forms, precisions, overwrite)
    pictures = read_pictures(verify)
    network = network_graph(net)
    written = []
    for path, form, precision in targets:
        graph = _typed(network, spec, form, precision)
        parity = _verified(graph, source, form, precision, pictures)
        facts = {"against": "PyTorch fp32", "engine": "onnxruntime", **parity.to_dict()}
        final = spec.with_(
            form=form, precision=precision, quality={**spec.quality, "parity": facts}
        )
        save_graph(path, stamp(graph, final))
        result = ExportedGraph(path=path, spec=final, parity=parity)
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


def _targets(
    out: Path,
    spec: ModelSpec,
    forms: Sequence[Form],
    precisions: Sequence[Precision],
    overwrite: bool,
) -> list[tuple[Path, Form, Precision]]:
    """Where each graph goes, refused early if something is in the way."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made a folder ({error.strerror}).") from error
    targets = []
    for form in forms:
        for precision in precisions:
            path = out / graph_file_name(spec.with_(form=form, precision=precision))
            if path.exists() and not overwrite:
                raise OutputError(f"{path} exists; add --overwrite to replace it.")
            targets.append((path, form, precision))
    return targets


def _typed(network: ModelProto, spec: ModelSpec, form: Form, precision: Precision) -> ModelProto:
    graph = dress(network, spec, form)
    return to_half(graph, spec.with_(form=form)) if precision == "fp16" else graph


def _verified(
    graph: ModelProto,
    source: Model,
    form: Form,
    precision: Precision,
    pictures: Sequence[Picture],
) -> Parity:
    with (
        reference_backend(source, form) as reference,
        graph_backend(source.name, graph, form, precision) as candidate,
    ):
        parity = measure_parity(reference, candidate, pictures)
    require_parity(parity, precision, f"{source.name} as {form} {precision}")
    return parity
