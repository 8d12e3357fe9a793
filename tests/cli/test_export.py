from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from srtrt.cli import main
from srtrt.graph import load_graph
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.runtime import parity
from srtrt.runtime.engines.record import read_engine


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
    assert "No higher precision passes. It was not written." in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_typed_graphs_say_which_layers_are_kept(
    precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    result = export(tiny_checkpoint, "-o", tmp_path, "--precision", precision)
    assert result.exit_code == 0, result.output
    assert result.output.count(f"3 pictures); all convolutions in {precision}") == 2
    for form in ("rgb8", "yuv420p8"):
        _, spec = load_graph(tmp_path / f"tiny-{form}-{precision}.onnx")
        facts = spec.quality["typed"]
        assert facts["kept"] == {}
        assert 1 < facts["largest_activation"] < 1000
        assert len(facts["layer_db"]) == 9
        assert all(db > spec.quality["parity"]["psnr_db"] - 3 for db in facts["layer_db"].values())


def test_layers_that_cost_most_are_kept_to_meet_the_gate(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = export(tiny_checkpoint, "-o", tmp_path, "--precision", "bf16", "--io", "rgb8")
    _, spec = load_graph(tmp_path / "tiny-rgb8-bf16.onnx")
    reached = spec.quality["parity"]["psnr_db"]
    monkeypatch.setitem(parity.GATES, "bf16", parity.Gate(reached + 1, 255))
    arguments = [tiny_checkpoint, "-o", tmp_path, "--precision", "bf16", "--io", "rgb8"]
    result = export(*arguments, "--overwrite")
    assert plain.exit_code == result.exit_code == 0, result.output
    assert re.search(r"; kept in fp32: \S+ \(costs most accuracy: \d+\.\d dB\)", result.output)
    _, spec = load_graph(tmp_path / "tiny-rgb8-bf16.onnx")
    assert spec.quality["parity"]["psnr_db"] >= reached + 1
    kept, db = spec.quality["typed"]["kept"], spec.quality["typed"]["layer_db"]
    assert 1 <= len(kept) <= 4
    assert set(kept) == set(sorted(db, key=db.__getitem__)[: len(kept)])


def test_the_nearest_precision_that_passes_is_measured_and_named(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.GATES, "bf16", parity.Gate(57.0, 255))
    monkeypatch.setitem(parity.GATES, "fp16", parity.Gate(58.0, 255))
    result = export(tiny_checkpoint, "-o", tmp_path, "--precision", "bf16", "--io", "rgb8")
    assert result.exit_code == 1
    assert re.search(
        r"tiny as rgb8 bf16 with 4 layers in fp32 does not compute .*at least 57 dB.* "
        r"The nearest precision that passes is fp16: [56]\d\.\d dB, .*It was not written",
        result.output,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures that come with srtrt, enlarged, as photographs to calibrate on."""
    folder = tmp_path_factory.mktemp("photographs")
    for index, picture in enumerate(parity.read_pictures()):
        large = cv2.resize(picture[:48, :48], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index}.png"), large[..., ::-1])
    return folder


def test_a_calibrated_graph_is_judged_against_ground_truth_too(
    tiny_checkpoint: Path, photographs: Path, tmp_path: Path
) -> None:
    arguments = [tiny_checkpoint, "-o", tmp_path, "--precision", "int8", "--calibrate", photographs]
    result = export(*arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"dB lost \(against PyTorch fp32, 3 pictures\); kept in higher", result.output)
    for form in ("rgb8", "yuv420p8"):
        _, spec = load_graph(tmp_path / f"tiny-{form}-int8.onnx")
        assert spec.quality["parity"]["lost_db"] <= 0.10
        assert spec.quality["parity"]["psnr_db"] >= 38
        assert spec.quality["quantisation"]["pictures"] == 3


def test_a_calibrated_graph_that_loses_too_much_is_not_written(
    tiny_checkpoint: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.GATES, "int8", parity.Gate(38.0, 255, lost_db=-5.0))
    result = export(
        tiny_checkpoint, "-o", tmp_path, "--io", "rgb8", "--precision", "int8",
        "--calibrate", photographs,
    )  # fmt: skip
    assert result.exit_code == 1
    assert re.search(r"dB lost; .* and at most -5\.00 dB lost\. .*passes is bf16: 5", result.output)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.safetensors"], "no such model file"),
        (["nonsense"], "neither a bundled model"),
        (["srresnet", "--verify", "absent"], "no such folder"),
        (["srresnet", "--precision", "fp12"], "Invalid value"),
        (["srresnet", "--calibrate", "photos"], "expected int8 or fp8 among the precisions"),
        (["srresnet", "--precision", "int8", "--calibrate", "absent"], "no such folder"),
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
    assert "or a .safetensors checkpoint written by" in text.output


def test_export_builds_engines_for_each_shape(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorrt_rtx", reason="needs tensorrt-rtx to build engines: pip install '.[rtx]'"
    )
    arguments = [
        tiny_checkpoint, "-o", tmp_path, "--format", "tensorrt-rtx", "--precision", "fp16",
        "--io", "yuv420p8", "--shape", "32x24", "--shape", "16x16:32x24:48x32",
    ]  # fmt: skip
    first = export(*arguments)
    assert first.exit_code == 0, first.output
    assert first.output.count("note: Building tiny-yuv420p8-fp16-") == 2
    assert "graph tiny-yuv420p8-fp16: " in first.output
    assert "; all convolutions in fp16\n" in first.output
    assert "takes 16x16:32x24:48x32, not compared with PyTorch" in first.output
    paths = sorted(tmp_path.glob("*.engine"))
    assert len(paths) == 2
    for path in paths:
        assert read_engine(path).record.spec.quality["parity"]["against"] == "PyTorch fp32"
    assert "Building" not in export(*arguments).output
    again = export(*arguments, "--overwrite").output
    assert again.count("--overwrite was given") == 2
    listed = CliRunner().invoke(main, ["engines", "list", "--folder", str(tmp_path)])
    assert listed.output.count("usable") == 2


@pytest.mark.parametrize(("precision", "name"), [("bf16", "BF16"), ("int8", "INT8")])
def test_engines_of_other_precisions(
    precision: str, name: str, tiny_checkpoint: Path, photographs: Path, tmp_path: Path
) -> None:
    pytest.importorskip(
        "tensorrt_rtx", reason="needs tensorrt-rtx to build engines: pip install '.[rtx]'"
    )
    result = export(
        tiny_checkpoint, "-o", tmp_path, "--format", "tensorrt-rtx", "--precision", precision,
        "--io", "rgb8", "--shape", "32x24",
        *(["--calibrate", photographs] if precision == "int8" else []),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*.engine")
    record = read_engine(path).record
    assert record.spec.precision == precision
    assert record.built["convolutions"][name] >= 5


RTX = ("--format", "tensorrt-rtx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "32x32"], "are for engines"),
        (["--level", "5"], "For an engine add --format tensorrt or tensorrt-rtx"),
        (["--compute-capability", "8.9"], "are for engines"),
        (["--backend-option", "tf32=true"], "are for engines"),
        ([*RTX, "--backend-option", "tf32=maybe"], "'maybe'; expected true or false"),
        ([*RTX, "--backend-option", "level=3", "--level", "4"], "level is given twice"),
        ([*RTX, "--backend-option", "threads=2"], "it is one of onnxruntime"),
        ([*RTX, "--backend-option", "streams=2"], "frames in flight are no part of an engine"),
        ([*RTX, "--backend-option", "product=tensorrt"], "the product is given by --format"),
        (["--format", "tensorrt-rtx", "--shape", "33x32"], "side 33 is odd"),
        (["--format", "tensorrt-rtx", "--shape", "big"], "expected WIDTHxHEIGHT"),
    ],
)
def test_engine_options_that_make_no_sense(arguments: list[str], message: str) -> None:
    result = export("srresnet", *arguments)
    assert result.exit_code == 2
    assert message in result.output
