"""No engine is asked for tensors that 32 bits cannot index."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from srtrt.errors import UsageError
from srtrt.runtime.engines.key import EngineShape, InputSize
from srtrt.runtime.layouts import form_layouts
from srtrt.runtime.models import bundled_models, find_model
from srtrt.runtime.tensor_limit import (
    MOST_ELEMENTS,
    limit_of,
    require_countable,
    tensor_limit,
)

PER_PIXEL = {"srresnet": 1024, "srgan": 1024, "fast": 48, "video": 48}
"""256 channels on a grid of twice the sides, and 3 on one of four times."""


def computed_elements(graph: onnx.ModelProto, width: int, height: int) -> int:
    """Elements of the largest tensor when ONNX Runtime really computes a frame."""
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(graph)
    names = [name for node in graph.graph.node for name in node.output if name]
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    size = InputSize(width=width, height=height)
    form = "rgb8" if graph.graph.input[0].name == "rgb" else "yuv420p8"
    inputs = {
        each.name: np.zeros(each.shape, each.dtype)
        for each in form_layouts(form, size)
        if each.is_input
    }
    return max(int(np.asarray(each).size) for each in session.run(None, inputs))


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
@pytest.mark.parametrize("name", sorted(PER_PIXEL))
def test_it_is_that_of_the_largest_tensor_that_is_computed(name: str, form: Any) -> None:
    assert set(PER_PIXEL) == set(bundled_models())
    graph = find_model(name).graph(form, "fp32")
    limit = tensor_limit(graph, 4)
    assert limit.per_pixel == PER_PIXEL[name]
    assert limit.most_pixels == MOST_ELEMENTS // PER_PIXEL[name]
    assert computed_elements(graph, 22, 18) == PER_PIXEL[name] * 22 * 18


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_is_the_same_in_every_precision(precision: Any) -> None:
    graph = find_model("srresnet").graph("yuv420p8", precision)
    assert tensor_limit(graph, 4).per_pixel == 1024


def test_full_hd_is_the_most_that_the_usual_network_takes() -> None:
    graph = find_model("srresnet").graph("yuv420p8", "fp16")
    limit = tensor_limit(graph, 4)
    require_countable(limit, EngineShape.static(1920, 1080), "TensorRT", "srresnet")
    for shape in (EngineShape.static(1920, 1094), EngineShape.static(1920, 1080, batch=2)):
        with pytest.raises(UsageError, match=r"2\^31 elements or more, which TensorRT does not"):
            require_countable(limit, shape, "TensorRT", "srresnet")
    with pytest.raises(UsageError, match=r"at most 2097151 pixels .* such as 1920x1080\."):
        require_countable(limit, EngineShape.static(1920, 1080, batch=2), "TensorRT", "srresnet")


def foreign_graph(nodes: list[Any], weights: dict[str, Any], domain: str = "") -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("rgb_x4", TensorProto.FLOAT, ["N", 3, "4*H", "4*W"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    imports = [helper.make_opsetid("", 18)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=imports)


def test_a_foreign_graph_is_read_or_else_overestimated() -> None:
    weights = {"w": np.zeros((48, 3, 3, 3), np.float32), "u": np.zeros((48, 48, 1, 1), np.float32)}
    pads = {"pads": [1, 1, 1, 1]}
    known = [
        helper.make_node("Conv", ["rgb", "w"], ["a"], **pads),
        helper.make_node("Conv", ["a", "u"], ["b"]),
        helper.make_node("DepthToSpace", ["b"], ["rgb_x4"], blocksize=4),
    ]
    assert tensor_limit(foreign_graph(known, weights), 4).per_pixel == 48
    odd = [known[0], helper.make_node("Odd", ["a"], ["b"], domain="odd"), known[2]]
    assert tensor_limit(foreign_graph(odd, weights, "odd"), 4).per_pixel == 48 * 16


def test_attention_over_all_pixels_is_no_matter_of_proportion() -> None:
    """Its tensor has a row and a column for each pixel."""
    weights = {"flat": np.array([0, 3, -1], np.int64)}
    nodes = [
        helper.make_node("Reshape", ["rgb", "flat"], ["q"]),
        helper.make_node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["k", "q"], ["rgb_x4"]),
    ]
    limit = tensor_limit(foreign_graph(nodes, weights), 4)
    assert limit.power == pytest.approx(2)
    assert limit.most_pixels == pytest.approx(math.sqrt(MOST_ELEMENTS), rel=0.01)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 4096), st.integers(1, 8))
def test_what_is_allowed_can_be_counted(channels: int, scale: int) -> None:
    limit = limit_of(channels=channels, scale=scale)
    elements = max(3, channels) * scale**2
    assert limit.most_pixels * elements <= MOST_ELEMENTS
    assert (limit.most_pixels + 1) * elements > MOST_ELEMENTS


def test_a_shape_of_an_engine_is_refused_before_it_is_built(tiny_graphs: dict[str, Path]) -> None:
    limit = tensor_limit(onnx.load(tiny_graphs["rgb8-fp32"]), 4)
    most = limit.most_pixels
    require_countable(limit, EngineShape.static(most, 1), "TensorRT", "tiny")
    with pytest.raises(UsageError, match="in all frames, such as"):
        require_countable(limit, EngineShape.static(most + 1, 1), "TensorRT", "tiny")
