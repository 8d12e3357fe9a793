"""Graphs that read other files, lie, turn in circles or are damaged: refused before any engine."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    SparseTensorProto,
    TensorProto,
    helper,
    numpy_helper,
)

from srtrt.errors import InputError, ModelError, SrtrtError
from srtrt.graph import load_graph
from srtrt.graph_check import MAX_FILE_BYTES, check_model, read_model
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.key import EngineShape
from srtrt.runtime.models import Model
from srtrt.runtime.session import open_session
from srtrt.spec import SPEC_KEY

SECRET = b"what nobody else may read"


@pytest.fixture(scope="session")
def small(tiny_graphs: dict[str, Path]) -> bytes:
    """A valid exported graph of a few kilobytes."""
    return tiny_graphs["rgb8-fp32"].read_bytes()


@pytest.fixture
def model(small: bytes) -> ModelProto:
    return ModelProto.FromString(small)


def external(secret: Path, *, flagged: bool = True, named: bool = True) -> TensorProto:
    """A tensor [1, 1, 1, 3] whose bytes lie in another file."""
    tensor = TensorProto(name="leak", data_type=TensorProto.UINT8, dims=[1, 1, 1, 3])
    if flagged:
        tensor.data_location = TensorProto.EXTERNAL
    if named:
        for key, value in (("location", str(secret)), ("offset", "0"), ("length", "3")):
            tensor.external_data.add(key=key, value=value)
    if not flagged:
        tensor.raw_data = bytes(3)
    return tensor


def inner(tensor: TensorProto) -> GraphProto:
    """A graph without inputs that gives a tensor."""
    output = helper.make_tensor_value_info(tensor.name, TensorProto.UINT8, [1, 1, 1, 3])
    return helper.make_graph([], "inner", [], [output], [tensor])


def nested(tensor: TensorProto, depth: int, op: str = "If") -> AttributeProto:
    graph = inner(tensor)
    for _ in range(depth):
        node = helper.make_node(op, ["condition"], ["x"], then_branch=graph)
        graph = helper.make_graph([node], "inner", [], graph.output)
    return helper.make_attribute("then_branch", graph)


def sparse(values: TensorProto, indices: TensorProto) -> SparseTensorProto:
    return SparseTensorProto(values=values, indices=indices, dims=[1, 1, 1, 3])


def plain(kind: int = TensorProto.INT64) -> TensorProto:
    return helper.make_tensor("plain", kind, [3], [0, 1, 2])


def add_node(model: ModelProto, **attributes: object) -> None:
    node = helper.make_node("Constant", [], ["unused"], name="planted", **attributes)
    model.graph.node.append(node)


def add_attribute(model: ModelProto, attribute: AttributeProto) -> None:
    add_node(model)
    model.graph.node[-1].attribute.append(attribute)


def add_function(model: ModelProto, secret: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value=external(secret))
    opsets = list(model.opset_import)
    model.functions.append(helper.make_function("own", "F", [], ["y"], [node], opsets))


def add_default(model: ModelProto, secret: Path) -> None:
    default = helper.make_attribute("value", external(secret))
    function = helper.make_function(
        "own", "F", [], ["y"], [], list(model.opset_import), attribute_protos=[default]
    )
    model.functions.append(function)


def many(attribute: str, *tensors: TensorProto | SparseTensorProto) -> AttributeProto:
    result = AttributeProto(name="value")
    getattr(result, attribute).extend(tensors)
    result.type = AttributeProto.TENSORS
    return result


HIDING: dict[str, Callable[[ModelProto, Path], object]] = {
    "initializer": lambda m, s: m.graph.initializer.append(external(s)),
    "flag alone": lambda m, s: m.graph.initializer.append(external(s, named=False)),
    "name alone": lambda m, s: m.graph.initializer.append(external(s, flagged=False)),
    "sparse values": lambda m, s: m.graph.sparse_initializer.append(sparse(external(s), plain())),
    "sparse indices": lambda m, s: m.graph.sparse_initializer.append(
        sparse(plain(TensorProto.UINT8), external(s))
    ),
    "attribute": lambda m, s: add_node(m, value=external(s)),
    "sparse attribute": lambda m, s: add_attribute(
        m, helper.make_attribute("sparse_value", sparse(external(s), plain()))
    ),
    "list of tensors": lambda m, s: add_attribute(m, many("tensors", plain(), external(s))),
    "list of sparse tensors": lambda m, s: add_attribute(
        m, many("sparse_tensors", sparse(plain(TensorProto.UINT8), external(s)))
    ),
    "branch": lambda m, s: add_attribute(m, nested(external(s), 1)),
    "loops in loops": lambda m, s: add_attribute(m, nested(external(s), 20, "Loop")),
    "list of graphs": lambda m, s: add_attribute(
        m, helper.make_attribute("graphs", [inner(plain()), inner(external(s))])
    ),
    "function": add_function,
    "default of a function": add_default,
    "training": lambda m, s: m.training_info.add().algorithm.initializer.append(external(s)),
    "start of training": lambda m, s: m.training_info.add().initialization.CopyFrom(
        inner(external(s))
    ),
}


@pytest.mark.parametrize("hide", HIDING.values(), ids=HIDING.keys())
def test_external_data_is_refused_everywhere(
    model: ModelProto, hide: Callable[[ModelProto, Path], object], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    hide(model, secret)
    path = tmp_path / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    for enter in (
        lambda: load_graph(path),
        lambda: Model.from_graph("graph", model).spec,
        lambda: open_session(model=str(path), form="rgb8", backend="onnxruntime"),
        lambda: open_session(model=str(path), form="rgb8", backend="openvino"),
    ):
        with pytest.raises(ModelError, match="takes its data from another file"):
            enter()


def test_an_engine_is_not_built_of_external_data(model: ModelProto, tmp_path: Path) -> None:
    model.graph.initializer.append(external(tmp_path / "secret"))
    for flavour in FLAVOURS.values():
        with contextlib.suppress(ImportError), pytest.raises(SrtrtError, match="another file"):
            build_engine(model.SerializeToString(), EngineShape.parse("16x16"), flavour=flavour)


def test_the_secret_does_not_come_into_the_picture(
    model: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an attacker would do it: the last node's result is replaced by a file's bytes."""
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(SECRET)
    last = model.graph.node[-1]
    output, last.output[0] = last.output[0], "real"
    model.graph.initializer.append(external(Path("secret")))
    model.graph.node.append(helper.make_node("Sub", ["real", "real"], ["zero"]))
    model.graph.node.append(helper.make_node("Add", ["zero", "leak"], [output]))
    Path("graph.onnx").write_bytes(model.SerializeToString())
    black = {"rgb": np.zeros((1, 4, 4, 3), np.uint8)}
    for backend in ("onnxruntime", "openvino"):
        with (
            pytest.raises(ModelError, match="another file"),
            open_session(model="graph.onnx", form="rgb8", backend=backend) as session,
        ):
            session.infer(black)


