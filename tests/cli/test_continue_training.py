"""Going on with a bundled model, on a toy clone with a tiny network and small pictures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from networks import lively_generator

from srtrt.benchmarks.bundle import measured_as, quality_facts, write_model
from srtrt.benchmarks.report import full_report
from srtrt.benchmarks.tables import table
from srtrt.benchmarks.tools.continue_training import continue_training
from srtrt.benchmarks.tools.figures import HISTORY
from srtrt.benchmarks.tools.private_split import is_private
from srtrt.benchmarks.tools.stored import StoredFacts, read_stored, write_stored
from srtrt.networks.checkpoint import (
    generator_state,
    load_checkpoint,
    make_spec,
    save_checkpoint,
)
from srtrt.networks.generator import Generator, GeneratorConfig
from srtrt.networks.initialise import initialise_as_interpolation
from srtrt.runtime.parity import read_pictures

CONFIG = GeneratorConfig(upsampler="pixelshuffledirect", blocks=1, features=8)
TINY = [
    "generator.blocks=1", "generator.features=8", "data.batch=2", "data.patch=8",
    "data.rescale=1", "data.rendered=0", "run.log_every=5", "run.save_every=5",
    "schedule.ema_decay=0.9", "schedule.warmup_steps=2",
]  # fmt: skip
FACTS = StoredFacts(
    updates=1000, hours=0.5, machine="an abacus", settings={}, manifest_sha256="", note=""
)
CARD = """# fast

{table}

## Training

By hand on an abacus.

About two pictures.
"""


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of photographs, some of them private."""
    folder = tmp_path_factory.mktemp("photographs")
    places = [(p, y, x) for p in read_pictures() for y in (0, 100) for x in (0, 100)]
    for index, (picture, top, left) in enumerate(places):
        crop = np.roll(picture, (-top, -left), (0, 1))[:104, :104]
        cv2.imwrite(str(folder / f"photo{index % 6:02d}_{index // 6}.png"), crop[..., ::-1])
    names = [path for path in folder.iterdir() if is_private(path)]
    extra = next(f"more{i}" for i in range(99) if is_private(Path(f"more{i}.png")))
    if not names:
        cv2.imwrite(str(folder / f"{extra}.png"), read_pictures()[1][:104, :104, ::-1])
    return folder


def start() -> Generator:
    net = Generator(CONFIG)
    initialise_as_interpolation(net)
    return net


def make_clone(root: Path, net: Generator) -> None:
    """A clone whose only model, ``fast``, is a network."""
    weights, results = root / "src" / "srtrt" / "weights", root / "benchmarks" / "results"
    for folder in (weights, results, root / "train" / "weights", root / "docs", root / "Set5"):
        folder.mkdir(parents=True)
    cv2.imwrite(str(root / "Set5" / "one.png"), read_pictures()[2][:96, :96, ::-1])
    write_stored(root / "train" / "weights" / "fast.safetensors", net, FACTS)
    checkpoint = weights / "fast.safetensors"
    state = generator_state(net)
    save_checkpoint(checkpoint, state, make_spec(state, net.config, "fast"))
    report = measured_as("fast", checkpoint, [root / "Set5"])
    quality = quality_facts(report, "fast")
    write_model(checkpoint, net, make_spec(state, net.config, "fast", quality=quality), extra={})
    whole = full_report("quality", report)
    (results / "quality-fast.json").write_text(json.dumps(whole, indent=2) + "\n")
    (weights / "fast.md").write_text(CARD.format(table=table(whole)))
    (root / "README.md").write_text("| `fast` | as srresnet | 0.10 | 11.11 dB |\n")


