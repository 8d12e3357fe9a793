"""Checks a graph that came from anywhere, before an engine sees it.

An ONNX file can name other files whose bytes become its weights, and engines read them: a graph
could show any file of the user's in a picture. Files that lie about their sizes, refer to
themselves in a circle or make huge constants of a few bytes stop engines or take all memory. All
of these are refused here, without recursion and within milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
)

from srtrt.errors import InputError, ModelError, first_line
from srtrt.plain_data import shown
from srtrt.reading import read_plain
from srtrt.text import foreign

MAX_FILE_BYTES = 1 << 29
"""Largest file that is read."""

MAX_ELEMENTS = 1 << 28
"""Most elements of a tensor whose size the graph fixes."""

_REMEDY = "Export it again with `srtrt export`, or install a newer onnx."
_MAX_NODES = 50_000
_MAX_RANK = 16
_MOST_SIDES = 4 * _MAX_RANK
"""Elements of a tensor that is looked at for sizes, pads or scales."""
_DOMAINS = ("", "ai.onnx")
_OLDEST_FORMAT = 3
"""First version of the file format that names the versions of its operators."""

_PACKED_BITS: dict[int, int] = {
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}
_INVALID = (
    DecodeError,
    EncodeError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)
"""What ONNX's checker and shape inference raise."""
_PER_ELEMENT: dict[int, int] = {TensorProto.COMPLEX64: 2, TensorProto.COMPLEX128: 2}
"""Entries of the typed field for one element, where it is not one."""


def read_model(path: Path) -> ModelProto:
    """Reads a file and checks it, see :func:`check_model`.

    Raises:
        InputError: if it is missing, too large, or no ONNX file.
        ModelError: if the graph must not or cannot be used.
    """
    data = read_plain(path, "an .onnx graph written by srtrt", most=MAX_FILE_BYTES)
    try:
        model = ModelProto.FromString(data)
    except DecodeError as error:
        raise InputError(
            f"{path}: not a readable ONNX file ({first_line(error)}); it may be cut short."
        ) from error
    check_model(model, str(path))
    return model


def check_model(model: ModelProto, source: str) -> None:
    """Refuses a graph that must not or cannot be used.

    That is one with external data anywhere; tensors that do not hold what their shape says; unknown
    versions, operators of other sets than ONNX's own, functions, branches or loops; nodes in a
    circle; constants of more than :data:`MAX_ELEMENTS` elements; and whatever ONNX's own checker
    finds.

    Args:
        model: the graph; it is not changed.
        source: where it came from, for messages.

    Raises:
        ModelError: with what is wrong.
    """
    graphs = list(_graphs(model))
    for place, tensor in _tensors(graphs):
        _check_tensor(f"{source}: {place}", tensor)
    _check_versions(model, source)
    if model.functions:
        raise ModelError(
            f"{source}: defines {len(model.functions)} functions of its own "
            f"({shown(model.functions[0].name)}); expected a graph of ONNX's operators alone."
        )
    _check_nodes(model.graph.node, source)
    check_formally(model, source)


