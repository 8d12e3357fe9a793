"""Graphs of reduced precision computed in float32, with every rounding of their type or none."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from srtrt.graph import REDUCED_TYPES, element_types

_REDUCED = frozenset(kind.element for kind in REDUCED_TYPES.values())
"""ONNX's numbers of float16 and bfloat16."""


def float32_twin(model: ModelProto) -> ModelProto:
    """A float32 graph that rounds where a typed graph does.

    An engine without arithmetic in float16 or bfloat16 refuses such a graph, or computes in
    float32 and skips roundings it should show. Here every weight has its rounded value, and every
    result is cast to its type and back; sums inside a convolution stay float32, as on a GPU. Only
    for measuring, with the engine's graph optimisation off.

    Args:
        model: a graph written by :func:`srtrt.graph.to_typed`; any other comes back as it is.

    Returns:
        A new model with the same inputs, outputs and metadata.
    """
    types = element_types(model)
    twin = _with_float32_weights(model)
    nodes: list[NodeProto] = []
    for node in twin.graph.node:
        name, element = node.output[0], types[node.output[0]]
        nodes.append(node)
        if element not in _REDUCED:
            continue
        if node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT
        node.output[0] = f"{name}.exact"
        nodes.append(helper.make_node("Cast", [node.output[0]], [f"{name}.rounded"], to=element))
        nodes.append(
            helper.make_node("Cast", [f"{name}.rounded"], [name], to=TensorProto.FLOAT)
        )  # fmt: skip
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del twin.graph.node[:]
    twin.graph.node.extend(copies)
    del twin.graph.value_info[:]
    onnx.checker.check_model(twin)
    return twin


def in_float32(model: ModelProto) -> ModelProto:
    """A float32 graph with the weights of a reduced one, which rounds and clips nothing.

    Where float32 does not overflow, neither does it. Casts to float16 and bfloat16 are casts to
    float32, and pairs that quantise and dequantise a value are left out.

    Args:
        model: a graph of :func:`srtrt.graph.to_typed` or with Q/DQ pairs; a float32 graph comes
            back as it is.

    Returns:
        A new model with the same inputs, outputs and metadata.
    """
    exact = _with_float32_weights(model)
    before: dict[str, str] = {}
    """What was quantised, by the names of its quantised and its dequantised value."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        source = before.get(node.input[0], node.input[0]) if node.input else ""
        paired = node.op_type == "DequantizeLinear" and node.input[0] in before
        if node.op_type == "QuantizeLinear" or paired:
            before[node.output[0]] = source
            continue
        for k, name in enumerate(node.input):
            copy.input[k] = before.get(name, name)
        if node.op_type == "Cast" and node.attribute[0].i in _REDUCED:
            copy.attribute[0].i = TensorProto.FLOAT
        nodes.append(copy)
    del exact.graph.node[:]
    exact.graph.node.extend(nodes)
    del exact.graph.value_info[:]
    return exact


def _with_float32_weights(model: ModelProto) -> ModelProto:
    """A copy whose reduced weights hold the same values in float32."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type in _REDUCED:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy
