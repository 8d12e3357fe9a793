"""Specs that claim another enlargement or reach than their graph has, and graphs around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from srtrt.errors import ModelError
from srtrt.graph import load_graph
from srtrt.graph_spec import read_spec
from srtrt.reach import Reach, network_reach
from srtrt.runtime.models import bundled_models, find_model, weights_folder
from srtrt.runtime.session import open_session
from srtrt.spec import SPEC_KEY, UNBOUNDED


@pytest.fixture
def graph(tiny_graphs: dict[str, Path]) -> ModelProto:
    return onnx.load(tiny_graphs["yuv420p8-fp32"])


def claiming(model: ModelProto, **values: Any) -> ModelProto:
    """The graph with other values in its spec."""
    (entry,) = (each for each in model.metadata_props if each.key == SPEC_KEY)
    entry.value = json.dumps(json.loads(entry.value) | values)
    return model


def spec_of(model: ModelProto) -> dict[str, Any]:
    (entry,) = (each for each in model.metadata_props if each.key == SPEC_KEY)
    found: dict[str, Any] = json.loads(entry.value)
    return found


def test_every_exported_graph_has_the_reach_of_its_network(tiny_graphs: dict[str, Path]) -> None:
    bundled = sorted(weights_folder().glob("*.onnx"))
    for path in [*bundled, *tiny_graphs.values()]:
        said = spec_of(onnx.load(path))["receptive_radius"]
        model, spec = load_graph(path)
        assert spec.receptive_radius == said
        assert read_spec(claiming(model, receptive_radius=60_000), "x").receptive_radius == said


@pytest.mark.parametrize("radius", [0, 11])
def test_a_spec_that_claims_a_smaller_reach_is_refused(graph: ModelProto, radius: int) -> None:
    message = rf"that a pixel sees {radius} pixels around it, and its network sees 12, so tiles"
    with pytest.raises(ModelError, match=message):
        read_spec(claiming(graph, receptive_radius=radius), "x.onnx")


def test_a_session_does_not_open_such_a_spec(graph: ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(claiming(graph, receptive_radius=0).SerializeToString())
    with pytest.raises(ModelError, match=r"x\.onnx: .* so tiles would have seams; export it again"):
        open_session(model=str(path), form="yuv420p8", backend="onnxruntime", device="cpu")


@pytest.mark.parametrize("scale", [1, 3, 8, 64])
def test_a_spec_that_claims_another_scale_is_refused(graph: ModelProto, scale: int) -> None:
    with pytest.raises(ModelError, match=f"says scale {scale}; graphs of form yuv420p8 enlarge 4x"):
        read_spec(claiming(graph, scale=scale), "x.onnx")


def twice_as_large(model: ModelProto) -> None:
    """Lets the network's last step enlarge 4x, so that it enlarges 8x in all."""
    (last,) = [node for node in model.graph.node if "sr" in node.output]
    assert last.op_type == "DepthToSpace"
    last.output[0] = "small"
    two = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "two")
    model.graph.initializer.append(two)
    position = list(model.graph.node).index(last) + 1
    more = helper.make_node("Resize", ["small", "", "two"], ["sr"], mode="nearest")
    model.graph.node.insert(position, more)


def blurred_before(model: ModelProto) -> None:
    """Blurs the result after the network, where tiles do not expect it."""
    (cast,) = [node for node in model.graph.node if "y_x4" in node.output]
    kernel = numpy_helper.from_array(np.full((1, 1, 9, 9), 1 / 81, np.float32), "kernel")
    model.graph.initializer.append(kernel)
    blur = helper.make_node("Conv", [cast.input[0], "kernel"], ["blurred"], pads=[4] * 4)
    cast.input[0] = "blurred"
    model.graph.node.insert(list(model.graph.node).index(cast), blur)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (twice_as_large, "its network enlarges 8x; graphs of form yuv420p8 enlarge 4x"),
        (blurred_before, "computes something else between its network and its inputs and outputs"),
    ],
)
def test_a_graph_that_is_not_what_its_form_says_is_refused(
    graph: ModelProto, change: Callable[[ModelProto], None], message: str
) -> None:
    change(graph)
    with pytest.raises(ModelError, match=message):
        read_spec(graph, "x.onnx")


