"""When the packets of an encoder are to be decoded."""

from __future__ import annotations

from typing import Any

from av.packet import Packet

from srtrt.errors import OutputError

_LOOK_AHEAD = 17
"""Packets held at most until the delay is known; one more than any encoder's B-frames in a row."""


class DecodingTimes:
    """Gives packets their decoding times (dts), which encoders get wrong in short sequences.

    With a reordering delay of ``d`` frames, the packet that is decoded as number ``n`` has the time
    of the frame that is shown as number ``n - d`` (ISO 14496-10 annex C: a decoder holds ``d``
    frames back before it shows the first). The first ``d`` packets come before the first frame, at
    the distances of the first frames. Times so made increase, and none is later than its frame.
    """

    def __init__(self, declared_delay: int) -> None:
        """Takes the delay in frames that the encoder declares; the actual one may be larger."""
        self._declared = declared_delay
        self._delay: int | None = None
        self._shown: list[int] = []
        self._held: list[Packet[Any]] = []
        self._timed = 0

    def sent(self, pts: int) -> None:
        """A frame goes to the encoder; its time is later than that of all before."""
        self._shown.append(pts)

    def timed(self, packets: list[Packet[Any]], *, drained: bool) -> list[Packet[Any]]:
        """Takes packets as they leave the encoder, and gives those whose times are known.

        Args:
            packets: in the order of decoding, with ``pts``.
            drained: whether these are the last.

        Raises:
            OutputError: if the encoder reorders frames further than it showed at first.
        """
        self._held += packets
        if self._delay is None:
            self._delay = self._find_delay(drained=drained)
            if self._delay is None:
                return []
        ready, self._held = self._held, []
        for packet in ready:
            packet.dts = self._time(self._timed, packet)
            self._timed += 1
        return ready

    def _find_delay(self, *, drained: bool) -> int | None:
        """The delay by the packets held; None if more are needed to tell."""
        number_of: dict[int | None, int] = {pts: number for number, pts in enumerate(self._shown)}
        # Where an encoder's own times are right, they lag by exactly the delay.
        lags = [n - number_of[p.dts] for n, p in enumerate(self._held) if p.dts in number_of]
        needed = [n - number_of.get(p.pts, n) for n, p in enumerate(self._held)]
        delay = max([0 if drained else self._declared, *lags, *needed])
        told = bool(lags) and len(self._shown) > delay
        if drained or told or len(self._held) >= _LOOK_AHEAD:
            return min(delay, len(self._shown) - 1)
        return None

    def _time(self, number: int, packet: Packet[Any]) -> int:
        assert self._delay is not None
        shown, delay = self._shown, self._delay
        dts = shown[max(0, number - delay)]
        if number < delay:
            dts -= shown[delay] - shown[number]
        if packet.pts is None or dts > packet.pts:
            raise OutputError(
                f"The encoder reorders frames by more than {delay}, which it did not say; nothing "
                "was kept. Try another --encoder."
            )
        return dts
