"""Graphs whose weights are stored in half the space, and nothing is lost.

Trained weights are float16 values. In a graph they are float32 because BatchNorm was folded into
them: each is a float16 value times the gain of its output channel, computed in float64 and rounded
once. A narrow graph stores the float16 values and the gains, and nodes that compute the same
product; any ONNX engine runs it. :func:`widen` computes these nodes when a graph is loaded, so that
all that follows sees plain float32 weights, equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

_TARGETS: dict[int, type[np.floating[Any]]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
}


def narrow(
    model: ModelProto, factors: Mapping[str, tuple[NDArray[np.float16], NDArray[np.float64]]]
) -> ModelProto:
    """The same graph, with weights stored as float16 where that gives the same float32.

    Args:
        model: a graph with float32 weights.
        factors: of weights by name, ``[O, C, kh, kw]``: the float16 values before BatchNorm was
            folded in, and the gain of each output channel ``[O]``. Weights that are float16
            values themselves need none.

    Returns:
        A graph that computes the same, bit for bit. Weights that neither way reproduces exactly
        stay as they are.
    """
    result = ModelProto()
    result.CopyFrom(model)
    stored: list[TensorProto] = []
    nodes: list[NodeProto] = []
    for tensor in model.graph.initializer:
        name = tensor.name
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 4:
            stored.append(tensor)
            continue
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            stored.append(numpy_helper.from_array(half, f"{name}.half"))
            nodes.append(_cast(f"{name}.half", name, TensorProto.FLOAT))
            continue
        if name not in factors:
            stored.append(tensor)
            continue
        half, gain = factors[name][0], factors[name][1].reshape(-1, 1, 1, 1)
        if not np.array_equal((half.astype(np.float64) * gain).astype(np.float32), values):
            stored.append(tensor)
            continue
        stored += [
            numpy_helper.from_array(half, f"{name}.half"),
            numpy_helper.from_array(gain, f"{name}.gain"),
        ]
        double, product = f"{name}.double", f"{name}.product"
        nodes += [
            _cast(f"{name}.half", double, TensorProto.DOUBLE),
            helper.make_node("Mul", [double, f"{name}.gain"], [product], name=product),
            _cast(product, name, TensorProto.FLOAT),
        ]
    del result.graph.initializer[:]
    result.graph.initializer.extend(stored)
    nodes += model.graph.node
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def widen(model: ModelProto) -> ModelProto:
    """The same graph, with every Cast and Mul of constants alone computed.

    Args:
        model: any graph; without such nodes it is returned as it is.

    Returns:
        A graph with the results as initializers, each in the place of the first it came from.
    """
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    known: dict[str, NDArray[Any]] = {}
    origin: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in model.graph.node:
        constant = all(name in found or name in known for name in node.input)
        if not (constant and _is_ours(node)):
            kept.append(node)
            continue
        values = [
            known[name] if name in known else numpy_helper.to_array(found[name])
            for name in node.input
        ]
        known[node.output[0]] = _computed(node, values)
        origin[node.output[0]] = origin.get(node.input[0], node.input[0])
    if not known:
        return model
    used = {name for node in kept for name in node.input}
    used |= {output.name for output in model.graph.output}
    made = {origin[name]: name for name in known if name in used}
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(kept)
    del result.graph.initializer[:]
    for name, tensor in found.items():
        if name in used:
            result.graph.initializer.append(tensor)
        if name in made:
            wide = numpy_helper.from_array(known[made[name]], made[name])
            result.graph.initializer.append(wide)
    return result


def _is_ours(node: NodeProto) -> bool:
    return node.op_type == "Mul" or (node.op_type == "Cast" and _target(node) in _TARGETS)


def _target(node: NodeProto) -> int:
    return next(int(a.i) for a in node.attribute if a.name == "to")


def _computed(node: NodeProto, values: list[NDArray[Any]]) -> NDArray[Any]:
    if node.op_type == "Mul":
        return np.asarray(values[0] * values[1])
    return values[0].astype(_TARGETS[_target(node)])


def _cast(source: str, output: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [output], name=f"{output}.cast", to=to)
