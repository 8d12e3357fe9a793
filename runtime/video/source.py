"""Reading a video: one plain file, its streams, and its frames in presentation order."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.packet import Packet
from av.stream import Discard

from srtrt.errors import InputError, TruncatedInputError
from srtrt.runtime.video import pyav, sniff
from srtrt.runtime.video.colour_tags import ColourTags, resolve_colour
from srtrt.runtime.video.described import describe_streams
from srtrt.runtime.video.early_end import End, why
from srtrt.runtime.video.facts import Step, VideoFacts, frame_notes
from srtrt.runtime.video.frame_times import FrameTimes, shown_by_decoding, ticks_per_frame
from srtrt.runtime.video.joined import JoinedParts
from srtrt.runtime.video.opening import (
    OPEN_OPTIONS,
    choose_video,
    display_matrix,
    is_attached_picture,
    is_flush,
    open_container,
    packet_time,
    plausible_rate,
)
from srtrt.runtime.video.protection import encrypted_streams, is_encrypted
from srtrt.runtime.video.siting import read_siting
from srtrt.runtime.video.unchanged import WatchedFile
from srtrt.runtime.video.unopenable import encrypted

_BATCH = 256
_INTERLEAVE_SECONDS = 10


class VideoSource:
    """A video file and the one video stream of it that is upscaled.

    A context manager. :attr:`facts` holds from the start; :meth:`steps` is run once.
    """

    def __init__(self, path: Path, *, keep_going: bool = False) -> None:
        """Opens ``path`` and decodes its first frame.

        Args:
            path: a plain local file.
            keep_going: at damage, end with the good frames instead of raising.

        Raises:
            InputError: if it is no video, or no frame of it can be decoded.
        """
        self.path = path
        self.notes: list[str] = [note] if (note := pyav.require()) else []
        self.damage: str | None = None
        self.encrypted: dict[int, str] = {}
        self.good_frames = 0
        self.end: Fraction | None = None
        self.ended_early = False
        self._keep_going = keep_going
        self._missing_bytes = 0
        self._scheme: str | None = None
        self._skipped: str | None = None
        self._ignored: set[int] = set()
        self._demuxed = 0
        self._abandoned = False
        self._parts = JoinedParts(self._note_once)
        sniff.check_plain_file(path)
        self._watched = WatchedFile(path)
        try:
            self.container = open_container(path)
        except BaseException:
            self._watched.close()
            raise
        try:
            self._missing_bytes = sniff.missing_bytes(path)
            self.encrypted = encrypted_streams(path, self.container)
            self.stream, note = choose_video(self.container, path)
            self._scheme = self.encrypted.get(self.stream.index)
            self.notes += [note] if note else []
            self._decoded = self._decode()
            self._buffered = self._first_steps()
            self.facts, self._times = self._read_facts()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        if not self._abandoned:
            self.container.close()
        self._watched.close()

    def abandon(self) -> None:
        """Leaves the file open, because another thread is still reading it."""
        self._abandoned = True

    @property
    def breaks(self) -> bool:
        """Whether its headers say that not all of it can be decoded."""
        return bool(self._missing_bytes) or self._scheme is not None

    def ignore(self, indices: Collection[int]) -> None:
        """Skips the packets of these streams from now on."""
        for index in indices:
            self.container.streams[index].discard = Discard.all
        self._ignored.update(indices)

    def pictures(self) -> dict[int, bytes]:
        """Cover pictures by stream index; demuxers hand them out before the first frame."""
        return {
            packet.stream.index: bytes(packet)
            for step in self._buffered
            for packet in step.packets
            if is_attached_picture(packet.stream)
        }

    def first_packets(self) -> dict[int, Packet[Any]]:
        """The first packet of each other stream, by index, as far as they were read."""
        first: dict[int, Packet[Any]] = {}
        for step in self._buffered:
            for packet in step.packets:
                first.setdefault(packet.stream.index, packet)
        return first

    def first_frames(self) -> list[av.VideoFrame]:
        """The frames that were decoded so far."""
        return [step.frame for step in self._buffered if step.frame is not None]

    def copied_starts(self, ignored: Collection[int]) -> list[Fraction]:
        """Times in seconds of the first packets of the streams that are not ignored.

        Left out is what Matroska can hold before zero, or drops: Opus and everything of a
        Matroska source (its codec delay), and packets that an edit list hides.
        """
        if self.container.format.name.startswith("matroska"):
            return []
        packets = [
            packet
            for step in self._buffered
            for packet in step.packets
            if packet.stream.index not in ignored and not packet.is_discard
            if packet.stream.codec_context.codec.canonical_name != "opus"
        ]
        return [time for time in map(packet_time, packets) if time is not None]

    def steps(self, max_frames: int | None = None) -> Iterator[Step]:
        """All frames in presentation order, and the packets of the other streams.

        Sets :attr:`end`, the time at which the last frame ends, once the frames are complete;
        :attr:`ended_early` where ``max_frames`` or damage ended it; and :attr:`damage`.

        Raises:
            TruncatedInputError: where the video breaks, unless ``keep_going``.
            InputError: if frames change their size or format.
        """
        frames = 0
        for step in self._all_steps():
            if step.frame is not None:
                if self._changed(frames, max_frames):
                    break
                frames += 1
                yield self._timed(step, frames - 1)
                if frames == max_frames:
                    break
            else:
                yield step
        self.good_frames = frames
        if frames:
            self.end = self._times.end * self.facts.time_base
        self.ended_early = frames == max_frames or self.damage is not None
        if self.ended_early:
            yield from self._copied_until_end()
        if self.damage is None:
            self._changed(frames, max_frames)
        known = len(self.container.streams)
        late = [
            f"{i} ({d.codec})" for i, d in describe_streams(self.container).items() if i >= known
        ]
        if late:
            self._note_once(
                f"Streams that appear only later in the source are left out: {', '.join(late)}."
            )

    def _changed(self, frames: int, max_frames: int | None) -> bool:
        """Whether the file is another than it was; what is appended after a part is not read."""
        change = self._watched.change(may_grow=max_frames is not None)
        if change is not None:
            self._broken(frames, change)
        return change is not None

    def _all_steps(self) -> Iterator[Step]:
        yield from self._buffered
        yield from self._decoded

    def _first_steps(self) -> list[Step]:
        steps = []
        for step in self._decoded:
            steps.append(step)
            if step.frame is not None:
                return steps
        if self._scheme is not None:
            raise InputError(encrypted(self.path, "its video", self._scheme))
        if self._skipped is None:
            raise InputError(f"{self.path} has a video stream without any frame.")
        raise InputError(f"{self.path}: no frame of its video can be decoded: {self._skipped}.")

    def _read_facts(self) -> tuple[VideoFacts, FrameTimes]:
        frame = self._buffered[-1].frame
        assert frame is not None
        stream, context = self.stream, self.stream.codec_context
        time_base = pyav.fraction(stream.time_base) or Fraction(1, 1000)
        rate = plausible_rate(self.path, stream)
        codec = context.codec.canonical_name
        is_rgb = frame.format.is_rgb or frame.format.has_palette
        colour = resolve_colour(
            ColourTags(
                matrix=frame.colorspace,
                range=frame.color_range,
                primaries=frame.color_primaries,
                transfer=frame.color_trc,
            ),
            width=frame.width,
            height=frame.height,
            rate=rate,
            pix_fmt=frame.format.name,
            is_rgb=is_rgb,
            siting=read_siting(self.path, stream.index, codec, OPEN_OPTIONS),
        )
        self.notes += frame_notes(frame)
        times = FrameTimes(
            ticks_per_frame(rate, time_base),
            by_decoding=self.container.format.name == "avi"
            and shown_by_decoding(self.path, stream.index),
            note=self._note_once,
        )
        facts = VideoFacts(
            codec=codec,
            width=frame.width,
            height=frame.height,
            pix_fmt=frame.format.name,
            time_base=time_base,
            rate=rate,
            sample_aspect_ratio=pyav.fraction(stream.sample_aspect_ratio),
            display_matrix=display_matrix(frame),
            colour=colour,
            first_pts=times.first(frame),
            frames=stream.frames or None,
        )
        return facts, times

    def _decode(self) -> Generator[Step, None, None]:
        """Frames and copied packets as they come; handles damage, not timestamps."""
        packets: list[Packet[Any]] = []
        count = 0
        for item in self._demuxed_or_damage():
            if isinstance(item, str):
                yield Step(None, packets=packets)
                self._broken(count, item)
                return
            if item.stream.index != self.stream.index:
                if not is_flush(item) and item.stream.index not in self._ignored:
                    packets.append(item)
                if len(packets) >= _BATCH:
                    yield Step(None, packets=packets)
                    packets = []
                continue
            frames, problem = self._decode_packet(item, count)
            for frame in frames:
                yield Step(frame, packets=packets)
                packets = []
                count += 1
            if problem:
                yield Step(None, packets=packets)
                self._broken(count, problem)
                return
        yield Step(None, packets=packets)
        self._check_complete(count)

    def _demuxed_or_damage(self) -> Iterator[Packet[Any] | str]:
        """Packets of the file, then a sentence if reading failed."""
        try:
            for packet in self._parts.packets(self.container):
                if packet.stream.index == self.stream.index and not is_flush(packet):
                    self._demuxed += 1
                yield packet
        except av.FFmpegError as error:
            yield f"the file cannot be read further{why(error)}"

    def _decode_packet(
        self, packet: Packet[Any], count: int
    ) -> tuple[list[av.VideoFrame], str | None]:
        if is_encrypted(packet, self._scheme):
            return self._held_back(), "it is encrypted"
        decoded, problem = [], None
        if packet.is_corrupt and packet.size:
            problem = "a packet is cut off or damaged"
        else:
            try:
                decoded = self.stream.decode(packet)
            except av.FFmpegError as error:
                problem = f"the decoder met damaged data{why(error)}"
        if problem and count == 0:
            self._skipped = problem
            # Recordings that start between key frames begin with packets nobody can decode.
            self._note_once("Packets before the first decodable frame were skipped.")
            return [], None
        if problem:
            return [], problem
        for number, frame in enumerate(decoded):
            if frame.is_corrupt:
                return decoded[:number], "the decoder could only conceal damaged data"
        return decoded, None

    def _held_back(self) -> list[av.VideoFrame]:
        """Frames that the decoder still has, because others are shown before them."""
        try:
            return self.stream.decode(None)
        except av.FFmpegError:
            return []

    def _check_complete(self, count: int) -> None:
        expected = 0
        if self.container.format.name.startswith("mov"):
            expected = len(self.stream.index_entries)
        if self._demuxed < expected:
            self._broken(
                count,
                f"of the packets that the header announces ({expected}) only {self._demuxed} are "
                "there",
            )
        elif self._missing_bytes:
            self._broken(count, f"the file lacks {self._missing_bytes:,} bytes at its end")

    def _broken(self, good: int, what: str) -> None:
        """Ends the video after ``good`` frames; ``what`` is the end of a sentence."""
        self.good_frames = good
        end = End(good, what, change=self._watched.change(), scheme=self._scheme)
        self.damage = end.damage
        if not good or not self._keep_going:
            raise TruncatedInputError(end.problem(self.path), good_frames=good)

    def _timed(self, step: Step, index: int) -> Step:
        """Gives a frame its timestamp and duration in ticks, strictly increasing."""
        frame = step.frame
        assert frame is not None
        facts = self.facts
        size = (frame.width, frame.height, frame.format.name)
        if size != (facts.width, facts.height, facts.pix_fmt):
            raise InputError(
                f"{self.path}: frame {index} is {size[0]}x{size[1]} {size[2]}, but the video began "
                f"as {facts.width}x{facts.height} {facts.pix_fmt}; such videos cannot be upscaled "
                "in one piece."
            )
        step.pts, step.duration = self._times.next(frame)
        return step

    def _copied_until_end(self) -> Iterator[Step]:
        """Packets of the other streams that may still start before :attr:`end`."""
        assert self.end is not None
        waiting = {s.index for s in self.container.streams.audio}
        packets: list[Packet[Any]] = []
        for packet in self._demuxed_after():
            at = packet_time(packet)
            late = at is not None and at >= self.end
            if packet.stream.index != self.stream.index and not late:
                packets.append(packet)
            elif late:
                waiting.discard(packet.stream.index)
            far = at is not None and at >= self.end + _INTERLEAVE_SECONDS
            if far and not waiting and packet.stream.index == self.stream.index:
                break
            if len(packets) >= _BATCH:
                yield Step(None, packets=packets)
                packets = []
        yield Step(None, packets=packets)

    def _demuxed_after(self) -> Iterator[Packet[Any]]:
        """Like demuxing on; damage no longer matters here."""
        self._decoded.close()
        try:
            for packet in self._parts.packets(self.container):
                if not is_flush(packet):
                    yield packet
        except av.FFmpegError:
            return

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
