"""TensorRT-RTX engines compute in the types of their graphs; they are really built."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_support import RTX, SMALL
from onnx import ModelProto

from srtrt.errors import ModelError
from srtrt.export.onnx_graph import network_graph
from srtrt.export.quantised import quantised_network
from srtrt.graph import dress, load_graph, stamp, to_typed
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.parity import read_pictures
from srtrt.spec import Form, ModelSpec, Precision

NAMES = {"fp16": "HALF", "bf16": "BF16", "int8": "INT8", "fp8": "FP8"}


def with_kept(spec: ModelSpec, precision: Precision, *kept: str) -> ModelSpec:
    quality = {**spec.quality, "typed": {"kept": dict.fromkeys(kept, "overflows: 1e5")}}
    return spec.with_(precision=precision, quality=quality)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
def test_convolutions_are_typed_but_those_kept(
    form: Form, precision: Precision, tiny_graphs: dict[str, Path]
) -> None:
    graph, spec = load_graph(tiny_graphs[f"{form}-fp32"])
    plain = to_typed(graph, spec, precision)
    built = build_engine(plain.SerializeToString(), SMALL, flavour=RTX)
    assert built.facts["convolutions"] == {NAMES[precision]: 9}
    kept = ("head", "blocks.1.conv2")
    mixed = stamp(to_typed(graph, spec, precision, kept), with_kept(spec, precision, *kept))
    built = build_engine(mixed.SerializeToString(), SMALL, flavour=RTX)
    assert built.facts["convolutions"] == {NAMES[precision]: 7, "FLOAT": 2}
    assert len(built.plan) > 100_000


@pytest.mark.parametrize(
    ("keep", "told", "message"),
    [
        (["head"], [], r"all convolutions should compute in HALF; found .*1 in FLOAT"),
        ([], ["head"], r"convolutions but 1 in FLOAT should compute in HALF; found 9 in HALF"),
        (["head", "trunk_conv"], ["head"], r"but 1 in FLOAT should .*found .*2 in FLOAT"),
    ],
)
def test_more_or_fewer_float_convolutions_than_the_spec_names_are_refused(
    keep: list[str], told: list[str], message: str, tiny_graphs: dict[str, Path]
) -> None:
    graph, spec = load_graph(tiny_graphs["rgb8-fp32"])
    wrong = stamp(to_typed(graph, spec, "fp16", keep), with_kept(spec, "fp16", *told))
    with pytest.raises(ModelError, match=message):
        build_engine(wrong.SerializeToString(), SMALL, flavour=RTX)


@pytest.fixture(scope="module", params=["int8", "fp8"])
def eight(
    request: pytest.FixtureRequest, tiny_checkpoint: Path
) -> tuple[ModelProto, ModelSpec, Precision]:
    """A network of 8 bits from ``lr`` to ``sr``, and its spec."""
    net, spec = load_checkpoint(tiny_checkpoint)
    precision: Precision = request.param
    few = [picture[:32, :32] for picture in read_pictures()]
    network, facts = quantised_network(network_graph(net), precision, few)
    return network, spec.with_(precision=precision, quality={"quantisation": facts}), precision


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
def test_convolutions_multiply_in_8_bits_but_those_kept(
    form: Form, eight: tuple[ModelProto, ModelSpec, Precision]
) -> None:
    network, spec, precision = eight
    built = build_engine(dress(network, spec, form).SerializeToString(), SMALL, flavour=RTX)
    kept = len(spec.quality["quantisation"]["kept"])
    assert 1 <= kept < 9
    assert built.facts["convolutions"] == {"FLOAT": kept, NAMES[precision]: 9 - kept}
    assert built.spec.precision == precision


def test_more_floats_than_the_spec_names_are_refused_in_8_bits(
    eight: tuple[ModelProto, ModelSpec, Precision], tiny_graphs: dict[str, Path]
) -> None:
    network, spec, precision = eight
    graph, _ = load_graph(tiny_graphs["rgb8-fp32"])
    with pytest.raises(ModelError, match=rf"compute in {NAMES[precision]}; found 9 in FLOAT"):
        build_engine(stamp(graph, spec.with_(form="rgb8")).SerializeToString(), SMALL, flavour=RTX)
    silent = dress(network, spec.with_(quality={}), "rgb8")
    with pytest.raises(ModelError, match=rf"all convolutions should compute in {NAMES[precision]}"):
        build_engine(silent.SerializeToString(), SMALL, flavour=RTX)
