"""Exported graphs: change of form and precision, the spec inside, reading and writing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from srtrt.errors import InputError, ModelError, OutputError
from srtrt.files import replace_when_complete
from srtrt.forms import FORM_GRAPHS, LR, OPSET, SR, Nodes
from srtrt.spec import SPEC_KEY, Form, ModelSpec
from srtrt.widen import widen

_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16)


def dress(model: ModelProto, spec: ModelSpec, form: Form) -> ModelProto:
    """The same network in another form.

    Args:
        model: a graph in which the tensors ``lr`` and ``sr`` bound the network.
        spec: facts about it; its form is replaced.
        form: form of the result.

    Returns:
        A checked model with the spec in its metadata.

    Raises:
        ModelError: if the form is unknown or the graph has no such tensors.
    """
    if form not in FORM_GRAPHS:
        raise ModelError(f"form is {form!r}; a graph can be {' or '.join(FORM_GRAPHS)}.")
    wanted = FORM_GRAPHS[form]
    head, tail = Nodes("in"), Nodes("out")
    wanted.head(head)
    wanted.tail(tail)
    nodes, initializers = _network(model.graph)
    constants = {**head.constants, **tail.constants}
    graph = helper.make_graph(
        [*head.nodes, *nodes, *tail.nodes],
        f"{spec.name}-{form}",
        list(wanted.inputs),
        list(wanted.outputs),
        [*initializers, *constants.values()],
    )
    return _finish(graph, model, spec.with_(form=form))


def to_half(model: ModelProto, spec: ModelSpec) -> ModelProto:
    """The same graph with the network's weights and activations in float16.

    Everything outside ``lr`` .. ``sr``, that is the casts, the colour conversion and the
    rounding, stays float32. Typed graphs of this kind need no precision flag of an engine.

    Raises:
        ModelError: if the graph has no such network, or a weight does not fit float16.
    """
    nodes, initializers = _network(model.graph)
    inside = {id_.name for id_ in initializers}
    produced = {output for node in nodes for output in node.output}
    others = [i for i in model.graph.initializer if i.name not in inside]
    outer = [n for n in model.graph.node if not produced.intersection(n.output)]
    half = [_half_tensor(tensor) for tensor in initializers]
    renames = {LR: f"{LR}.half", SR: f"{SR}.half"}
    typed = [_half_node(node, renames) for node in nodes]
    before, after = _split(outer)
    enter = helper.make_node("Cast", [LR], [renames[LR]], "in.half", to=TensorProto.FLOAT16)
    leave = helper.make_node("Cast", [renames[SR]], [SR], "out.float", to=TensorProto.FLOAT)
    graph = helper.make_graph(
        [*before, enter, *typed, leave, *after],
        model.graph.name,
        list(model.graph.input),
        list(model.graph.output),
        [*others, *half],
    )
    return _finish(graph, model, spec.with_(precision="fp16"))


def keep_half_rounding(model: ModelProto) -> ModelProto:
    """The same typed graph, with every float16 result passed through Identity.

    An engine without float16 arithmetic computes in float32 and drops the casts between two
    nodes, so it would hide the rounding it should show. Identity is an operator it has in
    float16, which keeps each result rounded; sums inside a convolution stay float32, as on a GPU.
    Only for measuring, with the engine's graph optimisation off.
    """
    kept = ModelProto()
    kept.CopyFrom(model)
    nodes, _ = _network(kept.graph)
    inside = {output for node in nodes for output in node.output}
    result: list[NodeProto] = []
    for node in kept.graph.node:
        result.append(node)
        if inside.intersection(node.output):
            name = node.output[0]
            node.output[0] = f"{name}.exact"
            result.append(helper.make_node("Identity", [node.output[0]], [name]))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in result]
    del kept.graph.node[:]
    kept.graph.node.extend(copies)
    onnx.checker.check_model(kept)
    return kept


def _network(graph: GraphProto) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes between ``lr`` and ``sr`` in order, and the initializers they use."""
    producer = {output: node for node in graph.node for output in node.output}
    if SR not in producer:
        raise ModelError(f"graph {graph.name!r} has no tensor {SR!r}; was srtrt its exporter?")
    needed: set[int] = set()
    pending, seen = [SR], {LR}
    reached_input = False
    while pending:
        name = pending.pop()
        reached_input |= name == LR
        if name in seen or name not in producer:
            continue
        seen.add(name)
        needed.add(id(producer[name]))
        pending += producer[name].input
    if not reached_input:
        raise ModelError(f"graph {graph.name!r} has no path from {LR!r} to {SR!r}.")
    nodes = [node for node in graph.node if id(node) in needed]
    used = {name for node in nodes for name in node.input}
    return nodes, [i for i in graph.initializer if i.name in used]


