"""Reading a finished file back before it gets its name."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av

from srtrt.errors import OutputError
from srtrt.runtime.video.opening import OPEN_OPTIONS
from srtrt.runtime.video.pyav import METADATA, seconds

_MATROSKA_TICK = Fraction(1, 1000)


def video_times(path: Path) -> list[Fraction]:
    """Presentation times in seconds of all video packets of a file, sorted; nothing is decoded."""
    name = f"file:{path.absolute()}"
    with av.open(name, container_options=OPEN_OPTIONS, **METADATA) as container:
        stream = next(s for s in container.streams.video if s.codec_context is not None)
        return sorted(
            seconds(packet.pts, packet.time_base)
            for packet in container.demux(stream)
            if packet.size and packet.pts is not None
        )


def check_written(part: Path, expected: Sequence[Fraction], *, matroska: bool) -> str | None:
    """Compares the file with what was encoded.

    Args:
        part: the file.
        expected: time of every frame, in seconds, in order.
        matroska: whether the container counts in milliseconds.

    Returns:
        A note if times were rounded to the container's clock.

    Raises:
        OutputError: if frames or times differ.
    """
    try:
        found = video_times(part)
    except (av.FFmpegError, StopIteration) as error:
        raise OutputError(
            f"The written file cannot be read back ({error}); nothing was kept."
        ) from error
    if len(found) != len(expected):
        raise OutputError(
            f"{len(expected)} frames were encoded but the file holds {len(found)}; "
            "nothing was kept. Try another --codec or container."
        )
    worst = max((abs(a - b) for a, b in zip(found, expected, strict=True)), default=Fraction(0))
    if worst == 0:
        return None
    if matroska and worst <= _MATROSKA_TICK:
        return "Timestamps are rounded to the milliseconds that Matroska and WebM count in."
    raise OutputError(
        f"The timestamps in the written file are off by up to {float(worst):.6f} s; nothing was "
        "kept. Try another container."
    )
