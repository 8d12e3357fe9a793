"""Does the first frame of a job look like a picture, or like numbers that overflowed?

An overflow in float16 ends as NaN or infinity, which an engine turns into black or white bytes.
Where that happens depends on the picture, so an engine that was compared with PyTorch before can
still fail on this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError

_DARK, _BRIGHT = 48, 207
"""Samples of the source up to and from which a black or white result is plausible."""
_SHARE = 0.001
"""Share of implausible pixels from which a frame is refused. Ringing at hard edges makes few."""


def require_plausible(
    inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], what: str
) -> None:
    """Refuses a frame that is black or white where the source is neither.

    Args:
        inputs: the inputs of a form, see :mod:`srtrt.forms`.
        outputs: what was computed from them.
        what: engine and precision in a few words, for the message.

    Raises:
        BackendError: with the share of such pixels.
    """
    if "rgb" in inputs:
        source = inputs["rgb"]
        result = outputs["rgb_x4"][:, 1::4, 1::4]
        black = (result.max(axis=-1) == 0) & (source.max(axis=-1) > _DARK)
        white = (result.min(axis=-1) == 255) & (source.min(axis=-1) < _BRIGHT)
    else:
        # Limited range ends at 16 and 235; colours outside it are clipped, so only the extremes
        # of the byte can have come from NaN or infinity.
        source, result = inputs["y"], outputs["y_x4"][:, :, 1::4, 1::4]
        black = (result == 0) & (source > _DARK)
        white = (result == 255) & (source < _BRIGHT)
    for name, found in (("black", black), ("white", white)):
        share = float(np.mean(found))
        if share > _SHARE:
            raise BackendError(
                f"{what}: {100 * share:.1f} % of the first frame came out {name} where the source "
                "is not, which is how an overflow looks. Nothing was kept. Use --precision bf16 "
                "or fp32, or export the model again with --verify on pictures like these."
            )
