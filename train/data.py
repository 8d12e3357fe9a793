"""Training pictures held as uint8, and batches of patches cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from srtrt.datasets import read_rgb8
from srtrt.errors import InputError, TrainingError
from srtrt.resample import bicubic_matrix

MARGIN = 2
"""LR pixels kept around a patch while it is shrunk: the reach of the bicubic kernel, so that the
border of a patch is made from real neighbours."""


@dataclass(frozen=True)
class Batch:
    """LR ``[N, 3, P, P]`` and HR ``[N, 3, 4P, 4P]``, float32 RGB in 0..1, on one device."""

    lr: Tensor
    hr: Tensor


class PatchPool:
    """All pictures as one flat uint8 tensor on the computing device, and batches out of it.

    A batch is a pure function of (seed, step): crops, flips, rotations and the antialiased
    bicubic LR are made there for all patches at once, so a resumed run sees the same patches.

    Attributes:
        skipped: files left out, with the reason.
        names: files in use.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        patch: int,
        batch: int,
        seed: int,
        device: torch.device,
        recolour: float = 0.0,
    ) -> None:
        """Reads the pictures.

        Raises:
            TrainingError: if none is large enough, or they do not fit into memory.
        """
        self.patch, self.batch, self.seed, self.device = patch, batch, seed, device
        self.recolour = recolour
        self.crop = 4 * (patch + 2 * MARGIN)
        self.skipped: list[tuple[Path, str]] = []
        self.names: list[Path] = []
        pixels: list[Tensor] = []
        shapes: list[tuple[int, int]] = []
        for path in files:
            try:
                image = read_rgb8(path)
            except InputError as error:
                self.skipped.append((path, str(error).removeprefix(f"{path}: ")))
                continue
            if min(image.shape[:2]) < self.crop:
                size = f"{image.shape[1]}x{image.shape[0]}"
                self.skipped.append((path, f"{size} is below {self.crop}x{self.crop}"))
                continue
            self._check_memory(path, sum(p.numel() for p in pixels) + image.size)
            pixels.append(torch.tensor(image).flatten())
            shapes.append((image.shape[0], image.shape[1]))
            self.names.append(path)
        if not pixels:
            reason = f" The first: {self.skipped[0][0]}: {self.skipped[0][1]}." if files else ""
            raise TrainingError(f"none of {len(files)} images can be used for training.{reason}")
        lengths = torch.tensor([0] + [p.numel() for p in pixels[:-1]])
        self._offsets = lengths.cumsum(0).to(device)
        self._pixels = torch.cat(pixels).to(device)
        self._heights, self._widths = (t.to(device) for t in torch.tensor(shapes).unbind(1))
        side = patch + 2 * MARGIN
        shrink = bicubic_matrix(4 * side, side)[MARGIN:-MARGIN]
        self._shrink = torch.tensor(shrink, dtype=torch.float32, device=device)

    @staticmethod
    def _check_memory(path: Path, needed: int) -> None:
        if 2 * needed > psutil.virtual_memory().total:
            raise TrainingError(
                f"the pictures up to {path} take {needed / 1e9:.1f} GB as uint8, too much for this "
                "machine's memory; train on fewer or smaller pictures."
            )

    def sample(self, step: int) -> Batch:
        """The batch of one step; always the same for the same step."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        picks = torch.rand(6, self.batch, generator=generator).to(self.device)
        ranges = torch.rand(7, self.batch, generator=generator).to(self.device)
        which = (picks[0] * len(self._offsets)).long()
        heights, widths = self._heights[which], self._widths[which]
        top = (picks[1] * (heights - self.crop + 1)).long()
        left = (picks[2] * (widths - self.crop + 1)).long()
        flip_rows, flip_columns, transpose = (p[:, None, None] < 0.5 for p in picks[3:])
        line = torch.arange(self.crop, device=self.device)
        rows, columns = line[None, :, None], line[None, None, :]
        rows = torch.where(flip_rows, self.crop - 1 - rows, rows)
        columns = torch.where(flip_columns, self.crop - 1 - columns, columns)
        rows = torch.where(transpose, rows.mT, rows)
        columns = torch.where(transpose, columns.mT, columns)
        pixel = (top[:, None, None] + rows) * widths[:, None, None] + left[:, None, None] + columns
        index = self._offsets[which][:, None, None] + 3 * pixel
        channel = torch.arange(3, device=self.device)[None, :, None, None]
        hr = self._recoloured(self._pixels[index[:, None] + channel].float(), ranges)
        lr = (self._shrink @ hr @ self._shrink.T).round().clamp(0, 255)
        edge = 4 * MARGIN
        return Batch(lr=lr / 255, hr=hr[:, :, edge:-edge, edge:-edge] / 255)

    def _recoloured(self, hr: Tensor, ranges: Tensor) -> Tensor:
        """Maps 0..255 of every channel to a random range, in a share of the patches."""
        chosen = (ranges[0] < self.recolour)[:, None]
        low = torch.where(chosen, 255 * ranges[1:4].T, 0)
        high = torch.where(chosen, 255 * ranges[4:7].T, 255)
        gain = (high - low) / 255
        return (hr * gain[:, :, None, None] + low[:, :, None, None]).round()
