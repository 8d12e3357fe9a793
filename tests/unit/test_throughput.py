"""The throughput benchmark: cost of a network, overlap of copies, and the whole on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from srtrt.benchmarks.throughput import macs_per_pixel, overlap
from srtrt.cli import main
from srtrt.errors import BackendError
from srtrt.runtime.backends.base import Capability
from srtrt.runtime.backends.torch import TorchBackend
from srtrt.runtime.models import find_model
from srtrt.runtime.ring import StageTimes


def test_the_cost_of_the_generator_is_that_of_its_convolutions() -> None:
    head, body, trunk = 9 * 9 * 3 * 64, 32 * 9 * 64 * 64, 9 * 64 * 64
    enlarge = 9 * 64 * 256
    folded_tail = 4 * 5 * 5 * 256 * 12
    # The second pixel shuffle is folded into the tail, whose convolution is on the 2x grid.
    expected = head + body + trunk + enlarge + 4 * enlarge + folded_tail
    assert macs_per_pixel(find_model("srresnet").graph("yuv420p8", "fp32")) == expected


def test_overlap_is_the_share_of_copies_beside_other_batches() -> None:
    first = StageTimes(stream=0, copy_in=(0, 1), compute=(1, 5), copy_out=(5, 6))
    second = StageTimes(stream=1, copy_in=(1, 2), compute=(5, 9), copy_out=(9, 10))
    assert overlap([first, second]) == 0.5
    assert overlap([first]) == 0.0
    assert overlap([]) == 0.0


def test_the_command_measures_variants_side_by_side(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    done = CliRunner().invoke(
        main,
        [
            "benchmark", "throughput", "--model", "fast", "--size", "32x24", "--seconds", "0.05",
            "--variant", "as trained", "--variant", "frames in flight",
            "--variant", "streams=1,slots=2,rewritten=no", "--out", str(out),
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert report["benchmark"] == "throughput"
    row = report["sizes"]["32x24"]
    for name in ("as trained", "frames in flight", "streams=1,slots=2,rewritten=no"):
        speed = row[name]["frames_per_second"]
        assert row[name]["ms_per_frame"] == pytest.approx(1000 / speed, rel=0.01)
    assert 0 <= row["timeline"]["copies_beside_computing"] <= 1
    assert report["matmul_tflops"] > 0
    wrong = CliRunner().invoke(main, ["benchmark", "throughput", "--variant", "magic"])
    assert wrong.exit_code == 2
    assert "expected one of as trained" in wrong.output


def test_bf16_is_refused_where_it_would_be_emulated(on_processor: Callable[[str], None]) -> None:
    on_processor("skylake")
    command = ["benchmark", "throughput", "--model", "fast", "--precision", "bf16"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "torch on cpu computes fp32, not bf16" in done.output


@pytest.mark.parametrize("command", ["throughput", "profile"])
def test_a_gpu_that_is_not_there_is_named(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch alone would fail somewhere in the middle."""

    def facts(device: str = "cuda:0") -> None:
        if device != "cuda:0":
            raise BackendError(f"{device} does not exist; this machine has 1 GPU(s).")

    cuda = Capability(device="cuda:0", precisions=("fp16", "fp32"), reason="a GPU")
    monkeypatch.setattr(TorchBackend, "capabilities", lambda *_: [cuda])
    monkeypatch.setattr("srtrt.runtime.engines.gpu.gpu_facts", facts)
    done = CliRunner().invoke(main, ["benchmark", command, "--device", "cuda:7"])
    assert done.exit_code == 1
    assert "cuda:7 does not exist; this machine has 1 GPU(s)." in done.output
