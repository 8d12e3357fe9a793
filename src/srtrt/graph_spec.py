"""The spec inside a graph, compared with what the graph computes."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from srtrt.canonical import graph_sha256
from srtrt.errors import ModelError
from srtrt.forms import FORM_GRAPHS, LR, SCALE, SR, Nodes
from srtrt.plain_data import shown
from srtrt.reach import network_reach
from srtrt.spec import SPEC_KEY, UNBOUNDED, ModelSpec
from srtrt.text import foreign


def network_nodes(graph: GraphProto) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes between ``lr`` and ``sr`` in order, and the initializers they use."""
    producer = {output: node for node in graph.node for output in node.output}
    if SR not in producer:
        raise ModelError(f"graph {shown(graph.name)} has no tensor {SR!r}; was srtrt its exporter?")
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
        raise ModelError(f"graph {shown(graph.name)} has no path from {LR!r} to {SR!r}.")
    nodes = [node for node in graph.node if id(node) in needed]
    used = {name for node in nodes for name in node.input}
    return nodes, [i for i in graph.initializer if i.name in used]


def read_spec(model: ModelProto, source: str) -> ModelSpec:
    """The spec inside a graph, with the receptive radius that the graph itself has.

    Raises:
        ModelError: if there is none, or it disagrees with the graph's own inputs and outputs, with
            what it computes around its network, or with the network's scale and receptive radius.
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
                f"the graph has {foreign(', '.join(found)) or 'none'}."
            )
        for our, their in zip(ours, theirs, strict=True):
            if not _agree(our, their):
                raise ModelError(
                    f"{source}: its spec says {spec.form}, but {their.name} has another type, "
                    "number of dimensions or channels than that form; export it again."
                )
    if spec.scale != SCALE:
        raise ModelError(
            f"{source}: its spec says scale {spec.scale}; graphs of form {spec.form} enlarge "
            f"{SCALE}x."
        )
    return _measured(model, spec, source)


def _measured(model: ModelProto, spec: ModelSpec, source: str) -> ModelSpec:
    """The spec with the receptive radius that the graph has.

    Raises:
        ModelError: if the graph enlarges otherwise, or sees farther than the spec says.
    """
    nodes, initializers = network_nodes(model.graph)
    _require_form(model, nodes, spec, source)
    features = _features(nodes, initializers)
    if features is not None and spec.config.get("features", features) != features:
        raise ModelError(
            f"{source}: its spec says {spec.config['features']} features, and its network has "
            f"{features}; export it again."
        )
    found = network_reach(nodes, {each.name: each for each in initializers}, LR, SR)
    if isinstance(found, str):
        return spec.with_(receptive_radius=UNBOUNDED)
    if found.scale != spec.scale:
        raise ModelError(
            f"{source}: its network enlarges {found.scale}x; graphs of form {spec.form} enlarge "
            f"{SCALE}x."
        )
    if spec.receptive_radius < found.radius:
        raise ModelError(
            f"{source}: its spec says that a pixel sees {spec.receptive_radius} pixels around it, "
            f"and its network sees {found.radius}, so tiles would have seams; export it again."
        )
    return spec.with_(receptive_radius=found.radius)


def _require_form(
    model: ModelProto, nodes: Sequence[NodeProto], spec: ModelSpec, source: str
) -> None:
    """Refuses a graph that computes something else around its network than its form does."""
    wanted = FORM_GRAPHS[spec.form]
    head, tail = Nodes("in"), Nodes("out")
    wanted.head(head)
    wanted.tail(tail)
    made = [*head.constants.values(), *tail.constants.values()]
    inside = {output for node in nodes for output in node.output}
    outside = [node for node in model.graph.node if inside.isdisjoint(node.output)]
    read = {name for node in outside for name in node.input}
    kept = [each for each in model.graph.initializer if each.name in read]

    def shell(nodes: Sequence[NodeProto], constants: Sequence[TensorProto]) -> str:
        bounds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (LR, SR)]
        inputs, outputs = [*wanted.inputs, bounds[1]], [*wanted.outputs, bounds[0]]
        graph = helper.make_graph(nodes, "shell", inputs, outputs, constants)
        return graph_sha256(helper.make_model(graph, opset_imports=model.opset_import))

    try:
        same = shell(outside, kept) == shell([*head.nodes, *tail.nodes], made)
    except ModelError:
        same = False
    if not same:
        raise ModelError(
            f"{source}: computes something else between its network and its inputs and outputs "
            f"than graphs of form {spec.form} do; export it again."
        )


def _features(nodes: Sequence[NodeProto], initializers: Sequence[TensorProto]) -> int | None:
    """Channels that the first convolution makes; None if that cannot be told."""
    known = {each.name: each for each in initializers}
    made = {name: node for node in nodes for name in node.output}
    weight = next((node.input[1] for node in nodes if node.op_type == "Conv"), "")
    while weight in made and made[weight].input:  # it may be stored in another type
        weight = made[weight].input[0]
    return int(known[weight].dims[0]) if weight in known and known[weight].dims else None


def _agree(ours: ValueInfoProto, theirs: ValueInfoProto) -> bool:
    """Whether a tensor of a graph can be that of a form; sides with names may have any length."""
    our, their = ours.type.tensor_type, theirs.type.tensor_type
    if our.elem_type != their.elem_type or len(our.shape.dim) != len(their.shape.dim):
        return False
    return all(
        a.dim_value == b.dim_value
        for a, b in zip(our.shape.dim, their.shape.dim, strict=True)
        if a.HasField("dim_value") and b.HasField("dim_value")
    )
