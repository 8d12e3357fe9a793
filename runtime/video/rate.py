"""How many bits a video spends on its pixels, counted on its own packets."""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer

from srtrt.errors import InputError
from srtrt.runtime.video.opening import open_container
from srtrt.runtime.video.pyav import packets

_PACKETS = 250
"""Packets counted at each place; a key frame interval of the usual encoders."""

_BYTES = 32 * 2**20
"""Read at most at each place."""


def bits_per_pixel(path: Path, stream_index: int, width: int, height: int) -> float | None:
    """Bits of the video stream per pixel and frame; nothing is decoded.

    Counted are the packets at the start and, in a film that is longer, from its middle on: films
    begin with black. A packet holds one frame.

    Args:
        path: the video file.
        stream_index: which of its streams.
        width: pixels across.
        height: pixels down.

    Returns:
        None if it cannot be told, such as where the file breaks before.
    """
    sizes: list[int] = []
    try:
        with open_container(path) as container:
            sizes += _packet_sizes(container, stream_index)
            if len(sizes) == _PACKETS and container.duration:
                container.seek((container.start_time or 0) + container.duration // 2)
                sizes += _packet_sizes(container, stream_index)
    except (av.FFmpegError, InputError):
        # What is wrong with the file is said by what decodes it.
        pass
    return 8 * sum(sizes) / (len(sizes) * width * height) if sizes else None


def _packet_sizes(container: InputContainer, stream_index: int) -> list[int]:
    """Bytes of the next packets of a stream."""
    sizes: list[int] = []
    read = 0
    for packet in packets(container):
        read += packet.size
        if packet.stream.index == stream_index and packet.size:
            sizes.append(packet.size)
        if len(sizes) == _PACKETS or read > _BYTES:
            break
    return sizes
