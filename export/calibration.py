"""What calibration pictures say about a network: its tensors, in float32 and quantised so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from srtrt.errors import InputError
from srtrt.export.pairs import constants_of
from srtrt.export.rounding import Floats, Grid
from srtrt.export.running import quiet_session, run_graph
from srtrt.forms import LR

Batch = list[Floats]
"""One tensor of the network, an array ``[1, C, H, W]`` for each crop."""

_SHARES = np.geomspace(1.0, 0.04, 48)
"""Ranges of a tensor that are tried, as shares of its largest magnitude."""
_HEADROOM = 2.0
"""Of the range of floating types, whose steps do not grow with it."""
_SAMPLES = 6_000
"""Values of a channel, over all crops, from which its range is chosen."""
_EDGE_GAIN = 8.0
_FIELD, _FIELDS = 16, 3
"""Side and number of the white fields."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def calibration_crops(
    pictures: Sequence[NDArray[np.uint8]], *, side: int = 48, photographs: int = 40
) -> Batch:
    """Crops of LR pictures as the network's float input, and graphics besides.

    A quarter of the crops is turned into graphics: photographs seldom hold the hard edges between
    saturated colours that lettering and drawings have, on which activations are largest; ranges
    chosen without them would cut those off. So does the edge of a white page, where zero padding
    begins: some small white fields stand for it.

    Args:
        pictures: uint8 RGB ``[H, W, 3]``, any sizes.
        side: longest side of a crop in LR pixels.
        photographs: how many crops are taken, as evenly from the pictures as possible; fewer if
            that many would cover small pictures more than once.

    Returns:
        float32 ``[1, 3, h, w]`` in [0, 1], RGB, always the same for the same pictures.

    Raises:
        InputError: if there is no picture.
    """
    if not pictures:
        raise InputError("calibration needs at least one picture; there is none.")
    area = sum(p.shape[0] * p.shape[1] for p in pictures)
    count = min(photographs, max(len(pictures), -(-area // side**2)))
    crops = []
    for k in range(count):
        picture = pictures[k * len(pictures) // count]
        height, width = picture.shape[:2]
        # Multiples of irrational numbers spread evenly over each picture, however many there are.
        top = int(k * 0.7549 % 1 * max(1, height - side + 1))
        left = int(k * 0.5698 % 1 * max(1, width - side + 1))
        crop = picture[top : top + side, left : left + side]
        planes = np.ascontiguousarray(crop.transpose(2, 0, 1)[None], dtype=np.float32)
        crops.append(planes / np.float32(255))
    graphics = [_as_graphics(crop, k) for k, crop in enumerate(crops[::4])]
    return [*crops, *graphics, *[np.ones((1, 3, _FIELD, _FIELD), np.float32)] * _FIELDS]


def _as_graphics(crop: Floats, index: int) -> Floats:
    """The crop's bright and dark parts in two corners of the colour cube, with steep edges."""
    luma = np.tensordot(_LUMA, crop[0], 1)
    share = np.clip((luma - np.median(luma)) * _EDGE_GAIN + 0.5, 0, 1)
    first, second = np.random.default_rng(index).choice(8, 2, replace=False)
    corners = [(code >> np.arange(3) & 1).astype(np.float32) for code in (first, second)]
    bright, dark = (corner[:, None, None] for corner in corners)
    return np.asarray((bright * share + dark * (1 - share))[None], np.float32)


def fake_quantise(batch: Batch, scale: float, grid: Grid) -> Batch:
    """A tensor rounded to scaled numbers of the grid."""
    step = np.float32(scale)
    return [np.asarray(grid.nearest(x / step) * step, np.float32) for x in batch]


def best_scale(batch: Batch, importance: NDArray[np.float64], grid: Grid) -> float:
    """The scale of a quantised tensor that adds least noise to what is computed from it.

    Args:
        batch: the tensor on every crop.
        importance: ``[C]``, how much the squared error of a channel matters.
        grid: what it is rounded to.

    Returns:
        For int8, the scale with the least error, rounding and clipping together, among ranges from
        4 to 100 percent of the largest magnitude. Errors are squared and weighted within a crop;
        their roots are summed over the crops, so that a few crops with values far beyond those of
        the others do not decide alone. For fp8, one that clips nothing.
    """
    largest = max(float(np.abs(x).max()) for x in batch)
    if largest == 0.0:
        return 1.0 / grid.largest
    if grid.element != TensorProto.INT8:
        return _HEADROOM * largest / grid.largest
    flat = [x.reshape(x.shape[1], -1) for x in batch]
    samples = [x[:, :: max(1, x.shape[1] * len(batch) // _SAMPLES)] for x in flat]

    def noise(share: float) -> float:
        rounded = fake_quantise(samples, largest * share / grid.largest, grid)
        squares = [
            importance @ np.mean(np.square(a - b, dtype=np.float64), axis=1)
            for a, b in zip(rounded, samples, strict=True)
        ]
        return float(np.sum(np.sqrt(squares)))

    return float(largest * min(_SHARES, key=noise) / grid.largest)


def mean_difference(expected: Batch, found: Batch) -> Floats:
    """How much higher each channel is in the first than in the second, on average; ``[C]``."""
    total = sum(
        (a - b).sum(axis=(0, 2, 3), dtype=np.float64) for a, b in zip(expected, found, strict=True)
    )
    return np.asarray(total / sum(x.shape[2] * x.shape[3] for x in found), np.float32)


def psnr_db(expected: Batch, found: Batch) -> float:
    """PSNR over the pixels of all crops, of pictures clamped to [0, 1]; unrounded.

    Returns:
        Decibels; infinity if they are equal.
    """
    pairs = zip(expected, found, strict=True)
    squares = [np.square(np.clip(a, 0, 1) - np.clip(b, 0, 1), dtype=np.float64) for a, b in pairs]
    error = sum(float(s.sum()) for s in squares) / sum(s.size for s in squares)
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def run_network(model: ModelProto, crops: Batch) -> Batch:
    """The output of a whole network for each crop, in ONNX Runtime on the CPU.

    Raises:
        PackageError: if ONNX Runtime is not installed.
    """
    return [outputs[0] for outputs in run_graph(model, crops)]


class NodeRunner:
    """Computes single nodes of a network with ONNX Runtime on the CPU."""

    def __init__(self, model: ModelProto) -> None:
        self._opsets = list(model.opset_import)
        self._sessions: dict[str, Any] = {}
        self.constants = constants_of(model)

    def __call__(self, node: NodeProto, tensors: Mapping[str, Batch]) -> Batch:
        """The node's only output on every crop.

        Args:
            node: one of the network's nodes.
            tensors: those of its inputs that are not constants.
        """
        fixed = {name: self.constants[name] for name in node.input if name in self.constants}
        live = {name: tensors[name] for name in node.input if name in tensors}
        count = len(next(iter(live.values())))
        rows = [fixed | {name: batch[k] for name, batch in live.items()} for k in range(count)]
        return [self._once(node, row) for row in rows]

    def convolve(self, node: NodeProto, batch: Batch, weight: NDArray[Any]) -> Batch:
        """A convolution with other weights and its own bias."""
        source, name, bias = node.input
        fixed = {name: np.asarray(weight, np.float32), bias: self.constants[bias]}
        return [self._once(node, fixed | {source: x}) for x in batch]

    def _once(self, node: NodeProto, inputs: Mapping[str, NDArray[Any]]) -> Floats:
        if node.name not in self._sessions:
            self._sessions[node.name] = self._open(node, inputs)
        result: Floats = self._sessions[node.name].run(None, dict(inputs))[0]
        return result

    def _open(self, node: NodeProto, inputs: Mapping[str, NDArray[Any]]) -> Any:
        infos = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
            )
            for name, value in inputs.items()
        ]
        output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        graph = helper.make_graph([node], node.name, infos, [output])
        model = helper.make_model(graph, opset_imports=self._opsets)
        model.ir_version = 10
        return quiet_session(model)


Tensors = dict[str, Batch]
Visit = Callable[[NodeProto, Tensors, Tensors], tuple[Batch, Batch]]
"""Is given a node, and the tensors known so far in float32 and in the quantised network; returns
the node's output in both."""


def walk(model: ModelProto, crops: Batch, visit: Visit) -> tuple[Batch, Batch]:
    """Computes a network node by node, in float32 and quantised side by side.

    Only the tensors that are still needed are kept.

    Args:
        model: the network from ``lr`` to its only output, of nodes with one output each.
        crops: its input.
        visit: computes its nodes.

    Returns:
        The network's output, in float32 and quantised.
    """
    nodes = model.graph.node
    last_use = {name: k for k, node in enumerate(nodes) for name in node.input}
    plain: Tensors = {LR: crops}
    coarse: Tensors = {LR: crops}
    for k, node in enumerate(nodes):
        output = node.output[0]
        plain[output], coarse[output] = visit(node, plain, coarse)
        for name in set(node.input):
            if last_use[name] == k:
                plain.pop(name, None)
                coarse.pop(name, None)
    result = model.graph.output[0].name
    return plain[result], coarse[result]
