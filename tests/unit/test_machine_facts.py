"""What a result file says of the machine."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from srtrt.benchmarks.report import full_report, gpus, machine_facts

TWO = """\
NVIDIA H200, 570.124.06, 143771, 9.0
NVIDIA GB10, 580.95.05, [N/A], 12.1
"""


def fake_smi(folder: Path, text: str, status: int = 0) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {status}\n")
    program.chmod(0o755)


def test_every_gpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fake_smi(tmp_path, TWO)
    first, second = gpus()
    assert first == {
        "name": "NVIDIA H200",
        "driver": "570.124.06",
        "memory_gib": 140.4,
        "compute_capability": "9.0",
    }
    assert second["memory_gib"] is None
    fake_smi(tmp_path, "Failed to initialize NVML: Driver/library version mismatch\n", status=18)
    assert gpus() == []


def test_without_a_gpu_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []


def test_versions_are_those_installed() -> None:
    facts = machine_facts()
    assert facts["packages"]["onnx"] == version("onnx")
    for name in ("tensorrt-rtx", "cuda-python"):
        pytest.importorskip(name.replace("-", "_") if "rtx" in name else "cuda.bindings")
        assert facts["packages"][name] == version(name)
    assert full_report("x", {"a": 1})["machine"].keys() == facts.keys()