@pytest.fixture(scope="session")
def clones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Clones with a network that is hard to improve, and with one that is easy to."""
    folder = tmp_path_factory.mktemp("clones")
    for name, net in (("good", start()), ("bad", lively_generator(CONFIG))):
        make_clone(folder / name, net)
    return {name: folder / name for name in ("good", "bad")}


@pytest.fixture
def clone(clones: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(clones["good"], tmp_path / "clone"))


@pytest.fixture
def bad_clone(clones: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(clones["bad"], tmp_path / "clone"))


def arguments(root: Path, photographs: Path, *more: object) -> list[str]:
    settings = [part for setting in TINY for part in ("--set", setting)]
    return [
        "--model", "fast", "--data", str(photographs), "--measure", str(root / "Set5"),
        "--repository", str(root), "--runs", str(root / "runs"), "--machine", "2 test cores",
        "--anyway", "--reserve", "0", *settings, *map(str, more),
    ]  # fmt: skip


def go_on(root: Path, photographs: Path, *more: object) -> Result:
    return CliRunner().invoke(continue_training, arguments(root, photographs, *more))


def contents(root: Path) -> dict[str, bytes]:
    """All of a clone but the runs."""
    files = (path for path in root.rglob("*") if path.is_file())
    kept = (path for path in files if path.relative_to(root).parts[0] != "runs")
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}


def said(result: Result) -> str:
    return " ".join(result.output.split())


def test_what_is_better_becomes_the_bundled_model(bad_clone: Path, photographs: Path) -> None:
    root = bad_clone
    before = contents(root)
    result = go_on(root, photographs, "--updates", 60, "--set", "schedule.learning_rate=5e-3")
    text = said(result)
    assert result.exit_code == 0, text
    assert text.index("becomes the bundled model only if") < text.index("constant rate: update")
    assert "fast: released: the private pictures went from" in text
    after = contents(root)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {
        "README.md", "benchmarks/results/quality-fast.json", "src/srtrt/weights/fast.md",
        "src/srtrt/weights/fast.onnx", "src/srtrt/weights/fast.safetensors",
        "train/weights/fast.safetensors",
    }  # fmt: skip
    report = json.loads(after["benchmarks/results/quality-fast.json"])
    psnr = report["sets"]["Set5"]["fast"]["psnr_db"]
    assert set(report["sets"]) == {"Set5"}
    assert after["README.md"].decode().endswith(f"| {psnr:.2f} dB |\n")
    card = after["src/srtrt/weights/fast.md"].decode()
    assert table(report) in card
    assert card.index(HISTORY) < card.index("60 updates of 2 patches") < card.index("About two")
    _, spec = load_checkpoint(root / "src/srtrt/weights/fast.safetensors")
    assert spec.quality["psnr_y_db"]["Set5"] == pytest.approx(psnr)
    assert spec.training["machine"] == "2 test cores"
    net, facts = read_stored(root / "train/weights/fast.safetensors")
    assert (facts.updates, facts.machine) == (1060, "2 test cores")
    assert facts.hours is not None
    assert facts.hours >= 0.5
    assert facts.settings["schedule"]["decay"] == "constant"
    assert len(facts.manifest_sha256) == 64
    assert net.config == CONFIG
    # The runs go on from where the release left them.
    again = go_on(root, photographs, "--updates", 20, "--set", "schedule.learning_rate=5e-3")
    assert "goes on from its run in" in said(again)
    log = (root / "runs/fast/constant/log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 80


def test_what_is_no_better_changes_nothing(clone: Path, photographs: Path) -> None:
    root = clone
    before = contents(root)
    ruined = ("schedule.learning_rate=0.05", "run.explosion=1e9")
    settings = [part for setting in ruined for part in ("--set", setting)]
    result = go_on(root, photographs, "--updates", 30, *settings)
    assert result.exit_code == 0, said(result)
    assert "not released: the private pictures went from" in said(result)
    assert contents(root) == before
    assert (root / "runs/fast/constant/states").is_dir()


def test_private_pictures_are_not_trained_on(clone: Path, photographs: Path) -> None:
    root = clone
    assert go_on(root, photographs, "--updates", 20).exit_code == 0
    manifest = json.loads((root / "runs/fast/constant/manifest.json").read_text())
    used = {Path(name) for name in manifest["files"]}
    assert used
    assert not any(is_private(path) for path in used)
    everything = {path.name for path in photographs.iterdir()}
    assert {path.name for path in used} | {n for n in everything if is_private(Path(n))} == (
        everything
    )


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_cut_off_it_keeps_its_runs_and_goes_on(number: int, clone: Path, photographs: Path) -> None:
    root = clone
    before = contents(root)
    command = [sys.executable, "-m", "srtrt.benchmarks.tools.continue_training"]
    child = subprocess.Popen(
        [*command, *arguments(root, photographs, "--updates", 1_000_000)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    states, deadline = root / "runs/fast/constant/states", time.monotonic() + 200
    while not list(states.glob("*.safetensors")) and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child.pid, number)
    _, text = child.communicate()
    if number == signal.SIGINT:
        assert child.returncode == 130, text
        assert "the same command goes on with what was trained" in text
    assert contents(root) == before
    reached = max(int(path.stem.rpartition("-")[2]) for path in states.glob("*.safetensors"))
    result = go_on(root, photographs, "--updates", 20)
    assert result.exit_code == 0, said(result)
    assert "goes on from its run" in said(result)
    log = (root / "runs/fast/constant/log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == reached + 20


def test_a_slow_processor_trains_nothing_unless_told_to(
    clone: Path, photographs: Path, on_processor: Callable[[str], None]
) -> None:
    on_processor("zen3")
    root = clone
    before = contents(root)
    given = [each for each in arguments(root, photographs, "--updates", 20) if each != "--anyway"]
    result = CliRunner().invoke(continue_training, given)
    assert result.exit_code == 1
    assert "nothing is trained: this processor has no bfloat16" in said(result)
    assert "--anyway" in said(result)
    assert contents(root) == before
    assert not (root / "runs").exists()


def wrong(root: Path) -> dict[str, tuple[list[Any], str]]:
    return {
        "time": (["--until", "25:00"], "--until '25:00': expected a time of day such as 18:30"),
        "both": (["--until", "12:00", "--for", "3"], "give one of: the end as --until HH:MM"),
        "none": ([], "give one of: the end as --until HH:MM"),
        "model": (["--updates", "5", "--model", "slow"], "--model 'slow': expected one of"),
        "clone": (["--updates", "5", "--repository", root / "docs"], "run this in a clone"),
        "set": (["--updates", "5", "--measure", root / "none"], "none"),
        "setting": (["--updates", "5", "--set", "data.batsh=1"], "did you mean 'data.batch'?"),
        "pictures": (["--updates", "5", "--data", root / "empty"], "Expected a folder of pictures"),
    }


@pytest.mark.parametrize("case", list(wrong(Path())))
def test_wrong_calls_are_answered(case: str, clone: Path, photographs: Path) -> None:
    root = clone
    (root / "empty").mkdir()
    more, message = wrong(root)[case]
    result = go_on(root, photographs, *more)
    assert result.exit_code in (1, 2), said(result)
    assert message in said(result)
    assert not (root / "runs").exists()


def test_an_int8_graph_needs_the_set_it_is_judged_on(clone: Path, photographs: Path) -> None:
    (clone / "src/srtrt/weights/fast-int8.onnx").write_bytes(b"a graph")
    result = go_on(clone, photographs, "--updates", 5)
    assert result.exit_code == 2
    assert "fast has an int8 graph, whose loss is measured on Set14" in said(result)


def test_runs_of_other_weights_are_not_gone_on_with(clone: Path, photographs: Path) -> None:
    root = clone
    assert go_on(root, photographs, "--updates", 5).exit_code == 0
    write_stored(root / "train/weights/fast.safetensors", lively_generator(CONFIG), FACTS)
    result = go_on(root, photographs, "--updates", 5)
    assert result.exit_code == 1
    assert "were begun from other weights than" in said(result)
    shutil.rmtree(root / "runs" / "fast")
    assert go_on(root, photographs, "--updates", 5).exit_code == 0


def test_without_time_to_train_nothing_is_done(clone: Path, photographs: Path) -> None:
    root = clone
    before = contents(root)
    result = go_on(root, photographs, "--for", "0.01", "--reserve", "5")
    assert result.exit_code == 0, said(result)
    assert "leaves no time to train; nothing is done for it" in said(result)
    assert contents(root) == before
