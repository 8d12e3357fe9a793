"""Our own kernel computes what PyTorch's operators compute, sample by sample."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srtrt.benchmarks.tables import table

pytest.importorskip("torch")
pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")


def measured(path: Path, device: str, size: str, **environment: str) -> None:
    command = [sys.executable, "-m", "srtrt.benchmarks.fused", "--device", device, "--size", size]
    done = subprocess.run(
        [*command, "--rounds", "1", "-o", str(path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert set(report["grids"]) == {"LR grid", "2x grid"}
    assert all(row["unequal_samples"] == 0 for row in report["grids"].values())
    assert "| LR grid |" in table(report)


@pytest.mark.parametrize("size", ["32x24", "50x18"])
def test_the_kernel_is_exact_where_it_is_interpreted(tmp_path: Path, size: str) -> None:
    measured(tmp_path / "f.json", "cpu", size, TRITON_INTERPRET="1")


@pytest.mark.gpu
def test_the_kernel_is_exact_on_a_gpu(tmp_path: Path) -> None:
    measured(tmp_path / "f.json", "cuda:0", "480x270")
