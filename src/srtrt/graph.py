"""Exported graphs: change of form and precision, the spec inside, reading and writing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
)

from srtrt.canonical import without_metadata
from srtrt.errors import ModelError, OutputError
from srtrt.files import replace_when_complete
from srtrt.forms import FORM_GRAPHS, LR, OPSET, SR, Nodes
from srtrt.graph_check import check_formally, read_model
from srtrt.graph_spec import network_nodes, read_spec
from srtrt.plain_data import shown
from srtrt.spec import SPEC_KEY, Form, ModelSpec, Precision
from srtrt.text import foreign
from srtrt.widen import widen


@dataclass(frozen=True, kw_only=True)
class ReducedType:
    """A floating-point type of 16 bits."""

    element: int
    """ONNX element type."""
    label: str
    largest: float
    """Largest finite value."""
    opset: int
    """First version of the operators in which Conv takes it."""


REDUCED_TYPES: dict[Precision, ReducedType] = {
    "fp16": ReducedType(
        element=TensorProto.FLOAT16, label="float16", largest=65504.0, opset=OPSET
    ),
    "bf16": ReducedType(
        element=TensorProto.BFLOAT16, label="bfloat16", largest=(2 - 2**-7) * 2.0**127, opset=22
    ),
}  # fmt: skip
"""Types in which a network's weights and activations can be."""


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
        raise ModelError(f"form is {shown(form)}; a graph can be {' or '.join(FORM_GRAPHS)}.")
    wanted = FORM_GRAPHS[form]
    head, tail = Nodes("in"), Nodes("out")
    wanted.head(head)
    wanted.tail(tail)
    nodes, initializers = network_nodes(model.graph)
    constants = {**head.constants, **tail.constants}
    graph = helper.make_graph(
        [*head.nodes, *nodes, *tail.nodes],
        f"{spec.name}-{form}",
        list(wanted.inputs),
        list(wanted.outputs),
        [*initializers, *constants.values()],
    )
    return _finish(graph, model, spec.with_(form=form))


def to_typed(
    model: ModelProto, spec: ModelSpec, precision: Precision, keep: Collection[str] = ()
) -> ModelProto:
    """The same graph with the network's weights and activations in float16 or bfloat16.

    Everything outside ``lr`` .. ``sr``, that is the casts, the colour conversion and the
    rounding, stays float32. Typed graphs of this kind need no precision flag of an engine.

    Args:
        model: a float32 graph.
        spec: facts about it; its precision is replaced.
        precision: ``fp16`` or ``bf16``.
        keep: names of nodes, see :func:`layer_name`, that compute in float32. What follows them
            pointwise does, too, and what has only their results as input.

    Raises:
        ModelError: if the graph has no such network or is typed already, has no layer of a name,
            or a weight does not fit the type.
    """
    if precision not in REDUCED_TYPES:
        raise ModelError(f"no type for {shown(precision)}; expected {' or '.join(REDUCED_TYPES)}.")
    if spec.precision != "fp32":
        raise ModelError(f"{spec.name} is {spec.precision} already; expected an fp32 graph.")
    nodes, initializers = network_nodes(model.graph)
    unknown = set(keep).difference(map(layer_name, nodes))
    if unknown:
        raise ModelError(f"{spec.name} has no layer {shown(min(unknown))} to keep in fp32.")
    inside = {output for node in nodes for output in node.output}
    weights = {tensor.name for tensor in initializers}
    typing = _Typing(element_types(model), initializers, precision)
    typing.retype(nodes, keep)
    before, after = _split([n for n in model.graph.node if inside.isdisjoint(n.output)])
    graph = helper.make_graph(
        [*before, *typing.nodes, *after],
        model.graph.name,
        list(model.graph.input),
        list(model.graph.output),
        [*(i for i in model.graph.initializer if i.name not in weights), *typing.constants],
    )
    opset = REDUCED_TYPES[precision].opset
    return _finish(graph, model, spec.with_(precision=precision), opset)


