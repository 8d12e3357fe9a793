from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    with pytest.raises(ModelError, match="its spec says 8 features, and its tensors are of 4"):
        load_checkpoint(tmp_path / "a.safetensors")
    deeper = make_spec(state, GeneratorConfig(blocks=2, features=4), "small")
    save_checkpoint(tmp_path / "b.safetensors", state, deeper)
    with pytest.raises(ModelError, match="its spec says 2 blocks, and its tensors are of 1"):
        load_checkpoint(tmp_path / "b.safetensors")


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata={SPEC_KEY: '{"x": 1}'})
    with pytest.raises(InputError, match="no such file"):
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


CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"config": {"blocks": 10**9}}, "blocks are 1000000000; expected a whole number from 1 to"),
    ({"config": {"features": 65_000}}, "features are 65000; expected a whole number from 3 to"),
    ({"config": {"blocks": 1000}}, "its spec says 1000 blocks, and its tensors are of 1"),
    ({"config": {"features": 4000}}, "its spec says 4000 features, and its tensors are of 4"),
    ({"config": {"blocks": "1"}}, "blocks are '1'; expected a whole number"),
    ({"config": {"blocks": True}}, "blocks are True; expected a whole number"),
    ({"config": {"upsampler": "nearest"}}, r"tensor up1\.conv|has the shape"),
    ({"config": {"upsampler": ["nearest"]}}, r"upsampler is \['nearest'\]"),
    ({"config": {"depth": 1}}, "unknown generator setting 'depth'"),
    ({"scale": 8}, "its spec says scale 8; a network of the sizes that it names has 4"),
    ({"scale": 10**9}, "scale 1000000000 and receptive radius 10 are impossible"),
    ({"receptive_radius": 0}, "its spec says receptive radius 0; .* has 10"),
    ({"receptive_radius": 60_000}, "its spec says receptive radius 60000; .* has 10"),
    ({"name": "a\x1b[31m"}, r"name is 'a\\x1b\[31m'; expected 1 to 256 characters"),
    ({"name": ""}, "expected 1 to 256 characters"),
    ({"name": "x" * 10_000}, "expected 1 to 256 characters"),
]


@pytest.mark.parametrize(("claim", "message"), CLAIMS, ids=lambda each: str(each)[:40])
def test_a_spec_that_claims_other_sizes_is_refused(
    claim: dict[str, Any], message: str, tmp_path: Path
) -> None:
    state = generator_state(lively_generator(CONFIG))
    values = json.loads(make_spec(state, CONFIG, "small").to_json())
    values |= claim | {"config": values["config"] | claim.get("config", {})}
    path = tmp_path / "a.safetensors"
    save_file(state, path, metadata={SPEC_KEY: json.dumps(values)})
    with pytest.raises(ModelError, match=message) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", [torch.complex64, torch.int64, torch.float64, torch.bool])
def test_tensors_of_another_type_are_refused(kind: torch.dtype, tmp_path: Path) -> None:
    state = generator_state(lively_generator(CONFIG))
    spec = make_spec(state, CONFIG, "small")
    path = tmp_path / "a.safetensors"
    save_file({**state, "tail.bias": state["tail.bias"].to(kind)}, path, {SPEC_KEY: spec.to_json()})
    with pytest.raises(ModelError, match=r"tensor 'tail\.bias' is \w+; expected F16, BF16, F32"):
        load_checkpoint(path)


def test_a_file_as_large_as_none_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}})
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + (1 << 40))
    with pytest.raises(InputError, match="1048576 MiB; expected a checkpoint of at most 512 MiB"):
        load_checkpoint(path)
