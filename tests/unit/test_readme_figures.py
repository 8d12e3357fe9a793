"""The README and the cards quote what the committed measurements say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import REPOSITORY

from srtrt.benchmarks.tables import table

RESULTS = REPOSITORY / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((RESULTS / name).read_text())
    assert report["machine"]["date"]
    return report


@pytest.mark.parametrize(
    ("document", "result"),
    [
        ("README.md", "quality-srresnet.json"),
        ("README.md", "latency-cpu.json"),
        ("README.md", "latency-cpu-amx.json"),
        ("README.md", "parity-rgb8-set14.json"),
        ("src/srtrt/weights/srresnet.md", "quality-srresnet.json"),
    ],
)
def test_figures_are_quoted_as_measured(document: str, result: str) -> None:
    assert table(load(result)) in (REPOSITORY / document).read_text()


def test_measured_engines_pass_their_gates() -> None:
    engines = load("parity-rgb8-set14.json")["engines"]
    assert engines
    assert all(row["passes_gate"] for row in engines.values())


def test_bundled_specs_carry_the_measured_quality() -> None:
    from srtrt.runtime.models import find_model

    spec = find_model("srresnet").spec
    for name, figures in load("quality-srresnet.json")["sets"].items():
        assert spec.quality["psnr_y_db"][name] == pytest.approx(
            figures["srresnet"]["psnr_db"], abs=0.01
        )
