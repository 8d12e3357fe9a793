"""Graphs with sides below zero, at which ONNX's own inference ends the process."""

from __future__ import annotations

import pytest
from onnx import NodeProto, TensorProto, helper

from srtrt.errors import ModelError
from srtrt.graph_check import check_model


def _whole(name: str, *values: float, kind: int = TensorProto.INT64) -> TensorProto:
    return helper.make_tensor(name, kind, [len(values)], values)


def _window(name: str, side: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, [1, 1, side, side], [0.0] * side**2)


PADS = [0, 0, -9, 0, 0, 0, -9, 0]
SHRINKING: dict[str, tuple[list[NodeProto], list[TensorProto]]] = {
    "pads": ([helper.make_node("Pad", ["x", "p"], ["m"])], [_whole("p", *PADS)]),
    "constant": (
        [
            helper.make_node("Constant", [], ["p"], value=_whole("", *PADS)),
            helper.make_node("Pad", ["x", "p"], ["m"]),
        ],
        [],
    ),
    "list": (
        [
            helper.make_node("Constant", [], ["p"], value_ints=PADS),
            helper.make_node("Pad", ["x", "p"], ["m"]),
        ],
        [],
    ),
    "kernel": ([helper.make_node("Conv", ["x", "w"], ["m"])], [_window("w", 9)]),
    "dilations": (
        [helper.make_node("Conv", ["x", "w"], ["m"], dilations=[99, 99])],
        [_window("w", 3)],
    ),
    "transposed": (
        [helper.make_node("ConvTranspose", ["x", "w"], ["m"], pads=[50] * 4)],
        [_window("w", 3)],
    ),
    "pool": ([helper.make_node("MaxPool", ["x"], ["m"], kernel_shape=[9, 9])], []),
    "scales": (
        [helper.make_node("Resize", ["x", "", "r"], ["m"])],
        [_whole("r", 1, 1, -7, 5, kind=TensorProto.FLOAT)],
    ),
    "declared": ([helper.make_node("Identity", ["z"], ["m"])], []),
}


@pytest.mark.parametrize("way", SHRINKING)
def test_sides_below_zero_are_refused_before_they_end_the_process(way: str) -> None:
    nodes, tensors = SHRINKING[way]
    ends = [_whole("s", 0), _whole("e", 1000), _whole("a", 2), _whole("t", 1)]
    cut = helper.make_node("Slice", ["m", "s", "e", "a", "t"], ["y"])
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, side, 5])
        for name, side in (("x", 5), ("z", -3 if way == "declared" else 3))
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"])
    graph = helper.make_graph([*nodes, cut], "g", inputs, [output], [*tensors, *ends])
    opsets = [helper.make_opsetid("", 18)]
    with pytest.raises(ModelError, match="would have the impossible shape"):
        check_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), "g.onnx")
