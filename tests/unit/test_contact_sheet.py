"""Sheets of crops to be looked at: which crops, and what stands where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from srtrt.benchmarks.tools.contact_sheet import busiest, contact_sheet
from srtrt.resample import resize_bicubic

pytest.importorskip("onnxruntime", reason="the models need an engine: pip install '.[cpu]'")


def test_the_parts_that_change_most_are_shown_without_overlap() -> None:
    picture = np.full((200, 160, 3), 90, np.uint8)
    rng = np.random.default_rng(0)
    picture[40:80, 100:140] = rng.integers(0, 256, (40, 40, 3))
    picture[120:160, 8:48] = rng.integers(60, 120, (40, 40, 3))
    assert busiest(picture, 40, 2) == [(40, 100), (120, 8)]
    many = busiest(picture, 40, 100)
    assert len(many) == len({*many}) <= 20
    for index, (top, left) in enumerate(many):
        assert 0 <= top <= 160
        assert 0 <= left <= 120
        apart = (max(abs(top - y), abs(left - x)) for y, x in many[:index])
        assert all(distance >= 40 for distance in apart)


def test_a_sheet_has_the_original_last_and_bicubic_second(picture_folder: Path) -> None:
    picture = sorted(picture_folder.iterdir())[0]
    sheet = picture_folder.parent / "sheet.png"
    arguments = [str(sheet), str(picture), "--model", "fast", "--side", "32", "--zoom", "1"]
    done = CliRunner().invoke(contact_sheet, arguments)
    assert done.exit_code == 0, done.output
    drawn = np.asarray(Image.open(sheet))
    hr = np.asarray(Image.open(picture).convert("RGB"))
    hr = hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4]
    ((top, left),) = busiest(hr, 32, 1)
    cells = [drawn[36:68, 6 + 38 * k : 38 + 38 * k] for k in range(4)]
    original = hr[top : top + 32, left : left + 32]
    assert np.array_equal(cells[3], original)
    lr = cells[0][2::4, 2::4]
    assert np.array_equal(lr, resize_bicubic(hr, hr.shape[0] // 4, hr.shape[1] // 4)[
        top // 4 : top // 4 + 8, left // 4 : left // 4 + 8])  # fmt: skip

    def error(cell: np.ndarray) -> float:
        return float(np.square(cell.astype(float) - original).mean())

    assert error(cells[0]) > error(cells[1]) > error(cells[2])
