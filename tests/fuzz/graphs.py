"""Damage to ONNX graphs that leaves them graphs, with another meaning."""

from __future__ import annotations

import random

import onnx
from fuzz.damage import NUMBERS, damaged, flip
from fuzz.values import changed_json
from onnx import ModelProto

_OPERATORS = (
    *("Loop", "If", "Reshape", "Expand", "Range", "Tile", "Resize", "ConstantOfShape", "Pad"),
    *("Einsum", "LSTM", "Slice", "Gather", "NonZero", "RandomNormal", "Identity", "Concat", "X"),
)


def changed_graph(rng: random.Random, data: bytes) -> bytes:
    """A graph that parses, with another meaning."""
    model = ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        node = rng.choice(model.graph.node)
        way = rng.randrange(9)
        if way < 2 and model.metadata_props:
            entry = rng.choice(model.metadata_props)
            entry.value = changed_json(rng, entry.value.encode()).decode(errors="replace")
        elif way == 2 and node.attribute:
            _change_attribute(rng, rng.choice(node.attribute))
        elif way == 3:
            node.op_type = rng.choice(_OPERATORS)
        elif way == 4 and node.input:
            other = rng.choice(model.graph.node)
            node.input[rng.randrange(len(node.input))] = rng.choice(
                [*other.input, *other.output, ""]
            )
        elif way == 5:
            _change_tensor(rng, rng.choice(model.graph.initializer))
        elif way == 6:
            value = rng.choice([*model.graph.input, *model.graph.output])
            kind = value.type.tensor_type
            if kind.shape.dim and rng.random() < 0.7:
                rng.choice(kind.shape.dim).dim_value = _int64(rng)
            else:
                kind.elem_type = rng.randrange(24)
        elif way == 7:
            del model.graph.node[rng.randrange(len(model.graph.node))]
        else:
            node.name = rng.choice(("\x1b[2J\x1b]0;x\x07", "long " * 2000, "", "planted/secret"))
        if not model.graph.node:
            break
    return model.SerializeToString()


def _int64(rng: random.Random) -> int:
    value = rng.choice((*NUMBERS, -1, -2, 3, 64)) % 2**64
    return value - 2**64 if value >= 2**63 else value


def _change_attribute(rng: random.Random, attribute: onnx.AttributeProto) -> None:
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = _int64(rng)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = _int64(rng)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice((float("nan"), float("inf"), -1e30, 0.0))
    elif attribute.type == onnx.AttributeProto.TENSOR:
        _change_tensor(rng, attribute.t)
    else:
        attribute.type = rng.randrange(15)  # type: ignore[assignment]


def _change_tensor(rng: random.Random, tensor: onnx.TensorProto) -> None:
    way = rng.randrange(5)
    if way == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = _int64(rng)
    elif way == 1:
        tensor.data_type = rng.randrange(26)
    elif way == 2:
        tensor.external_data.add(key="location", value="planted/secret")
    elif way == 3 and len(tensor.raw_data) in (4, 8, 16, 32):  # shapes, scales, axes
        tensor.raw_data = (_int64(rng) % 2**64).to_bytes(8, "little")[: len(tensor.raw_data)] * (
            len(tensor.raw_data) // 8 or 1
        )
    elif rng.random() < 0.6:  # other weights in a sound graph
        weights = bytearray(tensor.raw_data)
        for _ in range(rng.choice((1, 4, 64))):
            flip(rng, weights, ())
        tensor.raw_data = bytes(weights)
    else:
        tensor.raw_data = damaged(rng, tensor.raw_data)
