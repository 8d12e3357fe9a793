from __future__ import annotations

import hashlib
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
from safetensors import safe_open
from safetensors.torch import load_file

from srtrt.cli import main
from srtrt.metrics import near_nyquist_excess
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.perceptual import missing_packages, weights
from srtrt.train.config import preset, preset_names, read_config
from srtrt.train.state import read_facts
from srtrt.train.validate import Validation, picture_pairs

TINY = [
    "generator.blocks=1", "generator.features=8", "data.batch=2", "data.patch=8",
    "data.rendered=0",
    "schedule.warmup_steps=2", "run.log_every=4", "discriminator.features=4",
]  # fmt: skip
STAGES = [
    "schedule.decay=tail", "schedule.tail=0.5", "data.hard_share=0.8", "data.final_patch=12",
    "data.final_patch_share=0.6", "loss.final_mse_share=0.7", "schedule.freeze_batchnorm_share=0.5",
]  # fmt: skip
ADVERSARIAL = ["loss.adversarial_weight=0.01", "loss.adversarial=relativistic"]


def with_settings(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def train(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *with_settings(*TINY), *map(str, arguments)])


def command(pictures: Path, out: Path, *settings: str) -> list[str]:
    return [
        sys.executable, "-m", "srtrt.cli", "train", "--data", str(pictures), "--out", str(out),
        *with_settings(*TINY, *settings),
    ]  # fmt: skip


