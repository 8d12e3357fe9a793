"""When the frames of a source are shown: as it says, and what follows where it is silent."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av

from srtrt.runtime.video.opening import open_container

_LOOK = 48
"""Frames by which it is decided whose times are right; four groups of B-frames and more."""


class FrameTimes:
    """Gives the frames of one video their times, strictly increasing, in ticks."""

    def __init__(self, usual: int, *, by_decoding: bool, note: Callable[[str], None]) -> None:
        """Args:
        usual: ticks that a frame lasts where it does not say.
        by_decoding: whether frames are shown at the times at which they are decoded.
        note: told what had to be made up, once or often.
        """
        self._usual = max(1, usual)
        self._by_decoding = by_decoding
        self._note = note
        self._last: tuple[int, int] | None = None
        if by_decoding:
            note(
                "AVI does not say when B-frames are shown; all frames are shown at even times, in "
                "the order in which the decoder gives them."
            )

    @property
    def end(self) -> int:
        """When the last frame ends; 0 before the first."""
        return sum(self._last) if self._last else 0

    def first(self, frame: av.VideoFrame) -> int:
        """When a frame is shown if nothing comes before it."""
        pts = frame.dts if self._by_decoding else frame.pts
        return pts or 0

    def next(self, frame: av.VideoFrame) -> tuple[int, int]:
        """When the next frame is shown, and how long."""
        pts = frame.dts if self._by_decoding else frame.pts
        if pts is None:
            pts = self.end
            if not self._by_decoding:
                self._note("Some frames have no timestamp; theirs follow from the frame rate.")
        if self._last is not None and pts <= self._last[0]:
            pts = self._last[0] + 1
            self._note(
                "Some timestamps of the source do not increase; they were moved by the least "
                "that makes them do so."
            )
        self._last = (pts, frame.duration or self._usual)
        return self._last


def shown_by_decoding(path: Path, index: int) -> bool:
    """Whether the frames of an AVI file have wrong times, and right ones by their decoding.

    AVI stores the order of decoding alone. FFmpeg puts the times of H.264 with B-frames in that
    order, so that they jump back and forth; the time of the packet that brought a frame out of the
    decoder is right. It is decided on the first frames, for all of them.
    """
    with open_container(path) as container:
        stream = container.streams[index]
        assert isinstance(stream, av.VideoStream)
        pts, dts = [], []
        try:
            for frame in itertools.islice(container.decode(stream), _LOOK):
                pts.append(frame.pts)
                dts.append(frame.dts)
        except av.FFmpegError:
            pass  # What is wrong with the file is said by what decodes it all.
    return not _increase(pts) and _increase(dts)


def _increase(times: list[int | None]) -> bool:
    """Whether times increase strictly, apart from the missing ones of the last frames."""
    known = [time for time in times if time is not None]
    return all(a < b for a, b in itertools.pairwise(known))


def ticks_per_frame(rate: Fraction, time_base: Fraction) -> int:
    """Ticks that a frame lasts at an average rate."""
    return max(1, round(1 / (rate * time_base)))
