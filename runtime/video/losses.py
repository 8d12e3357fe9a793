"""What a re-encoded video loses that is no picture: side data of the stream and its frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.stream import VideoStream

from srtrt.runtime.video.described import describe_streams, service_names
from srtrt.runtime.video.pyav import all_side_data
from srtrt.text import printable

_HDR = "HDR metadata (mastering display, light levels, tone mapping) is not carried over."
_DOLBY = "Dolby Vision metadata is not carried over; the output shows its base layer."
_DOLBY_ALONE = (
    "Dolby Vision metadata is not carried over, and this video (without a compatible base layer) "
    "has wrong colours without it."
)
_CAPTIONS = "Closed captions inside the video stream (CEA-608 or 708) are not carried over."
_ICC = "The ICC profile of the video is not carried over."
_TIMECODES = "Timecodes inside the video stream are not carried over."
_PAN_SCAN = "Pan-scan windows of the video are not carried over."
_AFD = "The active format description (AFD) of the video is not carried over."
_STEREO = "The description of the video as stereoscopic (3D) is not carried over."
_SPHERICAL = "The description of the video's projection (360 or 180 degrees) is not carried over."
_CROPPING = (
    "The cropping that the source's container asks for is not carried over; the output shows the "
    "whole coded picture."
)
_GRAIN = "Film grain parameters are not carried over; the grain is missing."
_ENHANCEMENT = "The enhancement layer (LCEVC) of the video is not carried over."
_USER_DATA = "User data inside the video stream (SEI) is not carried over."
_EXIF = "EXIF data of the frames is not carried over."

_OF_STREAM = {
    "dovi configuration record": _DOLBY,
    "mastering display metadata": _HDR,
    "content light level metadata": _HDR,
    "hdr10+": _HDR,
    "ambient viewing environment": _HDR,
    "icc profile": _ICC,
    "smpte st 12-1": _TIMECODES,
    "stereo 3d": _STEREO,
    "3d reference displays": _STEREO,
    "spherical": _SPHERICAL,
    "frame cropping": _CROPPING,
    "lcevc": _ENHANCEMENT,
    "active format": _AFD,
    "atsc a53": _CAPTIONS,
    "exif": _EXIF,
}
"""Beginning of FFmpeg's line on the side data of a stream to what is lost."""

_NOTHING_LOST = ("display matrix", "displaymatrix", "cpb properties", "encryption")

_OF_FRAME = {
    "PANSCAN": _PAN_SCAN,
    "A53_CC": _CAPTIONS,
    "STEREO3D": _STEREO,
    "AFD": _AFD,
    "MASTERING_DISPLAY_METADATA": _HDR,
    "GOP_TIMECODE": _TIMECODES,
    "SPHERICAL": _SPHERICAL,
    "CONTENT_LIGHT_LEVEL": _HDR,
    "ICC_PROFILE": _ICC,
    "S12M_TIMECODE": _TIMECODES,
    "DYNAMIC_HDR_PLUS": _HDR,
    "SEI_UNREGISTERED": _USER_DATA,
    "FILM_GRAIN_PARAMS": _GRAIN,
    "DOVI_RPU_BUFFER": _DOLBY,
    "DOVI_METADATA": _DOLBY,
    "DYNAMIC_HDR_VIVID": _HDR,
    "AMBIENT_VIEWING_ENVIRONMENT": _HDR,
}
"""PyAV's name of side data of a frame to what is lost."""

_NEWER = {28: _ENHANCEMENT, 30: _STEREO, 31: _EXIF}
"""FFmpeg's number of side data that not every PyAV has a name for."""

_IGNORED = frozenset(
    {"DISPLAYMATRIX", "MOTION_VECTORS", "VIDEO_ENC_PARAMS", "VIDEO_HINT", "REGIONS_OF_INTEREST"}
)
"""Carried over, or about the old encoding alone."""

_VIEW_ID = 29

_GOP_MARKER = 1 << 12
"""The bit of a timecode of ISO 13818-2 (6.3.8) that is always set."""

_ENCODERS = (
    bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef"),
    bytes.fromhex("2ca2de09b51747dbbb55a4fe7fc2fc4e"),
    bytes.fromhex("47564adc5c4c433f94efc5113cd143a8"),
)
"""UUIDs under which x264, x265 and Apple's encoder write what concerns them alone."""


def stream_losses(stream: VideoStream) -> list[str]:
    """Sentences on side data of a video stream that its upscaled copy does not have."""
    description = describe_streams(stream.container)[stream.index]  # type: ignore[arg-type]
    lost: list[str] = []
    for line in description.side_data:
        text = line.lower()
        if text.startswith(_NOTHING_LOST):
            continue
        name = next((name for name in _OF_STREAM if text.startswith(name)), "")
        sentence = _OF_STREAM.get(name) or _other(line.partition(":")[0])
        if sentence == _DOLBY and "compatibility id: 0" in text:
            sentence = _DOLBY_ALONE
        lost.append(sentence)
    if description.tag in ("dvh1", "dvhe", "dva1", "dvav", "dav1") and not lost:
        lost.append(_DOLBY)
    if names := service_names(stream.container):  # type: ignore[arg-type]
        shown = ", ".join(f"'{printable(name)}'" for name in names)
        lost.append(f"Names of the services in the transport stream are not carried over: {shown}.")
    return list(dict.fromkeys(lost))


class FrameLosses:
    """Looks at the side data of frames, and says once of each kind that it is lost."""

    def __init__(self, told: Iterable[str] = ()) -> None:
        """Takes the sentences that were told already."""
        self._told = set(told)
        # Timecodes that begin at zero count the frames, and say no more.
        self._counted: bool | None = None
        if _DOLBY_ALONE in self._told:
            self._told.add(_DOLBY)

    def of(self, frame: av.VideoFrame) -> list[str]:
        """Sentences that were not given before."""
        pieces = [data for data in all_side_data(frame) if self._says_something(data, frame)]
        sentences = [_sentence(data) for data in pieces]
        new = [s for s in dict.fromkeys(sentences) if s is not None and s not in self._told]
        self._told.update(new)
        return new

    def _says_something(self, data: SideData, frame: av.VideoFrame) -> bool:
        """Whether side data is worth a sentence."""
        kind: Any = data.type
        if kind.name == "SEI_UNREGISTERED":
            return bytes(data)[:16] not in _ENCODERS
        if kind.name == "PANSCAN":
            return _is_pan_scan(bytes(data), frame.width, frame.height)
        if kind.name == "GOP_TIMECODE":
            if self._counted is None:
                value = int.from_bytes(bytes(data)[:8], "little") & ~_GOP_MARKER
                self._counted = value == 0
            return not self._counted
        return kind.name not in _IGNORED and kind.value != _VIEW_ID


def _sentence(data: SideData) -> str:
    kind: Any = data.type
    known = _OF_FRAME.get(kind.name) or _NEWER.get(kind.value)
    return known or _other(kind.name.lower().replace("_", " "))


def _is_pan_scan(data: bytes, width: int, height: int) -> bool:
    """Whether there is a window: MPEG-2 frames have this side data even where there is none."""
    # AVPanScan: id, width and height in 1/16 pixels, then positions of the windows.
    size = tuple(int(value) for value in np.frombuffer(data[4:12], "<i4"))
    return any(data[12:24]) or size not in ((0, 0), (16 * width, 16 * height))


def _other(name: str) -> str:
    return f"Side data of the video ({name}) is not carried over."
