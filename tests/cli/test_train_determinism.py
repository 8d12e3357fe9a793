"""What a repeated or resumed run promises, and the setting that keeps it on a GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from srtrt.cli import main
from srtrt.errors import TrainingError
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.train import update
from srtrt.train.config import TrainConfig
from srtrt.train.determinism import determinism, resuming
from srtrt.train.distributed import World
from srtrt.train.networks import build_discriminator
from srtrt.train.sections import RunConfig
from srtrt.train.update import Update

TINY = [
    "generator.blocks=1", "generator.features=8", "data.batch=2", "data.patch=8",
    "data.rendered=0",
    "schedule.warmup_steps=0", "run.save_every=2", "run.log_every=4",
    "run.precision=fp32", "loss.adversarial_weight=0.01", "discriminator.features=4",
]  # fmt: skip
DETERMINISTIC = "run.deterministic=true"


@pytest.fixture(autouse=True)
def without_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what the run leaves in the environment is taken out again.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def train(pictures: Path, out: Path, *settings: str, more: tuple[str, ...] = ()) -> Any:
    given = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    return CliRunner().invoke(
        main, ["train", "--data", str(pictures), "--out", str(out), *given, *more]
    )


def modes() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark)


def test_a_deterministic_run_resumed_ends_with_the_same_weights(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[bool, ...]] = set()
    usual, fail_at = Update.__call__, [-1]

    def watched(self: Update, batch: Any, step: int, steps: int) -> Any:
        seen.add(modes())
        if step == fail_at[0]:
            raise KeyboardInterrupt
        return usual(self, batch, step, steps)

    monkeypatch.setattr(Update, "__call__", watched)
    before = modes()
    length = "schedule.length=4"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(picture_folder, whole, DETERMINISTIC, length).exit_code == 0
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    fail_at[0] = 3
    assert train(picture_folder, cut, DETERMINISTIC, length).exit_code != 0
    fail_at[0] = -1
    done = train(picture_folder, cut, DETERMINISTIC, length, more=("--resume",))
    assert done.exit_code == 0, done.output
    assert seen == {(True, True, False)}
    assert modes() == before
    one, other = (load_file(run / "generator.safetensors") for run in (whole, cut))
    assert all(torch.equal(one[key], other[key]) for key in one)
    _, spec = load_checkpoint(cut / "generator.safetensors")
    assert spec.training["settings"]["run"]["deterministic"] is True


def test_a_run_is_not_resumed_with_less_promised(picture_folder: Path, tmp_path: Path) -> None:
    length = "schedule.length=2"
    assert train(picture_folder, tmp_path, DETERMINISTIC, length).exit_code == 0
    refused = train(picture_folder, tmp_path, "run.deterministic=false", length, more=("--resume",))
    assert refused.exit_code == 1
    assert "was started with run.deterministic=true" in " ".join(refused.output.lower().split())


def test_what_cannot_be_repeated_is_told(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pixel(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        torch.zeros(4).put_(torch.tensor([0]), torch.tensor([1.0]))  # has no such way
        return (output - wanted).abs().mean()

    monkeypatch.setattr(update.functional, "l1_loss", pixel)
    done = train(picture_folder, tmp_path / "a", DETERMINISTIC, "schedule.length=2")
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert "run.deterministic cannot be kept with these settings (put_" in said
    assert train(picture_folder, tmp_path / "b", "schedule.length=2").exit_code == 0


def test_other_errors_are_left_alone() -> None:
    before = modes()
    with pytest.raises(RuntimeError, match="another"), determinism(True):
        raise RuntimeError("another")
    with pytest.raises(TrainingError, match="cannot be kept"), determinism(True):
        raise RuntimeError("x does not have a deterministic implementation")
    assert modes() == before


def test_a_workspace_that_the_user_has_set(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    done = train(picture_folder, tmp_path, DETERMINISTIC, "schedule.length=2")
    assert done.exit_code == 2
    assert "CUBLAS_WORKSPACE_CONFIG is ':0:0', and run.deterministic needs" in " ".join(
        done.output.split()
    )
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert train(picture_folder, tmp_path, DETERMINISTIC, "schedule.length=2").exit_code == 0
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_compiling_is_by_measurement(picture_folder: Path, tmp_path: Path) -> None:
    done = train(picture_folder, tmp_path, DETERMINISTIC, "run.compile=on")
    assert done.exit_code == 2
    assert "run.compile is 'on'; expected auto or off with run.deterministic" in done.output


@pytest.mark.parametrize("deterministic", [False, True])
def test_networks_are_compiled_on_cuda_unless_deterministic(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, **_: self)
    config = TrainConfig(run=RunConfig(precision="fp32", deterministic=deterministic))
    from srtrt.networks.generator import Generator

    Update(
        config,
        Generator(config.generator),
        build_discriminator(config),
        None,
        device=torch.device("cuda"),
        world=World(),
    )
    assert bool(compiled) == (not deterministic)


def test_resuming_on_a_gpu_says_what_it_does_not_keep() -> None:
    assert resuming(torch.device("cpu"), False) is None
    assert resuming(torch.device("cuda"), True) is None
    assert "its weights differ in rounding" in (resuming(torch.device("cuda"), False) or "")
