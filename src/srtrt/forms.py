"""What an exported graph takes and returns, and how the network is dressed in it.

A graph of either form is uint8 at both ends, so the host copies bytes and computes nothing:

- ``rgb8``: ``rgb`` ``[N, H, W, 3]`` to ``rgb_x4`` ``[N, 4H, 4W, 3]``, RGB.
- ``yuv420p8``: ``y`` ``[N, 1, H, W]`` and ``uv`` ``[N, 2, H/2, W/2]`` to ``y_x4``
  ``[N, 1, 4H, 4W]`` and ``uv_x4`` ``[N, 2, 2H, 2W]``, with four small float32 inputs that say what
  the samples mean: see :meth:`srtrt.colour.YuvColour.inputs`. H and W are even.
  Colours outside RGB are clamped before the network.

Inside, the tensors ``lr`` and ``sr`` (float32 RGB, 0..1, planar) bound the network, so one form
can be made from another without the trained weights' source. A form for 10-bit video would take
16-bit samples as pairs of bytes and join the table at the end of this file.

Casts come first and last because TensorRT accepts uint8 only into and out of Cast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from srtrt.spec import Form

LR, SR = "lr", "sr"
"""Names of the tensors at the network's own input and output."""

SCALE = 4
"""Enlargement of every form, in each direction."""

OPSET = 18
"""Version of the ONNX operators that a form is built from."""


_END = np.iinfo(np.int64).max
"""Stop of a slice that goes to the end."""


