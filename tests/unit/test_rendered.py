"""Pictures made by a program: what every seed gives, and what LR can still show of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from srtrt.benchmarks.tools.rendered import rendered
from srtrt.errors import MissingPackageError, UsageError
from srtrt.resample import resize_bicubic
from srtrt.train.rendered import KINDS, SIDE, kind_of, render
from srtrt.train.rendered.chance import Chance, brightness
from srtrt.train.rendered.fonts import EVALUATION_FACES, TRAINING_FACES, Face
from srtrt.train.rendered.series import TRAINING_SEED, draw, facts_of
from srtrt.train.rendered.words import ALPHABETS, WITHOUT_CAPITALS

pytest.importorskip("matplotlib", reason="its fonts are needed: pip install '.[train]'")

DRAWN = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(min_value=-(2**63), max_value=2**63)


def edges(picture: NDArray[np.uint8]) -> float:
    """Share of neighbours, across and down, that differ by more than 40 of 255 somewhere."""
    level = picture.astype(np.int16)
    steps = (np.abs(np.diff(level, axis=axis)).max(axis=2) > 40 for axis in (0, 1))
    return float(np.mean([step.mean() for step in steps]))


@DRAWN
@given(st.sampled_from(sorted(KINDS)), SEEDS)
def test_any_seed_gives_a_picture_that_is_not_flat(kind: str, seed: int) -> None:
    picture = render(kind, seed)
    assert (picture.shape, picture.dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert edges(picture) > 0.001
    thirds = np.array_split(picture, 3)
    assert sum(bool(np.ptp(third, axis=(0, 1)).any()) for third in thirds) >= 2


@DRAWN
@given(SEEDS)
def test_seeds_and_kinds_give_different_pictures(seed: int) -> None:
    first = render("icons", seed)
    assert np.array_equal(first, render("icons", seed))
    assert not np.array_equal(first, render("icons", seed + 1))
    assert not np.array_equal(first, render("diagram", seed))


def test_another_process_draws_the_same() -> None:
    program = (
        "import hashlib; from srtrt.train.rendered import KINDS, render\n"
        "print(*(hashlib.sha256(render(k, 'x').tobytes()).hexdigest() for k in KINDS))"
    )
    runs = []
    for hashing in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hashing}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True
        )
        runs.append(done.stdout.split())
    assert runs[0] == runs[1]
    assert len({*runs[0]}) == len(KINDS)


def test_an_unknown_kind_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"'photo'; expected one of text, .*screenshot"):
        render("photo", 0)


@pytest.mark.parametrize("seed", range(6))
def test_small_pictures_still_show_the_dots_of_printed_ones(seed: int) -> None:
    """What blurring over a period takes away is texture; a quarter of the size keeps half of it."""

    def texture(picture: NDArray[np.uint8], radius: float) -> float:
        grey = Image.fromarray(picture).convert("L")
        smooth = grey.filter(ImageFilter.GaussianBlur(radius))
        return float(np.std(np.asarray(grey, np.float32) - np.asarray(smooth, np.float32)))

    hr = render("halftone", seed)
    lr = resize_bicubic(hr, SIDE // 4, SIDE // 4)
    assert texture(lr, 6) > 0.5 * texture(hr, 24)


@DRAWN
@given(st.text(), st.integers(0, 255))
def test_ink_can_be_read(seed: str, level: int) -> None:
    chance = Chance(seed)
    ink, paper = chance.ink_and_paper()
    assert abs(brightness(ink) - brightness(paper)) >= 90
    assert abs(brightness(chance.against(level)) - level) >= 90


@pytest.mark.parametrize("faces", [TRAINING_FACES, EVALUATION_FACES], ids=["train", "measure"])
def test_fonts_have_the_letters_they_are_asked_for(faces: Sequence[Face]) -> None:
    for face in faces:
        try:
            font = face.at(40)
        except MissingPackageError as error:
            pytest.skip(str(error))
        missing = bytes(font.getmask("\U000f1234"))
        assert missing != bytes(font.getmask("a"))
        for script in face.scripts:
            letters = "".join(ALPHABETS[script])
            for letter in letters + (letters.upper() if script not in WITHOUT_CAPITALS else ""):
                assert bytes(font.getmask(letter)) != missing, f"{face.name}: {letter!r}"


def test_nothing_is_measured_with_fonts_that_are_trained_on() -> None:
    packages = [{face.package for face in faces} for faces in (TRAINING_FACES, EVALUATION_FACES)]
    assert not packages[0] & packages[1]
    assert all(face.licence for face in (*TRAINING_FACES, *EVALUATION_FACES))


def test_a_missing_font_says_how_to_get_it() -> None:
    face = Face(
        name="Nowhere", package="no_such_font", file="a.ttf", licence="", kind="sans", scripts=()
    )
    with pytest.raises(MissingPackageError, match=r"Nowhere needs .*no_such_font.*\[fonts\]"):
        face.at(12)


def test_a_series_draws_what_is_missing(tmp_path: Path) -> None:
    first = draw(tmp_path, 2, seed=5)
    old = [file.stat().st_mtime_ns for file in first]
    told: list[tuple[int, int]] = []
    both = draw(tmp_path, 3, seed=5, on_progress=lambda *at: told.append(at))
    assert [file.stat().st_mtime_ns for file in both[:2]] == old
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [file.name for file in both] == [f"{k:05d}-{kind_of(k)}.png" for k in range(3)]
    assert np.array_equal(Image.open(both[2]), render(kind_of(2), "5/2"))


def test_pictures_to_measure_with_are_written_by_kind(tmp_path: Path) -> None:
    asked = [tmp_path, "--count", 2, "--kind", "icons", "--kind", "text", "--fonts", "train"]
    done = CliRunner().invoke(rendered, [str(part) for part in asked])
    assert done.exit_code == 0, done.output
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert files == ["icons/000.png", "icons/001.png", "text/000.png", "text/001.png"]
    assert np.array_equal(Image.open(tmp_path / "text/001.png"), render("text", "1/1"))
    assert json.loads((tmp_path / "rendered.json").read_text())["seed"] == 1


def test_nothing_is_measured_with_the_seed_of_training(tmp_path: Path) -> None:
    done = CliRunner().invoke(rendered, [str(tmp_path), "--seed", str(TRAINING_SEED)])
    assert isinstance(done.exception, UsageError)
    assert not list(tmp_path.iterdir())


def test_every_kind_occurs_in_a_series() -> None:
    assert {kind_of(number) for number in range(12)} == {*KINDS}


def test_facts_name_all_that_pictures_depend_on() -> None:
    facts = facts_of(3, TRAINING_FACES)
    assert (facts["seed"], facts["side"]) == (3, SIDE)
    assert {"pillow", "freetype", "version"} <= facts.keys()
    assert len({font["sha256"] for font in facts["fonts"]}) == len(TRAINING_FACES)
