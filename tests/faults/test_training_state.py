"""Saved training states: whatever is not exactly what was saved is not resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from srtrt.errors import TrainingError
from srtrt.networks.generator import Generator, GeneratorConfig
from srtrt.train.run_folder import Counters, RunFolder
from srtrt.train.state import Average, DamagedStateError, TrainingState, read_facts, sealed

CONFIG = GeneratorConfig(blocks=1, features=4, upsampler="pixelshuffledirect")
IDENTITY: dict[str, Any] = {"data.batch": 4, "pictures": "0" * 64}
COUNTERS = Counters(step=3, best=float("-inf"), recent=(0.5, 0.25), psnr=None)


@dataclass
class Run:
    """A run that was saved after a step."""

    state: TrainingState
    folder: RunFolder
    path: Path

    def tensors(self) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self.state.average.tensors.items()}

    def resume(self) -> tuple[Counters, tuple[str, ...]]:
        return self.folder.load_state(self.state, IDENTITY)


def fresh_state() -> TrainingState:
    torch.manual_seed(0)
    net = Generator(CONFIG)
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 3, 8, 8)).square().mean().backward()
    optimiser.step()
    return TrainingState({"generator": net}, {"generator": optimiser}, Average(net, 0.9))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.start("", {})
    state = fresh_state()
    folder.save_state(state, 3, {**COUNTERS.facts(), **IDENTITY}, keep=2)
    return Run(state, folder, folder.states()[0])


@pytest.fixture(autouse=True)
def whole(run: Run) -> Any:
    data = run.path.read_bytes()
    yield
    for path in run.folder.states():
        path.unlink()
    run.path.write_bytes(data)


def test_a_state_comes_back_as_it_was(run: Run) -> None:
    before = run.tensors()
    for tensor in run.state.average.tensors.values():
        tensor.zero_()
    found, notes = run.resume()
    assert (found, notes) == (COUNTERS, ())
    assert all(torch.equal(before[k], v) for k, v in run.tensors().items())


@settings(deadline=None, max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), head=st.booleans())
def test_a_flipped_bit_anywhere_is_refused(run: Run, place: float, bit: int, head: bool) -> None:
    data = bytearray(run.path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    data[int(place * (header if head else len(data)))] ^= 1 << bit
    damaged = run.path.with_name("damaged.safetensors")
    damaged.write_bytes(data)
    for read in (run.state.load, read_facts):
        with pytest.raises(DamagedStateError, match=r"damaged\.safetensors: is no intact training"):
            read(damaged)
    damaged.unlink()


@pytest.mark.parametrize("kept", [0, 7, 500, -1])
def test_a_state_that_is_cut_short_is_refused(run: Run, kept: int) -> None:
    run.path.write_bytes(run.path.read_bytes()[:kept])
    with pytest.raises(TrainingError, match="No other state is intact") as caught:
        run.resume()
    assert "start again with another --out, from generator.safetensors" in str(caught.value)


def resaved(run: Run, change: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> None:
    tensors, facts = load_file(run.path), read_facts(run.path)
    change(tensors, facts)
    run.path.write_bytes(sealed(tensors, facts))


def test_every_tensor_must_be_there_and_no_other(run: Run) -> None:
    before = run.tensors()
    for name in load_file(run.path):
        data = run.path.read_bytes()
        resaved(run, lambda tensors, _, name=name: tensors.pop(name))  # type: ignore[misc]
        with pytest.raises(TrainingError, match=f"the tensor '{name}' is missing"):
            run.resume()
        run.path.write_bytes(data)
    resaved(run, lambda tensors, _: tensors.update({"average.more": torch.zeros(1)}))
    with pytest.raises(TrainingError, match=r"'average\.more' belongs to no part of the run"):
        run.resume()
    assert all(torch.equal(before[k], v) for k, v in run.tensors().items())


@pytest.mark.parametrize("tensor", [torch.zeros(5), torch.zeros(4, dtype=torch.float64)])
def test_every_tensor_must_be_of_its_shape_and_type(run: Run, tensor: Tensor) -> None:
    resaved(run, lambda tensors, _: tensors.update({"generator.adam.1.exp_avg": tensor}))
    with pytest.raises(TrainingError, match=r"generator\.adam\.1\.exp_avg is F(32|64) "):
        run.resume()


@pytest.mark.parametrize("name", [*COUNTERS.facts(), "unknown"])
def test_every_fact_must_be_there_and_no_other(run: Run, name: str) -> None:
    known = name in COUNTERS.facts()
    resaved(run, lambda _, facts: facts.pop(name) if known else facts.update({name: 1}))
    state = "missing" if known else "unknown"
    with pytest.raises(TrainingError, match=f"the fact '{name}' is {state}"):
        run.resume()


@pytest.mark.parametrize(
    "wrong", [{"step": 0}, {"step": "3"}, {"best": None}, {"recent": 7}, {"recent": ["x"]}]
)
def test_counters_that_are_impossible_are_refused(run: Run, wrong: dict[str, Any]) -> None:
    resaved(run, lambda _, facts: facts.update(wrong))
    with pytest.raises(TrainingError, match="its counters are wrong"):
        run.resume()


def test_the_last_good_state_is_taken_and_the_damaged_one_named(run: Run) -> None:
    newest = run.path.with_name("state-00000004.safetensors")
    newest.write_bytes(run.path.read_bytes()[:-1] + b"!")
    found, notes = run.resume()
    assert found == COUNTERS
    (note,) = notes
    assert note.startswith(f"{newest}: is no intact training state: its checksum is wrong. ")
    assert note.endswith(f"Going on from {run.path.name} instead.")


def test_other_settings_are_named_and_no_other_state_is_tried(run: Run) -> None:
    with pytest.raises(TrainingError, match=r"was started with data\.batch=4, now it is 8"):
        run.folder.load_state(run.state, {**IDENTITY, "data.batch": 8})
