"""What FFmpeg's encoders take for ``--crf`` and ``--preset``, and how they say no.

PyAV does not tell the options of an encoder. The ranges are those of FFmpeg's own tables
(``libavcodec/libx264.c``, ``libx265.c``, ``libsvtav1.c``, ``libvpxenc.c``, ``nvenc_h264.c``), but
for the least and the greatest quality of x264 and x265 at 8 bits, which the encoders themselves
set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import av

from srtrt.errors import OutputError, UsageError
from srtrt.nearest import did_you_mean

_X26X = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower",
    "veryslow", "placebo",
)  # fmt: skip
_NVENC = (
    *(f"p{number}" for number in range(1, 8)),
    "slow", "medium", "fast", "default", "hp", "hq", "bd", "ll", "llhq", "llhp", "lossless",
    "losslesshp",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one encoder takes."""

    quality: str = "crf"
    """Its option for constant quality."""
    crf: range | None
    """Values of that; None if it has none."""
    presets: Sequence[str] | range | None
    """Names or numbers of its speed presets; None if it has none."""
    instead: str = ""
    """What it has in their place, a clause."""

    @property
    def preset_words(self) -> str:
        """The presets, for people."""
        if isinstance(self.presets, range):
            return f"a number from {self.presets[0]} (slow) to {self.presets[-1]} (fast)"
        return f"one of {', '.join(self.presets or ())}"


ENCODERS: Mapping[str, Limits] = {
    "libx264": Limits(crf=range(52), presets=_X26X),
    "libx265": Limits(crf=range(52), presets=_X26X),
    "libsvtav1": Limits(crf=range(64), presets=range(-1, 14)),
    "libvpx": Limits(crf=range(4, 64), presets=None),
    "libvpx-vp9": Limits(crf=range(64), presets=None),
    "h264_nvenc": Limits(quality="cq", crf=range(52), presets=_NVENC),
    "hevc_nvenc": Limits(quality="cq", crf=range(52), presets=_NVENC),
    "av1_nvenc": Limits(quality="cq", crf=range(64), presets=_NVENC),
    "ffv1": Limits(crf=None, presets=None, instead="it is lossless"),
}
"""Encoders of which this is known, by FFmpeg's name."""


def check_options(encoder: str, crf: int | None, preset: str | None) -> None:
    """Refuses a quality or a preset that an encoder does not take.

    Args:
        encoder: FFmpeg's name; nothing is refused for one that is not in :data:`ENCODERS`.
        crf: the quality that was asked for.
        preset: the preset that was asked for.

    Raises:
        UsageError: with what it takes.
    """
    limits = ENCODERS.get(encoder)
    if limits is None:
        return
    why = f", {limits.instead}" if limits.instead else ""
    if crf is not None and limits.crf is None:
        raise UsageError(f"--crf {crf} has no meaning for {encoder}{why}; leave it out.")
    if crf is not None and limits.crf is not None and crf not in limits.crf:
        raise UsageError(
            f"--crf {crf}: {encoder} takes {limits.crf[0]} (best, largest) to {limits.crf[-1]}."
        )
    if preset is None:
        return
    if limits.presets is None:
        raise UsageError(f"--preset {preset} has no meaning for {encoder}{why}; leave it out.")
    if isinstance(limits.presets, range):
        if not re.fullmatch(r"-?[0-9]{1,3}", preset) or int(preset) not in limits.presets:
            hint = _names_of_others(preset, encoder)
            raise UsageError(f"--preset {preset!r}: {encoder} takes {limits.preset_words}.{hint}")
    elif preset not in limits.presets:
        hint = did_you_mean(preset, limits.presets) or _names_of_others(preset, encoder)
        raise UsageError(f"--preset {preset!r}: {encoder} takes {limits.preset_words}.{hint}")


def _names_of_others(preset: str, encoder: str) -> str:
    """A sentence if a preset is one of other encoders."""
    number = re.fullmatch(r"-?[0-9]{1,3}", preset) is not None
    for codec, other in (("h264", "libx264"), ("av1", "libsvtav1")):
        presets = ENCODERS[other].presets
        fits = number if isinstance(presets, range) else preset in (presets or ())
        if other != encoder and fits:
            return f" (That is a preset of --codec {codec}.)"
    return ""


def require_encoder(encoder: str) -> av.Codec:
    """FFmpeg's encoder of that name.

    Raises:
        UsageError: if this FFmpeg has none.
    """
    try:
        return av.Codec(encoder, "w")
    except (ValueError, av.FFmpegError):
        known = sorted({*ENCODERS, *_encoders_here()})
        hint = did_you_mean(encoder, known)
        raise UsageError(
            f"--encoder {encoder!r}: this FFmpeg has no such encoder "
            f"(examples: libx264, libx265, libsvtav1, libvpx-vp9, ffv1).{hint}"
        ) from None


def _encoders_here() -> list[str]:
    """Names of codecs that this FFmpeg has, of which some encode video."""
    return [name for name in av.codecs_available if re.search(r"264|265|vp9|av1|nvenc", name)]


def refusal(encoder: str, size: str, options: Mapping[str, str], why: str) -> OutputError:
    """What to raise where an encoder cannot be opened.

    Args:
        encoder: FFmpeg's name.
        size: width and height, as ``1920x1080``.
        options: what it was given.
        why: FFmpeg's words.
    """
    hardware = next((need for end, need in _HARDWARE.items() if encoder.endswith(end)), None)
    if hardware is not None:
        return OutputError(
            f"--encoder {encoder} cannot be opened here ({why}): it needs {hardware}. "
            "Leave --encoder out to encode on the CPU."
        )
    given = ", ".join(f"{name} {value}" for name, value in options.items())
    return OutputError(
        f"The encoder {encoder} refuses {size} with {given or 'its defaults'} ({why}). "
        "Try another --codec (h264, hevc, av1, ffv1)."
    )


_HARDWARE = {
    "_nvenc": "an NVIDIA GPU that encodes video, and its driver",
    "_qsv": "an Intel GPU and its driver",
    "_vaapi": "a GPU with VA-API",
    "_amf": "an AMD GPU and its driver",
    "_v4l2m2m": "a video encoder of the Linux kernel",
    "_vulkan": "a GPU with Vulkan video",
    "_videotoolbox": "macOS",
}
"""Ends of encoders' names that say what they run on."""
