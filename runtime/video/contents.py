"""What goes into the output beside the frames: copied streams, chapters and metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from srtrt.runtime.video.pyav import chapters, fraction
from srtrt.runtime.video.streams import add_copy, container_metadata, stream_metadata


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All of a source that is carried over as it is."""

    source: InputContainer
    """Where it comes from."""
    video: VideoStream
    """The stream that is upscaled; its metadata and disposition are carried over."""
    muxer: str
    """FFmpeg's name of the output's muxer."""
    copied: tuple[Stream, ...]
    """The other streams."""
    pictures: Mapping[int, bytes]
    """Cover pictures by stream index."""
    shift: Fraction
    """Seconds added to every timestamp; 0 but where a container holds no negative ones."""
    chapters_until: Fraction | None
    """Time in seconds after which chapters are left out."""

    def label(self, video: Stream) -> None:
        """Gives the upscaled stream of the output the metadata of the source's."""
        video.metadata.update(stream_metadata(self.video, reencoded=True))
        video.disposition = self.video.disposition

    def add_to(self, output: OutputContainer) -> dict[int, Stream]:
        """Adds everything to an output that has its video stream already.

        Returns:
            Streams of the output that take packets, by their index in the source.

        Raises:
            ValueError, av.FFmpegError: if the container does not take a stream.
        """
        outputs = {}
        for stream in self.copied:
            picture = self.pictures.get(stream.index) if self.muxer == "matroska" else None
            copy = add_copy(output, stream, picture)
            if copy.type != "attachment":
                outputs[stream.index] = copy
        output.metadata.update(container_metadata(self.source))
        if kept := self.chapters():
            output.set_chapters(kept)
        return outputs

    def chapters(self) -> list[Any]:
        """The chapters of the output."""
        kept = chapters(self.source)
        if self.chapters_until is not None:
            kept = [c for c in kept if c["start"] * c["time_base"] < self.chapters_until]
        return [self._shifted(chapter) for chapter in kept]

    def _shifted(self, chapter: Any) -> Any:
        ticks = self.ticks(chapter["time_base"])
        end = chapter["end"]
        if self.chapters_until is not None:
            end = min(end, math.ceil(self.chapters_until / chapter["time_base"]))
        return {**chapter, "start": chapter["start"] + ticks, "end": end + ticks}

    def ticks(self, time_base: Any) -> int:
        """The shift in ticks of ``time_base``."""
        base = fraction(time_base)
        return round(self.shift / base) if base else 0

    def shift_packet(self, packet: Packet[Any]) -> None:
        """Moves the times of a packet of a copied stream."""
        if packet.dts is None:
            # Cover art has no time at all; it belongs to the start.
            packet.dts = packet.pts if packet.pts is not None else 0
        ticks = self.ticks(packet.time_base)
        packet.dts += ticks
        packet.pts = None if packet.pts is None else packet.pts + ticks
