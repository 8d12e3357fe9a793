"""What engines compute, compared with PyTorch float32 on bounded parts of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from srtrt.runtime.models import find_model
from srtrt.runtime.parity import (
    ENOUGH_PIXELS,
    compare_outputs,
    computed_samples,
    frame_windows,
    joined_samples,
    passes,
    reference_for,
)
from srtrt.runtime.ring import Arrays
from srtrt.runtime.tiling import Cut, whole_outputs
from srtrt.spec import Form, Precision


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Parts of a frame, and what PyTorch float32 makes of them, computed once for all engines."""

    form: Form
    scale: int
    windows: Sequence[Cut]
    against: str
    expected: Arrays

    @classmethod
    def of(cls, model: str, form: Form, inputs: Arrays) -> Sampled:
        """Computes the reference for parts of a frame, or for all of a small one.

        Args:
            model: bundled name or file.
            form: of the frame.
            inputs: one frame.
        """
        with reference_for(find_model(model), form) as (reference, against):
            windows = frame_windows(inputs, form, reference.spec, most=ENOUGH_PIXELS)
            return cls(
                form=form,
                scale=reference.spec.scale,
                windows=windows,
                against=against,
                expected=computed_samples(reference, inputs, windows),
            )

    def compared(self, outputs: Arrays, precision: Precision) -> dict[str, Any]:
        """Parity of the outputs of a whole frame, and whether it meets the precision's gate."""
        parts = (whole_outputs(outputs, self.form, *w, self.scale) for w in self.windows)
        parity = compare_outputs([(self.expected, joined_samples(parts))])
        figures = parity.to_dict()
        del figures["pictures"]
        return {"against": self.against, **figures, "passes_gate": passes(parity, precision)}
