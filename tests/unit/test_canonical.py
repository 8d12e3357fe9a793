"""The identity of a graph: what it computes counts, how an exporter wrote it does not."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import lively_generator
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from srtrt.canonical import graph_sha256, without_metadata
from srtrt.errors import ModelError
from srtrt.export.onnx_graph import network_graph
from srtrt.graph import dress, load_graph
from srtrt.networks.checkpoint import generator_state, make_spec
from srtrt.networks.generator import GeneratorConfig
from srtrt.networks.rewrites import InferenceGenerator
from srtrt.runtime.models import bundled_models, find_model
from srtrt.spec import Form, Precision

RECIPES = [
    (name, form, precision)
    for name in bundled_models()
    for form in ("rgb8", "yuv420p8")
    for precision in ("fp32", "fp16", "bf16", *find_model(name).calibrated_paths)
]


def written_otherwise(model: ModelProto, chance: random.Random) -> ModelProto:
    """The same graph as another exporter might write it."""
    other = ModelProto.FromString(model.SerializeToString())
    graph = other.graph
    outer = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {"": ""}

    def renamed(name: str) -> str:
        if name not in outer:
            names.setdefault(name, f"value_{len(names)}_{chance.random()}")
        return names.get(name, name)

    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = renamed(tensor.name), "/home/someone/net.py"
        if chance.random() < 0.3 and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) < 4:
            values = numpy_helper.to_array(tensor).ravel().tolist()
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values)
    for node in graph.node:
        node.name = f"node_{chance.random()}"
        node.doc_string = 'File "/home/someone/net.py", line 3, in forward'
        for place in (node.input, node.output):
            for k, name in enumerate(place):
                place[k] = renamed(name)
        if node.op_type in ("Add", "Mul") and chance.random() < 0.5:
            node.input[0], node.input[1] = node.input[1], node.input[0]
        attributes = [a for a in node.attribute if a.name != "kernel_shape"]
        chance.shuffle(attributes)
        copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in attributes]
        del node.attribute[:]
        node.attribute.extend(copies)
    shuffle(graph.node, chance)
    shuffle(graph.initializer, chance)
    graph.name, other.producer_name = "main_graph", "another exporter"
    other.metadata_props.add(key="pkg.torch", value="/usr/lib/python3")
    unused = helper.make_node("Relu", [renamed(graph.node[0].output[0])], ["nothing reads this"])
    graph.node.insert(0, unused)
    return other


def shuffle(place: Any, chance: random.Random) -> None:
    messages = list(place)
    chance.shuffle(messages)
    copies = [type(each).FromString(each.SerializeToString()) for each in messages]
    del place[:]
    place.extend(copies)


@pytest.mark.parametrize(("name", "form", "precision"), RECIPES)
def test_names_order_and_metadata_do_not_count(name: str, form: Form, precision: Precision) -> None:
    model = find_model(name).graph(form, precision)
    other = written_otherwise(model, random.Random(precision))
    assert graph_sha256(other) == graph_sha256(model)


def test_recipes_have_identities_of_their_own() -> None:
    found = {graph_sha256(find_model(n).graph(form, p)) for n, form, p in RECIPES}
    assert len(found) == len(RECIPES)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_any_order_and_names_give_the_same(seed: int) -> None:
    model = find_model("fast").graph("yuv420p8", "fp16")
    assert graph_sha256(written_otherwise(model, random.Random(seed))) == graph_sha256(model)


@pytest.mark.parametrize("upsampler", ["pixelshuffle", "nearest", "pixelshuffledirect"])
def test_two_exporters_give_the_same(upsampler: str, tmp_path: Path) -> None:
    """PyTorch has an older exporter of other names, metadata, constants and defaults."""
    net = lively_generator(GeneratorConfig(blocks=2, features=8, upsampler=upsampler))  # type: ignore[arg-type]
    spec = make_spec(generator_state(net), net.config, "tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sides = {0: "batch", 2: "height", 3: "width"}
        torch.onnx.export(
            InferenceGenerator(net), (torch.rand(1, 3, 8, 8),), str(tmp_path / "older.onnx"),
            dynamo=False, opset_version=17, input_names=["lr"], output_names=["sr"],
            dynamic_axes={"lr": sides, "sr": {0: "batch", 2: "h", 3: "w"}},
        )  # fmt: skip
    older, newer = onnx.load(tmp_path / "older.onnx"), network_graph(net)
    assert older.SerializeToString() != newer.SerializeToString()
    for form in ("rgb8", "yuv420p8"):
        assert graph_sha256(dress(older, spec, form)) == graph_sha256(dress(newer, spec, form))


def change_weight(model: ModelProto) -> None:
    tensor = next(i for i in model.graph.initializer if len(i.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nextafter(values.flat[0], np.inf, dtype=values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def change_slope(model: ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "LeakyRelu").attribute[0].f = 0.25


def change_mode(model: ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "DepthToSpace")
    next(a for a in node.attribute if a.name == "mode").s = b"DCR"


def change_operator(model: ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "Add").op_type = "Sub"


def swap_difference(model: ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "PRelu")
    node.op_type, other = "Sub", list(reversed(node.input))
    del node.input[:]
    node.input.extend(other)


def skip_elsewhere(model: ModelProto) -> None:
    sums = [n for n in model.graph.node if n.op_type == "Add"]
    sums[1].input[0] = sums[0].input[0]


def change_side(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(
    "change",
    [
        change_weight,
        change_slope,
        change_mode,
        change_operator,
        swap_difference,
        skip_elsewhere,
        change_side,
    ],
)
def test_a_graph_that_computes_something_else_is_another(
    change: Callable[[ModelProto], None], tiny_graphs: dict[str, Path]
) -> None:
    """Whatever its spec claims: the spec is the same in both."""
    model, _ = load_graph(tiny_graphs["rgb8-fp32"])
    expected = graph_sha256(model)
    change(model)
    assert graph_sha256(model) != expected


def parsed(text: str) -> ModelProto:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18, "mine" : 1]>\n{text}')


EQUAL = {
    "a function": (
        "g (float[N,3] x) => (float[N,3] y) { y = mine.twice(x) } "
        '<domain: "mine", opset_import: ["" : 18]> twice (a) => (b) { b = Add(a, a) }',
        "g (float[M,3] x) => (float[M,3] y) { y = Add(x, x) }",
    ),
    "a constant": (
        "g (float[N] x) => (float[N] y) { c = Constant <value = float {2.0}> () y = Mul(x, c) }",
        "g (float[N] x) => (float[N] y) <float c = {2.0}> { y = Mul(x, c) }",
    ),
    "a number as constant": (
        "g (float[N] x) => (float[N] y) { c = Constant <value_float = 2.0> () y = Mul(x, c) }",
        "g (float[N] x) => (float[N] y) <float c = {2.0}> { y = Mul(x, c) }",
    ),
    "a branch": (
        "g (bool c, float[N] x) => (float[N] y) { y = If (c) <"
        "then_branch = a () => (float[N] p) { p = Add(x, x) }, "
        "else_branch = b () => (float[N] q) { q = Neg(x) }> }",
        "g (bool c, float[N] x) => (float[N] y) { y = If (c) <"
        "else_branch = e () => (float[N] s) { s = Neg(x) }, "
        "then_branch = d () => (float[N] r) { r = Add(x, x) }> }",
    ),
    "a default": (
        'g (float[N,4,H,W] x) => (float[N,1,A,B] y) { y = DepthToSpace <blocksize=2, mode="DCR"> '
        "(x) }",
        "g (float[N,4,H,W] x) => (float[N,1,A,B] y) { y = DepthToSpace <blocksize=2> (x) }",
    ),
}


@pytest.mark.parametrize("case", EQUAL)
def test_the_same_in_other_words(case: str) -> None:
    first, second = map(parsed, EQUAL[case])
    assert graph_sha256(first) == graph_sha256(second)


DIFFERENT = {
    "branches exchanged": (
        EQUAL["a branch"][0],
        EQUAL["a branch"][0]
        .replace("then_", "x_")
        .replace("else_", "then_")
        .replace("x_", "else_"),
    ),
    "sides that are equal or not": (
        "g (float[N,N] x) => (float[N,N] y) { y = Relu(x) }",
        "g (float[N,M] x) => (float[N,M] y) { y = Relu(x) }",
    ),
    "inputs by name": (
        "g (float[N] a, float[N] b) => (float[N] y) { y = Sub(a, b) }",
        "g (float[N] b, float[N] a) => (float[N] y) { y = Sub(a, b) }",
    ),
    "a type": (
        "g (float[N] x) => (double[N] y) { y = Cast <to = 11> (x) }",
        "g (float[N] x) => (float16[N] y) { y = Cast <to = 10> (x) }",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_is_not_the_same(case: str) -> None:
    first, second = map(parsed, DIFFERENT[case])
    assert graph_sha256(first) != graph_sha256(second)


def test_bit_patterns_count_however_they_are_stored() -> None:
    values = np.array([0.5, -3.0, 1e-3], np.float16)
    raw = numpy_helper.from_array(values, "w")
    wide = helper.make_tensor("w", TensorProto.FLOAT16, [3], values.view(np.uint16), raw=False)
    if wide.HasField("raw_data") or list(wide.int32_data) != values.view(np.uint16).tolist():
        wide = TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[3])
        wide.int32_data.extend(values.view(np.uint16).tolist())
    found = set()
    for tensor in (raw, wide):
        model = parsed("g (float16[N,3] x) => (float16[N,3] y) { y = Mul(x, w) }")
        model.graph.initializer.append(tensor)
        found.add(graph_sha256(model))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (float[N] x) => (float[N] y) { a = Add(b, x) b = Relu(a) y = Relu(b) }", "is cyclic"),
        ("g (float[N] x) => (float[N] y) { y = Add(x, z) }", "reads 'z', which nothing computes"),
    ],
)
def test_what_cannot_be_computed_is_refused(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        graph_sha256(parsed(text))


def test_weights_in_other_files_are_refused() -> None:
    model = parsed("g (float[N] x) => (float[N] y) <float c = {2.0}> { y = Mul(x, c) }")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="'c' is in another file"):
        graph_sha256(model)


def test_metadata_goes_and_the_graph_stays() -> None:
    model = parsed(EQUAL["a branch"][0])
    expected = model.SerializeToString()
    branch = model.graph.node[0].attribute[0].g
    secret = "/home/someone/net.py"
    for place in (model, model.graph, *model.graph.node, *branch.node, model.graph.input[0]):
        place.doc_string = secret
        if "metadata_props" in place.DESCRIPTOR.fields_by_name:
            place.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=secret)
    model.producer_name, model.producer_version = "pytorch", "2.13"
    assert secret.encode() in model.SerializeToString()
    assert without_metadata(model).SerializeToString() == expected
