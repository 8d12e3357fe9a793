"""Agreement of every engine and graph precision with PyTorch float32 on real pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srtrt.benchmarks.engines import REFERENCE, open_engine
from srtrt.datasets import list_images, lr_hr_pair
from srtrt.errors import UsageError
from srtrt.graph import to_typed
from srtrt.metrics import mod_crop, psnr_y
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import compare_outputs, form_inputs, graph_backend, passes
from srtrt.spec import Form, Precision

TYPED_GRAPHS: dict[str, Precision] = {"graph-fp16": "fp16", "graph-bf16": "bf16"}
"""Graphs typed throughout, run so that their rounding shows."""


def measure_parity_of(
    model: str,
    engines: Sequence[str],
    folder: Path,
    *,
    form: Form,
    on_engine: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compares engines with the reference on the LR pictures made from a folder of HR ones.

    Returns:
        For each engine its parity figures, whether they pass the gate of its precision and, for
        ``rgb8``, the dB of PSNR it loses against ground truth compared with the reference.
    """
    pairs = [lr_hr_pair(path) for path in list_images([folder])]
    inputs = [form_inputs(np.ascontiguousarray(mod_crop(lr, 2)), form) for lr, _ in pairs]
    truths = [hr[: 4 * (lr.shape[0] // 2 * 2), : 4 * (lr.shape[1] // 2 * 2)] for lr, hr in pairs]
    with open_engine(REFERENCE, model, form) as reference:
        expected = [reference.infer(i) for i in inputs]
    rows: dict[str, Any] = {}
    for engine in engines:
        with _open(engine, model, form) as backend:
            found = [backend.infer(i) for i in inputs]
            precision = backend.precision
        parity = compare_outputs(zip(expected, found, strict=True))
        rows[engine] = {**parity.to_dict(), "passes_gate": passes(parity, precision)}
        if form == "rgb8":
            losses = [
                psnr_y(a["rgb_x4"][0], hr) - psnr_y(b["rgb_x4"][0], hr)
                for a, b, hr in zip(expected, found, truths, strict=True)
            ]
            rows[engine]["db_lost"] = round(float(np.mean(losses)), 4)
        if on_engine is not None:
            on_engine(engine)
    return {"model": model, "form": form, "pictures": folder.name, "engines": rows}


def _open(engine: str, model: str, form: Form) -> Backend:
    if engine not in TYPED_GRAPHS:
        return open_engine(engine, model, form)
    found, precision = find_model(model), TYPED_GRAPHS[engine]
    if found.graph_path is None:
        raise UsageError(f"{engine} needs a graph; {model} is a checkpoint.")
    graph = found.graph(form, "fp32")
    typed = to_typed(graph, found.spec.with_(form=form), precision)
    return graph_backend(found.name, typed, form, precision)
