"""Low-resolution patches as real footage shows them, made from sharp pictures.

The chain is that of a camera and a file: the lens blurs, the picture is reduced, the sensor adds
noise, and JPEG, H.264 or HEVC compress it. Before H.264 and HEVC, each patch becomes a short clip
that moves in steps of a quarter LR pixel and stands exactly in place in the frame that is kept, so
that its errors are those of motion compensation and its place is that of the HR patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from srtrt.errors import UsageError
from srtrt.resample import bicubic_matrix
from srtrt.train.degrade_codec import (
    ClipCoding,
    clip_round_trip,
    i420_to_rgb,
    jpeg_round_trip,
    require_encoders,
    rgb_to_i420,
)

MARGIN = 12
"""LR pixels kept around a patch: 5 are the reach of the widest blur and reduction, 6 that of the
motion, so that the patch itself never shows a border in any frame of a clip."""

_BLUR_RADIUS = 10
"""HR pixels, the reach of the blur kernels."""
_TAPS = 24
"""HR pixels that the widest reduction (Lanczos, 3 lobes) makes one LR pixel of."""
_GUARD = 4
"""LR pixels between a patch and the edge of its tile: the reach of the codecs' loop filters."""
_PHASES = 8
"""Places that a patch can have on the block grid of a codec, at least."""
_HIGHEST_SHIFT = 24
"""HR pixels that a patch can move within a clip."""
_CLIP_FRAMES = (3, 5)
_PRESETS = ("veryfast", "fast")

_LIMITS = {
    "blur_sigma": (0.1, 3.3),
    "anisotropy": (1.0, 10.0),
    "noise_sigma": (0.0, 100.0),
    "shot_gain": (0.0, 10.0),
    "h264_crf": (0.0, 51.0),
    "hevc_crf": (0.0, 51.0),
    "jpeg_quality": (1.0, 100.0),
}
"""Ends of every range of the settings."""


