"""YUV <-> RGB as small arrays that an exported graph takes as inputs.

Sources: ITU-R BT.601-7, BT.709-6 and BT.2020-2 for the luma coefficients; ITU-T H.273 (matrix
coefficients, video range) for the quantisation; H.273 section 8.7 for chroma sample locations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Matrix = Literal["bt601", "bt709", "bt2020"]
Siting = Literal["left", "center", "topleft"]

LUMA_COEFFICIENTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
"""Kr and Kb of each standard."""

_COSITED_UP = ((0.0, 1.0, 0.0), (0.0, 0.5, 0.5))
_BETWEEN_UP = ((0.25, 0.75, 0.0), (0.0, 0.75, 0.25))
_COSITED_DOWN = (0.25, 0.5, 0.25)
_BETWEEN_DOWN = (0.0, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class YuvColour:
    """How the samples of a YUV 4:2:0 stream are to be understood."""

    matrix: Matrix = "bt709"
    """Standard that defines luma and chroma."""
    full_range: bool = False
    """True: 0..255; False: luma 16..235, chroma 16..240."""
    siting: Siting = "left"
    """Where a chroma sample lies: left of its 2x2 luma block, in its centre, or top left."""

    def rgb_to_yuv(self) -> NDArray[np.float32]:
        """``[3, 4]`` float32: RGB in 0..1, then a constant 1, to 8-bit Y, U, V before rounding."""
        kr, kb = LUMA_COEFFICIENTS[self.matrix]
        luma = np.array([kr, 1 - kr - kb, kb])
        blue = (np.array([0.0, 0.0, 1.0]) - luma) / (2 * (1 - kb))
        red = (np.array([1.0, 0.0, 0.0]) - luma) / (2 * (1 - kr))
        y_span, c_span, y_base = (255.0, 255.0, 0.0) if self.full_range else (219.0, 224.0, 16.0)
        rows = np.stack([luma * y_span, blue * c_span, red * c_span])
        return np.column_stack([rows, [y_base, 128.0, 128.0]]).astype(np.float32)

    def yuv_to_rgb(self) -> NDArray[np.float32]:
        """``[3, 4]`` float32: 8-bit Y, U, V, then a constant 1, to RGB in 0..1 (unclamped)."""
        forward = self.rgb_to_yuv().astype(np.float64)
        inverse = np.linalg.inv(forward[:, :3])
        return np.column_stack([inverse, -inverse @ forward[:, 3]]).astype(np.float32)

    def chroma_up(self) -> NDArray[np.float32]:
        """``[2, 2, 3]`` float32: axis (vertical, horizontal), phase, weights of c[i-1..i+1].

        Linear interpolation of chroma to the luma samples 2i (phase 0) and 2i + 1 (phase 1).
        """
        vertical = _COSITED_UP if self.siting == "topleft" else _BETWEEN_UP
        horizontal = _BETWEEN_UP if self.siting == "center" else _COSITED_UP
        return np.array([vertical, horizontal], np.float32)

    def chroma_down(self) -> NDArray[np.float32]:
        """``[2, 3]`` float32: axis (vertical, horizontal), weights of the samples 2i-1..2i+1."""
        vertical = _COSITED_DOWN if self.siting == "topleft" else _BETWEEN_DOWN
        horizontal = _BETWEEN_DOWN if self.siting == "center" else _COSITED_DOWN
        return np.array([vertical, horizontal], np.float32)

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """The four arrays under the input names of the ``yuv420p8`` form."""
        return {
            "yuv_to_rgb": self.yuv_to_rgb(),
            "rgb_to_yuv": self.rgb_to_yuv(),
            "chroma_up": self.chroma_up(),
            "chroma_down": self.chroma_down(),
        }