class _Typing:
    """Gives nodes a type one by one, with a Cast wherever a value changes its own."""

    def __init__(
        self, types: Mapping[str, int], initializers: list[TensorProto], precision: Precision
    ) -> None:
        self._reduced, self._suffix = REDUCED_TYPES[precision].element, precision
        self._given = {tensor.name: tensor for tensor in initializers}
        self._types = dict(types)
        self._made: set[str] = set()
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def retype(self, nodes: list[NodeProto], keep: Collection[str]) -> None:
        """Appends the nodes and weights in their new types, float32 ``sr`` at the end."""
        wanted: list[int] = []
        for node in nodes:
            wanted.append(self._type_of(node, keep))
            for name in node.output:
                if self._types.get(name) == TensorProto.FLOAT:
                    self._types[name] = wanted[-1]
        uses: dict[str, set[int]] = {}
        for node, element in zip(nodes, wanted, strict=True):
            for name in self._given.keys() & set(node.input):
                uses.setdefault(name, set()).add(element)
        for node, element in zip(nodes, wanted, strict=True):
            copy = NodeProto()
            copy.CopyFrom(node)
            for k, name in enumerate(node.input):
                copy.input[k] = self._input(name, element, uses)
            for k, name in enumerate(node.output):
                if name == SR and element == self._reduced:
                    copy.output[k] = f"{SR}.{self._suffix}"
            self.nodes.append(copy)
        if self._types[SR] == self._reduced:
            self._cast(f"{SR}.{self._suffix}", SR, TensorProto.FLOAT)

    def _type_of(self, node: NodeProto, keep: Collection[str]) -> int:
        if layer_name(node) in keep:
            return TensorProto.FLOAT
        if node.op_type != "Conv":
            values = [self._types.get(n) for n in node.input if n not in self._given]
            if self._reduced not in values:
                return TensorProto.FLOAT
        return self._reduced

    def _input(self, name: str, element: int, uses: Mapping[str, set[int]]) -> str:
        """The name under which a value exists in a type; it is made if it does not."""
        if name in self._given:
            return self._constant(self._given[name], element, shared=len(uses[name]) > 1)
        held = self._types.get(name)
        if held == element or held not in (TensorProto.FLOAT, self._reduced):
            return name
        other = f"{name}.{'fp32' if element == TensorProto.FLOAT else self._suffix}"
        if other not in self._made:
            self._made.add(other)
            self._cast(name, other, element)
        return other

    def _constant(self, tensor: TensorProto, element: int, *, shared: bool) -> str:
        reduced = tensor.data_type == TensorProto.FLOAT and element == self._reduced
        name = f"{tensor.name}.{self._suffix}" if reduced and shared else tensor.name
        if name not in self._made:
            self._made.add(name)
            self.constants.append(_rounded(tensor, element, name) if reduced else tensor)
        return name

    def _cast(self, source: str, result: str, element: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [result], result, to=element))


def element_types(model: ModelProto) -> dict[str, int]:
    """ONNX element type of every tensor of a graph by name, weights included."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {
        **{value.name: value.type.tensor_type.elem_type for value in values},
        **{tensor.name: tensor.data_type for tensor in inferred.initializer},
    }


def layer_name(node: NodeProto) -> str:
    """What people call a node: a convolution by its weight (``trunk_conv``), others as they are."""
    if node.op_type == "Conv":
        return node.input[1].removesuffix(".weight")
    return node.name or node.output[0]


def _split(outer: list[NodeProto]) -> tuple[list[NodeProto], list[NodeProto]]:
    """The nodes before the network, up to the one that makes ``lr``, and those after it."""
    cut = next((k for k, node in enumerate(outer) if LR in node.output), -1) + 1
    return outer[:cut], outer[cut:]


def _rounded(tensor: TensorProto, element: int, name: str) -> TensorProto:
    """A float32 tensor to the nearest values of another type, ties to even."""
    values = numpy_helper.to_array(tensor)
    if element == TensorProto.FLOAT16:
        with np.errstate(over="ignore"):
            bits = values.astype(np.float16).view(np.uint16)
        infinite = 0x7C00
    else:  # numpy has no bfloat16: it is the upper half of a float32
        wide = values.view(np.uint32).astype(np.uint64)
        bits = ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)
        infinite = 0x7F80
    if np.any(bits & infinite == infinite):
        kind = next(t for t in REDUCED_TYPES.values() if t.element == element)
        raise ModelError(
            f"weight {shown(tensor.name)} exceeds the range of {kind.label} ({kind.largest:.5g}); "
            "keep its layer in fp32."
        )
    return helper.make_tensor(name, element, values.shape, bits.tobytes(), raw=True)


def _finish(
    graph: GraphProto, model: ModelProto, spec: ModelSpec, opset: int = OPSET
) -> ModelProto:
    opset = max([opset, *(i.version for i in model.opset_import if i.domain in ("", "ai.onnx"))])
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    result = without_metadata(result)
    result.producer_name, result.ir_version = "srtrt", 10
    check_formally(result, foreign(spec.name))
    return stamp(result, spec)


def stamp(model: ModelProto, spec: ModelSpec) -> ModelProto:
    """The same model with this spec in its metadata."""
    stamped = ModelProto()
    stamped.CopyFrom(model)
    helper.set_model_props(stamped, {SPEC_KEY: spec.to_json()})
    return stamped


def load_graph(path: Path) -> tuple[ModelProto, ModelSpec]:
    """Reads an exported graph and its spec.

    Raises:
        InputError: if the file is missing or not an ONNX file.
        ModelError: if the graph must not be used, see :func:`srtrt.graph_check.check_model`, or
            its spec is missing or disagrees with it.
    """
    model = widen(read_model(path))
    return model, read_spec(model, str(path))


def save_graph(path: Path, model: ModelProto, *, replace: bool = True) -> None:
    """Writes one file, which appears under its name only when complete.

    Args:
        path: where to.
        model: the graph.
        replace: whether an existing file is replaced; see
            :func:`srtrt.files.replace_when_complete`.

    Raises:
        OutputError: if it cannot be written.
    """
    with replace_when_complete(path, replace=replace) as part:
        try:
            part.write_bytes(model.SerializeToString())
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror}).") from error


def graph_file_name(spec: ModelSpec) -> str:
    """The file name of an exported graph, such as ``srresnet-yuv420p8-fp16.onnx``."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.name)
    return f"{safe}-{spec.form}-{spec.precision}.onnx"
