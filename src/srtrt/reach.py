"""How far an output pixel of a network sees, and how much it enlarges, read off its graph.

A spec says both, and tiles are joined by what it says; so what it says is compared with what the
operators do. Every tensor between the network's input and output is given a position in LR pixels:
pixel ``x`` of a tensor with ``s`` pixels per LR pixel depends on the LR pixels from
``floor(x / s - before)`` to ``floor(x / s + after)``. Floors of whole steps compose exactly (R. L.
Graham, D. E. Knuth and O. Patashnik, "Concrete Mathematics", 2nd edition, 1994, equation 3.11), so
these fractions simply add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from onnx import NodeProto, TensorProto, helper, numpy_helper

_POINTWISE = frozenset((
    "Abs", "Add", "And", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat",
    "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu",
    "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mish", "Mod", "Mul", "Neg", "Not",
    "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Where", "Xor",
))  # fmt: skip
"""Operators of which a pixel sees no other, on tensors ``[N, C, H, W]``."""

_PER_CHANNEL = frozenset(("BatchNormalization", "DequantizeLinear", "QuantizeLinear"))
"""Those whose constants hold a value for each channel."""

_MOST_PIXELS = 1 << 40


class _UnknownError(Exception):
    """A node whose reach is not known."""


@dataclass(frozen=True)
class Span:
    """What a pixel of a tensor sees along one axis."""

    scale: Fraction
    """Pixels per LR pixel."""
    before: Fraction = Fraction(0)
    """How far it sees to the left or upwards, in LR pixels; negative if it starts on the right."""
    after: Fraction = Fraction(0)
    """How far to the right or downwards."""

    def over(self, other: Span) -> Span:
        """What a pixel sees that is computed from both."""
        if self.scale != other.scale:
            raise _UnknownError
        return Span(self.scale, max(self.before, other.before), max(self.after, other.after))

    def shifted(self, before: int, after: int) -> Span:
        """Of a pixel that is computed from so many before and after it."""
        return Span(
            self.scale,
            self.before + Fraction(before) / self.scale,
            self.after + Fraction(after) / self.scale,
        )

    def scaled(self, factor: Fraction) -> Span:
        """The same in a tensor of so many times the pixels."""
        return Span(self.scale * factor, self.before, self.after)

    def repeated(self, factor: int) -> Span:
        """The same where every pixel becomes so many.

        They see what the one did, which starts up to a pixel less 1/factor to their left. Where a
        pixel is no whole part of an LR pixel, that can be another LR pixel.
        """
        lost = Fraction(0) if self.scale.denominator == 1 else Fraction(factor - 1, factor)
        moved = Span(self.scale, self.before + lost / self.scale, self.after)
        return moved.scaled(Fraction(factor))

    @property
    def radius(self) -> int:
        """The farthest that a pixel sees, in whole LR pixels."""
        return max(0, math.ceil(self.before), math.ceil(self.after))


Spans = tuple[Span, Span]
"""Along height and width."""


@dataclass(frozen=True)
class Reach:
    """What a network does to the picture's geometry."""

    scale: Fraction
    """Enlargement."""
    radius: int
    """How far an output pixel sees, in LR pixels."""


def network_reach(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, TensorProto],
    first: str,
    last: str,
) -> Reach | str:
    """The reach of a network.

    Args:
        nodes: in an order in which they can be computed.
        constants: every weight by name.
        first: its input, ``[N, C, H, W]``.
        last: its output, likewise.

    Returns:
        Its reach, or the name of the node from which on it cannot be told.
    """
    start = Span(Fraction(1))
    spans: dict[str, Spans] = {first: (start, start)}
    shapes: dict[str, Sequence[int]] = {name: each.dims for name, each in constants.items()}
    for node in nodes:
        sources = [spans[name] for name in node.input if name in spans]
        if not sources:
            # A constant computed from constants has at most the sides of the largest of them.
            known = [shapes[name] for name in node.input if name in shapes]
            for name in node.output:
                shapes[name] = max(known, key=len, default=())
            continue
        try:
            if node.op_type == "Resize":
                found = _resized(node, spans, constants)
            else:
                found = _spans(node, spans, shapes)
        except (_UnknownError, ValueError, ZeroDivisionError):
            return node.name or f"{node.op_type} to {node.output[0]}"
        for name in node.output:
            spans[name] = found
    if last not in spans or spans[last][0].scale != spans[last][1].scale:
        return last
    height, width = spans[last]
    return Reach(height.scale, max(height.radius, width.radius))


def _spans(
    node: NodeProto, spans: Mapping[str, Spans], shapes: Mapping[str, Sequence[int]]
) -> Spans:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type in _POINTWISE:
        return _pointwise(node, attributes, spans, shapes)
    if node.op_type not in _SPATIAL or node.input[0] not in spans:
        raise _UnknownError
    if any(name in spans for name in node.input[1:]):
        raise _UnknownError
    shape = shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
    kernel = list(attributes.get("kernel_shape", shape[2:]))
    height, width = (
        _SPATIAL[node.op_type](span, _Window.of(attributes, kernel, axis))
        for axis, span in enumerate(spans[node.input[0]])
    )
    return height, width


