"""What identifies an engine, and what is said when it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from engine_support import FIGURES, GPU, RTX, Builder, accept, refuse

from srtrt.errors import UsageError
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.identity import EngineKey, differences
from srtrt.runtime.engines.key import EngineOptions, EngineShape, InputSize
from srtrt.runtime.engines.record import BuiltEngine

CHANGES: dict[str, dict[str, Any]] = {
    "the graph is abc and was ": {"graph_sha256": "abc"},
    "the shape is 64x48 and was 32x24": {"shape": EngineShape.static(64, 48)},
    "the TensorRT version is 99 and was 1.": {"flavour_version": "99"},
    "the CUDA version of TensorRT is 14 and was ": {"cuda": "14"},
    "the GPU is NVIDIA Test and was not set": {"gpu": GPU},
    "the form is yuv420p8 and was rgb8": {"spec": {"form": "yuv420p8"}},
    "the precision is fp16 and was fp32": {"spec": {"precision": "fp16"}},
    "the kind of engine is tensorrt and was tensorrt-rtx": {"flavour": "tensorrt"},
    "the optimisation level is 5 and was 3": {"level": 5},
    "the TF32 is True and was False": {"tf32": True},
    "the workspace is 9 and was not set": {"workspace_bytes": 9},
    "the number of extra streams is 0 and was not set": {"aux_streams": 0},
    "the choice of kernels is plain and was all": {"tactics": "plain"},
    "the fusion of additions is False and was True": {"fusion": False},
    "the set of target compute capabilities is 7.5 and was not set": {
        "compute_capabilities": ("7.5",)
    },
}


def changed(key: EngineKey, change: dict[str, Any]) -> EngineKey:
    if next(iter(change)) in EngineOptions.__dataclass_fields__:
        return replace(key, options=replace(key.options, **change))
    if "spec" in change:
        return replace(key, spec=key.spec.with_(**change["spec"]))
    return replace(key, **change)


def test_every_part_of_the_key_counts_and_is_named(key: EngineKey) -> None:
    others = [changed(key, change) for change in CHANGES.values()]
    assert len({key.stem, *(other.stem for other in others)}) == len(CHANGES) + 1
    assert len({key.sha256, *(other.sha256 for other in others)}) == len(CHANGES) + 1
    for clause, other in zip(CHANGES, others, strict=True):
        assert clause in "; ".join(differences(key.parts(), other.parts()))
    fields = {*EngineKey.__dataclass_fields__, *EngineOptions.__dataclass_fields__}
    fields -= {"options", "here", "exact_shape"}
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
    ],
)
def test_another_gpu_is_another_engine(
    field: str, value: Any, clause: str, cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    other = replace(GPU, **{field: value})
    cache.get_or_build(replace(key, gpu=GPU, here=GPU), build)
    note = cache.get_or_build(replace(key, gpu=other, here=other), build).note
    assert note is not None
    assert note.endswith(f", {clause}.")


@pytest.mark.parametrize(
    "other",
    [replace(GPU, driver="580.65"), replace(GPU, driver_cuda="13.1"), replace(GPU, name="Other")],
)
@pytest.mark.parametrize("portable", [True, False])
def test_another_driver_is_no_other_engine_but_another_verdict(
    other: GpuFacts, portable: bool, cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    """A gate holds where it was measured; of a portable engine, on another GPU neither."""
    if not portable and other.name != GPU.name:
        pytest.skip("this engine is for one GPU")
    verdicts: list[str] = []

    def judge(_built: BuiltEngine) -> dict[str, Any]:
        verdicts.append("passed")
        return FIGURES

    for gpu in (GPU, GPU, other, other):
        asked = replace(key, gpu=None if portable else gpu, here=gpu)
        assert cache.get_or_build(asked, build, judge).record.verified_on is not None
    assert build.count == 1
    assert len(verdicts) == 2


def test_an_engine_that_passed_elsewhere_and_fails_here_is_built_again(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    made = cache.get_or_build(replace(key, here=GPU), build, accept)
    here, verdicts = replace(GPU, driver="580.65"), [refuse, accept]
    again = cache.get_or_build(replace(key, here=here), build, lambda built: verdicts.pop(0)(built))
    assert build.count == 2
    assert again.path == made.path
    assert "it passed elsewhere and fails here" in str(again.note)


def test_the_nearest_engine_is_compared(cache: EngineCache, key: EngineKey, build: Builder) -> None:
    far = replace(key, cuda="14", shape=EngineShape.static(8, 8), graph_sha256="abc")
    cache.get_or_build(replace(far, flavour_version="0"), build)
    cache.get_or_build(replace(key, flavour_version="0"), build)
    note = cache.get_or_build(key, build).note
    assert note is not None
    assert note.count(" and was ") == 1
    assert f"the TensorRT version is {RTX.version()} and was 0" in note


def test_the_recipe_is_named_where_the_graph_is_another(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    cache.get_or_build(key, build)
    spec = key.spec.with_(rewrites=9, weights_sha256="f" * 64)
    note = str(cache.get_or_build(replace(key, spec=spec, graph_sha256="abc"), build).note)
    assert "the hash of the weights is ffffffffffff and was " in note
    assert "the version of the rewrites is 9 and was 1" in note


def test_what_a_spec_claims_does_not_decide(
    cache: EngineCache, key: EngineKey, build: Builder
) -> None:
    """The same graph under other facts is the same; another graph under the same is another."""
    cache.get_or_build(key, build)
    renamed = key.spec.with_(name="other", weights_sha256="0" * 64, quality={"psnr": 1})
    assert cache.get_or_build(replace(key, spec=renamed), build).note is None
    assert cache.get_or_build(replace(key, graph_sha256="abc"), build).note is not None
    assert build.count == 2


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
