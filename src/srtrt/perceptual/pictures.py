"""LPIPS and DISTS of 8-bit pictures, where the packages with their weights are installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srtrt.perceptual.dists import Dists, load_dists
from srtrt.perceptual.lpips import SMALLEST, Lpips, load_lpips, require_pair
from srtrt.perceptual.weights import INSTALL, missing_packages

Picture = NDArray[np.uint8]

_NETWORK: Final = "alex"
"""What figures of LPIPS are commonly reported with."""


class PerceptualDistances:
    """LPIPS (``alex``) and DISTS of pictures against their ground truth; less is nearer."""

    def __init__(self, device: torch.device | None = None) -> None:
        """Loads both networks.

        Args:
            device: where to compute, in float32; None for the CPU.

        Raises:
            MissingPackageError: if a package with the weights is not installed.
            BrokenPackageError: if one holds other weights.
        """
        self._device = device or torch.device("cpu")
        self._lpips = load_lpips(_NETWORK).to(self._device)
        self._dists = load_dists().to(self._device)

    def against(self, hr: Picture) -> Callable[[Picture], dict[str, float]]:
        """What measures pictures against one ground truth, whose features are computed once.

        Args:
            hr: uint8 ``[H, W, 3]`` RGB.

        Returns:
            A function of a picture of the same shape and type. It gives ``lpips``, which pictures
            of under 31 pixels do not have, and ``dists``, and raises ValueError if shapes differ.
        """
        networks: dict[str, Lpips | Dists] = {"dists": self._dists}
        if min(hr.shape[:2]) >= SMALLEST[_NETWORK]:
            networks = {"lpips": self._lpips, **networks}
        with torch.inference_mode():
            truth = self._tensor(hr)
            known = {name: network.layers(truth) for name, network in networks.items()}

        @torch.inference_mode()
        def distances(sr: Picture) -> dict[str, float]:
            x = self._tensor(sr)
            require_pair(x, truth)
            return {
                name: float(network.compare(network.layers(x), known[name]))
                for name, network in networks.items()
            }

        return distances

    def _tensor(self, picture: Picture) -> Tensor:
        x = torch.tensor(picture, device=self._device).permute(2, 0, 1)[None]
        return x.float() / 255


def without_distances() -> str | None:
    """Why LPIPS and DISTS cannot be measured here, a sentence with what to type; None if they can.

    Only whether the packages are installed is looked at.
    """
    missing = missing_packages()
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"LPIPS and DISTS are left out, as {' and '.join(missing)} {verb} not installed; "
        f"install with: {INSTALL}."
    )
