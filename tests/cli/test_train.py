from __future__ import annotations

import json
import os
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
from srtrt.errors import TrainingError
from srtrt.export.parity import read_pictures
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.resample import resize_bicubic
from srtrt.train.config import PsnrConfig
from srtrt.train.data import PatchPool
from srtrt.train.loop import PsnrTrainer

TINY = ["blocks=1", "features=8", "batch=2", "patch=8", "warmup_steps=2", "log_every=4"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index, picture in enumerate(read_pictures()):
        cv2.imwrite(str(folder / f"{index}.png"), picture[..., ::-1])
    return folder


def train(*arguments: object) -> Result:
    settings = [part for setting in TINY for part in ("--set", setting)]
    return CliRunner().invoke(main, ["train", *settings, *map(str, arguments)])


def test_training_improves_on_its_own_pictures(pictures: Path, tmp_path: Path) -> None:
    result = train(
        "--data", pictures, "--val", pictures, "--out", tmp_path / "run", "--name", "mine",
        "--set", "steps=60", "--set", "learning_rate=2e-3", "--set", "validate_every=5",
        "--set", "ema_decay=0.9",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    scores = [line["psnr"] for line in log if "psnr" in line]
    assert log[-1]["step"] == 60
    assert scores[-1] > scores[0] + 0.1
    net, spec = load_checkpoint(tmp_path / "run" / "generator.safetensors")
    assert (net.config.blocks, net.config.features) == (1, 8)
    assert spec.name == "mine"
    assert spec.training["steps"] == 60
    assert spec.training["pictures"] == 3
    assert spec.quality["validation_psnr_y_db"] == pytest.approx(scores[-1], abs=1e-3)


def test_resume_gives_the_weights_of_an_uninterrupted_run(pictures: Path, tmp_path: Path) -> None:
    files = sorted(pictures.iterdir())
    config = PsnrConfig().with_settings([*TINY, "steps=10", "save_every=4"])
    cpu = torch.device("cpu")
    whole = PsnrTrainer(config, files, tmp_path / "whole", device=cpu).run()
    first = PsnrTrainer(config, files, tmp_path / "parts", device=cpu)
    first.run(should_stop=lambda: first.step == 6)
    second = PsnrTrainer(config, files, tmp_path / "parts", device=cpu)
    second.resume()
    assert second.step == 6
    resumed = second.run()
    for name in ("generator.safetensors", "state.safetensors"):
        first, other = (load_file(r.checkpoint.with_name(name)) for r in (whole, resumed))
        assert first.keys() == other.keys()
        assert all(torch.equal(first[key], other[key]) for key in first)


def test_a_killed_run_goes_on_from_its_last_state(pictures: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "srtrt.cli", "train", "--data", str(pictures),
        "--out", str(tmp_path / "killed"), "--quiet",
    ]  # fmt: skip
    for setting in (*TINY, "steps=40", "save_every=2"):
        command += ["--set", setting]
    process = subprocess.Popen(command)
    state = tmp_path / "killed" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    subprocess.run([*command, "--resume"], check=True)
    subprocess.run([*command[:7], str(tmp_path / "whole"), *command[8:]], check=True)
    killed, whole = (
        load_file(tmp_path / run / "generator.safetensors") for run in ("killed", "whole")
    )
    assert all(torch.equal(killed[key], whole[key]) for key in whole)


def test_ctrl_c_saves_and_says_how_to_go_on(pictures: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "srtrt.cli", "train", "--data", str(pictures),
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    for setting in (*TINY, "steps=100000"):
        command += ["--set", setting]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "continue with --resume" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "run" / "state.safetensors").exists()


def test_a_run_is_not_overwritten_or_mixed(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train("--data", pictures, "--out", out, "--set", "steps=1").exit_code == 0
    again = train("--data", pictures, "--out", out, "--set", "steps=1")
    assert again.exit_code == 2
    assert "continue it with --resume" in again.output
    other = train("--data", pictures, "--out", out, "--set", "steps=2", "--resume")
    assert other.exit_code == 1
    assert "started with steps=1, now it is 2" in other.output
    nothing = train("--data", pictures, "--out", tmp_path / "new", "--resume")
    assert nothing.exit_code == 1
    assert "nothing to resume" in nothing.output


def test_training_starts_from_a_checkpoint(
    pictures: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    unfit = train("--data", pictures, "--out", tmp_path / "a", "--init", tiny_checkpoint)
    assert unfit.exit_code == 1
    assert "blocks=2" in unfit.output
    start, _ = load_checkpoint(tiny_checkpoint)
    fit = train(
        "--data", pictures, "--out", tmp_path / "b", "--init", tiny_checkpoint,
        "--set", "blocks=2", "--set", "steps=1", "--set", "learning_rate=1e-9",
        "--set", "ema_decay=0",
    )  # fmt: skip
    assert fit.exit_code == 0, fit.output
    end, _ = load_checkpoint(tmp_path / "b" / "generator.safetensors")
    torch.testing.assert_close(end.tail.weight, start.tail.weight, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("step=3", "Did you mean 'steps'"),
        ("steps=many", "expected a whole number"),
        ("steps", "expected key=value"),
        ("batch=0", "batch is 0"),
        ("loss=huber", "loss is 'huber'"),
        ("learning_rate=7", "learning_rate is 7"),
        ("upsampler=cubic", "upsampler is 'cubic'"),
    ],
)
def test_wrong_settings_are_named(setting: str, message: str, pictures: Path) -> None:
    result = train("--data", pictures, "--out", "unused", "--set", setting)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output


def test_unusable_pictures_are_skipped_and_said(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.png").write_bytes((pictures / "0.png").read_bytes())
    (folder / "broken.png").write_bytes((pictures / "0.png").read_bytes()[:900])
    cv2.imwrite(str(folder / "small.png"), np.zeros((20, 20, 3), np.uint8))
    result = train("--data", folder, "--out", tmp_path / "run", "--set", "steps=1")
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "broken.png" in words
    assert "20x20 is below 48x48" in words
    (folder / "good.png").unlink()
    empty = train("--data", folder, "--out", tmp_path / "other")
    assert empty.exit_code == 1
    assert "none of 2 images" in empty.output
    missing = train("--data", tmp_path / "absent", "--out", tmp_path / "other")
    assert missing.exit_code == 1
    assert "no such folder" in missing.output


def test_an_exploding_loss_stops_with_advice(pictures: Path, tmp_path: Path) -> None:
    config = PsnrConfig().with_settings([*TINY, "steps=8"])
    trainer = PsnrTrainer(config, sorted(pictures.iterdir()), tmp_path, device=torch.device("cpu"))
    with torch.no_grad():
        trainer.net.tail.bias.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(TrainingError, match="the loss is nan at step 4"):
        trainer.run()
    assert not (tmp_path / "generator.safetensors").exists()


def test_patches_are_real_crops_with_a_real_neighbourhood(pictures: Path) -> None:
    """Undo flips and rotations by search: every HR patch lies in a picture, and its LR is the
    antialiased bicubic of a larger crop around it."""
    files = sorted(pictures.iterdir())
    pool = PatchPool(files, patch=8, batch=6, seed=3, device=torch.device("cpu"))
    batch = pool.sample(11)
    again = pool.sample(11)
    assert torch.equal(batch.lr, again.lr)
    assert not torch.equal(batch.lr, pool.sample(12).lr)
    images = [cv2.imread(str(f))[..., ::-1] for f in files]
    for hr, lr in zip(batch.hr, batch.lr, strict=True):
        patch = np.rint(255 * hr.permute(1, 2, 0).numpy()).astype(np.uint8)
        small = np.rint(255 * lr.permute(1, 2, 0).numpy()).astype(np.uint8)
        assert any(_matches(image, patch, small) for image in images)


def _matches(image: np.ndarray, patch: np.ndarray, small: np.ndarray) -> bool:
    for turns in range(4):
        for flip in (False, True):
            view = np.rot90(image[:, ::-1] if flip else image, turns)
            score = cv2.matchTemplate(np.ascontiguousarray(view), patch, cv2.TM_SQDIFF)
            top, left = np.unravel_index(score.argmin(), score.shape)
            if not np.array_equal(view[top : top + 32, left : left + 32], patch):
                continue
            around = view[top - 8 : top + 40, left - 8 : left + 40]
            assert around.shape == (48, 48, 3), "the margin lies inside the picture"
            expected = resize_bicubic(np.ascontiguousarray(around), 12, 12)[2:-2, 2:-2]
            return int(np.abs(expected.astype(int) - small).max()) <= 1
    return False


def test_all_eight_orientations_occur(pictures: Path, tmp_path: Path) -> None:
    ramp = np.zeros((48, 48, 3), np.uint8)
    ramp[..., 0] = np.arange(48)[:, None]
    ramp[..., 1] = 2 * np.arange(48)[None]
    cv2.imwrite(str(tmp_path / "ramp.png"), ramp[..., ::-1])
    pool = PatchPool([tmp_path / "ramp.png"], patch=8, batch=64, seed=0, device=torch.device("cpu"))
    hr = pool.sample(0).hr
    seen = set()
    for patch in hr:
        down = patch[:2, -1, 0] - patch[:2, 0, 0]
        right = patch[:2, 0, -1] - patch[:2, 0, 0]
        seen.add((*down.sign().int().tolist(), *right.sign().int().tolist()))
    assert len(seen) == 8


@pytest.mark.gpu
def test_training_runs_on_cuda(pictures: Path, tmp_path: Path) -> None:
    result = train(
        "--data", pictures, "--val", pictures, "--out", tmp_path, "--device", "cuda:0",
        "--set", "steps=4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device asked for exists here")
def test_an_absent_device_is_refused(pictures: Path, tmp_path: Path) -> None:
    result = train("--data", pictures, "--out", tmp_path, "--device", "cuda:0")
    assert result.exit_code == 2
    assert "sees no CUDA device" in result.output
    assert train("--data", pictures, "--device", "abacus").exit_code == 2
