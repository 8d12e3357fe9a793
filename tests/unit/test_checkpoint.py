from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import lively_generator
from safetensors.torch import save_file

from srtrt.errors import InputError, ModelError, OutputError
from srtrt.networks.checkpoint import (
    generator_state,
    load_checkpoint,
    make_spec,
    round_to_half,
    save_checkpoint,
)
from srtrt.networks.generator import GeneratorConfig
from srtrt.spec import SPEC_KEY, ModelSpec

CONFIG = GeneratorConfig(blocks=1, features=4)


def test_checkpoint_gives_back_network_and_facts(tmp_path: Path) -> None:
    net = lively_generator(CONFIG)
    state = generator_state(net)
    spec = make_spec(state, CONFIG, "small", training={"steps": 7})
    save_checkpoint(tmp_path / "a.safetensors", state, spec)
    loaded, facts = load_checkpoint(tmp_path / "a.safetensors")
    assert facts == spec
    assert facts.training == {"steps": 7}
    picture = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(picture), net(picture))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_half_checkpoint_is_defined_by_its_rounded_weights(tmp_path: Path) -> None:
    state = round_to_half(generator_state(lively_generator(CONFIG)))
    save_checkpoint(tmp_path / "h.safetensors", state, make_spec(state, CONFIG, "half"))
    loaded, _ = load_checkpoint(tmp_path / "h.safetensors")
    assert loaded.tail.weight.dtype == torch.float32
    assert torch.equal(loaded.tail.weight, state["tail.weight"].float())
    assert state["trunk_bn.running_var"].dtype == torch.float32


def test_swapped_tensors_are_refused(tmp_path: Path) -> None:
    state = generator_state(lively_generator(CONFIG))
    spec = make_spec(state, CONFIG, "small")
    state["tail.bias"] = state["tail.bias"] + 1
    save_checkpoint(tmp_path / "a.safetensors", state, spec)
    with pytest.raises(ModelError, match="not the ones its spec was written for"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    state = generator_state(lively_generator(CONFIG))
    wider = make_spec(state, GeneratorConfig(blocks=1, features=8), "small")
    save_checkpoint(tmp_path / "a.safetensors", state, wider)
    with pytest.raises(ModelError, match="size mismatch"):
        load_checkpoint(tmp_path / "a.safetensors")
    deeper = make_spec(state, GeneratorConfig(blocks=2, features=4), "small")
    save_checkpoint(tmp_path / "b.safetensors", state, deeper)
    with pytest.raises(ModelError, match=r"'blocks\.1"):
        load_checkpoint(tmp_path / "b.safetensors")


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata={SPEC_KEY: '{"x": 1}'})
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="not a readable safetensors"):
        load_checkpoint(tmp_path / "text.safetensors")
    with pytest.raises(ModelError, match="carries no srtrt spec"):
        load_checkpoint(tmp_path / "bare.safetensors")
    with pytest.raises(ModelError, match="unknown field 'x'"):
        load_checkpoint(tmp_path / "odd.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    state = generator_state(lively_generator(CONFIG))
    spec = make_spec(state, CONFIG, "small")
    with pytest.raises(OutputError, match="does not exist"):
        save_checkpoint(tmp_path / "absent" / "a.safetensors", state, spec)
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(OutputError, match="is not a plain file"):
        save_checkpoint(tmp_path / "a.safetensors", state, spec)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("field", "value"), [("form", "bgr"), ("precision", "fp12"), ("scale", 0)])
def test_spec_refuses_impossible_values(field: str, value: object) -> None:
    facts = {"name": "a", "receptive_radius": 4, "weights_sha256": "0", field: value}
    with pytest.raises(ModelError, match=str(value)):
        ModelSpec(**facts)  # type: ignore[arg-type]
