from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from srtrt.cli import main
from srtrt.graph import load_graph
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.runtime import parity
from srtrt.runtime.engines.cache import read_engine


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_export_writes_verified_graphs_with_their_facts(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)
    cv2.imwrite(str(pictures / "noise.png"), noise)
    result = export(
        tiny_checkpoint, "-o", tmp_path / "graphs", "--precision", "fp32", "--precision", "fp16",
        "--io", "yuv420p8", "--verify", pictures,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    names = sorted(p.name for p in (tmp_path / "graphs").iterdir())
    assert names == ["tiny-yuv420p8-fp16.onnx", "tiny-yuv420p8-fp32.onnx"]
    _, spec = load_graph(tmp_path / "graphs" / "tiny-yuv420p8-fp32.onnx")
    _, source = load_checkpoint(tiny_checkpoint)
    assert spec.weights_sha256 == source.weights_sha256
    assert spec.quality["parity"]["pictures"] == 1
    assert spec.quality["parity"]["max_abs"] <= 1
    assert "dB, max difference" in result.output


def test_export_by_bundled_name(tmp_path: Path) -> None:
    result = export("srresnet", "-o", tmp_path, "--io", "rgb8")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "srresnet-rgb8-fp32.onnx").stat().st_size > 6_000_000


def test_existing_graphs_are_kept(tiny_checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny-rgb8-fp32.onnx"
    target.write_text("mine")
    result = export(tiny_checkpoint, "-o", tmp_path, "--io", "rgb8")
    assert result.exit_code == 1
    assert "--overwrite" in result.output
    assert target.read_text() == "mine"


def test_a_graph_under_its_gate_is_not_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.GATES, "fp32", parity.Gate(float("inf"), -1))
    result = export(tiny_checkpoint, "-o", tmp_path, "--io", "rgb8")
    assert result.exit_code == 1
    assert "does not compute what PyTorch computes" in result.output
    assert "would pass as fp16" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.safetensors"], "no such model file"),
        (["nonsense"], "neither a bundled model"),
        (["srresnet", "--verify", "absent"], "no such folder"),
        (["srresnet", "--precision", "fp12"], "Invalid value"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = export(*arguments, "-o", tmp_path)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_graph_or_a_text_is_no_checkpoint(tiny_graphs: dict[str, Path], tmp_path: Path) -> None:
    graph = export(tiny_graphs["rgb8-fp32"], "-o", tmp_path)
    assert graph.exit_code == 1
    assert "is a graph already" in graph.output
    (tmp_path / "notes.txt").write_text("hello")
    text = export(tmp_path / "notes.txt")
    assert text.exit_code == 1
    assert "expected a .safetensors checkpoint" in text.output


def test_export_builds_engines_for_each_shape(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorrt_rtx", reason="needs tensorrt-rtx to build engines: pip install 'srtrt[rtx]'"
    )
    arguments = [
        tiny_checkpoint, "-o", tmp_path, "--format", "tensorrt-rtx", "--precision", "fp16",
        "--io", "yuv420p8", "--shape", "32x24", "--shape", "16x16:32x24:48x32",
    ]  # fmt: skip
    first = export(*arguments)
    assert first.exit_code == 0, first.output
    assert first.output.count("note: Building tiny-yuv420p8-fp16-") == 2
    assert "takes 16x16:32x24:48x32, not compared with PyTorch" in first.output
    paths = sorted(tmp_path.glob("*.engine"))
    assert len(paths) == 2
    for path in paths:
        assert read_engine(path).record.spec.quality["parity"]["against"] == "PyTorch fp32"
    assert "note:" not in export(*arguments).output
    again = export(*arguments, "--overwrite").output
    assert again.count("--overwrite was given") == 2
    listed = CliRunner().invoke(main, ["engines", "list", "--folder", str(tmp_path)])
    assert listed.output.count("usable") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tensorrt-rtx"], "such as --shape 1920x1080"),
        (["--shape", "32x32"], "--shape is for engines"),
        (["--format", "tensorrt-rtx", "--shape", "33x32"], "side 33 is odd"),
        (["--format", "tensorrt-rtx", "--shape", "big"], "expected WIDTHxHEIGHT"),
    ],
)
def test_engine_options_that_make_no_sense(arguments: list[str], message: str) -> None:
    result = export("srresnet", *arguments)
    assert result.exit_code == 2
    assert message in result.output
