"""What the user wants of one video; the network has its own options."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How one video is written."""

    codec: str = "auto"
    """``auto``, ``h264``, ``hevc``, ``av1`` or ``ffv1``."""
    encoder: str = "auto"
    """FFmpeg's name of an encoder, or ``auto``."""
    crf: int | None = None
    """Constant quality; None is the codec's default."""
    preset: str | None = None
    """Speed preset; None is the codec's default."""
    audio: bool = True
    """Whether audio is copied."""
    subtitles: bool = True
    """Whether subtitles are copied."""
    max_frames: int | None = None
    """Stop after so many frames; None is all."""
    overwrite: bool = False
    """Whether an existing output may be replaced."""
    keep_going: bool = False
    """Whether damage ends the video instead of the run."""
