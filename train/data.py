"""Batches of LR and HR patches, made on the computing device from cached pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from srtrt.datasets import squeeze
from srtrt.errors import TrainingError
from srtrt.resample import bicubic_matrix
from srtrt.train import degrade
from srtrt.train.cache import PictureCache
from srtrt.train.hard_crops import Hardness, harder_of_two
from srtrt.train.sections import DataConfig

_KERNEL_REACH = 2
"""LR pixels that the bicubic kernel reaches beyond the LR pixel it makes."""

_RESCALE_REACH = 1
"""LR pixels at the rim of a rescaled crop that its own reflected border may have touched."""

_SCALES = 5
"""Different reductions of HR, from none to data.rescale."""

_SURVEYED = 512
"""Random crops whose hardness says which are among the worst."""

_GPU_SHARE = 0.5
"""Largest part of the free GPU memory that the pictures may take."""


@dataclass(frozen=True)
class Batch:
    """LR ``[N, 3, P, P]`` and HR ``[N, 3, 4P, 4P]``, float32 RGB in 0..1, on one device."""

    lr: Tensor
    hr: Tensor

    def parts(self, count: int) -> list[Batch]:
        """The batch cut into ``count`` parts of equal size."""
        return [
            Batch(lr, hr) for lr, hr in zip(self.lr.chunk(count), self.hr.chunk(count), strict=True)
        ]


class Batches(Protocol):
    """Where batches come from. A batch is a pure function of the seed and the step."""

    steps_per_epoch: int

    def sample(self, step: int) -> Batch:
        """The batch of one step; always the same for the same step."""


def margin(config: DataConfig) -> int:
    """LR pixels cut around a patch, so that no border of it is made from invented neighbours."""
    if config.degradation == "video":
        return degrade.MARGIN  # has a pixel to spare
    return _KERNEL_REACH + (_RESCALE_REACH if config.rescale < 1 else 0)


def least_side(config: DataConfig) -> int:
    """The shortest side, in HR pixels, of a picture that patches can be cut from."""
    return 4 * (config.patch + 2 * margin(config))


class PatchBatches:
    """Random crops of full pictures, flipped, rotated, rescaled and recoloured.

    The pictures move to the GPU where they fit; crops, their changes and the LR are made there
    for all patches of a batch at once.
    """

    def __init__(
        self,
        cache: PictureCache,
        config: DataConfig,
        *,
        seed: int,
        device: torch.device,
        degradation: degrade.Degradation | None = None,
        share: slice = slice(None),
        rendered: int = 0,
    ) -> None:
        """Prepares sampling.

        Args:
            cache: the pictures, each at least :func:`least_side` pixels.
            config: what a batch is made of.
            seed: of every crop.
            device: where batches are made and live.
            degradation: makes LR of HR; antialiased bicubic by default.
            share: which patches of each batch this process makes.
            rendered: how many of the last pictures of ``cache`` are not photographs.
        """
        self.seed, self.device, self.share = seed, device, share
        self.steps_per_epoch = -(-len(cache.files) // config.batch)
        home = _home(cache.pixels, device)
        self._pixels = cache.pixels.to(home)
        self._offsets, self._heights, self._widths = (
            t.to(home) for t in (cache.offsets, cache.heights, cache.widths)
        )
        self._photographs = len(cache.files) - rendered
        self._prepare(config, degradation)

    def with_patch(self, patch: int, degradation: degrade.Degradation | None) -> PatchBatches:
        """The same pictures in patches of another size.

        Raises:
            TrainingError: if no picture is large enough.
        """
        other = copy.copy(self)
        other._prepare(replace(self.config, patch=patch), degradation)
        return other

    def _prepare(self, config: DataConfig, degradation: degrade.Degradation | None) -> None:
        """What depends on the size of the patches."""
        self.config, self._degradation = config, degradation
        self._margin = margin(config)
        self._crop = least_side(config)
        device = self.device
        shorter = torch.minimum(self._heights, self._widths)
        if self._crop > int(shorter.max()):
            raise TrainingError(
                f"patches of {config.patch} LR pixels need pictures of {self._crop} pixels; the "
                f"largest has {int(shorter.max())}. Set a smaller data.patch or data.final_patch."
            )
        scales = np.linspace(1, config.rescale, _SCALES)
        sides = sorted({round(self._crop / scale) for scale in scales})
        # A side that no picture has is never drawn.
        self._sides = [s for s in sides if bool((shorter >= s).any())]
        kinds = (
            (shorter[: self._photographs], 0),
            (shorter[self._photographs :], self._photographs),
        )
        self._eligible = [
            tuple((part >= side).nonzero().flatten() + start for part, start in kinds)
            for side in self._sides
        ]
        self._reduce = [_matrix(side, self._crop, device) for side in self._sides]
        side = config.patch + 2 * self._margin
        self._shrink = _matrix(4 * side, side, device)[self._margin : -self._margin]
        self._hardness = Hardness(_matrix(4 * side, side, device), _matrix(side, 4 * side, device))
        self._limits: dict[tuple[int, bool], float] = {}

    def sample(self, step: int) -> Batch:
        """The batch of one step; always the same for the same step."""
        draws = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        size = self._draw_size(draws)
        picks = torch.rand(6, self.config.batch, generator=draws)[:, self.share]
        ranges = torch.rand(7, self.config.batch, generator=draws)[:, self.share]
        hr = self._sharp(picks, size)
        if self.config.hard_share > 0:
            # Drawn last, so that without them everything else is as it was.
            others = torch.rand(7, self.config.batch, generator=draws)[:, self.share]
            hr = self._with_harder(hr, picks[0], others, size)
        hr = self._recoloured(hr, ranges.to(self.device))
        edge = 4 * self._margin
        return Batch(lr=self._low(hr, step) / 255, hr=hr[:, :, edge:-edge, edge:-edge] / 255)

    def _sharp(self, picks: Tensor, size: int) -> Tensor:
        """float32 HR crops ``[N, 3, C, C]``, whole numbers in 0..255, reduced as ``size`` says."""
        hr = self._crops(picks.to(self._pixels.device), size).to(self.device).float()
        if size > 0:
            hr = (self._reduce[size] @ hr @ self._reduce[size].T).round().clamp(0, 255)
        return hr

    def _with_harder(self, hr: Tensor, first: Tensor, draws: Tensor, size: int) -> Tensor:
        """``hr`` with harder crops in a share of the places; ``draws`` ``[7, N]`` say which.

        ``first`` says of which picture each patch is. The other crop is of the same kind, as
        rendered pictures are harder than photographs, and their share is to stay.
        """
        places = (draws[6] < self.config.hard_share).nonzero().flatten()
        if not len(places):
            return hr
        rendered = first[places] < self._rendered_share(size)
        picks = draws[:6, places]
        picks[0] = self._of_kind(picks[0], rendered, size)
        limits = torch.tensor([self._limit(size, kind) for kind in rendered.tolist()])
        where = places.to(self.device)
        hr[where] = harder_of_two(
            hr[where], self._sharp(picks, size), self._hardness, limits.to(self.device)
        )
        return hr

    def _limit(self, size: int, rendered: bool) -> float:
        """The hardness above which crops of one size and kind are among the worst of them."""
        if (size, rendered) not in self._limits:
            draws = torch.Generator().manual_seed(self.seed)
            picks = torch.rand(6, _SURVEYED, generator=draws)
            picks[0] = self._of_kind(picks[0], torch.tensor(rendered), size)
            parts = picks.chunk(16, dim=1)
            found = torch.cat([self._hardness(self._sharp(part, size)) for part in parts])
            self._limits[size, rendered] = self._hardness.limit(found)
        return self._limits[size, rendered]

    def _of_kind(self, draws: Tensor, rendered: Tensor, size: int) -> Tensor:
        """Draws from 0 to 1 moved to where :meth:`_chosen` takes them for pictures of a kind."""
        share = self._rendered_share(size)
        return torch.where(rendered, share * draws, share + (1 - share) * draws)

    def _draw_size(self, draws: torch.Generator) -> int:
        """Half of the batches are not rescaled; the others take each reduction equally often."""
        first, second = torch.rand(2, generator=draws).tolist()
        reductions = len(self._sides) - 1
        return 0 if first < 0.5 else min(1 + int(second * reductions), reductions)

    def _crops(self, picks: Tensor, size: int) -> Tensor:
        """uint8 ``[N, 3, S, S]`` cut, flipped and transposed as ``picks`` ``[6, N]`` say."""
        side, which = self._sides[size], self._chosen(picks[0], size)
        heights, widths = self._heights[which], self._widths[which]
        top = (picks[1] * (heights - side + 1)).long()
        left = (picks[2] * (widths - side + 1)).long()
        flip_rows, flip_columns, transpose = (p[:, None, None] < 0.5 for p in picks[3:])
        line = torch.arange(side, device=picks.device)
        rows, columns = line[None, :, None], line[None, None, :]
        rows = torch.where(flip_rows, side - 1 - rows, rows)
        columns = torch.where(flip_columns, side - 1 - columns, columns)
        rows = torch.where(transpose, rows.mT, rows)
        columns = torch.where(transpose, columns.mT, columns)
        pixel = (top[:, None, None] + rows) * widths[:, None, None] + left[:, None, None] + columns
        index = self._offsets[which][:, None, None] + 3 * pixel
        channel = torch.arange(3, device=picks.device)[None, :, None, None]
        return self._pixels[index[:, None] + channel]

    def _chosen(self, picks: Tensor, size: int) -> Tensor:
        """The pictures to cut patches of: below ``data.rendered`` rendered ones, else photographs.

        Where one kind is too small for a size, all patches come from the other.
        """
        photographs, rendered = self._eligible[size]
        share = self._rendered_share(size)
        if share == 0:
            return _pick(photographs, picks)
        if share == 1:
            return _pick(rendered, picks)
        first, second = (
            _pick(rendered, picks / share),
            _pick(photographs, (picks - share) / (1 - share)),
        )
        return torch.where(picks < share, first, second)

    def _rendered_share(self, size: int) -> float:
        photographs, rendered = self._eligible[size]
        if not len(photographs):
            return 1.0
        return self.config.rendered if len(rendered) else 0.0

    def _low(self, hr: Tensor, step: int) -> Tensor:
        if self._degradation is not None:
            return self._degradation(hr, self.seed * 1_000_003 + step)
        return (self._shrink @ hr @ self._shrink.T).round().clamp(0, 255)

    def _recoloured(self, hr: Tensor, ranges: Tensor) -> Tensor:
        """Maps 0..255 of every channel to a random range, in a share of the patches.

        An end of a range is 0 in a quarter of the cases and 255 in another, so that the corners of
        the colour cube, flat and in gradients, are seen as often as its inside.
        """
        chosen = (ranges[0] < self.config.recolour)[:, None]
        ends = (2 * ranges[1:] - 0.5).clamp(0, 1)
        low = torch.where(chosen, 255 * ends[:3].T, 0)
        high = torch.where(chosen, 255 * ends[3:].T, 255)
        gain = (high - low) / 255
        return (hr * gain[:, :, None, None] + low[:, :, None, None]).round()


class WholeBatches:
    """Whole pictures squeezed to a square, in shuffled epochs: the data of the report.

    HR is the picture resized to 4P x 4P with OpenCV's bicubic, LR is HR resized to P x P the same
    way; neither is antialiased, and the aspect ratio is not kept.
    """

    def __init__(
        self,
        cache: PictureCache,
        config: DataConfig,
        *,
        seed: int,
        device: torch.device,
        share: slice = slice(None),
    ) -> None:
        """Prepares sampling from a cache whose pictures are 4P x 4P; see PatchBatches."""
        self.config, self.seed, self.device, self.share = config, seed, device, share
        self.steps_per_epoch = -(-len(cache.files) // config.batch)
        side = 4 * config.patch
        hr = cache.pixels.reshape(-1, side, side, 3)
        lr = np.stack([squeeze(picture.numpy(), config.patch) for picture in hr])
        home = _home(cache.pixels, device)
        self._hr, self._lr = hr.to(home), torch.from_numpy(lr).to(home)

    def sample(self, step: int) -> Batch:
        """The batch of one step; the last one of an epoch is filled up from its start."""
        epoch, position = divmod(step, self.steps_per_epoch)
        draws = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._hr), generator=draws)
        places = position * self.config.batch + torch.arange(self.config.batch)[self.share]
        which = order[places % len(order)].to(self._hr.device)
        lr, hr = (_to_float(t[which].to(self.device)) for t in (self._lr, self._hr))
        return Batch(lr=lr, hr=hr)


class StagedBatches:
    """Batches of one kind until a step, and of another from there."""

    def __init__(self, first: Batches, last: Batches, start: int) -> None:
        """``last`` gives the batches from step ``start`` on."""
        self.steps_per_epoch = first.steps_per_epoch
        self._first, self._last, self._start = first, last, start

    def sample(self, step: int) -> Batch:
        """The batch of one step; always the same for the same step."""
        return (self._first if step < self._start else self._last).sample(step)


class Ahead:
    """Makes the next batches in a thread while the device computes; the batches are the same."""

    def __init__(self, batches: Batches, depth: int = 2) -> None:
        self.steps_per_epoch = batches.steps_per_epoch
        self._make: Callable[[int], Batch] = batches.sample
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._coming: dict[int, Future[Batch]] = {}

    def sample(self, step: int) -> Batch:
        """The batch of one step, usually made already."""
        for wanted in range(step, step + 1 + self._depth):
            if wanted not in self._coming:
                self._coming[wanted] = self._pool.submit(self._make, wanted)
        for stale in [s for s in self._coming if s < step]:
            del self._coming[stale]
        return self._coming.pop(step).result()

    def close(self) -> None:
        """Stops the thread; batches not asked for are dropped."""
        self._pool.shutdown(cancel_futures=True)


def _to_float(pictures: Tensor) -> Tensor:
    """uint8 ``[N, H, W, 3]`` to float32 ``[N, 3, H, W]`` in 0..1."""
    return pictures.permute(0, 3, 1, 2).float() / 255


def _pick(items: Tensor, places: Tensor) -> Tensor:
    """The items at places from 0, the first, to 1, the last."""
    return items[(places * len(items)).long().clamp(0, len(items) - 1)]


def _home(pixels: Tensor, device: torch.device) -> torch.device:
    """The GPU if all pictures fit into its free memory, else the host."""
    if device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    return device if pixels.numel() < _GPU_SHARE * free else torch.device("cpu")


def _matrix(in_size: int, out_size: int, device: torch.device) -> Tensor:
    return torch.tensor(bicubic_matrix(in_size, out_size), dtype=torch.float32, device=device)
