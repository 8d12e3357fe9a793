"""Recordings that were joined of parts whose times begin anew, such as the chapters of DVDs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from av.container import InputContainer
from av.packet import Packet

from srtrt.runtime.video import pyav

_FORMATS = frozenset({"mpegts", "mpeg"})
"""FFmpeg demuxers of containers whose times may begin anew (ISO 13818-1, 2.4.3.4)."""

_BACK = Fraction(1, 10)
"""Seconds by which times go back where a new part begins; a muxer's disorder is less."""


class JoinedParts:
    """Puts the parts of a recording behind each other."""

    def __init__(self, note: Callable[[str], None]) -> None:
        """Takes what is told when there is more than one part."""
        self._note = note
        self._offset = Fraction(0)
        self._last: dict[int, Fraction] = {}
        self._ends: dict[int, Fraction] = {}
        self._waited_for: set[int] = set()

    def packets(self, container: InputContainer) -> Iterator[Packet[Any]]:
        """The packets of a container that is open, in its order; may be called again to go on."""
        joined = container.format.name in _FORMATS
        for packet in pyav.packets(container):
            if joined:
                self._place(packet)
            yield packet

    def _place(self, packet: Packet[Any]) -> None:
        """Moves a packet, in place, behind the parts before its own."""
        base, index = pyav.fraction(packet.time_base), packet.stream.index
        if base is None:
            return
        # Subtitles and data may be in any order, and what is damaged says nothing.
        if packet.dts is None or packet.is_corrupt or packet.stream.type not in ("video", "audio"):
            if packet.dts is not None:
                packet.dts += round(self._offset / base)
            if packet.pts is not None:
                packet.pts += round(self._offset / base)
            return
        own = packet.dts * base
        before = self._last.get(index, own + self._offset)
        if own + self._offset < before - _BACK:
            self._offset = max(self._ends.values()) - own
            self._waited_for = set(self._last)
            self._note(
                "The times of the source begin anew within it; what follows is put behind what "
                "came before."
            )
        elif index in self._waited_for and own + self._offset < before:
            # The streams of a part begin at slightly different times.
            self._offset = before + base - own
        time = own + self._offset
        packet.dts += round(self._offset / base)
        if packet.pts is not None:
            packet.pts += round(self._offset / base)
        self._waited_for.discard(index)
        self._last[index] = time
        self._ends[index] = time + max((packet.duration or 0) * base, time - before)
