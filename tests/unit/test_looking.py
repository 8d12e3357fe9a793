"""What lets people look at a run: TensorBoard events, grids of samples, plots of the log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from srtrt.errors import InputError, MissingPackageError, OutputError
from srtrt.train.looking import RunView

RNG = np.random.default_rng(5)
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"


@pytest.fixture
def view(tmp_path: Path) -> Iterator[RunView]:
    view = RunView(tmp_path / "run")
    yield view
    view.close()


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    return accumulator


def curve(run: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(run).Scalars(name)]


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def triple(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        noise(height, width),
        noise(4 * height, 4 * width),
        noise(4 * height, 4 * width),
    )


def read_rgb(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert picture is not None, f"{path} does not decode"
    assert path.read_bytes().startswith(b"\x89PNG")
    return picture[..., ::-1]


def enlarged(lr: np.ndarray) -> np.ndarray:
    return np.kron(lr, np.ones((4, 4, 1), np.uint8))


def place(sheet: np.ndarray, part: np.ndarray) -> tuple[int, int]:
    """Row and column of the only place where ``part`` stands in ``sheet``."""
    height, width = part.shape[:2]
    rows, columns = sheet.shape[0] - height + 1, sheet.shape[1] - width + 1
    starts = np.argwhere((sheet[:rows, :columns] == part[0, 0]).all(axis=2))
    found = [
        (int(y), int(x))
        for y, x in starts
        if np.array_equal(sheet[y : y + height, x : x + width], part)
    ]
    assert len(found) == 1
    return found[0]


def write_log(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def gan_log(count: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for index in range(1, count + 1):
        line: dict[str, Any] = {"step": 100 * index, "epoch": 0.5 * index}
        for name, size in (("pixel", 0.02), ("content", 0.6), ("adversarial", 0.004)):
            line[f"loss/{name}"] = size * (1 + 1 / index)
        line["loss/generator"] = 1.2 + 1 / index
        line["loss/discriminator"] = 0.7 - 0.001 * index
        line["learning_rate"], line["steps_per_second"] = 1e-4, 3.0 + index % 3
        if index % 5 == 0:
            line["psnr"] = 28.0 + 0.01 * index
        lines.append(line)
    return lines


def pixels_of(picture: np.ndarray, colour: str) -> np.ndarray:
    """Columns and rows, ``[N, 2]``, of the pixels of exactly this colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((picture == rgb).all(axis=2))[:, ::-1]


def bend(picture: np.ndarray) -> float:
    """How far the blue curve is from the straight line that fits it best, in pixels."""
    x, y = pixels_of(picture[:, :800], BLUE).astype(float).T
    assert np.ptp(x) > 500
    return float(np.abs(np.polyval(np.polyfit(x, y, 1), x) - y).max())


def test_scalars_can_be_read_back(tmp_path: Path, view: RunView) -> None:
    view.scalars(100, {"loss/pixel": 0.5, "psnr": 28.25})
    view.scalars(200, {"loss/pixel": 0.25})
    # At once: a run that is being looked at is not closed yet.
    assert curve(tmp_path / "run", "loss/pixel") == [(100, 0.5), (200, 0.25)]
    assert curve(tmp_path / "run", "psnr") == [(100, 28.25)]


def test_a_resumed_run_forgets_later_steps(tmp_path: Path) -> None:
    first = RunView(tmp_path)
    for step in (100, 200, 300, 400):
        first.scalars(step, {"psnr": step / 100})
    first.close()
    second = int(time.time())
    while int(time.time()) == second:  # TensorBoard orders files by the second in their names
        time.sleep(0.01)
    resumed = RunView(tmp_path, first_step=200)
    resumed.scalars(300, {"psnr": 30.0})
    resumed.close()
    assert curve(tmp_path, "psnr") == [(100, 1.0), (200, 2.0), (300, 30.0)]


def test_panels_are_the_pictures_side_by_side(tmp_path: Path, view: RunView) -> None:
    pictures = [triple(20, 30), triple(56, 16)]
    path = view.samples("validation", "epoch-00100", 800, pictures)
    assert path == tmp_path / "run" / "samples" / "validation-epoch-00100.png"
    grid = read_rgb(path)
    places = [[place(grid, p) for p in (enlarged(lr), sr, hr)] for lr, sr, hr in pictures]
    for row in places:
        assert len({y for y, _ in row}) == 1
        assert [x for _, x in row] == sorted(x for _, x in row)
    wide, tall = places
    assert 0 < wide[1][1] - wide[0][1] - 120 <= 8, "a thin gap between panels"
    assert 0 < tall[0][0] - wide[0][0] - 80 <= 8, "a thin gap between rows"
    for (_, x_wide), (_, x_tall) in zip(wide, tall, strict=True):
        assert x_tall + 32 == x_wide + 60, "a narrow picture stands in the middle of its column"
    header = grid[: wide[0][0]]
    for _, x in wide:
        assert header[:, x : x + 120].min() < 128, "a dark heading over each column"


