"""A run that goes on from another run's state under other settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from srtrt.cli import main

TINY = [
    "generator.blocks=1", "generator.features=8", "data.batch=2", "data.patch=8",
    "data.rendered=0",
    "schedule.warmup_steps=2", "run.log_every=2", "discriminator.features=4",
    "schedule.decay=constant",
]  # fmt: skip
ADVERSARIAL = ["loss.adversarial_weight=0.01", "loss.adversarial=relativistic"]


def with_settings(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def train(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def begin(pictures: Path, out: Path, *settings: str) -> None:
    arguments = ["--data", pictures, "--out", out, *with_settings(*TINY, *settings)]
    result = train(*arguments)
    assert result.exit_code == 0, result.output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rates(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["learning_rate"] for line in lines]


@pytest.mark.parametrize("settings", [[], ADVERSARIAL], ids=["psnr", "adversarial"])
def test_a_branch_goes_on_as_the_run_itself_would(
    settings: list[str], picture_folder: Path, tmp_path: Path
) -> None:
    """Networks, average, optimisers, discriminator and the order of batches are taken over."""
    short, whole, branch = (tmp_path / name for name in ("short", "whole", "branch"))
    begin(picture_folder, short, *settings, "schedule.length=6")
    begin(picture_folder, whole, *settings, "schedule.length=10")
    before = contents(short)
    result = train(
        "--data", picture_folder, "--branch", short, "--out", branch,
        *with_settings("schedule.length=10"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert contents(short) == before
    for name in ("generator.safetensors", "states/state-00000010.safetensors"):
        ours, theirs = (load_file(run / name) for run in (branch, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_schedule_of_a_branch_is_its_own(picture_folder: Path, tmp_path: Path) -> None:
    run, branch = tmp_path / "run", tmp_path / "branch"
    begin(picture_folder, run, "schedule.length=8")
    result = train(
        "--data", picture_folder, "--branch", run, "--out", branch,
        *with_settings("schedule.length=16", "schedule.decay=cosine"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(set(rates(run)[1:])) == 1
    assert rates(branch) == sorted(rates(branch), reverse=True)
    assert rates(branch)[-1] < 0.05 * rates(run)[-1]
    assert (branch / "log.jsonl").read_text().startswith('{"step": 10,')


def test_a_killed_branch_is_resumed(picture_folder: Path, tmp_path: Path) -> None:
    run, branch, whole = (tmp_path / name for name in ("run", "branch", "whole"))
    begin(picture_folder, run, "schedule.length=4")
    end = with_settings("schedule.length=60", "run.save_every=2")
    arguments = ["--data", str(picture_folder), "--quiet", *end]
    child = subprocess.Popen(
        [sys.executable, "-m", "srtrt.cli", "train", *arguments, "--branch", str(run),
         "--out", str(branch)],
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((branch / "states").glob("*.safetensors")) and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() in (-signal.SIGKILL, 0)
    assert train(*arguments, "--resume", "--out", branch).exit_code == 0
    assert train(*arguments, "--branch", run, "--out", whole).exit_code == 0
    ours, theirs = (load_file(each / "generator.safetensors") for each in (branch, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "generator.features=4"], "generator.features=8, now it is 4; a branch keeps"),
        (["--set", "schedule.length=4"], "has done 4 updates, and the run is 4 long"),
        (["--set", "loss.adversarial_weight=0.1"], "was trained without a discriminator"),
        (["--init", "fast"], "--branch and --init both say where the run starts"),
        (["--resume"], "continued with --resume alone"),
    ],
)
def test_what_cannot_branch_off_is_said(
    arguments: list[str], message: str, picture_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin(picture_folder, run, "schedule.length=4")
    branch = ["--data", picture_folder, "--branch", run, "--out", tmp_path / "branch"]
    result = train(*branch, *arguments)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "branch").exists()


def test_a_folder_without_a_state_has_no_branches(picture_folder: Path, tmp_path: Path) -> None:
    result = train(
        "--data", picture_folder, "--branch", tmp_path / "none", "--out", tmp_path / "out"
    )
    assert result.exit_code == 2
    assert "holds no saved state; expected the folder of a run" in " ".join(result.output.split())
