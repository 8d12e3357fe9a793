"""The parts of going on with bundled models: split, colours, stored weights, figures."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import REPOSITORY

from srtrt.benchmarks.tables import table
from srtrt.benchmarks.tools import figures
from srtrt.benchmarks.tools.colour import colour_correction
from srtrt.benchmarks.tools.private_split import is_private, photograph, split_pictures
from srtrt.benchmarks.tools.session import constant_rate, decaying
from srtrt.benchmarks.tools.stored import (
    StoredFacts,
    load_discriminator,
    manifest_sha256,
    read_stored,
    write_discriminator,
    write_stored,
)
from srtrt.benchmarks.tools.yardsticks import FOOTAGE, LPIPS, PSNR, Measured, Yardstick, verdict
from srtrt.errors import InputError, ModelError, TrainingError
from srtrt.networks.checkpoint import generator_state, make_spec, save_checkpoint
from srtrt.networks.discriminator import PatchDiscriminator
from srtrt.networks.generator import Generator, GeneratorConfig, Upsampler
from srtrt.networks.initialise import initialise_as_interpolation
from srtrt.runtime.models import bundled_models
from srtrt.runtime.parity import read_pictures
from srtrt.train.config import preset, preset_names
from srtrt.train.update import learning_rate

FACTS = StoredFacts(
    updates=7, hours=None, machine="an abacus", settings={}, manifest_sha256="0" * 64
)


def quality(psnr: float, **more: float) -> dict[str, object]:
    sets = {"Set5": {"pictures": 5, "fast": {"psnr_db": psnr, "ssim": 0.9, **more}}}
    return {"benchmark": "quality", "model": "fast", "sets": sets}


@given(st.text("abc_-0123456789", min_size=1, max_size=12), st.lists(st.integers(0, 999)))
def test_crops_of_one_photograph_are_on_one_side(name: str, crops: list[int]) -> None:
    sides = {is_private(Path(f"somewhere/{name}_{crop}.jpg")) for crop in [0, *crops]}
    assert len(sides) == 1
    assert photograph(Path(f"{name}_0.png")) == photograph(Path(f"elsewhere/{name}_12.jpg"))


def test_the_split_stays_where_it_is(shared: Path) -> None:
    split = split_pictures([shared / "train"])
    assert len(split.private) == 45
    assert not {*map(photograph, split.private)} & {*map(photograph, split.training)}


def test_a_folder_with_one_side_only_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "only.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"of 1 pictures . are private and . to train on"):
        split_pictures([tmp_path])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    for index, picture in enumerate(read_pictures()):
        cv2.imwrite(str(folder / f"{index}.png"), picture[:160, :160, ::-1])
    return sorted(folder.iterdir())


@pytest.mark.parametrize("upsampler", ["pixelshuffle", "pixelshuffledirect", "nearest"])
def test_a_network_that_is_too_dark_is_corrected(
    upsampler: Upsampler, photographs: list[Path]
) -> None:
    """Channels that lack 1 % and 2 %, and one that is right: black and white come out exact."""
    net = Generator(GeneratorConfig(upsampler=upsampler, blocks=1, features=8)).eval()
    initialise_as_interpolation(net)
    lacking = torch.tensor([0.99, 0.98, 1.0]).repeat_interleave(net.tail.out_channels // 3)
    with torch.no_grad():
        net.tail.weight.mul_(lacking[:, None, None, None])
    correction, report = colour_correction(net, photographs)
    assert report.error[0] < -0.5
    assert report.error[1] < -1
    assert abs(report.error[2]) < 0.3
    assert report.psnr_corrected_db > report.psnr_db
    corrected = correction.applied(net)
    again = colour_correction(corrected, photographs)[1]
    assert max(map(abs, again.error)) < 0.4
    for level in (0, 255):
        field = torch.full((1, 3, 24, 24), level / 255)
        with torch.no_grad():
            shown = (255 * corrected(field)[:, :, 40:56, 40:56]).round().clamp(0, 255)
        assert (shown == level).all()


def test_a_bias_never_lifts_black(photographs: list[Path]) -> None:
    net = Generator(GeneratorConfig(upsampler="pixelshuffledirect", blocks=1, features=8)).eval()
    initialise_as_interpolation(net)
    assert net.tail.bias is not None
    with torch.no_grad():
        net.tail.bias.sub_(2 / 255)
    corrected = colour_correction(net, photographs)[0].applied(net)
    with torch.no_grad():
        black = 255 * corrected(torch.zeros(1, 3, 24, 24))[:, :, 40:56, 40:56]
        white = 255 * corrected(torch.ones(1, 3, 24, 24))[:, :, 40:56, 40:56]
    assert black.max() < 0.5
    assert white.min() > 254.5


def test_stored_weights_are_read_back(tmp_path: Path) -> None:
    net = Generator(GeneratorConfig(blocks=1, features=8))
    write_stored(tmp_path / "mine.safetensors", net, FACTS)
    found, facts = read_stored(tmp_path / "mine.safetensors")
    assert facts == FACTS
    for name, value in generator_state(net).items():
        wanted = value if "running_" in name else value.half().float()
        assert torch.equal(found.state_dict()[name], wanted)


def test_a_checkpoint_that_was_not_stored_is_refused(tmp_path: Path) -> None:
    state = generator_state(net := Generator(GeneratorConfig(blocks=1, features=8)))
    for training in ({}, {**vars(FACTS), "updates": -1}):
        spec = make_spec(state, net.config, "mine", training=training)
        save_checkpoint(tmp_path / "mine.safetensors", state, spec)
        with pytest.raises(ModelError, match=r"does not say how it was trained|-1 updates"):
            read_stored(tmp_path / "mine.safetensors")


def test_discriminators_are_stored_with_their_size(tmp_path: Path) -> None:
    path, one, other = tmp_path / "judge.safetensors", PatchDiscriminator(4), PatchDiscriminator(4)
    write_discriminator(path, one, {"features": 4})
    load_discriminator(path, other)
    for name, value in one.state_dict().items():
        assert torch.allclose(other.state_dict()[name].float(), value.float(), atol=1e-3), name
    with pytest.raises(TrainingError, match="of another size"):
        load_discriminator(path, PatchDiscriminator(8))
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_discriminator(path, other)


@pytest.mark.parametrize("name", bundled_models())
def test_every_bundled_model_has_stored_weights(name: str) -> None:
    path = REPOSITORY / "train" / "weights" / f"{name}.safetensors"
    net, facts = read_stored(path)
    assert facts.updates > 1000
    assert len(facts.manifest_sha256) == 64
    assert path.stat().st_size < 3_300_000
    assert {"schedule", "data", "generator"} <= set(facts.settings)
    assert net.config.features == facts.settings["generator"]["features"]


def test_stored_weights_are_in_no_wheel() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    assert "include-package-data = false" in text
    rules = text.split("[tool.setuptools.package-data]")[1].split("\n[")[0]
    patterns = re.findall(r'"srtrt\.train" = \[(.*)\]', rules)
    assert len(patterns) == 1
    packed = [p for each in re.findall(r'"([^"]+)"', patterns[0])
              for p in (REPOSITORY / "train").glob(each)]  # fmt: skip
    assert packed
    assert not any("weights" in path.parts for path in packed)
    assert "srtrt.train.weights" not in text


def test_a_manifest_has_one_checksum() -> None:
    assert manifest_sha256({"a": 1, "b": {"c": 2, "d": 3}}) == manifest_sha256(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert manifest_sha256({"a": 1}) != manifest_sha256({"a": 2})


@pytest.mark.parametrize("name", preset_names())
def test_a_decay_is_the_end_of_its_preset(name: str) -> None:
    config = constant_rate(preset(name))
    endless = config.schedule.length
    rates = {learning_rate(config, 1e-3, step, endless) for step in (1000, 10**6)}
    assert rates == {1e-3}
    ending = preset(name)
    ending = replace(ending, loss=replace(ending.loss, final_mse_share=ending.schedule.tail / 2))
    branch = decaying(ending, 900, 100)
    assert branch.schedule.length == 1000
    assert learning_rate(branch, 1e-3, 900, 1000) == pytest.approx(1e-3)
    assert learning_rate(branch, 1e-3, 950, 1000) == pytest.approx(5e-4)
    assert learning_rate(branch, 1e-3, 999, 1000) == pytest.approx(1e-5)
    assert branch.loss.final_mse_share == pytest.approx(0.05)
    assert branch.generator == preset(name).generator


@pytest.mark.parametrize(
    ("yardstick", "private", "public", "released", "reason"),
    [
        (PSNR, 30.1, 31.0, True, "no public set fell"),
        (PSNR, 30.1, 30.999, False, "Set5 (31.0000 to 30.9990) fell"),
        (PSNR, 30.0, 32.0, False, "which is no gain"),
        (FOOTAGE, 30.1, 31.0, True, "no public set fell"),
        (LPIPS, 29.9, 31.0, True, "from 30.0000 to 29.9000"),
        (LPIPS, 29.9, 31.1, False, "fell"),
        (LPIPS, 30.1, 30.0, False, "which is no gain"),
    ],
)
def test_the_private_pictures_decide_and_public_ones_may_stop_it(
    yardstick: Yardstick, private: float, public: float, released: bool, reason: str
) -> None:
    old = Measured(private=30.0, public={"Set5": 31.0})
    new = Measured(private=private, public={"Set5": public})
    better, why = verdict(yardstick, old, new)
    assert better == released
    assert reason in why


def test_tables_and_rows_follow_the_new_figures() -> None:
    old, new = quality(30.0), quality(31.0)
    page = f"Before.\n\n{table(old)}\n\nAfter.\n"
    assert figures.requoted(page, old, new) == f"Before.\n\n{table(new)}\n\nAfter.\n"
    rows = "| `fast` | as x | 0.10 | 31.23 dB |\n| `faster` | y | 1 | 31.23 dB |\n"
    expected = "| `fast` | as x | 0.10 | 32.00 dB |\n| `faster` | y | 1 | 31.23 dB |\n"
    assert figures.model_row(rows, "fast", 32.0) == expected


def test_the_history_of_a_card_grows() -> None:
    card = "# fast\n\n## Training\n\nBy hand.\n\nAbout 570 crops.\n\nLicence.\n"
    once = figures.with_history(card, "one")
    assert once == (
        f"# fast\n\n## Training\n\nBy hand.\n\n{figures.HISTORY}\n\n- one\n\nAbout 570 crops.\n\n"
        "Licence.\n"
    )
    twice = figures.with_history(once, "two")
    assert "- one\n- two\n\nAbout 570" in twice
    assert figures.with_history("# card\n", "one").endswith(f"{figures.HISTORY}\n\n- one\n")
