"""Copied streams start at the time they had in the source, to the sample."""

from __future__ import annotations

import functools
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from video_clips import NearestSession, make_clip

import srtrt
from srtrt.runtime.video.pyav import seconds
from srtrt.runtime.video.rehearsal import movie_timescale

RATES = (44100, 48000, 11025)


@functools.cache
def packets(rate: int) -> tuple[Path, list[bytes]]:
    """A clip of two frames of 16x16, and the packets of a tone of this many samples a second."""
    folder = Path(tempfile.mkdtemp(prefix="srtrt-starts-"))
    clip = make_clip(folder / "clip.mkv", size=(16, 16), pts=(0, 3000), options={"bf": "0"})
    with av.open(str(folder / "tone.mkv"), "w") as output:
        tone = output.add_stream("aac", rate=rate)
        tone.layout = "mono"
        encoded: list[Packet[Any]] = []
        for start in range(0, 4096, 1024):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            encoded += tone.encode(frame)
        packets = [bytes(packet) for packet in (*encoded, *tone.encode(None))]
    return clip, packets


def write(path: Path, rate: int, video: tuple[int, Fraction], sound: tuple[int, Fraction]) -> None:
    """A file with both streams starting at these ticks, or what the container makes of them."""
    clip, tone = packets(rate)
    with av.open(str(clip)) as frames, av.open(str(path), "w") as output:
        copy = output.add_stream_from_template(frames.streams[0], opaque=True)
        copy.time_base = video[1]
        audio = output.add_stream("aac", rate=rate)
        audio.layout = "mono"
        audio.time_base = sound[1]
        output.start_encoding()
        items: list[tuple[bytes, Any, Fraction, Fraction]] = [
            (bytes(p), copy, video[0] * video[1] + n * Fraction(1, 25), Fraction(1, 25))
            for n, p in enumerate(p for p in frames.demux() if p.size)
        ]
        items += [
            (data, audio, sound[0] * sound[1] + n * Fraction(1024, rate), Fraction(1024, rate))
            for n, data in enumerate(tone)
        ]
        for data, stream, time, length in sorted(items, key=lambda item: item[2]):
            packet: Packet[Any] = Packet(data)
            packet.time_base = stream.time_base
            packet.pts = packet.dts = round(time / packet.time_base)
            packet.duration = round(length / packet.time_base)
            packet.is_keyframe = True
            packet.stream = stream
            output.mux_one(packet)


def starts(path: Path) -> dict[str, Fraction]:
    first: dict[str, Fraction] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                first.setdefault(packet.stream.type, seconds(packet.pts, packet.time_base))
    return first


BASES = st.sampled_from([Fraction(1, n) for n in (1000, 600, 44100, 48000, 90000, 16384, 1000003)])
ODD = st.sampled_from([Fraction(1001, 30000), Fraction(8, 30625), Fraction(1, 25)])
START = st.fractions(0, 3, max_denominator=100000)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["nut", "mkv", "ts"]),
    rate=st.sampled_from(RATES),
    bases=st.tuples(BASES | ODD, BASES | ODD),
    at=st.tuples(START, START),
)
@example(
    kind="mkv",
    rate=44100,
    bases=(Fraction(1, 90000), Fraction(1, 48000)),
    at=(Fraction(0), Fraction(44, 1000)),
)
def test_sound_starts_at_its_sample(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    kind: str,
    rate: int,
    bases: tuple[Fraction, Fraction],
    at: tuple[Fraction, Fraction],
) -> None:
    folder = tmp_path_factory.mktemp("starts")
    video, sound = ((round(time / base), base) for time, base in zip(at, bases, strict=True))
    source, output = folder / f"in.{kind}", folder / f"out{suffix}"
    write(source, rate, video, sound)
    before = starts(source)
    srtrt.upscale_video(
        source,
        output,
        preset="ultrafast",
        session_factory=lambda **options: NearestSession(**options),  # type: ignore[arg-type]
    )
    after = starts(output)
    assert after["video"] == before["video"]
    assert abs(after["audio"] - before["audio"]) <= Fraction(1, 2 * rate)


PRIMES = (999983, 1000003, 1000033, 1000037)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 2**31 - 1) | st.sampled_from([*RATES, *PRIMES, 90000, 1000000]),
            st.fractions(0, 10**5),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_movie_timescale_loses_no_start(tracks: list[tuple[int, Fraction]]) -> None:
    """A muxer rounds a start to the movie's ticks, and a reader rounds those to the track's."""
    bases = {n: Fraction(1, scale) for n, (scale, _) in enumerate(tracks)}
    times = {n: start for n, (_, start) in enumerate(tracks)}
    movie = movie_timescale(times, bases)
    assert 0 < movie < 2**31
    for scale, start in tracks:
        ticks = int(start * scale + Fraction(1, 2))
        written = ticks * movie // scale
        read = int(Fraction(written * scale, movie) + Fraction(1, 2))
        assert read == ticks or (scale > movie // 2 and abs(read - ticks) <= 1)


@pytest.mark.parametrize("hours", [0, 20])
def test_a_video_that_starts_late_is_said(tmp_path: Path, hours: int) -> None:
    """Clocks of broadcasts start anywhere; times are kept, and some players show nothing first."""
    first = hours * 3600 * 90000
    clip = make_clip(tmp_path / "in.ts", pts=range(first, first + 72000, 3600))
    report = srtrt.upscale_video(clip, session_factory=NearestSession)
    assert starts(Path(report.output))["video"] == starts(clip)["video"]
    said = [note for note in report.notes if "after zero" in note]
    assert len(said) == (hours > 0)
    assert all("20 h after zero" in note for note in said)
