"""What a source says of its video, and the steps in which it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from av.packet import Packet

from srtrt.runtime.video import pyav
from srtrt.runtime.video.colour_tags import StreamColour


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What is known of the video stream after its first frame."""

    codec: str
    """FFmpeg's name of the codec."""
    width: int
    """Pixels across."""
    height: int
    """Pixels down."""
    pix_fmt: str
    """FFmpeg's name of the pixel format of decoded frames."""
    time_base: Fraction
    """Seconds per tick of every timestamp."""
    rate: Fraction
    """Average frames per second."""
    sample_aspect_ratio: Fraction | None
    """Width of a pixel divided by its height; None if not said."""
    display_matrix: tuple[int, ...] | None
    """Nine 16.16 fixed-point numbers of the container's display matrix."""
    colour: StreamColour
    """Matrix, range, siting and tags."""
    first_pts: int
    """Timestamp of the first frame, in ticks."""
    frames: int | None
    """Number of frames by the header; None if not said."""


@dataclass
class Step:
    """One frame, or none, and the packets to be copied that came before it in the file."""

    frame: av.VideoFrame | None
    """The decoded frame; None for a step that only brings packets."""
    pts: int = 0
    """When it is shown, in ticks of the stream's time base."""
    duration: int = 0
    """How long, in the same ticks."""
    packets: list[Packet[Any]] = field(default_factory=list)
    """Packets of other streams, in the order of the file."""


def frame_notes(frame: av.VideoFrame) -> list[str]:
    """What the first frame of a video tells the user."""
    notes = []
    if frame.interlaced_frame:
        notes.append(
            "The video is interlaced; its frames are upscaled as they are and the output "
            "is marked progressive."
        )
    if pyav.has_views(frame):
        notes.append(
            "The video has a view for each eye (MV-HEVC); the one that ordinary players show "
            "is upscaled, the other is not carried over."
        )
    return notes