def test_headings_differ(view: RunView) -> None:
    grid = read_rgb(view.samples("training", "step-1", 1, [triple(56, 56)]))
    lr, sr, hr = (grid[:26, 4 + 228 * i : 228 + 228 * i] for i in range(3))
    assert not np.array_equal(lr, sr)
    assert not np.array_equal(sr, hr)


def test_large_pictures_are_cropped_around_their_centre(view: RunView) -> None:
    lr, sr, hr = triple(100, 57)
    grid = read_rgb(view.samples("training", "step-1", 1, [(lr, sr, hr)]))
    assert grid.shape[1] < 3 * 224 + 40
    columns = [place(grid, p[88:312, :224])[1] for p in (enlarged(lr), sr, hr)]
    assert columns == sorted(columns)


def test_a_grid_has_at_most_eight_rows(view: RunView) -> None:
    pictures = [triple(8, 8) for _ in range(10)]
    grid = read_rgb(view.samples("training", "step-1", 1, pictures))
    tops = [place(grid, sr)[0] for _, sr, _ in pictures[:8]]
    assert tops == sorted(set(tops))
    assert grid.shape[0] - (tops[-1] + 32) <= 8


def test_the_grid_is_in_tensorboard_too(tmp_path: Path, view: RunView) -> None:
    grid = read_rgb(view.samples("training", "step-300", 300, [triple(10, 12)]))
    (image,) = events(tmp_path / "run").Images("samples/training")
    decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert image.step == 300
    assert np.array_equal(decoded[..., ::-1], grid)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "no picture"),
        ([(noise(8, 8), noise(32, 32), noise(32, 31))], r"HR \(32, 31, 3\); expected"),
        ([(noise(8, 8), noise(16, 16), noise(32, 32))], r"SR \(16, 16, 3\)"),
        ([(noise(8, 8), noise(32, 32) / 255, noise(32, 32))], "SR is float64"),
        ([(noise(8, 8)[..., 0], noise(32, 32), noise(32, 32))], r"LR is uint8 \(8, 8\)"),
        ([(noise(0, 8), noise(0, 32), noise(0, 32))], r"LR is \(0, 8, 3\)"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(
    tmp_path: Path, view: RunView, pictures: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        view.samples("training", "step-1", 1, pictures)
    assert list((tmp_path / "run" / "samples").iterdir()) == []


def test_each_group_of_keys_has_its_plot(tmp_path: Path, view: RunView) -> None:
    lines = gan_log(30)
    lines[3] |= {"discriminator/real": 0.9, "discriminator/fake": 0.2, "../$odd$": 1, "_": 2}
    lines[4] |= {"note": "words", "flag": True, "nothing": None, "gone": float("nan")}
    plots = view.plots(write_log(tmp_path / "log.jsonl", lines))
    assert {path.name for path in plots} == {
        "generator_loss.png",
        "discriminator_loss.png",
        "psnr.png",
        "learning_rate.png",
        "steps_per_second.png",
        "discriminator.png",
        "__.png",
        "_.png",
    }
    assert set(plots) == set((tmp_path / "run" / "plots").iterdir())
    pictures = {path.stem: read_rgb(path) for path in plots}
    assert {picture.shape for picture in pictures.values()} == {(675, 1200, 3)}
    for colour in (BLUE, ORANGE, GREEN, PINK):
        assert len(pixels_of(pictures["generator_loss"], colour)) > 100, "four losses, four lines"
    assert len(pixels_of(pictures["discriminator_loss"], BLUE)) > 100
    assert len(pixels_of(pictures["discriminator_loss"], ORANGE)) == 0


def test_losses_are_drawn_as_they_count_and_none_hides_another(
    tmp_path: Path, view: RunView
) -> None:
    lines = [
        {
            "step": step,
            "loss/pixel": 0.3,
            "loss/content": 10 / step + 0.1,
            "loss/adversarial": 8.0,
            "loss/generator": 10 / step + 0.1 + 0.008,
        }
        for step in range(1, 101)
    ]
    weights = {"pixel": 0.0, "content": 1.0, "adversarial": 0.001}
    (path,) = view.plots(write_log(tmp_path / "log.jsonl", lines), weights)
    picture = read_rgb(path)
    total, adversarial, content = (pixels_of(picture[:, :800], c) for c in (BLUE, ORANGE, GREEN))
    assert len(pixels_of(picture, PINK)) == 0, "what does not count is left out"
    assert min(len(total), len(content)) > 300, "the sum does not hide its largest part"
    assert adversarial[:, 1].min() > total[:, 1].max() > content[:, 1].max() - 5


def test_a_log_cut_by_a_crash_and_resumed_reads_as_if_it_had_not_been(
    tmp_path: Path, view: RunView
) -> None:
    keys = ("step", "loss/pixel", "psnr")
    lines = [{key: line[key] for key in keys if key in line} for line in gan_log(40)]

    def drawn(name: str, text: str) -> list[np.ndarray]:
        (tmp_path / name).write_text(text)
        return [read_rgb(path) for path in view.plots(tmp_path / name)]

    def rows(part: list[dict[str, Any]]) -> str:
        return "".join(json.dumps(line) + "\n" for line in part)

    whole = drawn("whole.jsonl", rows(lines))
    assert len(whole) == 2
    damage = '{"step": 99000, "loss/pixel": 0.'
    lost = [{**line, "loss/pixel": 9.0, "psnr": 99.0} for line in lines[20:33]]
    damaged = drawn("damaged.jsonl", rows(lines) + damage)
    resumed = drawn("resumed.jsonl", rows(lines[:20] + lost) + damage + "\n" + rows(lines[20:]))
    for expected, first, second in zip(whole, damaged, resumed, strict=True):
        assert np.array_equal(first, expected)
        assert np.array_equal(second, expected)


def test_a_report_on_two_lines_is_read_whole(tmp_path: Path, view: RunView) -> None:
    log = write_log(tmp_path / "log.jsonl", [{"step": 5, "loss": 0.1}, {"step": 5, "psnr": 28.0}])
    assert [path.name for path in view.plots(log)] == ["generator_loss.png", "psnr.png"]


@pytest.mark.parametrize("text", ["", "\n", '{"step": 1, "los', "[1]\n7\n", '{"psnr": 30.0}\n'])
def test_a_log_without_numbers_gives_no_files(tmp_path: Path, view: RunView, text: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(text)
    assert view.plots(log) == []
    assert list((tmp_path / "run" / "plots").iterdir()) == []


def test_losses_over_decades_have_a_logarithmic_axis(tmp_path: Path, view: RunView) -> None:
    steps = range(100, 2100, 100)
    decay = [{"step": s, "loss/pixel": 10 ** (-s / 500), "psnr": 10 ** (-s / 500)} for s in steps]
    loss, psnr = map(read_rgb, view.plots(write_log(tmp_path / "a.jsonl", decay)))
    assert bend(loss) < 8, "an exponential decay is straight"
    assert bend(psnr) > 50, "decibels are logarithmic already"
    slow = [{"step": s, "loss/pixel": 1 + s / 1000, "loss/hinge": -0.001 * s} for s in steps]
    (linear,) = view.plots(write_log(tmp_path / "b.jsonl", slow))
    assert bend(read_rgb(linear)) < 8, "negative losses need a linear axis"


def test_losses_that_are_off_leave_a_logarithmic_axis_usable(tmp_path: Path, view: RunView) -> None:
    lines = [
        {"step": s, "loss/a": 10 ** (-s / 500), "loss/b": 0.0, "loss/c": 0.0 if s < 900 else 0.1}
        for s in range(100, 2100, 50)
    ]
    (path,) = view.plots(write_log(tmp_path / "log.jsonl", lines))
    assert bend(read_rgb(path)) < 8


def test_a_smoothed_line_is_drawn_over_the_raw_one(tmp_path: Path, view: RunView) -> None:
    lines = [{"step": s, "steps_per_second": 3 + RNG.normal()} for s in range(1, 400)]
    (path,) = view.plots(write_log(tmp_path / "log.jsonl", lines))
    picture = read_rgb(path)
    smooth = pixels_of(picture, BLUE)[:, 1]
    red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
    raw = np.nonzero((blue - red > 40).any(axis=1))[0]
    assert 20 < np.ptp(smooth) < 0.5 * np.ptp(raw)


def test_the_best_psnr_is_marked(tmp_path: Path, view: RunView) -> None:
    lines = [{"step": s, "psnr": 28 - abs(s - 600) / 1000} for s in range(100, 1200, 100)]
    (path,) = view.plots(write_log(tmp_path / "log.jsonl", lines))
    ring = pixels_of(read_rgb(path), ORANGE)
    line = pixels_of(read_rgb(path), BLUE)
    middle = (line[:, 0].min() + line[:, 0].max()) / 2
    assert abs(ring[:, 0].mean() - middle) < 4
    assert abs(ring[:, 1].mean() - line[:, 1].min()) < 12


def test_plots_leave_the_process_as_it_was(tmp_path: Path, view: RunView) -> None:
    import matplotlib as mpl

    settings, pyplot = dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules
    assert view.plots(write_log(tmp_path / "log.jsonl", gan_log(3)))
    assert dict(mpl.rcParams) == settings
    assert ("matplotlib.pyplot" in sys.modules) == pyplot


def test_files_that_cannot_be_written_or_read_are_named(tmp_path: Path, view: RunView) -> None:
    log = write_log(tmp_path / "log.jsonl", gan_log(3))
    with pytest.raises(InputError, match=r"absent\.jsonl: no such file"):
        view.plots(tmp_path / "absent.jsonl")
    plots = tmp_path / "run" / "plots"
    (plots / "generator_loss.png").mkdir()
    with pytest.raises(OutputError, match=r"generator_loss\.png"):
        view.plots(log)
    assert [path.name for path in plots.iterdir()] == ["generator_loss.png"]
    with pytest.raises(OutputError, match=r"log\.jsonl"):
        RunView(log)


@pytest.mark.parametrize("package", ["tensorboard", "matplotlib"])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in list(sys.modules):
        if name.startswith(("torch.utils.tensorboard", f"{package}.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"'{package}'.*'\.\[train\]'"):
        RunView(tmp_path)
