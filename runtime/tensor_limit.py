"""How large the tensors of a graph become, and what engines with 32-bit indices can hold.

TensorRT refuses tensors of 2^31 elements and more, or computes them wrong; kernels of other engines
on GPUs count in 32 bits, too. The largest tensor of a network may be far larger than its result, so
what fits is read off the graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto, ValueInfoProto, shape_inference

from srtrt.errors import UsageError
from srtrt.runtime.engines.key import EngineShape, InputSize
from srtrt.runtime.layouts import dimensions
from srtrt.text import foreign

MOST_ELEMENTS = (1 << 31) - 1
"""Elements of the largest tensor that can be indexed in 32 bits."""

_SIDES = (64, 128)
"""Two sizes of frames, multiples of what windows and strides usually are."""


@dataclass(frozen=True, kw_only=True)
class TensorLimit:
    """How the largest tensor of a network grows with its frames."""

    elements: int
    """Of the largest tensor, for one frame of ``side`` x ``side`` LR pixels."""
    side: int
    power: float = 1.0
    """With which power of the LR pixels it grows; 1 for all that is made of convolutions."""

    @property
    def per_pixel(self) -> float:
        """Elements of the largest tensor for each LR pixel of such a frame."""
        return self.elements / self.side**2

    @property
    def most_pixels(self) -> int:
        """LR pixels of all frames of a batch, with which no tensor is too large."""
        if self.power == 1.0:
            return max(1, MOST_ELEMENTS * self.side**2 // self.elements)
        times = math.pow(MOST_ELEMENTS / self.elements, 1 / self.power)
        return max(1, math.floor(times * self.side**2))


def limit_of(*, channels: int, scale: int) -> TensorLimit:
    """The limit of a network with so many channels at the resolution of its result."""
    side = _SIDES[0]
    return TensorLimit(elements=max(3, channels) * (scale * side) ** 2, side=side)


def tensor_limit(graph: ModelProto, scale: int) -> TensorLimit:
    """The limit of a graph, by the shapes that ONNX infers in it.

    Where they cannot be inferred, its widest convolution is taken to be at the resolution of the
    result.

    Args:
        graph: in any form that srtrt writes.
        scale: its enlargement.
    """
    small, large = (_largest(graph, side) for side in _SIDES)
    if small is None or large is None:
        kernels = (each.dims[0] for each in graph.graph.initializer if len(each.dims) == 4)
        return limit_of(channels=max(kernels, default=3), scale=scale)
    growth = math.log(large / small, (_SIDES[1] / _SIDES[0]) ** 2)
    if growth > 1.001:
        return TensorLimit(elements=large, side=_SIDES[1], power=growth)
    return TensorLimit(elements=small, side=_SIDES[0])


def require_countable(limit: TensorLimit, shape: EngineShape, engine: str, network: str) -> None:
    """Refuses sizes for which a tensor of a network is too large.

    Args:
        limit: of the network's graph.
        shape: the sizes.
        engine: what is to build it, for the message.
        network: its name, likewise.

    Raises:
        UsageError: with the largest size that can be.
    """
    most = shape.most
    if most.pixels <= limit.most_pixels:
        return
    raise UsageError(
        f"shape {shape}: with {most} a tensor of {foreign(network)} has 2^31 elements or "
        f"more, which {engine} does not compute; expected at most {limit.most_pixels} pixels in "
        f"all frames, such as {_within(limit.most_pixels, most)}. upscale-video and upscale-image "
        "divide larger frames into tiles by themselves."
    )


def _within(pixels: int, size: InputSize) -> InputSize:
    """A size like another one that has at most so many pixels: fewer frames, then smaller ones."""
    batch = max(1, min(size.batch, pixels // (size.width * size.height)))
    times = min(1.0, math.sqrt(pixels / (batch * size.width * size.height)))
    width, height = (max(1, int(side * times)) for side in (size.width, size.height))
    return InputSize(width=width & ~1 or 1, height=height & ~1 or 1, batch=batch)


def _largest(graph: ModelProto, side: int) -> int | None:
    """Elements of the largest tensor for one frame; None if the shape of one is unknown."""
    size = InputSize(width=side, height=side)
    fixed = ModelProto()
    fixed.CopyFrom(graph)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        for dimension, length in zip(
            value.type.tensor_type.shape.dim, dimensions(value, size), strict=True
        ):
            dimension.dim_value = length
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        found = shape_inference.infer_shapes(fixed, data_prop=True).graph
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        return None
    shapes = {value.name: _sides(value) for value in (*found.value_info, *found.output)}
    counts = []
    for node in found.node:
        for name in filter(None, node.output):
            sides = shapes.get(name)
            if sides is None:
                return None
            counts.append(math.prod(sides))
    return max(counts, default=1)


def _sides(value: ValueInfoProto) -> Sequence[int] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    sides = [dimension.dim_value for dimension in kind.shape.dim]
    known = all(dimension.HasField("dim_value") for dimension in kind.shape.dim)
    return sides if known else None
