"""PSNR of a generator on a folder of HR pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from srtrt.datasets import lr_hr_pair
from srtrt.metrics import psnr_y
from srtrt.networks.generator import Generator
from srtrt.networks.rewrites import InferenceGenerator


class Validation:
    """LR and HR pairs made once from a folder; LR is antialiased bicubic at a quarter."""

    def __init__(self, files: Sequence[Path], *, device: torch.device) -> None:
        """Reads the pictures.

        Raises:
            InputError: if one cannot be read.
        """
        self.device = device
        self.pairs = [lr_hr_pair(path) for path in files]

    @torch.no_grad()
    def psnr(self, net: Generator) -> float:
        """Mean PSNR in dB: Y of BT.601, 4-pixel border, on uint8-rounded output."""
        network = InferenceGenerator(net.eval()).to(self.device)
        values = []
        for lr, hr in self.pairs:
            x = torch.tensor(lr, device=self.device).permute(2, 0, 1)[None].float() / 255
            y = (network(x) * 255).round().clamp(0, 255).to(torch.uint8)
            values.append(psnr_y(y[0].permute(1, 2, 0).cpu().numpy(), hr, border=4))
        return float(np.mean(values))
