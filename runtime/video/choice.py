"""Which bundled model fits a video: ``--model auto``."""

from __future__ import annotations

from dataclasses import dataclass

from srtrt.weights import DEFAULT_MODEL

AUTO = "auto"
"""The name under which the choice is left to :func:`choose_model`."""

COMPRESSED_MODEL = "video"
"""What removes the traces of strong compression."""

THRESHOLDS: dict[str, float] = {}
"""Bits per pixel and frame under which :data:`COMPRESSED_MODEL` is nearer to the original, by
codec; ``benchmarks/results/video-rates-*.json`` has the measurement."""

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


def choose_model(codec: str, bits_per_pixel: float | None) -> ModelChoice:
    """The model whose output is nearest to the original of such a video.

    Args:
        codec: FFmpeg's name of the video's codec.
        bits_per_pixel: what it spends on a pixel of a frame; None if that is unknown.
    """
    threshold = THRESHOLDS.get(codec)
    if codec in _WHOLE_PICTURES:
        return ModelChoice(name=DEFAULT_MODEL, reason=f"{codec} is lossless or nearly so")
    if bits_per_pixel is None:
        return ModelChoice(name=DEFAULT_MODEL, reason="the rate of the source is unknown")
    rate = f"the source has {bits_per_pixel:.3f} bits per pixel and frame"
    if threshold is None:
        reason = f"{rate}, and what is little for {codec} was not measured"
        return ModelChoice(name=DEFAULT_MODEL, reason=reason)
    if bits_per_pixel < threshold:
        reason = f"{rate}, less than {threshold:g}: strongly compressed for {codec}"
        return ModelChoice(name=COMPRESSED_MODEL, reason=reason)
    reason = f"{rate}, not less than {threshold:g}: lightly compressed for {codec}"
    return ModelChoice(name=DEFAULT_MODEL, reason=reason)
