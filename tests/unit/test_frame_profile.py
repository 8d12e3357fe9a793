"""Other ways to compute the network: the same function, timed side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import lively_generator
from torch.nn import functional

from srtrt.benchmarks.frame_profile import VARIANTS, strided_tail, tail_difference
from srtrt.benchmarks.tables import table
from srtrt.cli import main
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.networks.generator import GeneratorConfig
from srtrt.runtime.models import bundled_models, find_model


@settings(deadline=None, max_examples=50)
@given(
    channels=st.integers(1, 5),
    outputs=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    seed=st.integers(0, 2**31),
)
def test_the_tail_on_the_lr_grid_is_the_same_function(
    channels: int, outputs: int, height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    tail = torch.nn.Conv2d(channels, 4 * outputs, 5, padding=2).double()
    x = torch.randn(2, channels, 2 * height, 2 * width, dtype=torch.float64)
    expected = functional.pixel_shuffle(tail(x), 2)
    found = functional.pixel_shuffle(strided_tail(tail)(x), 4)
    assert found.shape == expected.shape == (2, outputs, 4 * height, 4 * width)
    assert float((found - expected).detach().abs().max()) <= 1e-12


@pytest.mark.parametrize("name", bundled_models())
def test_it_is_exact_for_the_bundled_weights(name: str) -> None:
    path = find_model(name).checkpoint_path
    assert path is not None
    generator, _ = load_checkpoint(path)
    if generator.config.upsampler == "pixelshuffledirect":
        pytest.skip("has no tail on the 4x grid")
    assert tail_difference(generator) <= 1e-12


def test_a_wrong_tail_is_noticed() -> None:
    generator = lively_generator(GeneratorConfig(blocks=1, features=4))
    good = tail_difference(generator)
    shifted = torch.nn.Conv2d.forward
    try:
        torch.nn.Conv2d.forward = lambda self, x: shifted(  # type: ignore[method-assign]
            self, x.roll(1, 3) if self.kernel_size == (6, 6) else x
        )
        assert tail_difference(generator) > 1e-3 > good
    finally:
        torch.nn.Conv2d.forward = shifted  # type: ignore[method-assign]


def test_the_command_times_every_way_that_needs_no_compiler(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "profile.json"
    names = [name for name, variant in VARIANTS.items() if not variant.compiled]
    done = CliRunner().invoke(
        main,
        [
            "benchmark", "profile", "--model", str(tiny_checkpoint), "--size", "32x24",
            "--rounds", "3", "--out", str(out),
            *(part for name in names for part in ("--variant", name)),
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert list(report["variants"]) == names
    for row in report["variants"].values():
        assert row["quartiles_ms"][0] <= row["ms"] <= row["quartiles_ms"][1]
        assert row["max_difference"] < 0.01
    assert report["tail_difference_float64"] <= 1e-12
    assert set(report["tail"]) == {"5x5, ms", "6x6 of stride 2, ms"}
    assert "conv" in " ".join(kernel["name"] for kernel in report["kernels"])
    assert "| 6x6 tail of stride 2 |" in table(report)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what PyTorch's compiler imports
def test_compiled_networks_compute_the_same(tiny_checkpoint: Path) -> None:
    command = ["benchmark", "profile", "--model", str(tiny_checkpoint), "--size", "32x24"]
    done = CliRunner().invoke(main, [*command, "--rounds", "1", "--variant", "all of these"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["variants"]
    assert rows["all of these"]["max_difference"] < 0.01


def test_a_direct_network_has_no_tail_to_rewrite(tmp_path: Path) -> None:
    from srtrt.networks.checkpoint import generator_state, make_spec, save_checkpoint

    net = lively_generator(GeneratorConfig(blocks=1, features=8, upsampler="pixelshuffledirect"))
    state = generator_state(net)
    path = tmp_path / "direct.safetensors"
    save_checkpoint(path, state, make_spec(state, net.config, "direct"))
    command = ["benchmark", "profile", "--model", str(path), "--size", "32x24", "--rounds", "1"]
    given_variants = ["--variant", "6x6 tail of stride 2", "--variant", "padded head"]
    done = CliRunner().invoke(main, [*command, *given_variants])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert list(report["variants"]) == ["as it is", "padded head"]
    assert "tail" not in report


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--variant", "5x5"], 2, "variant '5x5': expected as it is"),
        (["--precision", "fp16"], 1, "torch on cpu computes"),
        (["--device", "cuda:1"], 1, "nothing here offers backend torch, device cuda:1"),
    ],
)
def test_what_cannot_be_profiled_is_refused(
    arguments: list[str], status: int, message: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = CliRunner().invoke(main, ["benchmark", "profile", *arguments])
    assert done.exit_code == status
    assert message in done.output
