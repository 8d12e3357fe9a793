"""What builds can leave out: it reaches the builder, changes the engine, and is in its key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_support import RTX, SMALL, small_key

from srtrt.errors import BackendError
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.exclusions import exclude_tactics, keep_additions_apart
from srtrt.runtime.engines.flavour import typed_network_flags
from srtrt.runtime.engines.key import EngineOptions


def parsed(graph: Path) -> Any:
    trt = RTX.load()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(typed_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(graph.read_bytes())
    return SimpleNamespace(trt=trt, builder=builder, network=network, parser=parser)


@pytest.mark.parametrize("form", ["rgb8-fp32", "rgb8-fp16", "yuv420p8-fp16"])
def test_both_sides_of_every_addition_of_the_blocks_are_kept(
    form: str, tiny_graphs: dict[str, Path]
) -> None:
    made = parsed(tiny_graphs[form])
    additions = [
        layer
        for layer in map(made.network.get_layer, range(made.network.num_layers))
        if layer.name.startswith("node_add") and layer.type == made.trt.LayerType.ELEMENTWISE
    ]
    assert additions
    assert keep_additions_apart(made.trt, made.network) >= len(additions) + 1
    for layer in additions:
        for tensor in (layer.get_input(0), layer.get_input(1)):
            assert made.network.is_debug_tensor(tensor), tensor.name


def test_no_tactic_sources_are_left(tiny_graphs: dict[str, Path]) -> None:
    made = parsed(tiny_graphs["rgb8-fp32"])
    config = made.builder.create_builder_config()
    assert config.get_tactic_sources() != 0
    exclude_tactics(made.trt, config)
    assert config.get_tactic_sources() == 0


def test_a_builder_that_refuses_is_a_sentence() -> None:
    config = SimpleNamespace(set_tactic_sources=lambda _: False)
    with pytest.raises(BackendError, match="leave out tactics=plain"):
        exclude_tactics(SimpleNamespace(__name__="tensorrt", __version__="11.9"), config)


def test_an_engine_without_fusion_is_another_and_says_so(tiny_graphs: dict[str, Path]) -> None:
    graph = tiny_graphs["rgb8-fp16"].read_bytes()
    usual = build_engine(graph, SMALL, flavour=RTX)
    apart = build_engine(graph, SMALL, EngineOptions(fusion=False, tactics="plain"), flavour=RTX)
    assert apart.plan != usual.plan
    assert (usual.facts["tactics"], usual.facts["fusion"]) == ("all", True)
    assert (apart.facts["tactics"], apart.facts["fusion"]) == ("plain", False)
    assert usual.facts["kept_apart"] == 0
    assert apart.facts["kept_apart"] > 0
    assert apart.facts["outputs"] == usual.facts["outputs"]


def test_what_was_left_out_is_how_it_was_built_and_does_not_decide(graph: Path) -> None:
    key = small_key(graph)
    built = replace(key, options=EngineOptions(fusion=False, tactics="plain"))
    assert built.sha256 != key.sha256
    assert key.suits(built.parts(), SMALL)
    assert built.suits(built.parts(), SMALL)
    assert not built.suits(key.parts(), SMALL)
    fused = replace(key, options=EngineOptions(fusion=True))
    assert fused.suits(key.parts(), SMALL)
    assert not fused.suits(built.parts(), SMALL)