def wait_for(condition: str, folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob(condition)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_training_improves_on_its_own_pictures(picture_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(
        "--data", picture_folder, "--val", picture_folder, "--out", run, "--name", "mine",
        *with_settings(
            "schedule.length=60", "schedule.learning_rate=2e-3", "run.validate_every=5",
            "schedule.ema_decay=0.9", "run.keep=3", "run.save_every=10", "run.sample_every=30",
        ),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    log = read_log(run)
    scores = [line["psnr"] for line in log if "psnr" in line]
    assert log[-1]["step"] == 60
    assert scores[-1] > scores[0] + 0.1
    net, spec = load_checkpoint(run / "generator.safetensors")
    assert (net.config.blocks, net.config.features) == (1, 8)
    assert (spec.name, spec.training["steps"], spec.training["pictures"]) == ("mine", 60, 3)
    assert spec.training["settings"]["data"]["batch"] == 2
    assert spec.quality["validation_psnr_db"] == pytest.approx(scores[-1], abs=1e-3)
    _, best = load_checkpoint(run / "best.safetensors")
    assert best.quality["validation_psnr_db"] == pytest.approx(max(scores), abs=1e-3)
    assert spec.quality["validation_near_nyquist"] == pytest.approx(
        log[-1]["near_nyquist"], abs=1e-4
    )
    with safe_open(run / "generator.safetensors", framework="pt") as file:
        manifest = json.loads(file.metadata()["srtrt.data_manifest"])
    assert manifest == json.loads((run / "manifest.json").read_text())
    assert manifest["files"]["0.png"] == (picture_folder / "0.png").stat().st_size
    assert read_config(run / "config.yaml").data.batch == 2
    states = sorted(p.name for p in (run / "states").iterdir())
    assert states == [f"state-{step:08d}.safetensors" for step in (40, 50, 60)]
    assert {p.name for p in (run / "samples").iterdir()} == {
        f"{kind}-step-{step:08d}.png" for kind in ("training", "validation") for step in (30, 60)
    }
    assert (run / "plots" / "psnr.png").exists()


def test_validation_measures_perceptual_distances_where_it_can(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["schedule.length=2", "run.validate_every=1"]
    given = ["--data", picture_folder, "--val", picture_folder]

    def trained(name: str, *more: str) -> tuple[Path, str]:
        run = tmp_path / name
        result = train(*given, "--out", run, *with_settings(*settings, *more))
        assert result.exit_code == 0, result.output
        return run, result.output

    if not missing_packages():
        run, _ = trained("with")
        first, last = (line for line in read_log(run) if "psnr" in line)
        for name in ("lpips", "dists"):
            assert 0 < last[f"perceptual/{name}"] < 1
            assert last[f"perceptual/{name}"] != first[f"perceptual/{name}"]
            quality = load_checkpoint(run / "generator.safetensors")[1].quality
            value = last[f"perceptual/{name}"]
            assert quality[f"validation_{name}"] == pytest.approx(value, abs=1e-4)
        assert (run / "plots" / "perceptual.png").exists()
    monkeypatch.setattr(weights, "installed", lambda name: None)
    run, output = trained("without")
    assert output.count("LPIPS and DISTS are left out") == 1
    assert "near_nyquist" in read_log(run)[-1]
    run, output = trained("off", "run.perceptual=off")
    assert "left out" not in output
    assert not {"near_nyquist", "perceptual/lpips"} & read_log(run)[-1].keys()
    assert "psnr" in read_log(run)[-1]


def test_rendered_pictures_are_told_apart_from_photographs(
    picture_folder: Path, tmp_path: Path
) -> None:
    run, drawn = tmp_path / "run", ["data.rendered=0.5", "data.rendered_pictures=2"]
    arguments = ["--data", picture_folder, "--out", run]
    result = train(*arguments, *with_settings(*drawn, "schedule.length=3"))
    assert result.exit_code == 0, result.output
    assert "rendered: 2 pictures" in result.output
    _, spec = load_checkpoint(run / "generator.safetensors")
    assert spec.training["pictures"] == 3
    assert spec.training["settings"]["data"]["rendered_pictures"] == 2
    with safe_open(run / "generator.safetensors", framework="pt") as file:
        manifest = json.loads(file.metadata()["srtrt.data_manifest"])
    assert sorted(manifest["files"]) == ["0.png", "1.png", "2.png"]
    facts = manifest["rendered"]
    assert (facts["pictures"], facts["seed"]) == (2, 0)
    assert {font["licence"] for font in facts["fonts"]} == {
        "Bitstream Vera licence (DejaVu)", "STIX Font licence 1.0",
    }  # fmt: skip
    more = with_settings(*drawn, "schedule.length=3", "data.rendered_pictures=3")
    again = train(*arguments, "--resume", *more)
    assert again.exit_code == 1
    assert "data.rendered_pictures=2, now it is 3" in again.output


def test_the_log_of_an_adversarial_run_watches_for_a_mesh(
    picture_folder: Path, tmp_path: Path
) -> None:
    run, one = tmp_path / "run", ["schedule.length=1", "run.perceptual=off"]
    arguments = ["--data", picture_folder, "--val", picture_folder]
    result = train(*arguments, "--out", run, *with_settings(*ADVERSARIAL, *one))
    assert result.exit_code == 0, result.output
    net, _ = load_checkpoint(run / "generator.safetensors")
    pairs = picture_pairs(sorted(picture_folder.iterdir()))
    enlarged = Validation(pairs, device=torch.device("cpu")).enlarge(net)
    excess = [near_nyquist_excess(sr, hr) for sr, (_, hr) in zip(enlarged, pairs, strict=True)]
    found = read_log(run)[-1]["near_nyquist_excess"]
    assert found == pytest.approx(np.mean(excess), rel=0.05)
    assert (run / "plots" / "near_nyquist_excess.png").exists()
    plain = train(*arguments, "--out", tmp_path / "plain", *with_settings(*one))
    assert plain.exit_code == 0, plain.output
    assert "near_nyquist_excess" not in read_log(tmp_path / "plain")[-1]


@pytest.mark.parametrize(
    "settings", [[], ADVERSARIAL, STAGES], ids=["psnr", "adversarial", "stages"]
)
def test_a_killed_run_goes_on_to_the_same_weights(
    settings: list[str], picture_folder: Path, tmp_path: Path
) -> None:
    settings = [*settings, "schedule.length=40", "run.save_every=2"]
    killed = command(picture_folder, tmp_path / "killed", *settings)
    process = subprocess.Popen([*killed, "--quiet"], text=True)
    wait_for("states/*.safetensors", tmp_path / "killed", process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    subprocess.run([*killed, "--quiet", "--resume"], check=True)
    subprocess.run([*command(picture_folder, tmp_path / "whole", *settings), "--quiet"], check=True)
    for name in ("generator.safetensors", "states/state-00000040.safetensors"):
        first, other = (load_file(tmp_path / run / name) for run in ("killed", "whole"))
        assert first.keys() == other.keys()
        assert all(torch.equal(first[key], other[key]) for key in first)
    logs = [
        [{k: v for k, v in line.items() if k != "steps_per_second"} for line in read_log(run)]
        for run in (tmp_path / "killed", tmp_path / "whole")
    ]
    assert logs[0] == logs[1]


def test_a_damaged_state_gives_way_to_the_one_before(picture_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = with_settings("schedule.length=6", "run.save_every=3")
    assert train("--data", picture_folder, "--out", run, *settings).exit_code == 0
    reference = load_file(run / "generator.safetensors")
    newest = run / "states" / "state-00000006.safetensors"
    newest.write_bytes(newest.read_bytes()[:500])
    (run / "generator.safetensors").unlink()
    resumed = train("--data", picture_folder, "--out", run, "--resume")
    assert resumed.exit_code == 0
    assert "Going on from state-00000003.safetensors instead." in resumed.output
    again = load_file(run / "generator.safetensors")
    assert all(torch.equal(again[key], reference[key]) for key in reference)


def test_ctrl_c_saves_and_says_how_to_go_on(picture_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(command(picture_folder, run), stderr=subprocess.PIPE, text=True)
    wait_for("log.jsonl", run, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "continue with --resume" in errors
    assert "Traceback" not in errors
    assert list((run / "states").iterdir())


def test_a_run_is_not_overwritten_or_mixed(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    one = with_settings("schedule.length=1")
    assert train("--data", picture_folder, "--out", out, *one).exit_code == 0
    again = train("--data", picture_folder, "--out", out, *one)
    assert again.exit_code == 2
    assert "continue it with --resume" in again.output
    other = train(
        "--data", picture_folder, "--out", out, *with_settings("schedule.length=2"), "--resume"
    )
    assert other.exit_code == 1
    assert "started with schedule.length=1, now it is 2" in other.output
    nothing = train("--data", picture_folder, "--out", tmp_path / "new", "--resume")
    assert nothing.exit_code == 1
    assert "nothing to resume" in nothing.output


def test_training_starts_from_a_checkpoint_or_a_bundled_model(
    picture_folder: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    unfit = train("--data", picture_folder, "--out", tmp_path / "a", "--init", "srresnet")
    assert unfit.exit_code == 1
    assert "blocks=16" in unfit.output
    start, _ = load_checkpoint(tiny_checkpoint)
    fit = train(
        "--data", picture_folder, "--out", tmp_path / "b", "--init", tiny_checkpoint,
        *with_settings(
            "generator.blocks=2", "schedule.length=1", "schedule.learning_rate=1e-9",
            "schedule.ema_decay=0",
        ),
    )  # fmt: skip
    assert fit.exit_code == 0, fit.output
    end, _ = load_checkpoint(tmp_path / "b" / "generator.safetensors")
    torch.testing.assert_close(end.tail.weight, start.tail.weight, atol=1e-3, rtol=1e-3)


def test_unusable_pictures_are_skipped_and_counted(picture_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(picture_folder / "0.png", folder / "good.png")
    (folder / "broken.png").write_bytes((picture_folder / "0.png").read_bytes()[:900])
    cv2.imwrite(str(folder / "small.png"), np.zeros((20, 20, 3), np.uint8))
    one = with_settings("schedule.length=1")
    result = train("--data", folder, "--out", tmp_path / "run", *one)
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "broken.png" in words
    assert "small.png: 20x20 is below" in words
    assert "2 pictures skipped" in words
    (folder / "good.png").unlink()
    empty = train("--data", folder, "--out", tmp_path / "other")
    assert empty.exit_code == 1
    assert "none of 2 images" in empty.output


@pytest.mark.parametrize(
    ("upsampler", "epoch", "steps"),
    [("pixelshuffle", "pass", [2, 4]), ("nearest", "batch", [1, 2])],  # three pictures, two a batch
)
def test_the_recipe_of_the_report_runs(
    upsampler: str,
    epoch: str,
    steps: list[int],
    picture_folder: Path,
    tmp_path: Path,
    vgg_file: Path,
) -> None:
    result = train(
        "--preset", "report", "--data", picture_folder, "--val", picture_folder,
        "--out", tmp_path, "--vgg", vgg_file,
        *with_settings(
            f"generator.upsampler={upsampler}", f"schedule.epoch={epoch}", "schedule.length=2",
            "run.sample_every=9", "run.log_every=1", "loss.content_layer=block1_conv2",
            "run.milestones=[1, 2]",
        ),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"an epoch is {'one batch' if epoch == 'batch' else 'a pass'}" in result.output
    run = read_config(tmp_path / "config.yaml")
    assert (run.run.initialisation, run.run.precision, run.schedule.ema_decay) == (
        "plain",
        "fp32",
        0,
    )
    log = read_log(tmp_path)
    assert [line["step"] for line in log] == steps
    assert [line["epoch"] for line in log] == [1, 2]
    for line in log:
        parts = line["loss/content"] + 1e-3 * line["loss/adversarial"]
        assert line["loss/generator"] == pytest.approx(parts, rel=1e-4)
        assert 0 < line["loss/discriminator"] < 5
        assert "psnr" in line
    assert {p.name for p in (tmp_path / "samples").iterdir()} == {
        f"{kind}-epoch-0000{each}.png" for kind in ("training", "validation") for each in (1, 2)
    }
    assert len(list((tmp_path / "plots").glob("*loss*.png"))) == 2
    _, spec = load_checkpoint(tmp_path / "generator.safetensors")
    assert spec.config["upsampler"] == upsampler
    kept = [tmp_path / "milestones" / f"epoch-0000{each}.safetensors" for each in (1, 2)]
    milestones = [load_checkpoint(path)[1] for path in kept]
    assert [each.training["steps"] for each in milestones] == steps
    (state,) = (tmp_path / "states").iterdir()
    tensors = load_file(state)
    ours = {k: v for k, v in tensors.items() if k.startswith("average.")}
    for key, value in ours.items():
        plain = tensors[key.replace("average.", "generator.net.")]
        assert torch.equal(plain, value), "weights are not averaged"
    assert milestones[1].weights_sha256 == spec.weights_sha256 != milestones[0].weights_sha256


def test_a_run_goes_on_with_its_own_content_network_alone(
    picture_folder: Path, tmp_path: Path, vgg_file: Path
) -> None:
    run, digest = tmp_path / "run", hashlib.sha256(vgg_file.read_bytes()).hexdigest()
    given = ["--preset", "report", "--data", picture_folder, "--out", run]
    settings = with_settings("schedule.length=1", "loss.content_layer=block1_conv2")
    assert train(*given, "--vgg", vgg_file, *settings).exit_code == 0
    content = {"network": "VGG19", "layer": "block1_conv2", "layout": "torchvision"}
    assert json.loads((run / "manifest.json").read_text())["content"] == content | {
        "sha256": digest
    }
    assert read_config(run / "config.yaml").loss.content_sha256 == digest
    loss = load_checkpoint(run / "generator.safetensors")[1].training["settings"]["loss"]
    assert (loss["content_sha256"], loss["content_layout"]) == (digest, "torchvision")
    (state,) = (run / "states").iterdir()
    assert read_facts(state)["loss.content_sha256"] == digest
    other = tmp_path / "other.pth"
    torch.save({k: v + 1e-3 for k, v in torch.load(vgg_file).items()}, other)
    for sources in (["--data", picture_folder, "--out", run], [*given, *settings]):
        refused = train(*sources, "--vgg", other, "--resume")
        assert refused.exit_code == 1
        assert f"is {digest}: a run goes on with the file it was started with" in refused.output
        assert "pictures" not in refused.output, "before they are cached"
    left = state.with_name(f".{state.name}.123-0123456789abcdef.part")
    left.write_bytes(bytes(1000))
    assert train(*given[2:], "--vgg", vgg_file, "--resume").exit_code == 0
    assert list((run / "states").iterdir()) == [state], "what a killed run left is gone"


def test_two_processes_train_like_one(picture_folder: Path, tmp_path: Path) -> None:
    settings = [*ADVERSARIAL, "schedule.length=6", "run.precision=fp32", "run.log_every=2"]
    one = command(picture_folder, tmp_path / "one", *settings)
    subprocess.run([*one, "--quiet"], check=True)
    two = command(picture_folder, tmp_path / "two", *settings)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, *two[1:], "--quiet"], check=True, env=environment, timeout=300)
    single, joined = (
        load_file(tmp_path / run / "states" / "state-00000006.safetensors")
        for run in ("one", "two")
    )
    assert single.keys() == joined.keys()
    # The true gradient of a bias before BatchNorm is zero, so Adam moves it by rounding alone.
    for key, value in single.items():
        if ".adam." not in key and not key.endswith((".bias", ".running_mean")):
            torch.testing.assert_close(joined[key], value, atol=2e-5, rtol=1e-3, msg=key)
    for first, other in zip(read_log(tmp_path / "one"), read_log(tmp_path / "two"), strict=True):
        for loss in ("loss/pixel", "loss/adversarial", "loss/discriminator"):
            assert other[loss] == pytest.approx(first[loss], rel=1e-4)
    _, spec = load_checkpoint(tmp_path / "two" / "generator.safetensors")
    assert spec.training["processes"] == 2


def test_every_preset_is_complete_and_described_in_the_help() -> None:
    text = CliRunner().invoke(main, ["train", "--help"]).output
    assert set(preset_names()) == {"psnr", "gan", "video", "fast", "report"}
    for name in preset_names():
        assert name in text
        assert preset(name).schedule.length >= 100


def test_content_loss_without_a_network_is_refused(
    picture_folder: Path, tmp_path: Path, vgg_file: Path
) -> None:
    content = with_settings("loss.content_weight=0.1", "loss.content_layer=block2_conv1")
    shallow = train("--data", picture_folder, "--out", tmp_path, "--vgg", vgg_file, *content)
    assert shallow.exit_code == 1
    assert "block1_conv2" in shallow.output
    absent = train("--data", picture_folder, "--out", tmp_path, "--vgg", "no.pth", *content)
    assert absent.exit_code == 1
    assert "no.pth" in absent.output
    assert "pictures" not in shallow.output + absent.output, "before they are cached"


@pytest.mark.gpu
def test_training_runs_on_cuda(picture_folder: Path, tmp_path: Path) -> None:
    result = train(
        "--data", picture_folder, "--val", picture_folder, "--out", tmp_path, "--device", "cuda:0",
        *with_settings(*ADVERSARIAL, "schedule.length=4"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device asked for exists here")
def test_an_absent_device_is_refused(picture_folder: Path, tmp_path: Path) -> None:
    result = train("--data", picture_folder, "--out", tmp_path, "--device", "cuda:0")
    assert result.exit_code == 2
    assert "sees no CUDA device" in result.output
    assert train("--data", picture_folder, "--device", "abacus").exit_code == 2


def test_settings_that_do_not_fit_into_memory_are_a_sentence(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr("srtrt.train.loop.Trainer._loop", ends)
    done = train("--data", picture_folder, "--out", tmp_path / "run", *with_settings())
    assert done.exit_code == 1
    assert "not enough memory for these settings. Set a smaller data.batch" in done.output
