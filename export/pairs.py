"""Networks for quantising: brought into shape by exact rewrites, and given their Q/DQ pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from srtrt.errors import ModelError
from srtrt.export.rounding import Floats, Grid
from srtrt.forms import SR
from srtrt.graph import layer_name

Constants = dict[str, NDArray[Any]]

_POINTWISE = ("LeakyRelu", "Relu")


@dataclass(frozen=True)
class QuantisedConv:
    """The constants of one convolution with quantised weights."""

    weight: NDArray[np.float64]
    """Numbers of the grid, ``[O, C, kh, kw]``."""
    scales: Floats
    """Of each output channel, ``[O]``."""
    bias: Floats
    """``[O]``, corrected."""


def constants_of(model: ModelProto) -> Constants:
    """The initializers by name."""
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def convolutions_of(model: ModelProto) -> dict[str, NodeProto]:
    """Every convolution by name, checked to be of the only kind there should be.

    Raises:
        ModelError: if one is of another kind or not float32, or if there is none.
    """
    constants = constants_of(model)
    found = {}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        weight = constants.get(node.input[1])
        side = weight.shape[-1] if weight is not None and weight.ndim == 4 else 0
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        same = attributes.get("pads") == [side // 2] * 4 and attributes.get("group", 1) == 1
        ones = all(attributes.get(key, [1, 1]) == [1, 1] for key in ("strides", "dilations"))
        if not (side % 2 and same and ones and len(node.input) == 3):
            raise ModelError(
                f"convolution {node.name!r} cannot be quantised: expected a square odd kernel, "
                "zero padding to the same size, a bias, neither groups nor strides."
            )
        assert weight is not None
        if weight.dtype != np.float32:
            raise ModelError(
                f"convolution {node.name!r} is {weight.dtype}; quantising starts from float32."
            )
        found[layer_name(node)] = node
    if not found:
        raise ModelError(f"graph {model.graph.name!r} has no convolution to quantise.")
    return found


def prepared(model: ModelProto) -> ModelProto:
    """The same function, in the order in which engines compute it fastest in 8 bits.

    Pointwise activations come before pixel shuffles, not after them, so that an engine computes
    convolution, activation and rounding in one go and shuffles bytes. Where another convolution
    follows a shuffle, the channels before it are ordered by phase: with channels stored last, it
    then moves whole pixels instead of single values.
    """
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    constants = constants_of(model)
    _activations_first(nodes)
    _shuffle_by_phase(nodes, constants)
    return rebuilt(model, nodes, constants)


def _activations_first(nodes: list[NodeProto]) -> None:
    users = _users(nodes)
    for k, shuffle in enumerate(nodes[:-1]):
        act = nodes[k + 1]
        if shuffle.op_type != "DepthToSpace" or users[shuffle.output[0]] != [act]:
            continue
        if act.op_type in _POINTWISE:
            between, after = f"{shuffle.output[0]}.act", act.output[0]
            act.input[0], act.output[0] = shuffle.input[0], between
            shuffle.input[0], shuffle.output[0] = between, after
            nodes[k], nodes[k + 1] = act, shuffle


def _shuffle_by_phase(nodes: Sequence[NodeProto], constants: Constants) -> None:
    """CRD becomes DCR by a permutation of the output channels of the convolution before it."""
    users = _users(nodes)
    producer = {node.output[0]: node for node in nodes}
    for shuffle in nodes:
        if shuffle.op_type != "DepthToSpace" or shuffle.output[0] == SR:
            continue
        attributes = {a.name: a for a in shuffle.attribute}
        source = producer[shuffle.input[0]]
        chain = [source]
        while source.op_type in _POINTWISE:
            source = producer[source.input[0]]
            chain.append(source)
        alone = all(len(users[node.output[0]]) == 1 for node in chain)
        mode = attributes.get("mode")
        if source.op_type != "Conv" or not alone or mode is None or mode.s != b"CRD":
            continue
        phases = attributes["blocksize"].i ** 2
        for name in source.input[1:]:
            value = constants[name]
            groups = value.reshape(-1, phases, *value.shape[1:]).swapaxes(0, 1)
            constants[name] = np.ascontiguousarray(groups.reshape(value.shape))
        mode.s = b"DCR"


def _users(nodes: Sequence[NodeProto]) -> dict[str, list[NodeProto]]:
    users: dict[str, list[NodeProto]] = {node.output[0]: [] for node in nodes}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def rebuilt(
    model: ModelProto,
    nodes: Sequence[NodeProto],
    constants: Mapping[str, NDArray[Any] | TensorProto],
    opset: int = 0,
) -> ModelProto:
    """A network with other nodes, and of these constants those that they use.

    Args:
        model: the network whose inputs and outputs it has.
        nodes: its nodes in order.
        constants: arrays or tensors by name.
        opset: least version of its operators.
    """
    used = {name for node in nodes for name in node.input}
    tensors = [
        value if isinstance(value, TensorProto) else numpy_helper.from_array(value, name)
        for name, value in constants.items()
        if name in used
    ]
    graph = helper.make_graph(
        list(nodes),
        model.graph.name,
        list(model.graph.input),
        list(model.graph.output),
        tensors,
    )
    version = max([opset, *(each.version for each in model.opset_import)])
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    result.ir_version = 10
    onnx.checker.check_model(result, full_check=True)
    return result


def with_pairs(
    model: ModelProto,
    grid: Grid,
    convolutions: Mapping[str, QuantisedConv],
    scales: Mapping[str, float],
    sums: Collection[str] = (),
) -> ModelProto:
    """A network with Q/DQ pairs before some of its operators.

    Args:
        model: the float32 network, :func:`prepared`.
        grid: type of the quantised tensors.
        convolutions: those to be computed in 8 bits, by name.
        scales: of every tensor that these read, by its name, and of those that sums read.
        sums: names of the additions that read quantised tensors where a scale is known.
    """
    return _Pairs(model, grid, convolutions, scales, sums).build()


class _Pairs:
    """Writes the nodes of the quantised network, each quantised tensor once."""

    def __init__(
        self,
        model: ModelProto,
        grid: Grid,
        convolutions: Mapping[str, QuantisedConv],
        scales: Mapping[str, float],
        sums: Collection[str],
    ) -> None:
        self.model, self.grid = model, grid
        self.convolutions, self.scales, self.sums = convolutions, scales, sums
        self.constants: dict[str, NDArray[Any] | TensorProto] = dict(constants_of(model))
        self.nodes: list[NodeProto] = []
        self.done: set[str] = set()
        self.shuffled = {
            node.output[0] for node in model.graph.node if node.op_type == "DepthToSpace"
        }

    def build(self) -> ModelProto:
        read = {
            node.input[0]
            for node in self.model.graph.node
            if node.op_type == "Conv" and layer_name(node) in self.convolutions
        }
        for original in self.model.graph.node:
            node = NodeProto.FromString(original.SerializeToString())
            if node.op_type == "Conv" and layer_name(node) in self.convolutions:
                self._convolution(node)
            elif node.op_type == "Add" and node.name in self.sums:
                for k, name in enumerate(node.input):
                    if name in self.scales:
                        node.input[k] = self._quantised(name, self.scales[name])
            elif node.output[0] in self.shuffled & read:
                # Rounded already here, so that bytes are shuffled; once more after it changes
                # nothing, and tells engines that look for a pair before each convolution.
                source = node.input[0]
                node.input[0] = self._quantised(source, self.scales[node.output[0]])
            self.nodes.append(node)
        return rebuilt(self.model, self.nodes, self.constants, self.grid.opset)

    def _convolution(self, node: NodeProto) -> None:
        made = self.convolutions[layer_name(node)]
        source, weight, bias = node.input
        self.constants[f"{weight}.q"] = self.grid.tensor(f"{weight}.q", made.weight)
        self.constants[f"{weight}.scale"] = made.scales
        zeros = np.zeros(len(made.scales))
        self.constants[f"{weight}.zero"] = self.grid.tensor(f"{weight}.zero", zeros)
        self.constants[bias] = made.bias
        self._add(
            "DequantizeLinear",
            [f"{weight}.q", f"{weight}.scale", f"{weight}.zero"],
            f"{weight}.dq",
            axis=0,
        )
        node.input[0] = self._quantised(source, self.scales[source])
        node.input[1] = f"{weight}.dq"

    def _quantised(self, name: str, scale: float) -> str:
        """The dequantised form of a tensor, made when it is first asked for."""
        if name not in self.done:
            self.constants[f"{name}.scale"] = np.asarray(scale, np.float32)
            self.constants[f"{name}.zero"] = self.grid.tensor(f"{name}.zero", np.zeros(()))
            parameters = [f"{name}.scale", f"{name}.zero"]
            self._add("QuantizeLinear", [name, *parameters], f"{name}.q")
            self._add("DequantizeLinear", [f"{name}.q", *parameters], f"{name}.dq")
            self.done.add(name)
        return f"{name}.dq"

    def _add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
