"""The command that runs the original report's experiment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from srtrt.cli import main
from srtrt.datasets import squeeze
from srtrt.metrics import psnr
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.runtime.parity import read_pictures
from srtrt.train.report_data import find_report_data
from srtrt.train.report_figures import ReportRow, report_tables

TINY = [
    "generator.blocks=1", "generator.features=4", "data.batch=2", "data.patch=8",
    "loss.content_layer=block1_conv2", "run.save_every=1", "run.sample_every=9",
]  # fmt: skip
RUNS = [f"{u}-{d}" for d in ("DIV2K", "Flickr2K", "DF2K") for u in ("pixelshuffle", "nearest")]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training pictures and one for validation in DIV2K's layout, four in a plain folder."""
    folder = tmp_path_factory.mktemp("sets")
    corners = [p[top:, :80][:60] for p in read_pictures() for top in (0, len(p) // 3, len(p) // 2)]
    names = [
        "DIV2K/DIV2K_train_HR/0001.png", "DIV2K/DIV2K_train_HR/0002.png",
        "DIV2K/DIV2K_valid_HR/0801.png", "DIV2K/DIV2K_train_LR_bicubic/X4/0001x4.png",
        *(f"FLICKR2K/{number:06d}.png" for number in range(1, 5)),
    ]  # fmt: skip
    for name, picture in zip(names, corners, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.ascontiguousarray(picture[..., ::-1]))
    return folder


def words(sets: Path, out: Path, vgg: Path | None, *more: object) -> list[str]:
    settings = [part for setting in TINY for part in ("--set", setting)]
    weights = [] if vgg is None else ["--vgg", vgg]
    given = ["train-report", sets / "DIV2K", sets / "FLICKR2K", "--out", out, *weights]
    return [str(word) for word in (*given, *settings, *more)]


def report(sets: Path, out: Path, vgg: Path | None, *more: object) -> Result:
    return CliRunner().invoke(main, words(sets, out, vgg, *more))


def tensors(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(p.relative_to(folder)): load_file(p) for p in folder.rglob("*.safetensors")}


@pytest.mark.slow
def test_six_runs_go_on_after_a_kill_to_the_same_tables(
    sets: Path, tmp_path: Path, vgg_file: Path
) -> None:
    epochs = ["--epoch", "pass", "--epochs", 1, "--epochs", 2]
    whole = report(sets, tmp_path / "whole", vgg_file, *epochs)
    assert whole.exit_code == 0, whole.output
    killed = words(sets, tmp_path / "killed", vgg_file, *epochs)
    process = subprocess.Popen([sys.executable, "-m", "srtrt.cli", *killed, "--quiet"])
    while not list((tmp_path / "killed").glob("nearest-DIV2K/states/state-*")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed = CliRunner().invoke(main, killed)
    assert resumed.exit_code == 0, resumed.output
    assert "5 of 6 runs to go" in resumed.stderr
    assert "Pixel Shuffler on DIV2K:" not in resumed.stderr, "it is over"
    assert resumed.stdout == whole.stdout
    first, other = tensors(tmp_path / "whole"), tensors(tmp_path / "killed")
    assert first.keys() == other.keys()
    assert len(first) == 6 * 4, "no state is left, as each is large"
    for name in first:
        assert all(torch.equal(first[name][key], other[name][key]) for key in first[name]), name


def test_each_run_is_measured_at_its_epochs_by_the_protocol_of_the_report(
    sets: Path, tmp_path: Path, vgg_file: Path
) -> None:
    out = tmp_path / "out"
    result = report(sets, out, vgg_file, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "an epoch is one batch" in result.stderr
    assert "6 of 6 runs to go: 6 updates, about 0:00:" in result.stderr
    assert "DF2K has 6 training pictures here, the original 3450" in result.stderr
    assert "an epoch is one batch." in result.stdout
    assert "After 1 epoch:" in result.stdout
    assert result.stdout == (out / "tables.md").read_text()
    hr = squeeze(cv2.imread(str(sets / "DIV2K/DIV2K_valid_HR/0801.png"))[..., ::-1].copy(), 32)
    lr = squeeze(hr, 8)
    assert f"| {psnr(squeeze(lr, 32), hr):.2f} dB |" in result.stdout.splitlines()[-1]
    grids = {"training-epoch-00001.png", "validation-epoch-00001.png"}
    for run in RUNS:
        assert {path.name for path in (out / run / "samples").iterdir()} == grids
        (row,) = json.loads((out / run / "result.json").read_text())["rows"]
        net, spec = load_checkpoint(out / run / "milestones" / "epoch-00001.safetensors")
        assert spec.config["upsampler"] == run.partition("-")[0]
        assert spec.training["dataset"] == run.partition("-")[2] == row["data"]
        assert row["updates"] == row["epoch"] == spec.training["steps"] == 1
        x = torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            y = (net(x)[0] * 255).round().clamp(0, 255).permute(1, 2, 0).numpy()
        assert row["psnr_db"] == pytest.approx(psnr(y.astype(np.uint8), hr), abs=0.02)
    again = report(sets, out, vgg_file, "--epochs", 1)
    assert again.stdout == result.stdout
    assert "updates" not in again.stderr, "nothing is left to do"
    for more, message in (
        (["--epoch", "pass"], "was begun with schedule.epoch='batch', now it is 'pass'"),
        (["--epochs", 3], "now it is 3"),
        (["--set", "data.batch=3"], "was begun with data.batch=2, now it is 3"),
        (["--val", sets / "FLICKR2K"], "was begun with other pictures of validation"),
    ):
        refused = report(sets, out, vgg_file, "--epochs", 1, *more)
        assert refused.exit_code == 1
        assert message in refused.stderr
    other = tmp_path / "other.pth"
    torch.save({k: v + 1e-3 for k, v in torch.load(vgg_file).items()}, other)
    refused = report(sets, out, other, "--epochs", 1)
    assert refused.exit_code == 1
    assert "was begun with VGG19 weights of SHA-256" in refused.stderr


def test_what_it_takes_is_said_before_anything_is_trained(
    sets: Path, tmp_path: Path, vgg_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    dry = report(sets, out, vgg_file, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "6 of 6 runs to go: 3,000 updates" in dry.stderr
    assert "a state of" in dry.stderr
    assert not out.exists()
    full = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    refused = report(sets, out, vgg_file)
    assert refused.exit_code == 1
    assert "and the disk has 0 MB left" in refused.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: [w[0], w[2], w[1], *w[3:]], "holds Flickr2K, and DIV2K is expected here"),
        (lambda w: [*w, "--set", "schedule.length=3"], "not for train-report, use --epochs"),
        (lambda w: [*w, "--set", "generator.upsampler=nearest"], "both are run"),
        (lambda w: [*w, "--epochs", "0"], "0 is not in the range"),
        (lambda w: [*w, "--vgg", "absent.pth"], "--vgg absent.pth: no such file"),
        (lambda w: [*w, "--set", "loss.content_layer=block3_conv3"], "holds VGG19 up to"),
        (lambda w: [w[0], f"{w[1]}x", *w[2:]], "DIV2Kx: no such folder"),
        (lambda w: [*w, "--val", w[1] + "/DIV2K_train_HR"], "holds no picture to use"),
    ],
)
def test_wrong_words_are_sentences(
    change: object, message: str, sets: Path, tmp_path: Path, vgg_file: Path
) -> None:
    assert callable(change)
    done = CliRunner().invoke(main, change(words(sets, tmp_path / "out", vgg_file)))
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_the_pictures_are_found_in_every_layout_and_refused_in_others(
    sets: Path, tmp_path: Path
) -> None:
    def counts(div2k: Path, flickr2k: Path) -> list[int]:
        found = find_report_data(div2k, flickr2k, [])
        return [*(len(each.files) for each in found.training.values()), len(found.validation)]

    div2k, flickr2k = sets / "DIV2K", sets / "FLICKR2K"
    assert counts(div2k, flickr2k) == [2, 4, 6, 1]
    assert counts(div2k / "DIV2K_train_HR", flickr2k) == [2, 4, 6, 1]
    shutil.copytree(flickr2k, tmp_path / "archive" / "Flickr2K_HR")
    assert counts(div2k, tmp_path / "archive") == [2, 4, 6, 1]
    plain = tmp_path / "div2k"
    for half in ("train", "valid"):
        shutil.copytree(div2k / f"DIV2K_{half}_HR", plain, dirs_exist_ok=True)
    assert counts(plain, flickr2k) == [2, 4, 6, 1]
    (plain / "0801.png").unlink()
    for wrong, message in (
        ((plain, flickr2k), "has no validation pictures"),
        ((sets, flickr2k), "holds DF2K, and DIV2K is expected"),
        ((div2k, shutil.copytree(flickr2k, tmp_path / "photos")), "holds 4 pictures in a layout"),
    ):
        with pytest.raises(Exception, match=message):
            counts(*wrong)


def test_the_tables_set_the_figures_of_the_report_beside_ours() -> None:
    method = "Pixel Shuffler"
    rows = [
        ReportRow(method=method, data="DF2K", epoch=epoch, updates=69 * epoch, psnr_db=26.0)
        for epoch in (100, 500, 7)
    ]
    tables = report_tables(rows, [100, 500, 7], 23.456)
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in tables.splitlines()
        if line.startswith("| ") and "--" not in line and "Method" not in line
    ]
    bicubic = ["Bicubic (OpenCV)", "-", "-", "-", "23.46 dB", "-", "-"]
    assert cells == [
        [method, "DF2K", "100", "6,900", "26.00 dB", "26.40 dB", "-0.40 dB"],
        bicubic,
        [method, "DF2K", "500", "34,500", "26.00 dB", "26.90 dB", "-0.90 dB"],
        bicubic,
        [method, "DF2K", "7", "483", "26.00 dB", "-", "-"],
        bicubic,
    ]
