from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result

from srtrt.cli import main
from srtrt.export.parity import read_pictures


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, picture in enumerate(read_pictures()[:2]):
        cv2.imwrite(str(folder / f"{index}.png"), picture[..., ::-1])
    return folder


def benchmark(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["benchmark", *map(str, arguments)])


def test_latency_measures_side_by_side(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    result = benchmark(
        "latency", "--size", "32x24", "--rounds", "2", "--engine", "onnxruntime-fp32", "--out", out
    )
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert set(report["engines"]) == {"torch-eager-fp32", "onnxruntime-fp32"}
    assert report["engines"]["torch-eager-fp32"]["times_faster"] == 1.0
    assert all(row["seconds_per_frame"] > 0 for row in report["engines"].values())
    assert report["machine"]["packages"]["onnxruntime"]
    assert report["frame"] == "32x24 to 128x96"


def test_quality_sets_the_model_beside_bicubic(photos: Path) -> None:
    result = benchmark("quality", "--data", photos, "--engine", "onnxruntime-fp32")
    assert result.exit_code == 0, result.output
    (figures,) = json.loads(result.stdout)["sets"].values()
    assert figures["pictures"] == 2
    assert figures["srresnet"]["psnr_db"] > figures["bicubic"]["psnr_db"]


def test_parity_of_the_bundled_model(photos: Path) -> None:
    result = benchmark(
        "parity", "--data", photos, "--engine", "onnxruntime-fp32", "--engine", "graph-fp16"
    )
    assert result.exit_code == 0, result.output
    engines = json.loads(result.stdout)["engines"]
    assert all(row["passes_gate"] for row in engines.values())
    assert engines["onnxruntime-fp32"]["max_abs"] <= 1
    assert abs(engines["graph-fp16"]["db_lost"]) < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency", "--engine", "abacus"], "engine 'abacus' is unknown"),
        (["latency", "--size", "big"], "--size 'big'"),
        (["quality", "--data", "absent"], "no such folder"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: list[str], message: str) -> None:
    result = benchmark(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output
