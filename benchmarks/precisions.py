"""What each precision costs on each engine: agreement, quality, size, and time to build."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from srtrt.benchmarks.parity import ParitySet
from srtrt.errors import SrtrtError
from srtrt.export.onnx_graph import network_graph
from srtrt.export.quantised import calibration_pictures, quantised_graph
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.runtime.backends import backend_class
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.key import EngineShape, InputSize
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import GATES, graph_backend
from srtrt.spec import Precision

_CPU: tuple[tuple[str, Precision, Precision], ...] = (
    ("onnxruntime", "fp32", "fp32"),
    ("onnxruntime", "int8", "int8"),
    ("openvino", "fp32", "fp32"),
    ("openvino", "bf16", "fp32"),
    ("openvino", "int8", "int8"),
)
"""Engines of the CPU, their precision, and that of the graph they are given."""
_RTX = FLAVOURS["tensorrt-rtx"]


def measure_precisions(
    model: str,
    folder: Path,
    *,
    size: InputSize,
    precisions: Sequence[Precision] = tuple(GATES),
    calibrate: Path | None = None,
    on_row: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures every precision on every engine there is here, in the form ``rgb8``.

    Typed graphs are computed by ONNX Runtime with the rounding of their type; engines of
    TensorRT-RTX are built and not run, as that takes a GPU.

    Args:
        model: a bundled name; int8 and fp8 are calibrated if it has no such graph.
        folder: HR pictures.
        size: LR frames for which engines are built and opened.
        precisions: of graphs.
        calibrate: photographs for calibration; by default the pictures that come with srtrt.
        on_row: told what was measured.

    Returns:
        For each engine ``psnr_db`` and ``max_abs`` of parity, ``db_lost``, ``passes_gate``,
        ``bytes`` of graph or engine, and ``build_seconds``; those that were not measured are
        missing, with ``problem`` if an engine could not be built.
    """
    tell = on_row or (lambda _: None)
    pictures = ParitySet.of(model, folder, "rgb8")
    graphs = {precision: _graph(model, precision, calibrate) for precision in precisions}
    rows: dict[str, Any] = {}
    for precision, graph in graphs.items():
        name = f"graph-{precision}"
        with graph_backend(model, graph, "rgb8", precision) as backend:
            rows[name] = {**pictures.row(backend), "bytes": graph.ByteSize()}
        tell(name)
    frame = np.zeros((1, size.height, size.width, 3), np.uint8)
    for engine, precision, stored in _CPU:
        if stored in graphs:
            name = f"{engine}-{precision}"
            rows[name] = _cpu_row(engine, precision, graphs[stored], frame, pictures)
            tell(name)
    for precision, graph in graphs.items():
        rows[f"{_RTX.name}-{precision}"] = _build(graph, size)
        tell(f"{_RTX.name}-{precision}")
    return {"model": model, "pictures": folder.name, "frame": str(size), "engines": rows}


def _graph(model: str, precision: Precision, calibrate: Path | None) -> ModelProto:
    found = find_model(model)
    calibrated = precision in ("int8", "fp8")
    if not calibrated or precision in found.calibrated_paths:
        return found.graph("rgb8", precision)
    assert found.checkpoint_path is not None
    net, spec = load_checkpoint(found.checkpoint_path)
    pictures = calibration_pictures(calibrate)
    return quantised_graph(network_graph(net), spec, "rgb8", precision, pictures)[0]


def _cpu_row(
    engine: str,
    precision: Precision,
    graph: ModelProto,
    frame: NDArray[np.uint8],
    pictures: ParitySet,
) -> dict[str, Any]:
    model = Model.from_graph(graph.graph.name, graph)
    start = time.perf_counter()
    try:
        opened = backend_class(engine)(model, form="rgb8", device="cpu", precision=precision)
        with opened as backend:
            backend.infer({"rgb": frame})
            seconds = round(time.perf_counter() - start, 2)
            row = pictures.row(backend)
    except SrtrtError as error:
        return {"problem": str(error)}
    return {**row, "bytes": graph.ByteSize(), "build_seconds": seconds}


def _build(graph: ModelProto, size: InputSize) -> dict[str, Any]:
    try:
        start = time.perf_counter()
        built = build_engine(graph.SerializeToString(), EngineShape.of(size), flavour=_RTX)
    except SrtrtError as error:
        return {"problem": str(error)}
    seconds = round(time.perf_counter() - start, 2)
    return {"bytes": len(built.plan), "build_seconds": seconds, "version": _RTX.version()}