def test_a_network_of_unknown_reach_is_computed_whole_and_said(
    graph: ModelProto, tmp_path: Path
) -> None:
    (last,) = [node for node in graph.graph.node if "sr" in node.output]
    last.output[0] = "plain"
    position = list(graph.graph.node).index(last) + 1
    for node in (helper.make_node("InstanceNormalization", ["plain", "one", "none"], ["sr"]),):
        graph.graph.node.insert(position, node)
    for name, value in (("one", 1.0), ("none", 0.0)):
        graph.graph.initializer.append(numpy_helper.from_array(np.full(3, value, np.float32), name))
    path = tmp_path / "x.onnx"
    path.write_bytes(graph.SerializeToString())
    assert load_graph(path)[1].receptive_radius == UNBOUNDED
    with open_session(
        model=str(path), form="yuv420p8", backend="onnxruntime", device="cpu", tile="auto"
    ) as session:
        large = {"y": np.zeros((1, 1, 2160, 3840), np.uint8)}
        assert session.plan(large).count == 1
        assert any("are computed whole, never in tiles" in note for note in session.notes)


def test_models_know_the_reach_of_what_is_in_memory() -> None:
    for name in bundled_models():
        spec = find_model(name).spec
        assert 0 < spec.receptive_radius < UNBOUNDED


LAYERS = st.one_of(
    st.tuples(
        st.just("Conv"), st.integers(1, 4), st.integers(1, 2), st.integers(1, 2), st.integers(0, 3)
    ),
    st.tuples(st.just("ConvTranspose"), st.integers(2, 5), st.integers(1, 2), st.integers(0, 1)),
    st.tuples(st.just("DepthToSpace")),
    st.tuples(st.just("SpaceToDepth")),
    st.tuples(
        st.just("Resize"),
        st.sampled_from(
            [
                ("nearest", "asymmetric"),
                ("linear", "half_pixel"),
                ("cubic", "half_pixel"),
                ("linear", "asymmetric"),
            ]
        ),
    ),
)


def network(layers: list[Any]) -> tuple[ModelProto, dict[str, TensorProto]]:
    """The layers one after another, every weight 1, so that whatever is seen shows."""
    nodes, weights, channels = [], {}, 4
    last = "lr"
    for index, layer in enumerate(layers):
        kind, name = layer[0], f"x{index}"
        inputs, attributes = [last], {}
        if kind in ("Conv", "ConvTranspose"):
            size = layer[1]
            weights[f"w{index}"] = numpy_helper.from_array(
                np.ones((channels, channels, size, size), np.float32), f"w{index}"
            )
            inputs.append(f"w{index}")
        if kind == "Conv":
            attributes = {"strides": [layer[2]] * 2, "dilations": [layer[3]] * 2,
                          "pads": [layer[4]] * 4}  # fmt: skip
        elif kind == "ConvTranspose":
            attributes = {"strides": [layer[2]] * 2, "pads": [layer[3]] * 4}
        elif kind == "Resize":
            weights[f"s{index}"] = numpy_helper.from_array(
                np.array([1, 1, 2, 2], np.float32), f"s{index}"
            )
            inputs += ["", f"s{index}"]
            attributes = {"mode": layer[1][0], "coordinate_transformation_mode": layer[1][1]}
            attributes["nearest_mode"] = "floor"
        else:
            attributes = {"blocksize": 2}
            channels = channels // 4 if kind == "DepthToSpace" else channels * 4
            if channels == 0:
                return network(layers[:index] + layers[index + 1 :])
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        last = name
    nodes.append(helper.make_node("Identity", [last], ["sr"]))
    lr = helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1, 4, "H", "W"])
    sr = helper.make_tensor_value_info("sr", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [lr], [sr], list(weights.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), weights


def compute(model: ModelProto, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    (result,) = ReferenceEvaluator(model).run(None, {"lr": picture})
    return np.asarray(result)


@settings(deadline=None, max_examples=40)
@given(st.lists(LAYERS, min_size=1, max_size=3), st.integers(0, 23))
def test_no_pixel_sees_farther_than_its_reach(layers: list[Any], place: int) -> None:
    """Touching one LR pixel changes no output pixel beyond the radius."""
    model, weights = network(layers)
    found = network_reach(list(model.graph.node), weights, "lr", "sr")
    assert isinstance(found, Reach)
    rng = np.random.default_rng(0)
    picture = rng.random((1, 4, 4, 24), np.float32) + 0.5
    touched = picture.copy()
    touched[..., place] += 1
    try:
        before, after = compute(model, picture), compute(model, touched)
    except (ValueError, IndexError):  # the picture is too small for these layers
        return
    changed = np.flatnonzero((np.abs(before - after) > 1e-4).any((0, 1, 2)))
    seen = [int(x / found.scale) for x in changed]
    assert all(abs(x - place) <= found.radius for x in seen)


@pytest.mark.parametrize("features", [1, 9, 65_536])
def test_a_spec_that_claims_other_features_is_refused(graph: ModelProto, features: int) -> None:
    """They decide how large tiles may be."""
    config = spec_of(graph)["config"] | {"features": features}
    with pytest.raises(ModelError, match=f"says {features} features, and its network has 8"):
        read_spec(claiming(graph, config=config), "x.onnx")
