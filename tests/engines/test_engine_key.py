"""What identifies an engine, and what is said when it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from engine_support import GPU, RTX, Builder

from srtrt.errors import UsageError
from srtrt.graph import load_graph, stamp
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.key import (
    EngineKey,
    EngineOptions,
    EngineShape,
    InputSize,
    differences,
    graph_sha256,
)

CHANGES: dict[str, dict[str, Any]] = {
    "the graph is abc and was ": {"graph_sha256": "abc"},
    "the shape is 64x48 and was 32x24": {"shape": EngineShape.static(64, 48)},
    "the TensorRT version is 99 and was 1.": {"flavour_version": "99"},
    "the CUDA version of TensorRT is 14 and was ": {"cuda": "14"},
    "the GPU is NVIDIA Test and was not set": {"gpu": GPU},
    "the form is yuv420p8 and was rgb8": {"form": "yuv420p8"},
    "the precision is fp16 and was fp32": {"precision": "fp16"},
    "the model is other and was tiny": {"model": "other"},
    "the kind of engine is tensorrt and was tensorrt-rtx": {"flavour": "tensorrt"},
    "the optimisation level is 5 and was 3": {"level": 5},
    "the TF32 is True and was False": {"tf32": True},
    "the workspace is 9 and was not set": {"workspace_bytes": 9},
    "the number of extra streams is 0 and was not set": {"aux_streams": 0},
    "the set of target compute capabilities is 7.5 and was not set": {
        "compute_capabilities": ("7.5",)
    },
}


def changed(key: EngineKey, change: dict[str, Any]) -> EngineKey:
    if next(iter(change)) in EngineOptions.__dataclass_fields__:
        return replace(key, options=replace(key.options, **change))
    return replace(key, **change)


def test_every_part_of_the_key_counts_and_is_named(key: EngineKey) -> None:
    others = [changed(key, change) for change in CHANGES.values()]
    assert len({key.stem, *(other.stem for other in others)}) == len(CHANGES) + 1
    assert len({key.sha256, *(other.sha256 for other in others)}) == len(CHANGES) + 1
    for clause, other in zip(CHANGES, others, strict=True):
        assert clause in "; ".join(differences(key.parts(), other.parts()))
    fields = {*EngineKey.__dataclass_fields__, *EngineOptions.__dataclass_fields__} - {"options"}
    assert fields == {name for change in CHANGES.values() for name in change}


def test_a_new_version_builds_beside_the_old_and_says_why(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    cache.get_or_build(key, build)
    other = replace(key, flavour_version="99")
    note = cache.get_or_build(other, build).note
    assert note is not None
    assert note.startswith(f"Building {other.stem}.engine: compared with the engine of 20")
    assert note.endswith(f", the TensorRT version is 99 and was {RTX.version()}.")
    assert build.count == 2
    assert cache.find(key) is not None


@pytest.mark.parametrize(
    ("field", "value", "clause"),
    [
        ("name", "NVIDIA H200", "the GPU is NVIDIA H200 and was NVIDIA Test"),
        ("compute_capability", "9.0", "the compute capability of the GPU is 9.0 and was 8.9"),
        ("memory_bytes", 1, f"the memory of the GPU is 1 and was {8 << 30}"),
        ("driver", "580.65", "the driver is 580.65 and was 570.12"),
        ("driver_cuda", "13.0", "the CUDA version of the driver is 13.0 and was 12.8"),
    ],
)
def test_another_gpu_or_driver_is_another_engine(
    field: str, value: Any, clause: str, cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    old = replace(key, gpu=GPU)
    new = replace(key, gpu=replace(GPU, **{field: value}))
    cache.get_or_build(old, build)
    note = cache.get_or_build(new, build).note
    assert note is not None
    assert note.endswith(f", {clause}.")


def test_the_nearest_engine_is_compared(cache: EngineCache, key: EngineKey, build: Builder) -> None:
    far = replace(key, cuda="14", shape=EngineShape.static(8, 8), graph_sha256="abc")
    cache.get_or_build(replace(far, flavour_version="0"), build)
    cache.get_or_build(replace(key, flavour_version="0"), build)
    note = cache.get_or_build(key, build).note
    assert note is not None
    assert note.count(" and was ") == 1
    assert f"the TensorRT version is {RTX.version()} and was 0" in note


def test_metadata_does_not_change_the_graphs_hash_and_weights_do(graph: Path) -> None:
    model, spec = load_graph(graph)
    data = graph.read_bytes()
    restamped = stamp(model, spec.with_(quality={"psnr": 1})).SerializeToString()
    assert restamped != data
    assert graph_sha256(restamped) == graph_sha256(data)
    bias = next(i for i in model.graph.initializer if i.name == "head.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += 1
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    assert graph_sha256(model.SerializeToString()) != graph_sha256(data)


@pytest.mark.parametrize("text", ["32x24", "4x32x24", "16x16:32x24:64x48", "16x16:32x24:4x64x48"])
def test_shapes_read_as_they_are_written(text: str) -> None:
    assert str(EngineShape.parse(text)) == text


def test_a_shape_is_width_by_height() -> None:
    assert EngineShape.parse("2x1920x1080").best == InputSize(width=1920, height=1080, batch=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EngineShape.parse("1920"), "expected WIDTHxHEIGHT such as 1920x1080"),
        (lambda: EngineShape.parse("8x8:9x9"), "or a range"),
        (lambda: EngineShape.parse("8x8:4x4:9x9"), "width goes 8, 4, 9"),
        (lambda: EngineShape.parse("0x8"), "must be at least 1"),
        (lambda: EngineOptions(level=6), "optimisation level is 6; expected a number from 0 to 5"),
        (lambda: EngineOptions(workspace_bytes=0), "workspace is 0; expected at least 1"),
        (lambda: EngineOptions(aux_streams=-1), "extra streams is -1"),
        (lambda: EngineOptions(compute_capabilities=("8.6", "8.6")), "expected each once"),
        (lambda: EngineOptions(compute_capabilities=("8.6", "current")), "alone"),
    ],
)
def test_impossible_values_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
