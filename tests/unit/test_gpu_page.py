"""The page of GPU results says what the collected files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support import REPOSITORY

from srtrt.benchmarks.gpu_page import RESULTS, page, section
from srtrt.benchmarks.on_gpu_parts import PARTS

ENGINE = {
    "network_ms": 2.0312,
    "copy_in_ms": 0.01,
    "copy_out_ms": 0.055,
    "seconds_per_frame": 0.0023,
    "times_faster": 3.5,
    "frames_per_second": 512.34,
    "psnr_db": 61.27,
    "max_abs": 1,
    "passes_gate": True,
}
MACHINE = {
    "processor": "Some processor",
    "cores": 16,
    "memory_gib": 128.0,
    "gpus": [
        {
            "name": "NVIDIA T4",
            "driver": "580.1",
            "memory_gib": 15.0,
            "compute_capability": "7.5",
        }
    ]
    * 2,
    "cuda": "13.0",
    "python": "3.12.1",
    "packages": {"torch": "2.11.0", "tensorrt": "10.13.3"},
    "date": "2026-01-31",
}


def part(name: str, **facts: Any) -> dict[str, Any]:
    usual = {"device": "cuda:0", "shows": "something", "seconds": 12.3, "reason": None}
    return {"part": name, "state": "ran", "output": [], "result": None, **usual, **facts}


def summary() -> dict[str, Any]:
    latency = {"benchmark": "latency", "engines": {"tensorrt-fp16": ENGINE}}
    stages = [{"name": name, "busy_seconds": 1.5} for name in ("decode", "network", "encode")]
    video = {"stages": stages, "width": 1920, "height": 1080, "frames": 200}
    video |= {"frames_per_second": 61.23, "bottleneck": "encode"}
    parts = [
        part("tensorrt-fp16", result=latency),
        part("video", result=video),
        part("tensorrt-rtx-fp16", state="skipped", reason="it does not serve | this\nGPU"),
        part("doctor"),
    ]
    return {"benchmark": "on-gpu", "machine": MACHINE, "parts": parts}


def test_the_page_is_generated_from_the_files() -> None:
    assert (REPOSITORY / "docs" / "gpu-results.md").read_text() == page()


def test_collected_files_are_of_gpus_and_of_this_list() -> None:
    for path in RESULTS.glob("*.json"):
        report = json.loads(path.read_text())
        assert "rehearsal" not in report, path
        assert report["machine"]["gpus"], path
        assert {each["part"] for each in report["parts"]} <= {each.name for each in PARTS}


def test_a_machine_has_its_facts_and_a_table_of_each_part() -> None:
    text = section(summary())
    assert text.startswith("## NVIDIA T4, 2026-01-31\n")
    assert "NVIDIA T4 (15 GiB, compute capability 7.5, driver 580.1); NVIDIA T4 (15" in text
    assert "CUDA 13.0 of the driver" in text
    assert "Python 3.12.1; torch 2.11.0, tensorrt 10.13.3." in text
    assert "| cuda:0 | tensorrt-fp16 | ran | 12 |  |" in text
    assert "| skipped | 12 | it does not serve \\| this GPU |" in text
    assert "| tensorrt-fp16 | 2.03 | 0.07 | 2.30 | 3.50 | 512.3 | 61.3 | 1 | passed |" in text
    assert "| 1920x1080 | 200 | 61.2 | 1.50 | 1.50 | 1.50 | encode |" in text
    assert "`doctor`" not in text


def test_machines_follow_one_another(tmp_path: Path) -> None:
    assert "No machine has been measured yet." in page(tmp_path / "absent")
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(summary()))
    text = page(tmp_path)
    assert text.count("## NVIDIA T4") == 2
    assert "No machine" not in text
