"""What engines compute, compared with PyTorch float32 on a bounded part of one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.runtime.layouts import IMAGE_AXES, input_size
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import compare_outputs, passes, reference_for
from srtrt.runtime.tiling import Window, kept, region
from srtrt.spec import UNBOUNDED, Form, Precision

_SIDE = 256
"""LR pixels a side, at most. The reference takes minutes for a whole frame on a CPU."""

_CHROMA_REACH = 2

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Corner:
    """The upper left part of a frame, and what PyTorch float32 makes of it.

    It is computed with a margin of the network's receptive radius, so it is what the whole frame
    gives there; two of its sides are borders of the picture.
    """

    form: Form
    scale: int
    rows: Window
    columns: Window
    against: str
    expected: Arrays

    @classmethod
    def of(cls, model: str, form: Form, inputs: Arrays) -> Corner:
        """Computes the reference for the corner of a frame, or for all of a small one.

        Args:
            model: bundled name or file.
            form: of the frame.
            inputs: one frame.
        """
        size = input_size(inputs)
        with reference_for(find_model(model), form) as (reference, against):
            radius, scale = reference.spec.receptive_radius, reference.spec.scale
            margin = -(-(radius + _CHROMA_REACH) // 2) * 2
            rows, columns = (
                Window(0, length, 0, length)
                if radius == UNBOUNDED or length <= _SIDE + margin
                else Window(0, _SIDE + margin, 0, _SIDE)
                for length in (size.height, size.width)
            )
            cut = dict(inputs)
            for name, (axis, part) in IMAGE_AXES[form].items():
                where = region(axis, part, rows, columns, 1, computed=True)
                cut[name] = np.ascontiguousarray(inputs[name][where])
            whole = reference.infer(cut)
        expected = {
            f"{name}_x4": whole[f"{name}_x4"][kept(axis, part, rows, columns, scale)]
            for name, (axis, part) in IMAGE_AXES[form].items()
        }
        return cls(
            form=form, scale=scale, rows=rows, columns=columns, against=against, expected=expected
        )

    def compared(self, outputs: Arrays, precision: Precision) -> dict[str, Any]:
        """Parity of the outputs of a whole frame, and whether it meets the precision's gate."""
        found = {
            f"{name}_x4": outputs[f"{name}_x4"][
                region(axis, part, self.rows, self.columns, self.scale, computed=False)
            ]
            for name, (axis, part) in IMAGE_AXES[self.form].items()
        }
        parity = compare_outputs(iter([(self.expected, found)]))
        figures = parity.to_dict()
        del figures["pictures"]
        return {"against": self.against, **figures, "passes_gate": passes(parity, precision)}