def _pointwise(
    node: NodeProto,
    attributes: Mapping[str, object],
    spans: Mapping[str, Spans],
    shapes: Mapping[str, Sequence[int]],
) -> Spans:
    if node.op_type == "Concat" and attributes.get("axis") != 1:
        raise _UnknownError
    found: Spans | None = None
    for name in filter(None, node.input):
        if name in spans:
            other = spans[name]
            found = other if found is None else (found[0].over(other[0]), found[1].over(other[1]))
        elif node.op_type not in _PER_CHANNEL and any(s != 1 for s in shapes.get(name, (2,))[-2:]):
            raise _UnknownError  # a weight for each pixel, or of a size that is not known
    assert found is not None
    return found


def _resized(
    node: NodeProto, spans: Mapping[str, Spans], constants: Mapping[str, TensorProto]
) -> Spans:
    """Enlargement by whole numbers that the graph holds.

    A pixel takes the one under it, or within 1 (linear) or 2 (cubic) pixels of that one, wherever
    the centres of pixels are said to be.
    """
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    modes = [attributes.get("mode", b"nearest")]
    modes.append(attributes.get("coordinate_transformation_mode", b"half_pixel"))
    modes.append(attributes.get("nearest_mode", b"round_prefer_floor"))
    tensor = constants.get(node.input[2]) if len(node.input) == 3 else None
    if tensor is None or attributes.get("antialias") or attributes.get("axes") is not None:
        raise _UnknownError
    factors = [float(each) for each in numpy_helper.to_array(tensor).flat]
    whole = len(factors) == 4 and all(each.is_integer() and each >= 1 for each in factors)
    if not whole or factors[:2] != [1, 1] or modes[1] not in _REGULAR or modes[0] not in _TAPS:
        raise _UnknownError
    taps = 0 if tuple(modes) in _UNDER else _TAPS[modes[0]]
    height, width = (
        span.shifted(taps, taps).repeated(int(factor))
        for span, factor in zip(spans[node.input[0]], factors[2:], strict=True)
    )
    return height, width


_TAPS: Mapping[object, int] = {b"nearest": 1, b"linear": 1, b"cubic": 2}
_REGULAR = (b"half_pixel", b"pytorch_half_pixel", b"asymmetric")
_UNDER = (
    (b"nearest", b"asymmetric", b"floor"),
    (b"nearest", b"half_pixel", b"round_prefer_floor"),
    (b"nearest", b"half_pixel", b"round_prefer_ceil"),
)
"""Modes of Resize that repeat each pixel."""


@dataclass(frozen=True)
class _Window:
    """The attributes of an operator along one axis."""

    kernel: int
    stride: int
    dilation: int
    start: int
    """Padding before the first pixel."""
    block: int

    @classmethod
    def of(cls, attributes: Mapping[str, object], kernel: Sequence[int], axis: int) -> _Window:
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise _UnknownError
        if attributes.get("ceil_mode") or attributes.get("output_shape"):
            raise _UnknownError

        def along(name: str, usual: int) -> int:
            values = attributes.get(name)
            if not isinstance(values, list):
                return usual
            if len(values) <= axis or not 0 <= values[axis] < _MOST_PIXELS:
                raise _UnknownError
            return int(values[axis])

        size = kernel[axis] if axis < len(kernel) else 1
        block = attributes.get("blocksize", 1)
        if not isinstance(block, int) or min(block, size) < 1:
            raise _UnknownError
        return cls(size, along("strides", 1), along("dilations", 1), along("pads", 0), block)


def _convolution(span: Span, window: _Window) -> Span:
    last = (window.kernel - 1) * window.dilation - window.start
    return span.shifted(window.start, last).scaled(1 / Fraction(window.stride))


def _transposed(span: Span, window: _Window) -> Span:
    """Pixel x depends on (x + start - j * dilation) / stride, for every tap j of the kernel."""
    last = (window.kernel - 1) * window.dilation
    return span.scaled(Fraction(window.stride)).shifted(last - window.start, window.start)


def _depth_to_space(span: Span, window: _Window) -> Span:
    return span.repeated(window.block)


def _space_to_depth(span: Span, window: _Window) -> Span:
    return span.shifted(0, window.block - 1).scaled(1 / Fraction(window.block))


_SPATIAL: dict[str, Callable[[Span, _Window], Span]] = {
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "MaxPool": _convolution,
    "AveragePool": _convolution,
    "ConvTranspose": _transposed,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
"""Operators of which a pixel sees its neighbours, or that rearrange them."""