def _graphs(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    """The graph, its functions, what is for training only, and all subgraphs."""
    waiting: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    for training in model.training_info:
        waiting += [training.initialization, training.algorithm]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += (inner for node in graph.node for inner in _subgraphs(node))


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(
    graphs: Sequence[GraphProto | FunctionProto],
) -> Iterator[tuple[str, TensorProto]]:
    """Every tensor with where it is."""
    for graph in graphs:
        if isinstance(graph, GraphProto):
            for tensor in graph.initializer:
                yield f"initializer {shown(tensor.name)}", tensor
            for sparse in graph.sparse_initializer:
                yield from _parts(f"sparse initializer {shown(sparse.values.name)}", sparse)
        else:
            for attribute in graph.attribute_proto:
                yield from _attribute_tensors(f"function {shown(graph.name)}", attribute)
        for node in graph.node:
            for attribute in node.attribute:
                yield from _attribute_tensors(f"node {shown(_name(node))}", attribute)


def _attribute_tensors(owner: str, attribute: AttributeProto) -> Iterator[tuple[str, TensorProto]]:
    place = f"attribute {shown(attribute.name)} of {owner}"
    if attribute.HasField("t"):
        yield place, attribute.t
    if attribute.HasField("sparse_tensor"):
        yield from _parts(place, attribute.sparse_tensor)
    for tensor in attribute.tensors:
        yield place, tensor
    for sparse in attribute.sparse_tensors:
        yield from _parts(place, sparse)


def _parts(place: str, sparse: SparseTensorProto) -> Iterator[tuple[str, TensorProto]]:
    yield f"values of {place}", sparse.values
    yield f"indices of {place}", sparse.indices


def _name(node: NodeProto) -> str:
    return node.name or f"{node.op_type} to {node.output[0] if node.output else 'nothing'}"


def _check_tensor(place: str, tensor: TensorProto) -> None:
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        named = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        raise ModelError(
            f"{place} takes its data from another file ({shown(named)}). That is refused, as it "
            "could be any file of yours. Expected one file that holds all its weights."
        )
    if tensor.HasField("segment"):
        raise ModelError(f"{place} is one segment of a tensor; expected whole tensors.")
    if len(tensor.dims) > _MAX_RANK or any(side < 0 for side in tensor.dims):
        raise ModelError(f"{place} has the impossible shape {list(tensor.dims[:_MAX_RANK])}.")
    elements = math.prod(tensor.dims)
    found = _elements_held(tensor)
    if found is None:
        raise ModelError(f"{place} has elements of the unknown type {tensor.data_type}.")
    if elements != found:
        raise ModelError(
            f"{place} holds {found} elements, but its shape {list(tensor.dims)} has {elements}; "
            "the file is damaged."
        )


def _elements_held(tensor: TensorProto) -> int | None:
    """Elements in the data of a tensor; None for an unknown type."""
    kind, shaped = tensor.data_type, math.prod(tensor.dims)
    if kind == TensorProto.STRING:
        return len(tensor.string_data)
    try:
        field = helper.tensor_dtype_to_field(kind)
        size = int(helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, ValueError):
        return None
    # Elements of less than a byte share one, so the last may be partly empty.
    bits = _PACKED_BITS.get(kind, 0)
    if tensor.HasField("raw_data"):
        held = len(tensor.raw_data)
        if bits:
            return shaped if held == -(-shaped * bits // 8) else held * 8 // bits
        return held // size if held % size == 0 else -1
    held = len(getattr(tensor, field))
    if bits:
        return shaped if held == -(-shaped * bits // 8) else held * 8 // bits
    return int(held // _PER_ELEMENT.get(kind, 1))


def _check_versions(model: ModelProto, source: str) -> None:
    if not _OLDEST_FORMAT <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"{source}: has version {model.ir_version} of the ONNX file format; expected "
            f"{_OLDEST_FORMAT} to {onnx.IR_VERSION}. {_REMEDY}"
        )
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain in _DOMAINS else entry.domain
        if domain in versions:
            raise ModelError(
                f"{source}: names two versions of the operators {shown(domain or 'ai.onnx')} "
                f"({versions[domain]} and {entry.version}); expected one."
            )
        versions[domain] = entry.version
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= versions.get("", 0) <= newest:
        found = f"version {versions['']}" if "" in versions else "no version"
        raise ModelError(
            f"{source}: names {found} of ONNX's operators; expected 1 to {newest}. {_REMEDY}"
        )


def _check_nodes(nodes: Sequence[NodeProto], source: str) -> None:
    if len(nodes) > _MAX_NODES:
        raise ModelError(f"{source}: has {len(nodes)} nodes; expected at most {_MAX_NODES}.")
    for node in nodes:
        if node.domain not in _DOMAINS:
            operator = f"{node.domain}.{node.op_type}"
            raise ModelError(
                f"{source}: node {shown(_name(node))} is {foreign(operator)}; expected ONNX's own "
                "operators alone."
            )
        if any(True for _ in _subgraphs(node)):
            raise ModelError(
                f"{source}: node {shown(_name(node))} is a {foreign(node.op_type)} with a graph of "
                "its own; expected a network without branches and loops."
            )
    circle = _circle(nodes)
    if circle:
        names = " -> ".join(foreign(_name(node)) for node in circle[:4])
        more = " -> ..." if len(circle) > 4 else ""
        raise ModelError(
            f"{source}: its nodes need each other's results in a circle "
            f"({names}{more} -> {foreign(_name(circle[0]))}), so it cannot be computed."
        )


def _circle(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Nodes each of which needs the one before it, and the first the last; empty if none do.

    A. B. Kahn, "Topological sorting of large networks", Communications of the ACM, 1962.
    """
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [{maker[name] for name in node.input if name in maker} for node in nodes]
    feeds: list[list[int]] = [[] for _ in nodes]
    for index, found in enumerate(needs):
        for other in found:
            feeds[other].append(index)
    missing = [len(found) for found in needs]
    ready = [index for index, count in enumerate(missing) if count == 0]
    while ready:
        for index in feeds[ready.pop()]:
            missing[index] -= 1
            if missing[index] == 0:
                ready.append(index)
    left = {index for index, count in enumerate(missing) if count}
    if not left:
        return []
    path, at = [], min(left)
    while at not in path:
        path.append(at)
        at = min(needs[at] & left)
    return [nodes[index] for index in reversed(path[path.index(at) :])]


def check_formally(model: ModelProto, source: str) -> None:
    """ONNX's own checker, and the sizes that follow from those the graph fixes.

    Raises:
        ModelError: with the first thing that is wrong.
    """
    try:
        onnx.checker.check_model(model)
        _require_sides(model, source)
        inferred = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except _INVALID as error:
        first = first_line(error) or type(error).__name__
        raise ModelError(f"{source}: is no valid ONNX graph: {first}") from error
    graph = inferred.graph
    known = {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}
    for value in known.values():
        sides = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        if len(sides) > _MAX_RANK or min(sides, default=1) < 0 or math.prod(sides) > MAX_ELEMENTS:
            raise ModelError(
                f"{source}: tensor {shown(value.name)} would have the shape {sides[:_MAX_RANK]}; "
                f"expected at most {MAX_ELEMENTS} elements."
            )
    for name in _computed_constants(graph):
        if name not in known or not _is_fixed(known[name]):
            raise ModelError(
                f"{source}: computes the constant {shown(name)}, whose size cannot be told "
                "beforehand; expected constants that are stored."
            )


def _require_sides(model: ModelProto, source: str) -> None:
    """Refuses sides below zero, one node after the other.

    The inference over a whole graph ends the process where a Slice meets one.
    """
    graph = model.graph
    types = {value.name: value.type for value in (*graph.value_info, *graph.output, *graph.input)}
    types |= {t.name: helper.make_tensor_type_proto(t.data_type, t.dims) for t in graph.initializer}
    _refuse_negative(types, source)
    data = {t.name: t for t in graph.initializer if math.prod(t.dims) <= _MOST_SIDES}
    version = next(each.version for each in model.opset_import if each.domain in _DOMAINS)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute:
            data[node.output[0]] = _constant(node.attribute[0])
        try:
            outputs = onnx.shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, version, ""),
                node,
                types,
                data,
                opset_imports=list(model.opset_import),
                ir_version=model.ir_version,
            )
        except (
            KeyError,
            onnx.defs.SchemaError,
            *_INVALID,
        ):  # what is unknown or wrong, the whole inference will tell
            continue
        _refuse_negative(outputs, source)
        types |= outputs


def _constant(attribute: AttributeProto) -> TensorProto:
    """The tensor in a Constant node, where it is a tensor or a list of numbers."""
    if attribute.ints:
        return helper.make_tensor("", TensorProto.INT64, [len(attribute.ints)], attribute.ints)
    if attribute.floats:
        return helper.make_tensor("", TensorProto.FLOAT, [len(attribute.floats)], attribute.floats)
    return attribute.t


def _refuse_negative(types: Mapping[str, TypeProto], source: str) -> None:
    for name, kind in types.items():
        sides = [side.dim_value for side in kind.tensor_type.shape.dim]
        if min(sides, default=0) < 0:
            raise ModelError(
                f"{source}: tensor {shown(name)} would have the impossible shape "
                f"{sides[:_MAX_RANK]}."
            )


def _computed_constants(graph: GraphProto) -> list[str]:
    """Results that depend on no input, so that engines compute them while they read the graph."""
    constant = {tensor.name for tensor in graph.initializer}
    constant |= {sparse.values.name for sparse in graph.sparse_initializer}
    constant -= {value.name for value in graph.input}
    found = []
    for node in graph.node:
        if all(not name or name in constant for name in node.input):
            found += [name for name in node.output if name]
            constant.update(node.output)
    return found


def _is_fixed(value: ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim)
