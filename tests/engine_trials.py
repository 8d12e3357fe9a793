"""An engine built, run with frames in flight and compared: on a GPU, and on the stand-ins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtrt.runtime.backends.tensorrt import TensorRtBackend, TensorRtOptions
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.gpu import gpu_facts
from srtrt.runtime.engines.products import unusable_because
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import (
    compare_outputs,
    form_inputs,
    read_pictures,
    reference_for,
    require_parity,
)
from srtrt.runtime.ring import RingOptions
from srtrt.spec import Form, Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
FORMS: tuple[Form, ...] = ("rgb8", "yuv420p8")
RINGS = (
    RingOptions(streams=1, slots=1, graph=False),
    RingOptions(streams=2, slots=4),
    RingOptions(streams=2, slots=4, batch=2),
)
_MODEL, _WIDTH, _HEIGHT = "fast", 64, 48


def skip_unless_it_computes(product: str, precision: Precision, device: str = "cuda:0") -> None:
    """Skips where this machine cannot run such an engine, with the reason."""
    gpu = gpu_facts(device)
    problem = unusable_because(FLAVOURS[product], gpu)
    if problem is not None or gpu is None:
        pytest.skip(problem or "there is no GPU")
    needed = {"bf16": (8, 0), "fp8": (8, 9)}.get(precision, (7, 5))
    if tuple(map(int, gpu.compute_capability.split("."))) < needed:
        pytest.skip(f"{gpu.name} does not compute in {precision}")


def try_engine(product: Any, form: Form, precision: Precision, folder: Path) -> None:
    """Builds engines of a bundled model and computes frames with each ring.

    The backend compares each engine with the float32 reference itself; frames in flight are
    compared here, in the order in which they come, with the reference and from ring to ring.
    """
    model = find_model(_MODEL)
    if precision in ("int8", "fp8") and precision not in model.calibrated_paths:
        pytest.skip(f"{_MODEL} has no graph in {precision}")
    picture = read_pictures()[0][:_HEIGHT, :_WIDTH]
    turned = [np.ascontiguousarray(np.roll(picture, 7 * k, axis=1)) for k in range(6)]
    frames = [form_inputs(each, form) for each in turned]
    found = []
    options = TensorRtOptions(product=product, cache_folder=folder)
    for ring in RINGS:
        for again in (False, True):
            with TensorRtBackend(
                model,
                form=form,
                device="cuda:0",
                precision=precision,
                options=replace(options, ring=ring),
            ) as backend:
                backend.prepare(_WIDTH, _HEIGHT)
                first = [backend.submit(each) for each in frames[: backend.in_flight]]
                outputs = [each() for each in first]
                outputs += [backend.infer(each) for each in frames[len(outputs) :]]
                assert not again or not any("there is none yet" in note for note in backend.notes)
                assert not any("recorded" in note for note in backend.notes), backend.notes
        found.append(outputs)
    with reference_for(model, form) as (reference, _):
        expected = [reference.infer(each) for each in frames]
    for outputs in found:
        parity = compare_outputs(zip(expected, outputs, strict=True))
        require_parity(parity, precision, f"{product} in {precision}")
        for ours, first_ones in zip(outputs, found[0], strict=True):
            for name, plane in ours.items():
                # Another batch may be computed by another kernel.
                assert np.abs(plane.astype(int) - first_ones[name].astype(int)).max() <= 2
