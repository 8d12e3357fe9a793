"""One video from open source to published file: what :func:`upscale_video` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from av.packet import Packet
from numpy.typing import NDArray

from srtrt.errors import OutputError
from srtrt.runtime.video.kept import written_losses
from srtrt.runtime.video.losses import FrameLosses
from srtrt.runtime.video.network import Networks, VideoSession
from srtrt.runtime.video.options import VideoOptions
from srtrt.runtime.video.pipeline import Pipeline
from srtrt.runtime.video.plan import Estimate, Progress, VideoPlan, VideoWatcher
from srtrt.runtime.video.report import VideoReport, stage_reports
from srtrt.runtime.video.setup import Setup
from srtrt.runtime.video.sink import SCALE, VideoSink
from srtrt.runtime.video.source import VideoSource
from srtrt.runtime.video.streams import describe
from srtrt.runtime.video.verify import check_written

_QUEUE_BYTES = 256 * 2**20
_QUEUE_FRAMES = 4


def _with_network(plan: VideoPlan, session: VideoSession) -> VideoPlan:
    """The plan with what really computes, as another backend may have taken over."""
    return replace(
        plan,
        network=session.description,
        engine_reason=session.reason,
        backend_options=dict(session.backend_options),
    )


@dataclass
class _Item:
    """What travels through the queues: arrays of a frame, or only packets."""

    packets: list[Packet[Any]]
    pts: int = 0
    duration: int = 0
    arrays: Mapping[str, NDArray[Any]] | None = None


class VideoJob:
    """The upscaling of one open source; done once, by :meth:`run`."""

    def __init__(
        self, source: VideoSource, options: VideoOptions, setup: Setup, networks: Networks
    ) -> None:
        self.source, self.options, self.setup, self.networks = source, options, setup, networks
        self._notes: list[str] = []
        self._estimate: Estimate | None = None
        self._decoded = 0
        self._encoded = 0
        self._started = 0.0

    def run(self, bits_per_pixel: float | None, watcher: VideoWatcher) -> VideoReport:
        """Computes, writes, checks and publishes.

        Args:
            bits_per_pixel: of the source, as far as it was measured.
            watcher: told what happens.
        """
        opened = time.perf_counter()
        sink = VideoSink(self.setup.sink)
        form = self.setup.converter.form
        with sink, self.networks.open(form, watcher) as session:
            plan = self._plan(session, bits_per_pixel)
            watcher.planned(plan)
            # In this thread, so that Ctrl-C ends even the building of an engine.
            session.prepare(*self.setup.converter.network_size)
            self._tell(session.notes, watcher)
            plan = _with_network(plan, session)
            pipeline = self._pipeline(session, sink, watcher)
            self._started = time.perf_counter()
            self._run(pipeline, sink)
            lost = self._finish(sink)
            seconds = time.perf_counter() - self._started
            late = [*self._late_notes(sink), *lost]
            self._tell([*self.source.notes, *session.notes, *late], watcher)
            return self._report(plan, sink, pipeline, (self._started - opened, seconds))

    def _run(self, pipeline: Pipeline[_Item, _Item], sink: VideoSink) -> None:
        try:
            pipeline.run()
        except BaseException:
            if pipeline.is_running:
                # What a thread is in must not be freed under it.
                sink.abandon()
                self.source.abandon()
            raise

    def _plan(self, session: VideoSession, bits_per_pixel: float | None) -> VideoPlan:
        facts, target = self.source.facts, self.setup.target
        self._notes = [*self.source.notes, *self.setup.notes(), *session.notes]
        return VideoPlan(
            source=str(self.source.path),
            source_codec=facts.codec,
            source_width=facts.width,
            source_height=facts.height,
            source_pix_fmt=facts.pix_fmt,
            source_frames_per_second=float(facts.rate),
            expected_frames=self.setup.expected_frames,
            bits_per_pixel=None if bits_per_pixel is None else round(bits_per_pixel, 4),
            model=self.networks.choice.name,
            model_reason=self.networks.choice.reason,
            network=session.description,
            backend_options=dict(session.backend_options),
            engine_reason=session.reason,
            output=str(target.path),
            width=SCALE * facts.width,
            height=SCALE * facts.height,
            encoder=str(self.setup.sink.encoder),
            copied_streams=tuple(describe(stream) for stream in target.streams.copied),
            notes=tuple(self._notes),
        )

    def _tell(self, notes: Iterable[str], watcher: VideoWatcher) -> None:
        """Tells the notes that were not told."""
        for note in notes:
            if note not in self._notes:
                self._notes.append(note)
                watcher.noted(note)

    def _pipeline(
        self, session: VideoSession, sink: VideoSink, watcher: VideoWatcher
    ) -> Pipeline[_Item, _Item]:
        converter = self.setup.converter
        losses = FrameLosses(self._notes)

        def read() -> Iterator[_Item]:
            for step in self.source.steps(self.options.max_frames):
                arrays = None if step.frame is None else converter.inputs(step.frame)
                self._decoded += arrays is not None
                if step.frame is not None:
                    self._tell(losses.of(step.frame), watcher)
                yield _Item(step.packets, step.pts, step.duration, arrays)

        def compute(item: _Item) -> Callable[[], _Item]:
            if item.arrays is None:
                return lambda: item
            if self._estimate is None and self.setup.expected_frames is not None:
                item.arrays = self._first(session, item.arrays, watcher)
                return lambda: item
            pending = session.submit(item.arrays)

            def collect() -> _Item:
                item.arrays = pending()
                return item

            return collect

        def write(item: _Item) -> None:
            for packet in item.packets:
                sink.copy(packet)
            if item.arrays is None:
                return
            sink.encode(converter.frame(item.arrays), item.pts, item.duration)
            self._encoded += 1
            watcher.progressed(self._progress(sink))

        facts = self.source.facts
        frame_bytes = 3 * SCALE * SCALE * facts.width * facts.height
        capacity = max(1, min(_QUEUE_FRAMES, _QUEUE_BYTES // frame_bytes))
        return Pipeline(read, compute, write, capacity=capacity, in_flight=session.in_flight)

    def _first(
        self, session: VideoSession, inputs: Mapping[str, NDArray[Any]], watcher: VideoWatcher
    ) -> Mapping[str, NDArray[Any]]:
        """Computes the first frame by itself, and tells how long all of them will take."""
        assert self.setup.expected_frames is not None
        started = time.perf_counter()
        outputs = session.submit(inputs)()
        seconds = time.perf_counter() - started
        self._estimate = self.networks.estimate(
            session, inputs, seconds, self.setup.expected_frames
        )
        watcher.estimated(self._estimate)
        return outputs

    def _progress(self, sink: VideoSink) -> Progress:
        return Progress(
            frames=self._encoded,
            expected_frames=self.setup.expected_frames,
            seconds=time.perf_counter() - self._started,
            encoded_frames=sink.packets_written,
            encoded_bytes=sink.bytes_written,
        )

    def _finish(self, sink: VideoSink) -> list[str]:
        """Closes, checks and publishes the file; gives notes on what it does not keep."""
        sink.finish(self.source.end if self.source.ended_early else None)
        if not self._decoded == self._encoded == sink.packets_written:
            raise OutputError(
                f"{self._decoded} frames were decoded, {self._encoded} encoded and "
                f"{sink.packets_written} written; nothing was kept. Try another --codec."
            )
        container = self.setup.sink.container
        rounding = check_written(sink.part.path, sink.times, matroska=container.is_matroska)
        lost = written_losses(self.setup.sink.contents, sink.part.path, container.suffix)
        sink.part.publish(replace=self.options.overwrite)
        return [*filter(None, [rounding]), *lost]

    def _late_notes(self, sink: VideoSink) -> list[str]:
        if not sink.hidden_packets:
            return []
        return [
            f"Packets that an edit list of the source hides ({sink.hidden_packets}) are left out, "
            f"because the {self.setup.target.container.suffix} container cannot hide them."
        ]

    def _report(
        self,
        plan: VideoPlan,
        sink: VideoSink,
        pipeline: Pipeline[_Item, _Item],
        seconds: tuple[float, float],
    ) -> VideoReport:
        startup, work = seconds
        # What the encoder held back and the checks of the file come after the pipeline.
        pipeline.times[-1].busy += work - pipeline.seconds
        stages = stage_reports(pipeline.times, work)
        return VideoReport(
            **{**vars(plan), "notes": tuple(self._notes)},
            estimate=self._estimate,
            frames=self._encoded,
            startup_seconds=round(startup, 3),
            seconds=round(work, 3),
            frames_per_second=round(self._encoded / work, 3),
            encoded_bytes=sink.bytes_written,
            stages=stages,
            bottleneck=max(stages, key=lambda stage: stage.busy_seconds).name,
            complete=self.source.damage is None,
            damage=self.source.damage,
        )
