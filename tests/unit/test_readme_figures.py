"""The page of figures and the cards quote what the committed measurements say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import REPOSITORY

from srtrt.benchmarks.tables import table
from srtrt.runtime.models import bundled_models, find_model
from srtrt.runtime.parity import GATES

RESULTS = REPOSITORY / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((RESULTS / name).read_text())
    assert report["machine"]["date"]
    return report


@pytest.mark.parametrize(
    ("document", "result"),
    [
        ("docs/figures.md", "quality-rendered.json"),
        ("docs/figures.md", "training-rendered.json"),
        ("docs/figures.md", "quality-perceptual.json"),
        *(("docs/figures.md", f"compressed-crf{crf}.json") for crf in (18, 23, 28)),
        ("docs/figures.md", "video-rates-h264-clips-2.json"),
        ("docs/figures.md", "video-rates-h264-pans.json"),
        ("docs/figures.md", "training-cpu.json"),
        ("docs/figures.md", "side-by-side-psnr.json"),
        ("docs/figures.md", "side-by-side-mse.json"),
        ("docs/figures.md", "side-by-side-content.json"),
        ("docs/figures.md", "side-by-side-content-heavier.json"),
        ("docs/figures.md", "latency-cpu.json"),
        ("docs/figures.md", "latency-cpu-amx.json"),
        ("docs/figures.md", "precisions-srresnet.json"),
        ("docs/figures.md", "int8-cpu.json"),
        ("docs/figures.md", "int8-instruction-sets.json"),
        ("docs/figures.md", "fuzz.json"),
        *((f"src/srtrt/weights/{m}.md", f"quality-{m}.json") for m in bundled_models()),
        ("src/srtrt/weights/video.md", "compressed-crf28.json"),
    ],
)
def test_figures_are_quoted_as_measured(document: str, result: str) -> None:
    assert table(load(result)) in (REPOSITORY / document).read_text()


def test_measured_engines_pass_their_gates() -> None:
    engines = load("precisions-srresnet.json")["engines"]
    assert {f"graph-{precision}" for precision in GATES} <= engines.keys()
    assert not any("problem" in row for row in engines.values())
    assert all(row.get("passes_gate", True) for row in engines.values())


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_specs_carry_the_measured_quality(name: str) -> None:
    spec = find_model(name).spec
    for pictures, figures in load(f"quality-{name}.json")["sets"].items():
        assert spec.quality["psnr_y_db"][pictures] == pytest.approx(
            figures[name]["psnr_db"], abs=0.01
        )


def test_measured_promises_hold() -> None:
    """What each model is shipped for, in the committed figures."""
    for figures in load("quality-perceptual.json")["sets"].values():
        for distance in ("lpips", "dists"):
            others = [figures[name][distance] for name in ("bicubic", "srresnet", "fast", "video")]
            assert figures["srgan"][distance] < min(others)
    for name, least in (("srgan", 29.4), ("fast", 30.5)):
        assert load(f"quality-{name}.json")["sets"]["Set5"][name]["psnr_db"] >= least
    for crf in (23, 28):
        for source in load(f"compressed-crf{crf}.json")["sources"].values():
            video, srresnet = (source["compressed"][name] for name in ("video", "srresnet"))
            assert all(video[key] > srresnet[key] for key in ("psnr_db", "vmaf", "vmaf_neg"))
    fuzzed = load("fuzz.json")
    assert sum(kind["cases"] for kind in fuzzed["kinds"].values()) >= 10_000
    assert fuzzed["faults"] == []
    training = load("training-cpu.json")
    assert training["times_faster_than_plain"] >= 1.8
    assert training["real_to_synthetic"] >= 0.95
