"""Training computes in the precision that the machine is fast in, says so, and stays in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from srtrt.cli import main
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.train.config import TrainConfig, preset, preset_names, read_config
from srtrt.train.distributed import World
from srtrt.train.precision import Arithmetic
from srtrt.train.sections import RunConfig

TINY = [
    "generator.blocks=1", "generator.features=8", "data.batch=1", "data.patch=8",
    "data.rendered=0",
    "schedule.warmup_steps=0", "schedule.length=4", "run.save_every=2", "run.log_every=4",
]  # fmt: skip
Become = Callable[[str], None]


def trained(
    pictures: Path, out: Path, *settings: str, options: tuple[str, ...] = (), status: int = 0
) -> str:
    """Trains a few steps into a folder with more settings or options, and returns what is said."""
    given = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    where = ["--data", str(pictures), "--out", str(out)]
    done = CliRunner().invoke(main, ["train", *where, *given, *options])
    assert done.exit_code == status, done.output
    return " ".join(done.output.split())


@pytest.fixture
def train(picture_folder: Path) -> Callable[..., str]:
    return partial(trained, picture_folder)


@pytest.fixture(scope="module")
def asked_for(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each precision, asked for in its settings."""
    runs = {name: tmp_path_factory.mktemp("runs") / name for name in ("fp32", "bf16")}
    for name, folder in runs.items():
        trained(picture_folder, folder, f"run.precision={name}")
    assert not same_weights(*runs.values())
    return runs


def precisions(run: Path) -> set[str]:
    """What the folder says of the precision, in its settings and in its checkpoint."""
    _, spec = load_checkpoint(run / "generator.safetensors")
    return {
        read_config(run / "config.yaml").run.precision,
        spec.training["settings"]["run"]["precision"],
    }


def same_weights(*runs: Path) -> bool:
    first, other = (load_file(run / "generator.safetensors") for run in runs)
    return all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("processor", "precision", "reason"),
    [
        ("zen3", "fp32", "this processor has no bfloat16"),
        ("zen4", "bf16", "this processor computes bfloat16"),
        ("masked_amx", "fp32", "this processor computes bfloat16 slower than float32"),
    ],
)
def test_auto_is_what_the_processor_is_fast_in(
    processor: str,
    precision: str,
    reason: str,
    asked_for: dict[str, Path],
    on_processor: Become,
    train: Callable[..., str],
    tmp_path: Path,
) -> None:
    on_processor(processor)
    said = train(tmp_path)
    assert said.index(f"training in {precision}: {reason} ") < said.index("step 4/4")
    assert precisions(tmp_path) == {precision}
    assert same_weights(tmp_path, asked_for[precision])


def test_bf16_works_without_the_instructions_and_is_said_to_be_slow(
    on_processor: Become, train: Callable[..., str], tmp_path: Path
) -> None:
    on_processor("zen3")
    said = train(tmp_path / "run", "run.precision=bf16", "schedule.length=1")
    assert (
        "training in bf16: as run.precision says; this processor has no bfloat16, so it is "
        "emulated, several times slower than fp32" in said
    )
    assert precisions(tmp_path / "run") == {"bf16"}


@pytest.mark.parametrize(
    ("first", "then", "precision", "options"),
    [
        ("zen4", "zen3", "bf16", ()),
        ("zen4", "zen3", "bf16", ("--preset", "psnr")),
        ("zen3", "zen4", "fp32", ("--preset", "psnr")),
    ],
)
def test_a_run_goes_on_elsewhere_in_the_precision_it_was_started_in(
    first: str,
    then: str,
    precision: str,
    options: tuple[str, ...],
    asked_for: dict[str, Path],
    on_processor: Become,
    train: Callable[..., str],
    tmp_path: Path,
) -> None:
    on_processor(first)
    run = tmp_path / "run"
    train(run)
    (run / "states" / "state-00000004.safetensors").unlink()
    (run / "generator.safetensors").unlink()
    on_processor(then)
    said = train(run, options=("--resume", *options))
    assert f"training in {precision}: as the run was started" in said
    assert ("this processor has no bfloat16, so it is emulated" in said) == (then == "zen3")
    assert precisions(run) == {precision}
    assert same_weights(run, asked_for[precision])


def test_a_run_is_not_resumed_in_another_precision_even_when_asked(
    on_processor: Become, train: Callable[..., str], tmp_path: Path
) -> None:
    on_processor("zen4")
    train(tmp_path)
    said = train(tmp_path, "run.precision=fp32", options=("--resume",), status=1)
    assert "was started with run.precision='bf16', now it is 'fp32'" in said


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((7, 0), "fp32"), ((7, 5), "fp32"), ((8, 0), "bf16"), ((12, 0), "bf16")],
)
def test_a_gpu_computes_in_bf16_from_ampere_on(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T")
    gpu = torch.device("cuda:0")
    chosen = Arithmetic.choose(TrainConfig(), gpu, World())
    assert chosen.precision == precision
    assert "NVIDIA T (compute capability " in chosen.reason
    asked = Arithmetic.choose(TrainConfig(run=RunConfig(precision="bf16")), gpu, World())
    assert asked.precision == "bf16"
    assert ("slower than fp32" in asked.reason) == (precision == "fp32")


def test_several_processes_compute_alike(
    on_processor: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is on an older machine."""
    on_processor("zen4")
    monkeypatch.setattr(World, "agree", lambda self, wish: True)
    chosen = Arithmetic.choose(TrainConfig(), torch.device("cpu"), World(size=2))
    assert chosen.precision == "fp32"
    assert "another process" in chosen.reason


@pytest.mark.parametrize("name", preset_names())
def test_only_the_report_prescribes_the_precision(name: str) -> None:
    assert preset(name).run.precision == ("fp32" if name == "report" else "auto")
