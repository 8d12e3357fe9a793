"""PSNR of a generator on a folder of HR pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from srtrt.datasets import lr_hr_pair, squeezed_pair
from srtrt.metrics import near_nyquist_excess, psnr, psnr_y
from srtrt.networks.generator import Generator
from srtrt.networks.rewrites import InferenceGenerator

Picture = NDArray[np.uint8]


Pair = tuple[Picture, Picture]
"""LR ``[H, W, 3]`` and HR ``[4H, 4W, 3]``."""


def picture_pairs(files: Sequence[Path], *, whole: int | None = None) -> list[Pair]:
    """LR and HR of each picture.

    LR is antialiased bicubic at a quarter. With ``whole``, pairs are those of the report: HR
    squeezed to 4 x ``whole`` pixels square and LR to ``whole``.

    Raises:
        InputError: if one cannot be read.
    """
    return [lr_hr_pair(f) if whole is None else squeezed_pair(f, whole) for f in files]


class Validation:
    """Enlarges the LR of pairs and compares with their HR."""

    def __init__(self, pairs: Sequence[Pair], *, device: torch.device, rgb: bool = False) -> None:
        """Keeps the pairs.

        Args:
            pairs: LR and HR pictures.
            device: where to compute.
            rgb: PSNR over all samples of RGB, as the report's formula has it, instead of Y of
                BT.601 without a 4-pixel border, the convention of the field.
        """
        self.pairs, self.device, self.rgb = list(pairs), device, rgb

    def enlarge(self, net: Generator) -> list[Picture]:
        """The LR pictures enlarged; uint8 RGB ``[4H, 4W, 3]``."""
        network = InferenceGenerator(net.eval()).to(self.device)
        return [self._infer(network, lr) for lr, _ in self.pairs]

    def psnr(self, net: Generator) -> float:
        """Mean PSNR in dB on uint8-rounded output."""
        return self.scores(net)["psnr"]

    def scores(self, net: Generator, *, mesh: bool = False) -> dict[str, float]:
        """Means over the pictures, on uint8-rounded output.

        Returns:
            ``psnr`` in dB and, if ``mesh`` is set, ``near_nyquist_excess`` in squared levels: a
            discriminator may teach a mesh of two pixels, which PSNR hardly sees.
        """
        measure = psnr if self.rgb else psnr_y
        enlarged = self.enlarge(net)
        both = [(sr, hr) for sr, (_, hr) in zip(enlarged, self.pairs, strict=True)]
        found = {"psnr": [measure(sr, hr) for sr, hr in both]}
        if mesh:
            found["near_nyquist_excess"] = [near_nyquist_excess(sr, hr) for sr, hr in both]
        return {name: float(np.mean(values)) for name, values in found.items()}

    @torch.no_grad()
    def _infer(self, network: InferenceGenerator, lr: Picture) -> Picture:
        x = torch.tensor(lr, device=self.device).permute(2, 0, 1)[None].float() / 255
        y = (network(x) * 255).round().clamp(0, 255).to(torch.uint8)
        output: Picture = y[0].permute(1, 2, 0).cpu().numpy()
        return output
