"""Decoding times of the output: increasing, never later than the picture, whatever is encoded."""

from __future__ import annotations

import itertools
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_clips import NearestSession, make_clip

from srtrt.errors import OutputError
from srtrt.runtime.video import sink
from srtrt.runtime.video.api import upscale_video
from srtrt.runtime.video.decoding_times import DecodingTimes

OUTPUTS = [
    (codec, suffix)
    for codec, suffixes in {
        "h264": (".mp4", ".mkv", ".mov"),
        "hevc": (".mp4", ".mkv", ".mov"),
        "av1": (".mp4", ".mkv"),
        "ffv1": (".mkv",),
    }.items()
    for suffix in suffixes
]


def packets_of(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(("codec", "suffix"), OUTPUTS)
@given(steps=st.lists(st.integers(180, 200_000), max_size=5), first=st.integers(0, 90_000))
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_short_sequences_at_uneven_times(
    codec: str, suffix: str, steps: list[int], first: int
) -> None:
    """From one frame to six, fewer than encoders hold back."""
    times = [first + sum(steps[:n]) for n in range(len(steps) + 1)]
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder, "in.mp4"), pts=times, size=(32, 32))
        out = Path(folder, f"out{suffix}")
        preset = None if codec == "ffv1" else {"av1": "12"}.get(codec, "ultrafast")
        upscale_video(clip, out, codec=codec, preset=preset, session_factory=NearestSession)
        packets = packets_of(out)
    if suffix != ".mkv":  # Matroska stores none
        decoding = [packet.dts for packet in packets]
        assert all(a < b for a, b in itertools.pairwise(decoding))
        assert all(packet.dts <= packet.pts for packet in packets)
    shown = sorted(packet.pts * packet.time_base for packet in packets)
    expected = [Fraction(t, 90_000) for t in times]
    tick = Fraction(1, 1000) if suffix == ".mkv" else Fraction(0)
    assert max(abs(a - b) for a, b in zip(shown, expected, strict=True)) <= tick


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_b_frames_of_longer_sequences(
    tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times are derived while the frames come: the encoder's own do not matter."""
    encode = sink.VideoStream.encode

    class Lying:
        """A stream whose encoder gives nonsense for decoding times."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def encode(self, frame: Any) -> list[Any]:
            packets = encode(self.stream, frame)
            for packet in packets:
                packet.dts = 4097591884720363235
            return packets

    add = sink.VideoSink._add_video
    monkeypatch.setattr(sink.VideoSink, "_add_video", lambda *a: Lying(add(*a)))
    times = [n * 3000 + (n % 3) * 700 for n in range(60)]
    clip = make_clip(tmp_path / "in.mp4", pts=times, size=(32, 32))
    out = tmp_path / "out.mp4"
    upscale_video(clip, out, codec=codec, session_factory=NearestSession)
    packets = packets_of(out)
    assert [p.pts for p in packets] != sorted(p.pts for p in packets), "no frame is reordered"
    assert sorted(p.pts * p.time_base for p in packets) == [Fraction(t, 90_000) for t in times]
    decoding = [packet.dts for packet in packets]
    assert all(a < b for a, b in itertools.pairwise(decoding))
    assert all(packet.dts <= packet.pts for packet in packets)


class _Packet:
    def __init__(self, pts: int) -> None:
        self.pts, self.dts = pts, None


@given(
    steps=st.lists(st.integers(1, 10**6), min_size=1, max_size=60),
    delay=st.integers(0, 4),
    seed=st.randoms(use_true_random=False),
)
def test_every_order_within_the_delay(steps: list[int], delay: int, seed: Any) -> None:
    shown = [sum(steps[:n]) for n in range(1, len(steps) + 1)]
    waiting, order = list(shown), []
    while waiting:
        # An encoder may take any frame, as long as none is left for more than ``delay`` others.
        late = len(order) - shown.index(waiting[0]) >= delay
        order.append(waiting.pop(0 if late else seed.randrange(len(waiting))))
    times, done = DecodingTimes(delay), []
    for pts in shown:
        times.sent(pts)
    for pts in order:
        done += times.timed([_Packet(pts)], drained=False)  # type: ignore[list-item]
    done += times.timed([], drained=True)
    assert [p.pts for p in done] == order
    decoding = [p.dts for p in done]
    assert all(a < b for a, b in itertools.pairwise(decoding))
    assert all(p.dts <= p.pts for p in done)


def test_an_encoder_that_reorders_further_than_it_said_is_refused() -> None:
    times = DecodingTimes(0)
    for pts in range(26):
        times.sent(pts)
    times.timed([_Packet(pts) for pts in range(20)], drained=False)  # type: ignore[misc]
    with pytest.raises(OutputError, match="reorders frames"):
        times.timed([_Packet(pts) for pts in (25, 20)], drained=False)  # type: ignore[misc]


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_frames_that_lie_too_far_apart(tmp_path: Path, suffix: str) -> None:
    day = 24 * 3600 * 90_000
    clip = make_clip(tmp_path / "in.nut", pts=[0, 3000, 6000, day, day + 3000])
    with pytest.raises(OutputError, match=r"frame 3 of the source is shown 1 day after .*\.mkv"):
        upscale_video(clip, tmp_path / f"out{suffix}", session_factory=NearestSession)
    report = upscale_video(clip, tmp_path / "out.mkv", session_factory=NearestSession)
    assert report.frames == 5
