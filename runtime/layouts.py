"""The tensors of a form for one size of frames: names, types, shapes, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from srtrt.forms import FORM_GRAPHS
from srtrt.runtime.engines.key import InputSize
from srtrt.spec import Form


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
    lengths = {"N": size.batch, "H": size.height, "W": size.width}
    found = []
    for value in (*wanted.inputs, *wanted.outputs):
        dims = value.type.tensor_type.shape.dim
        is_image = bool(dims[0].dim_param)
        found.append(
            TensorLayout(
                name=value.name,
                dtype=np.dtype(np.uint8 if is_image else np.float32),
                shape=tuple(_length(d.dim_param, lengths) or d.dim_value for d in dims),
                is_input=value in wanted.inputs,
                is_image=is_image,
            )
        )
    return found


def _length(symbol: str, lengths: Mapping[str, int]) -> int:
    """``H/2`` or ``4*H`` as a number; 0 for no symbol."""
    factor, _, rest = symbol.rpartition("*")
    name, _, divisor = rest.partition("/")
    return int(factor or 1) * lengths[name] // int(divisor or 1) if name else 0
