"""Which layers of a network must stay float32, found by measurement on real pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from srtrt.errors import ParityError
from srtrt.export.running import run_graph
from srtrt.forms import LR
from srtrt.graph import REDUCED_TYPES, element_types, layer_name, to_typed
from srtrt.graph_spec import network_nodes
from srtrt.runtime.parity import Picture
from srtrt.spec import ModelSpec, Precision
from srtrt.twin import float32_twin

SAFETY = 4.0
"""A layer counts as overflowing from this part of the largest value of its type: a picture that
was not measured may excite it more."""

MOST_KEPT = 0.5
"""Share of the convolutions that may stay float32; with more, the type is not worth its name."""

_CROP, _CROPS = 48, 4
"""Side and number of the crops on which each layer's own damage is measured."""

_TILE = 128
"""Side of the tiles on which activations are measured."""

Judge = Callable[[frozenset[str]], bool]
"""Whether the typed network passes its gate with these layers kept in float32."""


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """The layers that stay float32, and what was measured to find them."""

    precision: Precision
    kept: Mapping[str, str]
    """Why each layer is kept, by its name (:func:`srtrt.graph.layer_name`)."""
    largest: float
    """Largest magnitude of an activation in the float32 network, whose input is 0..1."""
    largest_in: str
    """Name of the layer that makes it."""
    layer_db: Mapping[str, float]
    """For each convolution that fits the type, see :func:`layer_damage`."""

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON values; an infinite PSNR becomes None."""
        return {
            "kept": dict(self.kept),
            "largest_activation": float(f"{self.largest:.4g}"),
            "largest_in": self.largest_in,
            "layer_db": {
                name: None if math.isinf(db) else round(db, 1) for name, db in self.layer_db.items()
            },
        }


def choose_layers(
    network: ModelProto,
    spec: ModelSpec,
    precision: Precision,
    pictures: Sequence[Picture],
    judge: Judge,
    on_progress: Callable[[str], None] | None = None,
) -> LayerChoice:
    """Finds the fewest layers that must stay float32 for a network to be typed.

    Layers whose input, output or weights come too near the end of the type's range are kept. If
    the gate is missed then, layers are kept in the order of their own damage, as few as it takes.
    The result need not pass: at most :data:`MOST_KEPT` of the convolutions are kept.

    Args:
        network: float32, from ``lr`` to ``sr``.
        spec: facts about it.
        precision: ``fp16`` or ``bf16``.
        pictures: LR pictures, at least one.
        judge: whether the gate is met; it is asked as little as possible.
        on_progress: told a few words before each layer is measured.

    Raises:
        ParityError: if too many would have to be kept for their range.
        PackageError: if ONNX Runtime is not installed.
    """
    nodes, _ = network_nodes(network.graph)
    ranges = activation_ranges(network, pictures)
    convolutions = {layer_name(node) for node in nodes if node.op_type == "Conv"}
    kept = _overflowing(network, nodes, ranges, REDUCED_TYPES[precision].largest)
    most = int(MOST_KEPT * len(convolutions)) - len(kept.keys() & convolutions)
    if most < 0:
        some = ", ".join(f"{name} ({why})" for name, why in list(kept.items())[:3])
        raise ParityError(
            f"{spec.name} cannot be computed in {precision}: {len(kept.keys() & convolutions)} of "
            f"its {len(convolutions)} convolutions would have to stay fp32, such as {some}; "
            f"expected at most {MOST_KEPT:.0%}."
        )
    damage = layer_damage(network, spec, precision, pictures, frozenset(kept), on_progress)
    if not judge(frozenset(kept)):
        ranked = sorted(damage, key=lambda name: damage[name])
        count = _fewest(ranked[:most], frozenset(kept), judge)
        kept |= {name: f"costs most accuracy: {damage[name]:.1f} dB" for name in ranked[:count]}
    makers = {output: layer_name(node) for node in nodes for output in node.output}
    largest = max(ranges, key=lambda name: ranges[name])
    return LayerChoice(
        precision=precision,
        kept=kept,
        largest=ranges[largest],
        largest_in=makers.get(largest, largest),
        layer_db=damage,
    )


def activation_ranges(network: ModelProto, pictures: Sequence[Picture]) -> dict[str, float]:
    """Largest magnitude of every activation of a float32 network, ``lr`` and ``sr`` included.

    Args:
        network: float32, from ``lr`` to ``sr``.
        pictures: LR pictures, uint8 ``[H, W, 3]``.
    """
    nodes, _ = network_nodes(network.graph)
    types = element_types(network)
    produced = [LR, *(output for node in nodes for output in node.output)]
    names = [name for name in produced if types.get(name) == TensorProto.FLOAT]
    probed = ModelProto()
    probed.CopyFrom(network)
    del probed.graph.output[:]
    for name in names:
        absolute, largest = f"{name}.absolute", f"{name}.largest"
        probed.graph.node.append(helper.make_node("Abs", [name], [absolute]))
        probed.graph.node.append(helper.make_node("ReduceMax", [absolute], [largest], keepdims=0))
        probed.graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, []))
    tiles = [_planes(tile) for picture in pictures for tile in _tiles(picture)]
    found = np.array(run_graph(probed, tiles))
    return dict(zip(names, found.max(axis=0).tolist(), strict=True))


def layer_damage(
    network: ModelProto,
    spec: ModelSpec,
    precision: Precision,
    pictures: Sequence[Picture],
    kept: frozenset[str] = frozenset(),
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """PSNR of a network's output when one layer alone computes in a type.

    A layer is a convolution with what follows it pointwise; sums stay float32.

    Args:
        network: float32, from ``lr`` to ``sr``.
        spec: facts about it.
        precision: ``fp16`` or ``bf16``.
        pictures: LR pictures; a crop of a few is used.
        kept: layers that are not tried.
        on_progress: told a few words before each layer is measured.

    Returns:
        dB by name, against the float32 network, of float RGB with range 1, unclamped.
    """
    nodes, weights = network_nodes(network.graph)
    constants = {tensor.name for tensor in weights}
    layers = [layer_name(node) for node in nodes if node.op_type == "Conv"]
    sums = {layer_name(node) for node in nodes if len(set(node.input) - constants) > 1}
    chosen = np.linspace(0, len(pictures) - 1, min(len(pictures), _CROPS)).round().astype(int)
    inputs = [_planes(_centre(pictures[k])) for k in chosen]
    exact = run_graph(network, inputs)
    found = {}
    for name in layers:
        if name in kept:
            continue
        if on_progress is not None:
            on_progress(f"measuring {name} in {precision}")
        others = (set(layers) | sums | kept) - {name}
        twin = float32_twin(to_typed(network, spec, precision, others))
        outputs = run_graph(twin, inputs, optimise=False)
        errors = [np.mean(np.square(a[0] - b[0])) for a, b in zip(exact, outputs, strict=True)]
        error = float(np.mean(errors, dtype=np.float64))
        found[name] = math.inf if error == 0 else -10 * math.log10(error)
    return found


def _overflowing(
    network: ModelProto, nodes: list[NodeProto], ranges: Mapping[str, float], largest: float
) -> dict[str, str]:
    """Nodes that touch a value out of range, and what it is.

    Those are left out that compute in float32 anyway, as they follow others.
    """
    weights = {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
        for tensor in network.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    constants = {tensor.name for tensor in network.graph.initializer}
    found: dict[str, str] = {}
    float32: set[str] = set()
    for node in nodes:
        if node.op_type != "Conv" and float32.issuperset(set(node.input) - constants):
            float32.update(node.output)
            continue
        activation = max(ranges.get(name, 0.0) for name in [*node.input, *node.output])
        weight = max((weights.get(name, 0.0) for name in node.input), default=0.0)
        if not activation * SAFETY <= largest:  # so that NaN counts
            word = "nearly overflows" if activation <= largest else "overflows"
            found[layer_name(node)] = f"{word}: {activation:.2g}"
        elif weight > largest:
            found[layer_name(node)] = f"weight overflows: {weight:.2g}"
        if layer_name(node) in found:
            float32.update(node.output)
    return found


def _fewest(ranked: Sequence[str], kept: frozenset[str], judge: Judge) -> int:
    """How many of the ranked layers must be kept too; all if even they do not suffice."""
    low, high = 0, len(ranked)  # none is too few
    while high - low > 1:
        middle = (low + high) // 2
        if judge(kept | set(ranked[:middle])):
            high = middle
        else:
            low = middle
    return high


def _centre(picture: Picture) -> Picture:
    top, left = (max(0, (side - _CROP) // 2) for side in picture.shape[:2])
    return picture[top : top + _CROP, left : left + _CROP]


def _tiles(picture: Picture) -> list[Picture]:
    """A picture in parts, small enough that all activations of one fit in memory."""
    height, width = picture.shape[:2]
    return [
        picture[top : top + _TILE, left : left + _TILE]
        for top in range(0, height, _TILE)
        for left in range(0, width, _TILE)
    ]


def _planes(picture: Picture) -> NDArray[np.float32]:
    """A picture as ``lr``: float32 ``[1, 3, H, W]``, 0..1."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None] / np.float32(255))
