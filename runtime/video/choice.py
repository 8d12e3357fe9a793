"""Which bundled model fits a video: ``--model auto``."""

from __future__ import annotations

from dataclasses import dataclass

from srtrt.weights import DEFAULT_MODEL

AUTO = "auto"
"""The name under which the choice is left to :func:`choose_model`."""

COMPRESSED_MODEL = "video"
"""What removes the traces of strong compression."""

THRESHOLDS: dict[str, float] = {"h264": 0.1, "hevc": 0.085, "vp9": 0.095, "av1": 0.08}
"""Bits per pixel and frame under which :data:`COMPRESSED_MODEL` is nearer to the original in PSNR
and in VMAF, by codec, for frames of :data:`MEASURED_PIXELS`.

Measured for h264 (``benchmarks/results/video-rates-*.json``): under this rate it won in both
measures on every clip of something real; above 0.3 it won on none. The others are this times the
share of its bits in which they reached the same PSNR: 0.85, 0.95 and 0.8."""

MEASURED_PIXELS = 160 * 90
"""Pixels of the frames on which the thresholds were measured."""

_EXPONENT = 0.25
"""How bits per pixel fall as frames grow and look the same: 4x the pixels take 4^0.75 = 2.8x the
bits, a rule of thumb of encoding (B. Waggoner, "Compression for Great Video and Audio", 2009). The
rate at which :data:`COMPRESSED_MODEL` begins to win fell by 0.69 from 160x90 to 320x180 (the rule:
0.71) on one clip, by 0.86 from 160x90 to 480x270 (0.58) on another."""

_WHOLE_PICTURES = frozenset(
    {"ffv1", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "rawvideo", "v210", "png", "gif"}
    | {"prores", "dnxhd", "cfhd", "hap", "mjpeg", "dvvideo", "jpeg2000"}
)
"""FFmpeg's names of codecs that are lossless, or hold every frame by itself at a high rate."""


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A bundled model and why it fits."""

    name: str
    """Name of the model."""
    reason: str
    """In a few words."""


def asked_for(model: str) -> ModelChoice:
    """The model that the user named."""
    return ModelChoice(name=model, reason="as asked for")


def threshold(codec: str, pixels: int) -> float | None:
    """Bits per pixel and frame under which a video counts as strongly compressed.

    Args:
        codec: FFmpeg's name of the video's codec.
        pixels: of a frame.

    Returns:
        None for a codec that was not measured.
    """
    measured = THRESHOLDS.get(codec)
    if measured is None:
        return None
    share: float = (MEASURED_PIXELS / max(pixels, MEASURED_PIXELS)) ** _EXPONENT
    return measured * share


def choose_model(codec: str, bits_per_pixel: float | None, pixels: int) -> ModelChoice:
    """The model whose output is nearest to the original of such a video.

    Args:
        codec: FFmpeg's name of the video's codec.
        bits_per_pixel: what it spends on a pixel of a frame; None if that is unknown.
        pixels: of a frame.
    """
    if codec in _WHOLE_PICTURES:
        return ModelChoice(name=DEFAULT_MODEL, reason=f"{codec} is lossless or nearly so")
    if bits_per_pixel is None:
        return ModelChoice(name=DEFAULT_MODEL, reason="the rate of the source is unknown")
    rate = f"the source has {bits_per_pixel:.3f} bits per pixel and frame"
    limit = threshold(codec, pixels)
    if limit is None:
        reason = f"{rate}, and what is little for {codec} was not measured"
        return ModelChoice(name=DEFAULT_MODEL, reason=reason)
    if bits_per_pixel < limit:
        reason = f"{rate}, under {limit:.3f}: strongly compressed for {codec} of this size"
        return ModelChoice(name=COMPRESSED_MODEL, reason=reason)
    reason = f"{rate}, not under {limit:.3f}: lightly compressed for {codec} of this size"
    return ModelChoice(name=DEFAULT_MODEL, reason=reason)
