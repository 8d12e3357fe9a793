"""PSNR of a generator on a folder of HR pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from srtrt.errors import TrainingError
from srtrt.metrics import mod_crop, psnr_y
from srtrt.networks.generator import Generator
from srtrt.networks.rewrites import InferenceGenerator
from srtrt.resample import resize_bicubic
from srtrt.train.data import read_rgb


class Validation:
    """LR and HR pairs made once from a folder; LR is antialiased bicubic at a quarter."""

    def __init__(self, files: Sequence[Path], *, device: torch.device) -> None:
        """Reads the pictures.

        Raises:
            TrainingError: if one cannot be read.
        """
        self.device = device
        self.pairs = []
        for path in files:
            image = read_rgb(path)
            if image is None:
                raise TrainingError(f"{path}: validation image cannot be read; replace it.")
            hr = mod_crop(image, 4)
            lr = resize_bicubic(hr, hr.shape[0] // 4, hr.shape[1] // 4)
            self.pairs.append((lr, hr))

    @torch.no_grad()
    def psnr(self, net: Generator) -> float:
        """Mean PSNR in dB: Y of BT.601, 4-pixel border, on uint8-rounded output."""
        network = InferenceGenerator(net.eval()).to(self.device)
        values = []
        for lr, hr in self.pairs:
            x = torch.from_numpy(lr).to(self.device).permute(2, 0, 1)[None].float() / 255
            y = (network(x) * 255).round().clamp(0, 255).to(torch.uint8)
            values.append(psnr_y(y[0].permute(1, 2, 0).cpu().numpy(), hr, border=4))
        return float(np.mean(values))
