"""Quality of a generator on a folder of HR pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from srtrt.datasets import lr_hr_pair, squeezed_pair
from srtrt.metrics import (
    SMALLEST_BLOCK,
    near_nyquist_energy,
    near_nyquist_excess,
    psnr,
    psnr_y,
)
from srtrt.networks.generator import Generator
from srtrt.networks.rewrites import InferenceGenerator
from srtrt.perceptual import PerceptualDistances, without_distances
from srtrt.terminal import say

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

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        device: torch.device,
        rgb: bool = False,
        perceptual: bool = False,
    ) -> None:
        """Keeps the pairs.

        Args:
            pairs: LR and HR pictures.
            device: where to compute.
            rgb: PSNR over all samples of RGB, as the report's formula has it, instead of Y of
                BT.601 without a 4-pixel border, the convention of the field.
            perceptual: measure more than PSNR, see :meth:`scores`. Where LPIPS and DISTS have no
                weights, they are left out, and it is said what to type.

        Raises:
            BrokenPackageError: if the packages hold other weights.
        """
        self.pairs, self.device, self.rgb = list(pairs), device, rgb
        self.perceptual = perceptual
        self._distances: PerceptualDistances | None = None
        if perceptual and self.pairs:
            reason = without_distances()
            if reason is None:
                self._distances = PerceptualDistances(device)
            else:
                say(reason)

    def enlarge(self, net: Generator) -> list[Picture]:
        """The LR pictures enlarged; uint8 RGB ``[4H, 4W, 3]``."""
        network = InferenceGenerator(net.eval()).to(self.device)
        return [self._infer(network, lr) for lr, _ in self.pairs]

    def psnr(self, net: Generator) -> float:
        """Mean PSNR in dB on uint8-rounded output."""
        network = InferenceGenerator(net.eval()).to(self.device)
        scores = [self._psnr(self._infer(network, lr), hr) for lr, hr in self.pairs]
        return float(np.mean(scores))

    def scores(self, net: Generator, *, mesh: bool = False) -> dict[str, float]:
        """Means over the pictures, on uint8-rounded output, by their names in the log.

        Args:
            net: the generator.
            mesh: measure the energy near the Nyquist frequency, whatever ``perceptual`` says: a
                discriminator may teach a mesh of two pixels, which PSNR hardly sees.

        Returns:
            ``psnr`` in dB; with ``perceptual`` also ``perceptual/lpips`` (``alex``) and
            ``perceptual/dists``; with either, ``near_nyquist`` and ``near_nyquist_excess`` in
            squared levels, see :func:`srtrt.metrics.near_nyquist_energy`. Pictures that are too
            small for a figure are left out of its mean.
        """
        network = InferenceGenerator(net.eval()).to(self.device)
        found: dict[str, list[float]] = {}
        for lr, hr in self.pairs:
            sr = self._infer(network, lr)
            row = {"psnr": self._psnr(sr, hr)}
            if self._distances is not None:
                distances = self._distances.against(hr)(sr)
                row |= {f"perceptual/{name}": value for name, value in distances.items()}
            if (mesh or self.perceptual) and min(hr.shape[:2]) >= SMALLEST_BLOCK:
                row["near_nyquist"] = near_nyquist_energy(sr)
                row["near_nyquist_excess"] = near_nyquist_excess(sr, hr)
            for name, value in row.items():
                found.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in found.items()}

    def _psnr(self, sr: Picture, hr: Picture) -> float:
        return (psnr if self.rgb else psnr_y)(sr, hr)

    @torch.no_grad()
    def _infer(self, network: InferenceGenerator, lr: Picture) -> Picture:
        x = torch.tensor(lr, device=self.device).permute(2, 0, 1)[None].float() / 255
        y = (network(x) * 255).round().clamp(0, 255).to(torch.uint8)
        output: Picture = y[0].permute(1, 2, 0).cpu().numpy()
        return output
