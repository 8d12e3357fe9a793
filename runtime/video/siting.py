"""Where the chroma samples of a stream lie.

PyAV does not show this field of a frame, so it is read from the stream's own headers with
FFmpeg's ``trace_headers`` filter (H.264 annex E and H.265 annex E, ``chroma_sample_loc_type``).
"""

from __future__ import annotations

import re
from pathlib import Path

import av
import av.logging
from av.bitstream import BitStreamFilterContext

from srtrt.colour import Siting
from srtrt.runtime.video.colour_tags import default_siting
from srtrt.runtime.video.ffmpeg_errors import captured_log
from srtrt.runtime.video.pyav import METADATA

_LOCATIONS: dict[int, Siting] = {0: "left", 1: "center", 2: "topleft"}
_FIELD = re.compile(r"chroma_sample_loc_type_(?:top|bottom)_field\b.*= (\d+)")
_SIGNALLED = frozenset({"h264", "hevc"})


def read_siting(path: Path, index: int, codec: str, options: dict[str, str]) -> Siting:
    """Siting of stream ``index`` of the file, or the default of its codec.

    Args:
        path: the video file.
        index: number of the video stream.
        codec: FFmpeg's name of its codec.
        options: container options to open the file with.
    """
    if codec not in _SIGNALLED:
        return default_siting(codec)
    with captured_log(av.logging.INFO) as messages:
        try:
            name = f"file:{path.absolute()}"
            with av.open(name, container_options=options, **METADATA) as container:
                stream = container.streams[index]
                headers = BitStreamFilterContext("trace_headers", stream)
                headers.filter(next(container.demux(stream)))
        except (av.FFmpegError, ValueError, StopIteration):
            return default_siting(codec)
    found = {int(m.group(1)) for text in messages if (m := _FIELD.search(text))}
    return _LOCATIONS.get(min(found), "left") if found else default_siting(codec)
