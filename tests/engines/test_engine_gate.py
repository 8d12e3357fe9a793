"""Engines are kept only if they compute what PyTorch computes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from engine_support import RTX, SMALL
from numpy.typing import NDArray

from srtrt.errors import BackendError, ParityError
from srtrt.graph import load_graph
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.gate import RunEngine, engine_gate, mosaics
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.engines.provide import EngineProvider
from srtrt.runtime.engines.record import BuiltEngine, read_engine
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import graph_backend, read_pictures


def runner(graph: Path) -> RunEngine:
    """Computes an engine's graph in ONNX Runtime, since no engine runs without a GPU."""

    def run(
        built: BuiltEngine, frames: Sequence[Mapping[str, NDArray[Any]]]
    ) -> list[dict[str, Any]]:
        spec = built.spec
        with graph_backend("tiny", onnx.load(graph), spec.form, spec.precision) as backend:
            return [backend.infer(frame) for frame in frames]

    return run


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
@pytest.mark.parametrize("reference", ["checkpoint", "graph"])
def test_an_engine_over_its_gate_is_kept_with_its_figures(
    form: str,
    reference: str,
    tiny_graphs: dict[str, Path],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    path, cache, notes = tiny_graphs[f"{form}-fp16"], EngineCache(tmp_path), list[str]()
    graph, _ = load_graph(path)
    exact, _ = load_graph(tiny_graphs["rgb8-fp32"])
    by_checkpoint = reference == "checkpoint"
    source = find_model(str(tiny_checkpoint)) if by_checkpoint else Model.from_graph("tiny", exact)
    gate = engine_gate(source, runner(path), read_pictures())
    provider = EngineProvider(flavour=RTX, cache=cache, verify=gate, on_note=notes.append)
    made, again = (provider.provide(graph, SMALL) for _ in range(2))
    assert notes == [f"Building {made.path.name}: there is none yet."]
    assert again.note is None
    assert again.plan == made.plan
    figures = json.loads((tmp_path / f"{made.path.name}.json").read_text())["parity"]
    assert figures["psnr_db"] is None or figures["psnr_db"] >= 55
    named = "PyTorch fp32" if by_checkpoint else "the fp32 graph in onnxruntime"
    assert figures["against"] == named
    assert figures["pictures"] == len(read_pictures())
    assert read_engine(made.path).record.spec.weights_sha256 == made.record.spec.weights_sha256


def test_an_engine_under_its_gate_is_not_kept(
    tiny_graphs: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path, other = tiny_graphs["rgb8-fp32"], tmp_path / "other.onnx"
    model = onnx.load(path)
    bias = next(i for i in model.graph.initializer if i.name == "head.bias")
    bias.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.5), bias.name)
    )
    onnx.save(model, other)
    gate = engine_gate(find_model(str(tiny_checkpoint)), runner(other), read_pictures())
    cache = EngineCache(tmp_path / "cache")
    with pytest.raises(ParityError, match=r"the engine of tiny at 32x24 .*at least 70 dB"):
        EngineProvider(flavour=RTX, cache=cache, verify=gate).provide(load_graph(path)[0], SMALL)
    assert [each.suffix for each in cache.folder.iterdir()] == [".lock"]


def test_plain_tensorrt_needs_the_gpu_it_builds_for(tiny_graphs: dict[str, Path]) -> None:
    graph, _ = load_graph(tiny_graphs["rgb8-fp32"])
    with pytest.raises(BackendError, match=r"this machine has none.*build for tensorrt-rtx"):
        EngineProvider(flavour=FLAVOURS["tensorrt"]).provide(graph, SMALL)


@pytest.mark.parametrize(
    ("size", "frames"),
    [
        (InputSize(width=40, height=30), 3),
        (InputSize(width=40, height=30, batch=2), 4),
        (InputSize(width=1920, height=1080), 1),
    ],
)
def test_pictures_are_laid_out_to_the_size_of_the_engine(size: InputSize, frames: int) -> None:
    pictures = read_pictures()
    found = mosaics(pictures, size)
    assert len(found) == frames
    assert {picture.shape for picture in found} == {(size.height, size.width, 3)}
    first = found[0]
    height, width = (min(a, b) for a, b in zip(first.shape[:2], pictures[0].shape[:2], strict=True))
    np.testing.assert_array_equal(first[:height, :width], pictures[0][:height, :width])