def _split(outer: list[NodeProto]) -> tuple[list[NodeProto], list[NodeProto]]:
    """The nodes before the network, up to the one that makes ``lr``, and those after it."""
    cut = next((k for k, node in enumerate(outer) if LR in node.output), -1) + 1
    return outer[:cut], outer[cut:]


def _half_tensor(tensor: TensorProto) -> TensorProto:
    if tensor.data_type != TensorProto.FLOAT:
        return tensor
    with np.errstate(over="ignore"):
        values = numpy_helper.to_array(tensor).astype(np.float16)
    if not np.isfinite(values).all():
        raise ModelError(f"weight {tensor.name!r} exceeds the range of float16 (65504).")
    return numpy_helper.from_array(values, tensor.name)


def _half_node(node: NodeProto, renames: dict[str, str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    for names in (copy.input, copy.output):
        for k, name in enumerate(names):
            names[k] = renames.get(name, name)
    for attribute in copy.attribute:
        if attribute.name == "value" and attribute.t.data_type in _FLOAT_TYPES:
            attribute.t.CopyFrom(_half_tensor(attribute.t))
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
    return copy


def _finish(graph: GraphProto, model: ModelProto, spec: ModelSpec) -> ModelProto:
    opset = max([OPSET, *(i.version for i in model.opset_import if i.domain in ("", "ai.onnx"))])
    result = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="srtrt"
    )
    result.ir_version = 10
    onnx.checker.check_model(result, full_check=True)
    return stamp(result, spec)


def stamp(model: ModelProto, spec: ModelSpec) -> ModelProto:
    """The same model with this spec in its metadata."""
    stamped = ModelProto()
    stamped.CopyFrom(model)
    helper.set_model_props(stamped, {SPEC_KEY: spec.to_json()})
    return stamped


def read_spec(model: ModelProto, source: str) -> ModelSpec:
    """The spec inside a graph.

    Raises:
        ModelError: if there is none, or it disagrees with the graph's own inputs and outputs.
    """
    props = {entry.key: entry.value for entry in model.metadata_props}
    if SPEC_KEY not in props:
        raise ModelError(
            f"{source}: carries no srtrt spec, so its form is unknown. "
            "Expected a graph written by `srtrt export`."
        )
    spec = ModelSpec.from_json(props[SPEC_KEY], source=source)
    if spec.form not in FORM_GRAPHS:
        raise ModelError(f"{source}: its spec says form {spec.form!r}, which no graph can have.")
    wanted = FORM_GRAPHS[spec.form]
    for kind, ours, theirs in (
        ("inputs", wanted.inputs, model.graph.input),
        ("outputs", wanted.outputs, model.graph.output),
    ):
        expected, found = [v.name for v in ours], [v.name for v in theirs]
        if expected != found:
            raise ModelError(
                f"{source}: its spec says {spec.form} with {kind} {', '.join(expected)}; "
                f"the graph has {', '.join(found)}."
            )
    return spec


def load_graph(path: Path) -> tuple[ModelProto, ModelSpec]:
    """Reads an exported graph and its spec.

    Raises:
        InputError: if the file is missing or not an ONNX file.
        ModelError: if its spec is missing or disagrees with the graph.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an .onnx graph written by srtrt.")
    try:
        model = widen(onnx.load(path, load_external_data=False))
    except (DecodeError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable ONNX file ({error}).") from error
    return model, read_spec(model, str(path))


def save_graph(path: Path, model: ModelProto) -> None:
    """Writes one file, which appears under its name only when complete.

    Raises:
        OutputError: if it cannot be written.
    """
    with replace_when_complete(path) as part:
        try:
            part.write_bytes(model.SerializeToString())
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror}).") from error


def graph_file_name(spec: ModelSpec) -> str:
    """The file name of an exported graph, such as ``srresnet-yuv420p8-fp16.onnx``."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.name)
    return f"{safe}-{spec.form}-{spec.precision}.onnx"