class Nodes:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def add(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Adds one operator with a single result."""
        output = name or f"{self.prefix}.{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: ArrayLike, dtype: type = np.int64) -> str:
        """A constant tensor; equal ones are stored once."""
        array: NDArray[Any] = np.asarray(value, dtype)
        name = f"{self.prefix}.const_{'_'.join(str(v) for v in array.flatten())}_{array.ndim}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def cast(self, x: str, to: int = TensorProto.FLOAT, name: str | None = None) -> str:
        """Converts to another element type."""
        return self.add("Cast", x, name=name, to=to)

    def slice(self, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        """Part of a tensor along one axis, with the meaning of ``x[start:stop:step]``."""
        bounds = [self.constant([v]) for v in (start, stop, axis, step)]
        return self.add("Slice", x, *bounds)

    def element(self, vector: str, index: int) -> str:
        """One element of a 1-D tensor, as a tensor of shape [1]."""
        return self.slice(vector, 0, index, index + 1)

    def column(self, matrix: str, index: int, rows: tuple[int, int] = (0, 3)) -> str:
        """Part of a column of a [3, 4] matrix, shaped [1, rows, 1, 1]."""
        part = self.slice(self.slice(matrix, 1, index, index + 1), 0, *rows)
        return self.add("Reshape", part, self.constant([1, rows[1] - rows[0], 1, 1]))

    def weighted_sum(self, terms: list[tuple[str, str]]) -> str:
        """Sum of tensor * weight over the terms."""
        products = [self.add("Mul", x, weight) for x, weight in terms]
        total = products[0]
        for product in products[1:]:
            total = self.add("Add", total, product)
        return total

    def to_bytes(self, x: str, name: str, *, channels_last: bool = False) -> str:
        """Clamps to 0..255, rounds once to nearest, and casts to uint8."""
        low, high = self.constant(0.0, np.float32), self.constant(255.0, np.float32)
        x = self.add("Round", self.add("Clip", x, low, high))
        if channels_last:
            x = self.add("Transpose", x, perm=[0, 2, 3, 1])
        return self.cast(x, TensorProto.UINT8, name=name)


def _rgb8_head(g: Nodes) -> None:
    planes = g.add("Transpose", g.cast("rgb"), perm=[0, 3, 1, 2])
    g.add("Mul", planes, g.constant(1 / 255, np.float32), name=LR)


def _rgb8_tail(g: Nodes) -> None:
    scaled = g.add("Mul", SR, g.constant(255.0, np.float32))
    g.to_bytes(scaled, "rgb_x4", channels_last=True)


def _yuv420p8_head(g: Nodes) -> None:
    """Chroma to the luma grid by linear interpolation, then the matrix to RGB."""
    taps = g.add("Reshape", "chroma_up", g.constant([12]))
    padded = g.add("Pad", g.cast("uv"), g.constant([0, 0, 1, 1, 0, 0, 1, 1]), mode="edge")
    phases = []
    for row in (0, 1):
        vertical = _three_taps(g, padded, 2, taps, 3 * row)
        for column in (0, 1):
            phases.append(_three_taps(g, vertical, 3, taps, 6 + 3 * column))
    chroma = g.add("DepthToSpace", g.add("Concat", *phases, axis=1), blocksize=2, mode="DCR")
    planes = [g.cast("y"), g.slice(chroma, 1, 0, 1), g.slice(chroma, 1, 1, 2)]
    terms = [(plane, g.column("yuv_to_rgb", i)) for i, plane in enumerate(planes)]
    rgb = g.add("Add", g.weighted_sum(terms), g.column("yuv_to_rgb", 3))
    # YUV can name colours that RGB has not, and the network never saw any.
    g.add("Clip", rgb, g.constant(0.0, np.float32), g.constant(1.0, np.float32), name=LR)


def _three_taps(g: Nodes, padded: str, axis: int, taps: str, first: int) -> str:
    """Weighted sum of a sample and its two neighbours; ``padded`` has one more on each side."""
    shifted = [g.slice(padded, axis, k, k - 2 if k < 2 else _END) for k in range(3)]
    return g.weighted_sum([(x, g.element(taps, first + k)) for k, x in enumerate(shifted)])


def _yuv420p8_tail(g: Nodes) -> None:
    """The matrix to YUV, then chroma to half size with the taps of its siting."""
    planes = [g.slice(SR, 1, i, i + 1) for i in range(3)]

    def matrix_rows(rows: tuple[int, int]) -> str:
        terms = [(p, g.column("rgb_to_yuv", i, rows)) for i, p in enumerate(planes)]
        return g.add("Add", g.weighted_sum(terms), g.column("rgb_to_yuv", 3, rows))

    g.to_bytes(matrix_rows((0, 1)), "y_x4")
    taps = g.add("Reshape", "chroma_down", g.constant([6]))
    chroma = matrix_rows((1, 3))
    for axis, first in ((2, 0), (3, 3)):
        before = [0, 0, int(axis == 2), int(axis == 3)]
        padded = g.add("Pad", chroma, g.constant([*before, 0, 0, 0, 0]), mode="edge")
        samples = [g.slice(padded, axis, k, k - 2 if k < 2 else _END, 2) for k in range(3)]
        chroma = g.weighted_sum([(x, g.element(taps, first + k)) for k, x in enumerate(samples)])
    g.to_bytes(chroma, "uv_x4")


def _image(name: str, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.UINT8, shape)


def _table(name: str, *shape: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


@dataclass(frozen=True)
class FormGraph:
    """Inputs and outputs of a form, and what makes ``lr`` and takes ``sr``."""

    inputs: tuple[ValueInfoProto, ...]
    outputs: tuple[ValueInfoProto, ...]
    head: Callable[[Nodes], None]
    tail: Callable[[Nodes], None]


FORM_GRAPHS: dict[Form, FormGraph] = {
    "rgb8": FormGraph(
        inputs=(_image("rgb", "N", "H", "W", 3),),
        outputs=(_image("rgb_x4", "N", "4*H", "4*W", 3),),
        head=_rgb8_head,
        tail=_rgb8_tail,
    ),
    "yuv420p8": FormGraph(
        inputs=(
            _image("y", "N", 1, "H", "W"),
            _image("uv", "N", 2, "H/2", "W/2"),
            _table("yuv_to_rgb", 3, 4),
            _table("rgb_to_yuv", 3, 4),
            _table("chroma_up", 2, 2, 3),
            _table("chroma_down", 2, 3),
        ),
        outputs=(_image("y_x4", "N", 1, "4*H", "4*W"), _image("uv_x4", "N", 2, "2*H", "2*W")),
        head=_yuv420p8_head,
        tail=_yuv420p8_tail,
    ),
}
"""Every integer form a graph can have."""
