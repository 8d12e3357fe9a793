from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from srtrt.benchmarks.tables import table
from srtrt.benchmarks.tools.private_split import is_private
from srtrt.benchmarks.tools.side_by_side import compared, side_by_side
from srtrt.benchmarks.tools.side_by_side_training import sharpened
from srtrt.runtime.parity import read_pictures


def test_differences_are_paired() -> None:
    found = {
        "base": [{"PSNR": [30.0, 20.0, 25.0]}, {"PSNR": [31.0, 20.0, 26.0]}],
        "other": [{"PSNR": [30.1, 20.3, 25.2]}, {"PSNR": [31.3, 20.1, 26.2]}],
    }
    base, other = compared(found)
    assert base == {"variant": "base", "measure": "PSNR", "mean": pytest.approx(76 / 3)}
    assert other["difference"] == pytest.approx(0.2)
    # Averaged over seeds, every picture gains 0.2, however much the pictures differ.
    assert other["standard_error"] == pytest.approx(0)
    assert other["by_seed"] == pytest.approx([0.2, 0.2])


def test_sharpening_leaves_flat_pictures_and_steepens_edges() -> None:
    flat = np.full((9, 9, 3), 77, np.uint8)
    assert np.array_equal(sharpened(flat, 2.0), flat)
    edge = np.full((16, 16, 3), 60, np.uint8)
    edge[:, 8:] = 180
    sharp = sharpened(edge, 0.5)
    assert (sharp[8, 7] < 60).all()
    assert (sharp[8, 8] > 180).all()
    assert np.array_equal(sharp[:, 0], edge[:, 0])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Crops of a picture, called so that two are private and two are not."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    whole = read_pictures()[0]
    names = [f"p{number}_0.png" for number in range(200)]
    private = [name for name in names if is_private(Path(name))][:2]
    others = [name for name in names if not is_private(Path(name))][:2]
    for index, name in enumerate([*private, *others]):
        crop = np.roll(whole, 16 * index, axis=1)[:160, :160]
        cv2.imwrite(str(folder / name), np.ascontiguousarray(crop[..., ::-1]))
    return folder


def test_variants_are_trained_and_compared(
    photographs: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path / "cache"))
    common = ["generator.blocks=2", "generator.features=8", "data.patch=8", "data.batch=2",
              "schedule.warmup_steps=0", "run.precision=fp32"]  # fmt: skip
    done = CliRunner().invoke(
        side_by_side,
        [
            "--init", str(tiny_checkpoint), "--data", str(photographs), "--updates", "3",
            "--seeds", "1", "--sharpen", "0.3", "--out", str(tmp_path / "result.json"),
            *(part for setting in common for part in ("--set", setting)),
            "--variant", "the same: data.patch=8", "--variant",
            "another: schedule.learning_rate=0.05;data.hard_share=0.5",
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "result.json").read_text())
    rows = {(row["variant"], row["measure"]): row for row in report["rows"]}
    assert {variant for variant, _ in rows} == {"as it is", "the same", "another"}
    assert {measure for _, measure in rows} == {"PSNR", "PSNR sharpened"}
    assert rows["the same", "PSNR"]["difference"] == 0
    assert rows["another", "PSNR"]["difference"] != 0
    assert report["private_pictures"] == 2
    assert set(report["before"]) == {"PSNR", "PSNR sharpened"}
    assert table(report) in done.output


@pytest.mark.parametrize("text", ["data.batch=2", "name:", "name: data.bach=2"])
def test_a_variant_that_says_nothing_is_refused(text: str, photographs: Path) -> None:
    done = CliRunner().invoke(
        side_by_side, ["--init", "fast", "--data", str(photographs), "--variant", text]
    )
    assert done.exit_code != 0
    assert "--variant" in str(done.exception) or "did you mean" in str(done.exception)
