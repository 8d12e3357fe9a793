"""Agreement of every engine and graph precision with PyTorch float32 on real pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.benchmarks.engines import REFERENCE, open_engine
from srtrt.datasets import list_images, lr_hr_pair
from srtrt.errors import SrtrtError, UsageError
from srtrt.metrics import mod_crop, psnr_y
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import compare_outputs, form_inputs, graph_backend, passes
from srtrt.runtime.session import Session
from srtrt.spec import Form, Precision

USUAL_ENGINES = ("onnxruntime-fp32", "graph-fp16", "openvino-fp32", "openvino-bf16")
"""What is compared on the CPU where nothing else is asked for."""

TYPED_GRAPHS: dict[str, Precision] = {"graph-fp16": "fp16", "graph-bf16": "bf16"}
"""Graphs typed throughout, run so that their rounding shows."""


@dataclass(frozen=True)
class ParitySet:
    """LR pictures made from HR ones, with what the reference makes of them."""

    inputs: Sequence[Mapping[str, NDArray[Any]]]
    truths: Sequence[NDArray[np.uint8]]
    expected: Sequence[Mapping[str, NDArray[Any]]]

    @classmethod
    def of(cls, model: str, folder: Path, form: Form) -> ParitySet:
        """Reads a folder of HR pictures and computes the reference."""
        pairs = [lr_hr_pair(path) for path in list_images([folder])]
        inputs = [form_inputs(np.ascontiguousarray(mod_crop(lr, 2)), form) for lr, _ in pairs]
        sides = [(4 * (lr.shape[0] // 2 * 2), 4 * (lr.shape[1] // 2 * 2)) for lr, _ in pairs]
        truths = [hr[:h, :w] for (_, hr), (h, w) in zip(pairs, sides, strict=True)]
        with open_engine(REFERENCE, model, form) as reference:
            return cls(inputs, truths, [reference.infer(each) for each in inputs])

    def row(self, backend: Backend) -> dict[str, Any]:
        """Parity of a backend, whether it passes its gate, and the dB it loses (``rgb8``).

        Large pictures are computed in tiles; the backend is not closed.
        """
        spec = backend.spec
        session = Session(backend, radius=spec.receptive_radius, scale=spec.scale, tile="auto")
        found = [session.infer(each) for each in self.inputs]
        parity = compare_outputs(zip(self.expected, found, strict=True))
        row = {**parity.to_dict(), "passes_gate": passes(parity, backend.precision)}
        if backend.form == "rgb8":
            losses = [
                psnr_y(a["rgb_x4"][0], hr) - psnr_y(b["rgb_x4"][0], hr)
                for a, b, hr in zip(self.expected, found, self.truths, strict=True)
            ]
            row["db_lost"] = round(float(np.mean(losses)), 4)
        return row


def measure_parity_of(
    model: str,
    engines: Sequence[str],
    folder: Path,
    *,
    form: Form,
    device: str = "auto",
    keep_going: bool = False,
    on_engine: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compares engines with the reference on the LR pictures made from a folder of HR ones.

    Args:
        model: bundled name or file.
        engines: their names, see :func:`open_parity_engine`.
        folder: HR pictures.
        form: of the frames.
        device: where engines of the GPU compute.
        keep_going: report engines that fail as problems, instead of ending.
        on_engine: told each that is done.

    Returns:
        For each engine its parity figures, whether they pass the gate of its precision and, for
        ``rgb8``, the dB of PSNR it loses against ground truth compared with the reference.

    Raises:
        UsageError: if a name is unknown.
        SrtrtError: if the reference fails, or an engine while ``keep_going`` is false.
    """
    pictures = ParitySet.of(model, folder, form)
    rows: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for engine in engines:
        try:
            with open_parity_engine(engine, model, form, device) as backend:
                rows[engine] = {"device": backend.device, **pictures.row(backend)}
        except UsageError:
            raise
        except SrtrtError as error:
            if not keep_going:
                raise
            problems[engine] = str(error)
        if on_engine is not None:
            on_engine(engine)
    report = {"model": model, "form": form, "pictures": folder.name, "engines": rows}
    return report | ({"problems": problems} if problems else {})


def open_parity_engine(engine: str, model: str, form: Form, device: str = "auto") -> Backend:
    """Opens an engine, on the device if it is one of the GPU, or one of :data:`TYPED_GRAPHS`.

    Raises:
        UsageError: if there is none of this name, or only a checkpoint where a graph is needed.
    """
    if engine not in TYPED_GRAPHS:
        return open_engine(engine, model, form, device=device)
    found, precision = find_model(model), TYPED_GRAPHS[engine]
    if found.graph_path is None:
        raise UsageError(f"{engine} needs a graph; {model} is a checkpoint.")
    return graph_backend(found.name, found.graph(form, precision), form, precision)
