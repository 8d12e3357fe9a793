"""Engines of every form and precision: really run where there is a GPU, tried on the stand-ins."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_trials import FORMS, PRECISIONS, skip_unless_it_computes, try_engine
from tensorrt_api import INSTALLED

from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.spec import Form, Precision

QUICK = "fp16"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("product", FLAVOURS)
def test_engines_compute_what_pytorch_computes(
    product: str, form: Form, precision: Precision, tmp_path: Path
) -> None:
    skip_unless_it_computes(product, precision)
    try_engine(product, form, precision, tmp_path)


@pytest.mark.parametrize(
    "precision", [p if p == QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PRECISIONS]
)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("package", ["tensorrt 11.4", INSTALLED])
def test_the_trial_itself_runs(
    package: str,
    form: Form,
    precision: Precision,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cuda.bindings.runtime")
    from cuda_simulator import Gpu
    from tensorrt_standin import SimulatedMachine, install

    gpu = Gpu(1)
    standin = install(monkeypatch, package, machine=SimulatedMachine(gpu))
    product = "tensorrt-rtx" if "rtx" in package else "tensorrt"
    try_engine(product, form, precision, tmp_path)
    gpu.check()
    assert standin.violations == []
    assert gpu.counts["launch"] > 0
