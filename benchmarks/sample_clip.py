"""A clip of any size and length to measure on, made from the sample that comes with srtrt."""

from __future__ import annotations

from fractions import Fraction
from itertools import chain, cycle, islice
from pathlib import Path

_RATE = 30


def make_clip(sample: Path, path: Path, size: tuple[int, int], frames: int) -> None:
    """Plays a sample forwards and backwards until the clip is long enough.

    Args:
        sample: a short video.
        path: of the clip; H.264 in yuv420p with 30 frames per second.
        size: width and height, even.
        frames: of the clip.
    """
    import av

    width, height = size
    with av.open(sample) as source:
        shown = [
            frame.reformat(width=width, height=height, format="yuv420p")
            for frame in source.decode(video=0)
        ]
    with av.open(path, "w") as target:
        stream = target.add_stream("libx264", rate=_RATE, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, _RATE)
        there_and_back = cycle(chain(shown, shown[-2:0:-1]))
        for index, frame in enumerate(islice(there_and_back, frames)):
            frame.pts, frame.time_base = index, Fraction(1, _RATE)
            for packet in stream.encode(frame):
                target.mux(packet)
        for packet in stream.encode(None):
            target.mux(packet)