@dataclass(frozen=True, kw_only=True)
class DegradationConfig:
    """How often and how strongly patches are degraded.

    A range is (lowest, highest) of a uniform distribution. All values are JSON values; a range
    may be given as a list and is kept as a tuple.

    Raises:
        UsageError: if a value is out of range; the message names the setting.
    """

    clean_share: float = 0.2
    """Share of the patches that are only reduced, antialiased bicubic."""
    blur_share: float = 0.5
    """Share of the other patches that are blurred before they are reduced."""
    blur_sigma: tuple[float, float] = (0.5, 3.0)
    """Standard deviation of the Gaussian blur along its longer axis, HR pixels, up to 3.3."""
    anisotropic_share: float = 0.5
    """Share of the blurs that are longer in one direction, which is random."""
    anisotropy: tuple[float, float] = (1.0, 3.0)
    """Longer by shorter standard deviation of these, at least 1."""
    area_share: float = 0.2
    """Share of the degraded patches that are reduced with a mean of 4x4 pixels."""
    bilinear_share: float = 0.2
    """Share reduced with an antialiased triangle."""
    lanczos_share: float = 0.1
    """Share reduced with antialiased Lanczos of 3 lobes. Bicubic takes what is left."""
    noise_share: float = 0.4
    """Share of the degraded patches that get sensor noise, new in every frame."""
    noise_sigma: tuple[float, float] = (0.0, 6.0)
    """Standard deviation of the noise that is the same at every level, 0..255 levels."""
    shot_gain: tuple[float, float] = (0.0, 0.25)
    """Variance of the shot noise per level: (0..255 levels) squared by level."""
    gray_noise_share: float = 0.4
    """Share of the noisy patches whose noise is the same in R, G and B."""
    codec_share: float = 0.5
    """Share of the batches whose degraded patches are compressed as video."""
    hevc_share: float = 0.25
    """Share of these that are HEVC (libx265), which is slower; the others are H.264 (libx264)."""
    h264_crf: tuple[float, float] = (18.0, 34.0)
    """Constant rate factor of libx264, 0..51."""
    hevc_crf: tuple[float, float] = (20.0, 36.0)
    """Constant rate factor of libx265, 0..51."""
    still_share: float = 0.3
    """Share of the patches that do not move in the clip."""
    speed: float = 1.5
    """Highest speed of the others along each axis, LR pixels per frame, 0..6."""
    jpeg_share: float = 0.2
    """Share of the degraded patches that become JPEG, in the batches without video."""
    jpeg_quality: tuple[float, float] = (40.0, 95.0)
    """Quality of libjpeg, 1..100. Half of the files have 4:2:0 chroma, half 4:4:4."""
    chroma_share: float = 0.3
    """Share of the remaining patches that go through 8-bit YUV 4:2:0 without compression."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, tuple):
                self._check_range(field.name, value)
            elif not _is_number(value) or not math.isfinite(value):
                raise UsageError(f"{field.name} is {value!r}; expected a number.")
            elif field.name.endswith("_share") and not 0 <= value <= 1:
                raise UsageError(f"{field.name} is {value}; expected a share between 0 and 1.")
        if not 0 <= self.speed <= 6:
            raise UsageError(f"speed is {self.speed}; expected 0 to 6 LR pixels per frame.")
        kernels = self.area_share + self.bilinear_share + self.lanczos_share
        if kernels > 1 + 1e-9:
            raise UsageError(
                f"area_share, bilinear_share and lanczos_share add up to {kernels:g}; expected at "
                "most 1. Lower one of them."
            )

    def _check_range(self, name: str, value: object) -> None:
        """Checks one (lowest, highest) and keeps it as a tuple of floats."""
        low, high = _LIMITS[name]
        if (
            not isinstance(value, (tuple, list))
            or len(value) != 2
            or not all(_is_number(v) for v in value)
            or not low <= value[0] <= value[1] <= high
        ):
            raise UsageError(
                f"{name} is {value!r}; expected two numbers, lowest and highest, "
                f"within {low:g} and {high:g}."
            )
        object.__setattr__(self, name, (float(value[0]), float(value[1])))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _between(limits: tuple[float, float], draw: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * draw


class _Plan:
    """What happens to each of ``count`` patches; every tensor is on the CPU.

    Everything is drawn whatever the shares are, so that a share changes only its own effect.
    """

    def __init__(
        self, config: DegradationConfig, count: int, room: int, draws: torch.Generator
    ) -> None:
        self.coding, self.frames, self.keep = _draw_coding(config, draws)
        u = torch.rand(20, count, generator=draws)
        degraded = u[0] >= config.clean_share
        self.blurred = degraded & (u[1] < config.blur_share)
        self.sigma = _between(config.blur_sigma, u[2])
        ratio = _between(config.anisotropy, u[3])
        self.ratio = torch.where(u[4] < config.anisotropic_share, ratio, 1.0)
        self.angle = math.pi * u[5]
        ends = np.cumsum([config.area_share, config.bilinear_share, config.lanczos_share])
        self.kernel = (u[6, :, None] >= torch.tensor(ends)).sum(1)
        self.noisy = degraded & (u[7] < config.noise_share)
        self.noise_sigma = _between(config.noise_sigma, u[8])
        self.shot_gain = _between(config.shot_gain, u[9])
        self.gray_noise = u[10] < config.gray_noise_share
        alone = degraded & (self.coding is None)
        self.jpeg = alone & (u[11] < config.jpeg_share)
        self.quality = _between(config.jpeg_quality, u[12]).round().long()
        self.subsampled = u[13] < 0.5
        self.chroma = alone & ~self.jpeg & (u[14] < config.chroma_share)
        # Where the patch lies in its tile, LR pixels [count, 2] from the top and the left.
        self.place = (u[15:17].T * room).long() + _GUARD
        # HR pixels [frames, count, 2] down and right; 0 in the frame that is kept.
        speed = torch.where(u[17] < config.still_share, 0.0, 4 * config.speed) * (2 * u[18:20] - 1)
        time = torch.arange(self.frames) - self.keep
        shift = (time[:, None, None] * speed.T).round().long()
        self.shift = shift.clamp(-_HIGHEST_SHIFT, _HIGHEST_SHIFT)
        touched = self.blurred | self.noisy | self.jpeg | self.chroma | (self.kernel < 3)
        self.degraded = degraded & (touched | (self.coding is not None))


def _draw_coding(
    config: DegradationConfig, draws: torch.Generator
) -> tuple[ClipCoding | None, int, int]:
    """How a batch is compressed as video, its frames, and which of them is kept."""
    u = torch.rand(6, generator=draws).tolist()
    if u[0] >= config.codec_share:
        return None, 1, 0
    hevc = u[1] < config.hevc_share
    low, high = config.hevc_crf if hevc else config.h264_crf
    coding = ClipCoding(
        encoder="libx265" if hevc else "libx264",
        crf=low + (high - low) * u[2],
        preset=_PRESETS[int(len(_PRESETS) * u[3])],
    )
    fewest, most = _CLIP_FRAMES
    frames = fewest + int((most - fewest + 1) * u[4])
    middle = frames // 2
    return coding, frames, middle + int((frames - middle) * u[5])


def _reduction_taps() -> Tensor:
    """Weights ``[4, 24]`` of HR pixels 4k - 10 .. 4k + 13 in LR pixel k.

    Rows: area, antialiased triangle, Lanczos of 3 lobes, and the bicubic of ``srtrt.resample``.
    """
    distance = np.abs((np.arange(_TAPS) - (_TAPS - 1) / 2) / 4)
    area = (distance < 0.5).astype(np.float64)
    triangle = np.maximum(1 - distance, 0)
    lanczos = np.sinc(distance) * np.sinc(distance / 3)
    bicubic = bicubic_matrix(4 * 16, 16)[8, 4 * 8 - 10 : 4 * 8 + 14]
    rows = np.stack([area, triangle, lanczos, bicubic])
    return torch.tensor(rows / rows.sum(1, keepdims=True), dtype=torch.float32)


class Degradation:
    """HR patches with a margin to LR patches as real footage shows them.

    Attributes:
        config: how often and how strongly patches are degraded.
        patch: side of the LR patches in pixels.
    """

    def __init__(
        self, config: DegradationConfig, *, patch: int, margin: int, device: torch.device
    ) -> None:
        """Prepares kernels.

        Args:
            config: how often and how strongly patches are degraded.
            patch: side of the LR patches in pixels, at least 1.
            margin: LR pixels that the HR patches have around it; must be ``MARGIN``.
            device: where the patches are. Codecs and random draws run on the CPU.

        Raises:
            TrainingError: if video is asked for and PyAV cannot encode it.
            ValueError: if ``margin`` or ``patch`` is another.
        """
        if patch < 1 or margin != MARGIN:
            raise ValueError(f"patch {patch}, margin {margin}; expected 1 or more, and {MARGIN}.")
        if config.codec_share > 0:
            require_encoders()
        self.config, self.patch, self._device = config, patch, device
        field = patch + 2 * MARGIN
        self._size = 4 * field
        self._tile = -(-(patch + 2 * _GUARD + _PHASES - 1) // 16) * 16
        clean = bicubic_matrix(self._size, field)[MARGIN:-MARGIN]
        self._clean = torch.tensor(clean, dtype=torch.float32, device=device)
        self._taps = _reduction_taps()

    def __call__(self, hr: Tensor, seed: int) -> Tensor:
        """Degrades a batch; the same ``hr`` and ``seed`` give the same bits.

        Args:
            hr: float32 RGB ``[N, 3, S, S]`` in 0..255 with S = 4 * (patch + 2 * MARGIN), on the
                device.
            seed: of every random choice.

        Returns:
            float32 RGB ``[N, 3, patch, patch]``, whole numbers in 0..255. LR pixel k shows the HR
            pixels 4k..4k + 3 of ``hr`` without its margin.

        Raises:
            ValueError: if ``hr`` has another shape.
            TrainingError: if a codec loses a frame.
        """
        if hr.shape[1:] != (3, self._size, self._size):
            raise ValueError(f"hr is {tuple(hr.shape)}; expected [N, 3, {self._size}, same].")
        draws = torch.Generator().manual_seed(seed)
        plan = _Plan(self.config, len(hr), self._tile - self.patch - 2 * _GUARD + 1, draws)
        lr = self._clean @ hr @ self._clean.T
        chosen = plan.degraded.nonzero()[:, 0]
        if len(chosen):
            tiles = self._frames(self._blurred(hr, plan), plan, chosen)
            tiles = self._noisy(tiles, plan, chosen, draws)
            kept = self._compressed(tiles, plan, chosen).to(self._device)
            for index, tile in zip(chosen.tolist(), kept, strict=True):
                top, left = plan.place[index].tolist()
                lr[index] = tile[:, top : top + self.patch, left : left + self.patch]
        return lr.round().clamp(0, 255)

    def _blurred(self, hr: Tensor, plan: _Plan) -> Tensor:
        """``hr`` after the lens. The outer ``_BLUR_RADIUS`` pixels repeat what lies inside."""
        where = plan.blurred.nonzero()[:, 0]
        if not len(where):
            return hr
        line = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1.0)
        sine, cosine = (f(plan.angle[where])[:, None, None] for f in (torch.sin, torch.cos))
        along = cosine * line + sine * line[:, None]
        across = cosine * line[:, None] - sine * line
        sigma, ratio = (x[where][:, None, None] for x in (plan.sigma, plan.ratio))
        kernels = torch.exp(-(along**2 + (across * ratio) ** 2) / (2 * sigma**2))
        kernels = (kernels / kernels.sum((1, 2), keepdim=True))[:, None]
        where = where.to(self._device)
        # Through the Fourier transform, several times faster here than a convolution. It wraps
        # round at the borders, so those are cut off.
        size, edge = (self._size, self._size), _BLUR_RADIUS
        spectrum = torch.fft.rfft2(hr[where]) * torch.fft.rfft2(kernels.to(self._device), s=size)
        soft = torch.fft.irfft2(spectrum, s=size)[..., 2 * edge :, 2 * edge :]
        result = hr.clone()
        result[where] = F.pad(soft, [edge] * 4, mode="replicate")
        return result

    def _frames(self, hr: Tensor, plan: _Plan, chosen: Tensor) -> Tensor:
        """Tiles ``[frames, n, 3, T, T]`` on the LR grid; one frame unless video is made."""
        first = 4 * (MARGIN - plan.place[chosen]) + plan.shift[:, chosen]
        tap = torch.arange(_TAPS) - (_TAPS - 4) // 2
        column = 4 * torch.arange(self._tile)[:, None] + tap
        column = (first[..., None, None] + column).clamp(0, self._size - 1)
        weights = self._taps[plan.kernel[chosen]][None, :, None, None, :].expand(column.shape)
        matrix = torch.zeros(*column.shape[:-1], self._size).scatter_add_(-1, column, weights)
        rows, columns = matrix.to(self._device)[:, :, :, None].unbind(2)
        picked = hr[chosen.to(self._device)]
        return torch.stack([r @ picked @ c.mT for r, c in zip(rows, columns, strict=True)])

    def _noisy(self, tiles: Tensor, plan: _Plan, chosen: Tensor, draws: torch.Generator) -> Tensor:
        """The tiles with sensor noise, clamped to 0..255; new noise in every frame."""
        tiles = tiles.clamp(0, 255)
        where = plan.noisy[chosen].nonzero()[:, 0]
        if not len(where):
            return tiles
        which = chosen[where]
        shape = (plan.frames, len(which), *tiles.shape[2:])
        noise = torch.randn(shape, generator=draws)
        gray = plan.gray_noise[which][None, :, None, None, None]
        noise = torch.where(gray, noise[:, :, :1], noise).to(self._device)
        fixed, gain = (
            x[which][:, None, None, None].to(self._device)
            for x in (plan.noise_sigma**2, plan.shot_gain)
        )
        where = where.to(self._device)
        tiles[:, where] += noise * (fixed + gain * tiles[:, where]).sqrt()
        return tiles.clamp(0, 255)

    @staticmethod
    def _compressed(tiles: Tensor, plan: _Plan, chosen: Tensor) -> Tensor:
        """The tiles ``[n, 3, T, T]`` of the kept frame after video, JPEG or 4:2:0, on the CPU."""
        frames = tiles.cpu().numpy()
        if plan.coding is not None:
            return torch.from_numpy(clip_round_trip(frames, plan.keep, plan.coding))
        kept = frames[0].copy()
        for tile, index in zip(kept, chosen.tolist(), strict=True):
            if plan.jpeg[index]:
                subsample = bool(plan.subsampled[index])
                tile[:] = jpeg_round_trip(tile, int(plan.quality[index]), subsample=subsample)
            elif plan.chroma[index]:
                tile[:] = i420_to_rgb(rgb_to_i420(tile))
        return torch.from_numpy(kept)
