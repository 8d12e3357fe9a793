"""What a graph computes, apart from how an exporter wrote it down.

Two exporters, or two versions of one, write the same network with other names, another order of
nodes and weights, defaults spelled out or left out, and notes of their own. None of it matters to
an engine, so the identity of a graph is a hash without it: see :func:`graph_sha256`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    defs,
    helper,
    inliner,
    numpy_helper,
)

from srtrt.errors import ModelError
from srtrt.plain_data import shown
from srtrt.widen import widen

_COMMUTATIVE = {"Add", "Mul"}
"""Operators of two inputs whose order changes no bit of the result."""

_BITS_IN_INT32: dict[int, type[np.generic]] = {
    TensorProto.FLOAT16: np.uint16,
    TensorProto.BFLOAT16: np.uint16,
    TensorProto.FLOAT8E4M3FN: np.uint8,
    TensorProto.FLOAT8E5M2: np.uint8,
}
"""Types whose bit patterns may lie in a field of wider integers."""

_METADATA = ("metadata_props", "doc_string", "producer_name", "producer_version", "domain")


def without_metadata(model: ModelProto) -> ModelProto:
    """A copy of a model without notes of its exporter: stack traces, paths, versions, texts.

    Names stay, for they connect the nodes. Inferred shapes go, which engines infer themselves.
    """
    result = ModelProto()
    result.CopyFrom(model)
    for name in (*_METADATA, "model_version"):
        result.ClearField(name)
    for function in result.functions:
        _clear(function)
        _clear_nodes(function.node)
    _clear_graph(result.graph)
    return result


def _clear(message: Any) -> None:
    for name in ("metadata_props", "doc_string"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)


def _clear_graph(graph: GraphProto) -> None:
    _clear(graph)
    for name in ("value_info", "quantization_annotation"):
        graph.ClearField(name)
    for message in (*graph.input, *graph.output, *graph.initializer):
        _clear(message)
    _clear_nodes(graph.node)


def _clear_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        _clear(node)
        for attribute in node.attribute:
            _clear(attribute)
            if attribute.type == AttributeProto.TENSOR:
                _clear(attribute.t)
            for graph in _subgraphs(attribute):
                _clear_graph(graph)


def graph_sha256(model: ModelProto) -> str:
    """Hash of what a graph computes, the same however it was exported.

    Every value is named by how it comes about: an input by its name, type and shape, a weight by
    its contents, a result by its operator, its attributes and the names of what it is computed
    from. So the names of values inside, metadata, the order of nodes and weights, nodes that
    nothing reads, the order of two summands or factors, attributes at their defaults, and weights
    stored in half the space (:mod:`srtrt.widen`) do not count.

    Args:
        model: any ONNX graph without external data.

    Returns:
        64 hexadecimal digits.

    Raises:
        ModelError: if it is cyclic, reads what nothing computes, or keeps weights in other files.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    model = widen(model)
    opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
    return _Namer(model.graph, opsets, None).graph()


class _Namer:
    """Names the values of one graph by hashes.

    Args:
        graph: the graph.
        opsets: version of each operator domain.
        outer: of a graph inside a node, the names of the values around it.
    """

    def __init__(
        self, graph: GraphProto, opsets: Mapping[str, int], outer: Mapping[str, str] | None
    ) -> None:
        self._graph, self._opsets, self._inside = graph, opsets, outer is not None
        self._names = {**(outer or {}), "": "none"}
        self._weights: dict[str, TensorProto] = {}
        self._symbols: dict[str, int] = {}
        for tensor in graph.initializer:
            self._add_weight(tensor.name, tensor)
        for sparse in graph.sparse_initializer:
            parts = [_tensor_sha256(part) for part in (sparse.values, sparse.indices)]
            self._names[sparse.values.name] = _digest("sparse", *parts, *sparse.dims)
        self._inputs = [self._input(*each) for each in enumerate(graph.input)]

    def graph(self) -> str:
        """The name of the whole graph."""
        self._visit([output.name for output in self._graph.output])
        outputs = [
            _digest(*([] if self._inside else [output.name]), self._names[output.name])
            for output in self._graph.output
        ]
        return _digest("graph", *self._inputs, "gives", *outputs)

    def _add_weight(self, name: str, tensor: TensorProto) -> None:
        self._weights[name] = tensor
        self._names[name] = _tensor_sha256(tensor)

    def _input(self, position: int, value: ValueInfoProto) -> str:
        """An input; unknown sides count by where they first occur, not by their names."""
        kind = value.type.tensor_type
        sides = [
            side.dim_value
            if side.HasField("dim_value")
            else f"?{self._symbols.setdefault(side.dim_param, len(self._symbols))}"
            for side in kind.shape.dim
        ]
        name = _digest("input", position if self._inside else value.name, kind.elem_type, *sides)
        if value.name not in self._weights:  # else it has a default, which is what counts
            self._names[value.name] = name
        return name

    def _visit(self, pending: list[str]) -> None:
        """Names these values, and before them what they are computed from."""
        producer = {name: node for node in self._graph.node for name in node.output if name}
        begun: set[int] = set()
        while pending:
            name = pending[-1]
            if name in self._names:
                pending.pop()
                continue
            node = producer.get(name)
            if node is None:
                raise ModelError(
                    f"graph {shown(self._graph.name)} reads {shown(name)}, which nothing computes."
                )
            missing = [each for each in _reads(node) if each not in self._names]
            if not missing:
                self._name_results(node)
                continue
            if id(node) in begun:
                raise ModelError(
                    f"graph {shown(self._graph.name)} is cyclic: {shown(name)} needs itself."
                )
            begun.add(id(node))
            pending += missing

    def _name_results(self, node: NodeProto) -> None:
        if node.op_type == "Constant" and not _domain(node.domain):
            self._add_weight(node.output[0], _constant(node))
            return
        inputs = [self._input_name(node, k) for k in range(len(node.input))]
        while inputs and inputs[-1] == "none":
            inputs.pop()
        if node.op_type in _COMMUTATIVE:
            inputs.sort()
        attributes = sorted(self._attributes(node))
        operator = (_domain(node.domain), node.op_type, self._version(node))
        made = _digest(*operator, len(inputs), *inputs, *attributes)
        for position, name in enumerate(node.output):
            self._names[name] = _digest(made, position)

    def _input_name(self, node: NodeProto, position: int) -> str:
        name = node.input[position]
        if node.op_type == "PRelu" and position == 1 and name in self._weights:
            return _tensor_sha256(self._weights[name], leading_ones=False)
        return self._names[name]

    def _version(self, node: NodeProto) -> int:
        """The version since which the operator means what it means here."""
        schema = _schema(node, self._opsets)
        domain = _domain(node.domain)
        return self._opsets.get(domain, 0) if schema is None else int(schema.since_version)

    def _attributes(self, node: NodeProto) -> Iterator[str]:
        schema = _schema(node, self._opsets)
        defaults = {} if schema is None else schema.attributes
        for attribute in node.attribute:
            graphs = [
                _Namer(graph, self._opsets, self._names).graph() for graph in _subgraphs(attribute)
            ]
            if graphs:
                yield _digest(attribute.name, *graphs)
                continue
            value = _attribute_value(attribute)
            default = defaults[attribute.name].default_value if attribute.name in defaults else None
            if default is not None and default.type and value == _attribute_value(default):
                continue
            if node.op_type == "Conv" and _says_nothing(attribute):
                continue
            yield _digest(attribute.name, value)


