"""The README and the cards quote what the committed measurements say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((RESULTS / name).read_text())
    assert report["machine"]["date"]
    return report


@pytest.mark.parametrize("document", ["README.md", "src/srtrt/weights/srresnet.md"])
def test_quality_is_quoted_as_measured(document: str) -> None:
    text = (REPOSITORY / document).read_text()
    for name, figures in load("quality-srresnet.json")["sets"].items():
        row = [name]
        for method in ("bicubic", "srresnet"):
            row.append(f"{figures[method]['psnr_db']:.2f} / {figures[method]['ssim']:.4f}")
        assert f"| {' | '.join(row)} |" in text


def test_latency_is_quoted_as_measured() -> None:
    text = (REPOSITORY / "README.md").read_text()
    for engine, row in load("latency-cpu.json")["engines"].items():
        figures = f"{row['seconds_per_frame']:.3f} | {row['times_faster']:.1f}"
        assert f"| {engine} | {figures} |" in text


def test_bundled_specs_carry_the_measured_quality() -> None:
    from srtrt.runtime.models import find_model

    spec = find_model("srresnet").spec
    for name, figures in load("quality-srresnet.json")["sets"].items():
        assert spec.quality["psnr_y_db"][name] == pytest.approx(
            figures["srresnet"]["psnr_db"], abs=0.01
        )