def set_opset(model: ModelProto, *versions: int, domain: str = "") -> None:
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for version in versions)


def make_circle(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Add", ["rgb", "q"], ["p"], name="first"))
    model.graph.node.append(helper.make_node("Relu", ["p"], ["q"], name="second"))


def bomb(model: ModelProto) -> None:
    """A constant of 4 TiB, made of 16 bytes."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1 << 20, 1 << 20])
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["bomb"]))


def wide_product(model: ModelProto) -> None:
    """A product of two columns of constants, which is computed when the graph is read."""
    side = 1 << 15
    for name, shape in (("tall", [side, 1]), ("wide", [1, side])):
        values = np.ones(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.node.append(helper.make_node("Mul", ["tall", "wide"], ["product"]))


def own_operator(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    context = {"embed_mode": 0, "ep_cache_context": "/etc/passwd", "domain": "com.microsoft"}
    model.graph.node.append(helper.make_node("EPContext", ["rgb"], ["x"], **context))


def respec(model: ModelProto, **changes: object) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == SPEC_KEY)
    entry.value = json.dumps({**json.loads(entry.value), **changes})


def dims(model: ModelProto, *sides: int) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(sides)


DAMAGE: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "circle": (make_circle, r"in a circle \((first -> second -> first|second -> first -> second)"),
    "circle of one": (
        lambda m: m.graph.node.append(helper.make_node("Relu", ["p"], ["p"], name="self")),
        "in a circle .self -> self",
    ),
    "opset 0": (lambda m: set_opset(m, 0), "version 0 of ONNX's operators; expected 1 to"),
    "opset -1": (lambda m: set_opset(m, -1), "version -1 of ONNX's operators"),
    "opset 2^62": (lambda m: set_opset(m, 1 << 62), f"version {1 << 62} of ONNX's operators"),
    "no opset": (lambda m: set_opset(m), "no version of ONNX's operators"),
    "two opsets": (lambda m: set_opset(m, 18, 17), r"two versions of the operators 'ai.onnx'"),
    "unknown opset": (lambda m: set_opset(m, 18, domain="other"), "no version of ONNX's"),
    "format 0": (lambda m: setattr(m, "ir_version", 0), "version 0 of the ONNX file format"),
    "format 2^40": (lambda m: setattr(m, "ir_version", 1 << 40), "of the ONNX file format"),
    "own operator": (own_operator, r"com.microsoft.EPContext; expected ONNX's own operators"),
    "branch": (lambda m: add_attribute(m, nested(plain(), 1)), "a graph of its own"),
    "25 branches": (lambda m: add_attribute(m, nested(plain(), 25)), "a graph of its own"),
    "huge shape": (lambda m: dims(m, 1 << 40, 1 << 40), "holds .* elements, but its shape"),
    "negative shape": (lambda m: dims(m, -1, 4), "impossible shape"),
    "many sides": (lambda m: dims(m, *[1 << 40] * 1000), "impossible shape"),
    "cut weights": (
        lambda m: setattr(m.graph.initializer[0], "raw_data", b"123"),
        "holds .* elements, but its shape",
    ),
    "unknown type": (
        lambda m: setattr(m.graph.initializer[0], "data_type", 99),
        "elements of the unknown type 99",
    ),
    "segment": (lambda m: setattr(m.graph.initializer[0].segment, "begin", 1), "one segment"),
    "bomb": (bomb, r"'bomb' would have the shape \[1048576, 1048576\]"),
    "wide product": (wide_product, "'product' would have the shape"),
    "no such input": (lambda m: m.graph.node[0].input.append("nowhere"), "no valid ONNX graph"),
    "unknown operator": (
        lambda m: setattr(m.graph.node[0], "op_type", "Nonesuch"), "no valid ONNX graph",
    ),
    "scale": (lambda m: respec(m, scale=3), "its spec says scale 3"),
    "words for numbers": (lambda m: respec(m, receptive_radius="far"), "spec"),
    "other channels": (
        lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[3], "dim_value", 4),
        "ONNX graph|channels",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_graphs_are_refused_with_a_reason(
    model: ModelProto, damage: Callable[[ModelProto], object], words: str, tmp_path: Path
) -> None:
    damage(model)
    path = tmp_path / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    for enter in (lambda: load_graph(path), lambda: Model.from_graph("graph", model).spec):
        with pytest.raises(SrtrtError, match=words) as caught:
            enter()
        assert "\n" not in str(caught.value)


def test_subgraphs_far_deeper_than_any_file_can_hold(model: ModelProto) -> None:
    """In memory, as Model.from_graph takes it; built from the outside in."""
    graph = model.graph
    for _ in range(3000):
        node = graph.node.add(op_type="If", name="deep")
        attribute = node.attribute.add(name="then_branch", type=AttributeProto.GRAPH)
        graph = attribute.g
    graph.initializer.append(external(Path("secret")))
    with pytest.raises(ModelError, match="another file"):
        check_model(model, "graph")
    del graph.initializer[:]
    with pytest.raises(ModelError, match="a graph of its own"):
        check_model(model, "graph")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_files_that_are_cut_short(small: bytes, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(small[: int(len(small) * share)])
    with pytest.raises(SrtrtError, match=r"cut\.onnx"):
        load_graph(path)


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    giant = tmp_path / "giant.onnx"
    giant.touch()
    os.truncate(giant, MAX_FILE_BYTES + 1)
    with pytest.raises(InputError, match=r"expected an \.onnx graph .* of at most"):
        read_model(giant)
    os.mkfifo(tmp_path / "pipe.onnx")
    for name in ("pipe.onnx", "missing.onnx", "", "n" * 300 + ".onnx"):
        with pytest.raises(InputError):
            read_model(tmp_path / name)


def test_types_of_less_than_a_byte_are_counted(model: ModelProto) -> None:
    for kind in (TensorProto.INT4, TensorProto.UINT4):
        for count in (1, 2, 5):
            for raw in (True, False):
                data = bytes(-(-count // 2)) if raw else [0] * count
                tensor = helper.make_tensor("small", kind, [count], data, raw=raw)
                model.graph.initializer.append(tensor)
                check_model(model, "graph")
                tensor.dims[0] += 4
                model.graph.initializer[-1].CopyFrom(tensor)
                with pytest.raises(ModelError, match="its shape"):
                    check_model(model, "graph")
                del model.graph.initializer[-1]


def attempt(data: bytes, path: Path) -> None:
    """The graph either works on both engines, or is refused on purpose."""
    path.write_bytes(data)
    picture = {"rgb": np.full((1, 6, 8, 3), 128, np.uint8)}
    for backend in ("onnxruntime", "openvino"):
        try:
            with open_session(
                model=str(path), form="rgb8", backend=backend, precision="fp32"
            ) as session:
                assert session.infer(picture)["rgb_x4"].shape == (1, 24, 32, 3)
        except SrtrtError:
            continue


def flip(small: bytes, draw: random.Random) -> bytes:
    """Changes a few bytes outside the weights, which may be anything."""
    model = ModelProto.FromString(small)
    changed = bytearray(small)
    weights = [w.raw_data for w in model.graph.initializer if len(w.raw_data) > 64]
    inside: set[int] = set()
    for weight in weights:
        start = small.index(weight)
        inside.update(range(start, start + len(weight)))
    places = [i for i in range(len(small)) if i not in inside]
    for _ in range(draw.randint(1, 3)):
        changed[draw.choice(places)] = draw.randrange(256)
    return bytes(changed)


NUMBERS = [0, 1, -1, 2, 3, 7, 255, 1 << 31, -(1 << 31), (1 << 63) - 1]


def mutate(small: bytes, draw: random.Random) -> bytes:
    """Deletes, repeats, renames and rewires nodes, and changes numbers, types and sizes."""
    model = ModelProto.FromString(small)
    nodes, weights = model.graph.node, model.graph.initializer
    names = [*(n.output[0] for n in nodes), *(w.name for w in weights), "", "rgb", "nowhere"]
    node, weight = draw.choice(nodes), draw.choice(weights)
    kind = draw.choice(CHANGES)
    if kind == "delete":
        nodes.remove(node)
    elif kind == "repeat":
        nodes.append(node)
    elif kind == "rewire" and node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice(names)
    elif kind == "rename":
        node.output[0] = draw.choice(names)
    elif kind == "operator":
        node.op_type = draw.choice(["Add", "Conv", "Loop", "Cast", "Resize", "", "é"])
    elif kind == "attribute" and node.attribute:
        attribute = draw.choice(node.attribute)
        if attribute.ints:
            attribute.ints[0] = draw.choice(NUMBERS)
        attribute.i = draw.choice(NUMBERS)
    elif kind == "shape" and weight.dims:
        weight.dims[draw.randrange(len(weight.dims))] = draw.choice(NUMBERS)
    elif kind == "type":
        weight.data_type = draw.randint(-1, 30)
    elif kind == "values":
        weight.raw_data = draw.randbytes(draw.randint(0, 16))
    elif kind == "spec":
        entry = next(entry for entry in model.metadata_props if entry.key == SPEC_KEY)
        spec = json.loads(entry.value)
        spec[draw.choice(sorted(spec))] = draw.choice(
            [*NUMBERS, None, "", "x", [{}], {"features": "x"}]
        )
        entry.value = json.dumps(spec)
    return model.SerializeToString()


CHANGES = (
    "delete", "repeat", "rewire", "rename", "operator", "attribute", "shape", "type", "values",
    "spec",
)  # fmt: skip


@pytest.mark.parametrize("change", [flip, mutate])
@pytest.mark.parametrize("seed", range(20))
def test_any_damage_is_refused_or_harmless(
    small: bytes, tmp_path: Path, change: Callable[[bytes, random.Random], bytes], seed: int
) -> None:
    attempt(change(small, random.Random(seed)), tmp_path / "graph.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("change", [flip, mutate])
def test_much_damage_is_refused_or_harmless(
    small: bytes, tmp_path: Path, change: Callable[[bytes, random.Random], bytes]
) -> None:
    for seed in range(20, 3000):
        damaged = change(small, random.Random(seed))
        try:
            attempt(damaged, tmp_path / "graph.onnx")
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error


def test_bundled_models_pass() -> None:
    from srtrt.runtime.models import weights_folder

    for path in weights_folder().glob("*.onnx"):
        read_model(path)
        onnx.checker.check_model(load_graph(path)[0], full_check=True)