def _says_nothing(attribute: AttributeProto) -> bool:
    """Whether an attribute of a convolution is at a default that its schema cannot write down."""
    neutral = {"strides": 1, "dilations": 1, "pads": 0}
    if attribute.name == "kernel_shape":
        return True  # the weights have it
    return attribute.name in neutral and set(attribute.ints) <= {neutral[attribute.name]}


def _schema(node: NodeProto, opsets: Mapping[str, int]) -> defs.OpSchema | None:
    domain = _domain(node.domain)
    try:
        return defs.get_schema(node.op_type, opsets.get(domain, 0), domain)
    except defs.SchemaError:
        return None


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _reads(node: NodeProto) -> Iterator[str]:
    """Every value a node needs, those of graphs inside it included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in _subgraphs(attribute):
            own = {value.name for value in graph.input} | {each.name for each in graph.initializer}
            own |= {name for inner in graph.node for name in inner.output}
            wanted = [name for inner in graph.node for name in _reads(inner)]
            wanted += [output.name for output in graph.output]
            yield from (name for name in wanted if name and name not in own)


def _subgraphs(attribute: AttributeProto) -> list[GraphProto]:
    if attribute.type == AttributeProto.GRAPH:
        return [attribute.g]
    return list(attribute.graphs)


def _attribute_value(attribute: AttributeProto) -> str:
    if attribute.type == AttributeProto.TENSOR:
        return _tensor_sha256(attribute.t)
    value = helper.get_attribute_value(attribute)
    # Text of numbers and bytes is exact; of other messages, the bytes are.
    return (
        repr(value)
        if not hasattr(value, "SerializeToString")
        else repr(value.SerializeToString(deterministic=True))
    )


def _constant(node: NodeProto) -> TensorProto:
    """The tensor that a Constant gives."""
    (attribute,) = node.attribute
    if attribute.type == AttributeProto.TENSOR:
        return attribute.t
    value = helper.get_attribute_value(attribute)
    kinds = {"value_float": np.float32, "value_int": np.int64}
    kind = kinds.get(attribute.name.removesuffix("s"), np.object_)
    return numpy_helper.from_array(np.asarray(value, kind), node.output[0])


def _tensor_sha256(tensor: TensorProto, *, leading_ones: bool = True) -> str:
    """Hash of the type, shape and contents of a tensor, however they are stored.

    Args:
        tensor: the tensor.
        leading_ones: False leaves sides of 1 at the front out, which broadcasting adds anyway.
    """
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(
            f"weight {shown(tensor.name)} is in another file; expected one file alone."
        )
    sides = list(tensor.dims)
    while not leading_ones and sides[:1] == [1]:
        del sides[0]
    if tensor.HasField("raw_data"):
        data = tensor.raw_data
    elif tensor.data_type in _BITS_IN_INT32:
        data = np.asarray(tensor.int32_data).astype(_BITS_IN_INT32[tensor.data_type]).tobytes()
    elif tensor.data_type == TensorProto.STRING:
        data = repr(list(tensor.string_data)).encode()
    else:
        data = np.ascontiguousarray(numpy_helper.to_array(tensor)).tobytes()
    return _digest("tensor", tensor.data_type, *sides, hashlib.sha256(data).hexdigest())


def _digest(*parts: object) -> str:
    # JSON keeps the parts apart, whatever is in them.
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()
