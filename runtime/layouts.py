"""The tensors of a form for one size of frames: names, types, shapes, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ValueInfoProto

from srtrt.errors import UsageError
from srtrt.forms import FORM_GRAPHS
from srtrt.runtime.engines.key import InputSize
from srtrt.spec import Form

IMAGE_AXES: dict[Form, dict[str, tuple[int, int]]] = {
    "rgb8": {"rgb": (1, 1)},
    "yuv420p8": {"y": (2, 1), "uv": (2, 2)},
}
"""Image inputs of a form: axis of the rows, and LR luma pixels per sample."""


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """One named tensor of a network."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_input: bool
    is_image: bool
    """Whether its first axis counts frames; the others are tables that frames share."""

    @property
    def nbytes(self) -> int:
        """Size of all frames."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


def form_layouts(form: Form, size: InputSize) -> list[TensorLayout]:
    """The tensors of a form for one size of LR frames."""
    wanted = FORM_GRAPHS[form]
    found = []
    for value in (*wanted.inputs, *wanted.outputs):
        is_image = bool(value.type.tensor_type.shape.dim[0].dim_param)
        found.append(
            TensorLayout(
                name=value.name,
                dtype=np.dtype(np.uint8 if is_image else np.float32),
                shape=dimensions(value, size),
                is_input=value in wanted.inputs,
                is_image=is_image,
            )
        )
    return found


def dimensions(value: ValueInfoProto, size: InputSize) -> tuple[int, ...]:
    """The dimensions of a tensor, from numbers and names such as ``H/2`` and ``4*W``.

    Raises:
        UsageError: if it has a name of another kind.
    """
    lengths = {"N": size.batch, "H": size.height, "W": size.width}
    found = []
    for dimension in value.type.tensor_type.shape.dim:
        factor, _, rest = dimension.dim_param.rpartition("*")
        name, _, divisor = rest.partition("/")
        if name and name not in lengths:
            raise UsageError(
                f"input {value.name} has a dimension {dimension.dim_param!r}; expected N, H or W."
            )
        length = int(factor or 1) * lengths[name] // int(divisor or 1) if name else 0
        found.append(length or dimension.dim_value)
    return tuple(found)


def input_size(inputs: Mapping[str, NDArray[Any]]) -> InputSize:
    """Size and number of the LR frames in the inputs of a form."""
    if "rgb" in inputs:
        frames, height, width, _ = inputs["rgb"].shape
    else:
        frames, _, height, width = inputs["y"].shape
    return InputSize(width=width, height=height, batch=frames)
