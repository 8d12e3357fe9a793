"""Times of frames where the file stores only the order of decoding, and where it stores all."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import pytest
from click.testing import CliRunner
from compare_video import read_facts
from video_clips import VFR, NearestSession, make_clip

import srtrt.runtime.session
from srtrt.cli import main

EVEN = "all frames are shown at even times"


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)


def upscaled_times(clip: Path, out: Path) -> tuple[list[Fraction], str]:
    """Times of the frames in the output, and what was said."""
    done = CliRunner().invoke(main, ["upscale-video", str(clip), "-o", str(out)])
    assert done.exit_code == 0, done.output
    return read_facts(out).times, done.stderr


def steps(times: list[Fraction]) -> set[Fraction]:
    return {b - a for a, b in itertools.pairwise(times)}


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 60])
@pytest.mark.parametrize("b_frames", [0, 1, 3, 5])
def test_b_frames_in_avi(tmp_path: Path, frames: int, b_frames: int) -> None:
    options = {"bf": str(b_frames), "g": "24", "preset": "medium"}
    clip = make_clip(
        tmp_path / "in.avi", pts=range(frames), time_base=Fraction(1, 25), options=options
    )
    times, said = upscaled_times(clip, tmp_path / "out.mp4")
    assert len(times) == frames
    assert steps(times) <= {Fraction(1, 25)}
    assert "do not increase" not in said
    assert (EVEN in said) == (b_frames > 0 and frames > 2)


def test_b_frames_of_mpeg4_in_avi_have_times(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "in.avi",
        pts=range(40),
        time_base=Fraction(1, 25),
        codec="mpeg4",
        options={"bf": "2"},
    )
    times, said = upscaled_times(clip, tmp_path / "out.mp4")
    assert times == read_facts(clip).times
    assert steps(times) == {Fraction(1, 25)}
    assert EVEN not in said


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mov"])
def test_uneven_times_of_other_containers_stay(tmp_path: Path, suffix: str) -> None:
    tick = Fraction(1, 1000) if suffix == ".mkv" else Fraction(1, 90000)
    pts = [t // 90 for t in VFR] if tick.denominator == 1000 else VFR
    clip = make_clip(tmp_path / f"in{suffix}", pts=pts, time_base=tick, options={"bf": "3"})
    times, said = upscaled_times(clip, tmp_path / "out.mp4")
    assert [t - times[0] for t in times] == [(t - pts[0]) * tick for t in pts]
    assert EVEN not in said
    assert "do not increase" not in said


def test_packed_b_frames_in_avi(tmp_path: Path) -> None:
    """DivX and Xvid put a frame and its B-frame into one packet, and an empty one behind."""
    plain = make_clip(
        tmp_path / "plain.avi",
        pts=range(21),
        time_base=Fraction(1, 25),
        codec="mpeg4",
        options={"bf": "1", "g": "40", "sc_threshold": "1000000000"},
    )
    packed = tmp_path / "packed.avi"
    with av.open(str(plain)) as source, av.open(str(packed), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
        data = [bytes(p) for p in source.demux(0) if p.size]
        assert len(data) == 21
        divx = b"\x00\x00\x01\xb2DivX503b1393p"
        chunks = [data[0][: data[0].index(b"\x00\x00\x01\xb6")] + divx]
        chunks[0] += data[0][data[0].index(b"\x00\x00\x01\xb6") :]
        for first, second in zip(data[1::2], data[2::2], strict=True):
            chunks += [first + second, b"\x00\x00\x01\xb6\x51\x00\x7f"]
        for number, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.dts = packet.pts = number
            packet.time_base, packet.stream = Fraction(1, 25), stream
            output.mux(packet)
    times, _ = upscaled_times(packed, tmp_path / "out.mp4")
    assert steps(times) == {Fraction(1, 25)}


def test_real_avi(tmp_path: Path) -> None:
    shared = Path(__file__).parents[3] / "shared" / "data" / "video"
    clip = shared / "sample-with-large-length.avi"
    if not clip.exists():
        pytest.skip(f"{clip} is not on this machine")
    times, said = upscaled_times(clip, tmp_path / "out.mp4")
    assert len(times) == 58
    assert steps(times) == {Fraction(1, 30)}
    assert EVEN in said


def counted(stream: bytes) -> bytes:
    """A transport stream with its packets counted on, so that none seems to be lost."""
    data, counts = bytearray(stream), dict[int, int]()
    for start in range(0, len(data), 188):
        pid = (data[start + 1] & 0x1F) << 8 | data[start + 2]
        counts[pid] = (counts.get(pid, -1) + (data[start + 3] >> 4 & 1)) & 15
        data[start + 3] = data[start + 3] & 0xF0 | counts[pid]
    return bytes(data)


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "libx264"), (".mpg", "mpeg2video")])
def test_parts_that_were_joined(tmp_path: Path, suffix: str, codec: str) -> None:
    """The second part begins at zero again; it must neither be squeezed nor lose its sound."""
    parts = []
    for number in range(3):
        part = make_clip(
            tmp_path / f"{number}{suffix}",
            pts=range(50),
            time_base=Fraction(1, 25),
            codec=codec,
            options={"bf": "2" if suffix == ".ts" else "0", "g": "12"},
            audio="mp2",
            audio_seconds=2,
        )
        parts.append(part.read_bytes())
    clip = tmp_path / f"in{suffix}"
    clip.write_bytes(counted(b"".join(parts)) if suffix == ".ts" else b"".join(parts))
    times, said = upscaled_times(clip, tmp_path / "out.mkv")
    assert len(times) == 150
    assert min(steps(times)) >= Fraction(39, 1000)
    assert max(steps(times)) <= Fraction(1, 2)
    assert "The times of the source begin anew within it" in said
    assert "do not increase" not in said
    with av.open(str(tmp_path / "out.mkv")) as output:
        sound = [p.pts for p in output.demux(audio=0) if p.size]
    with av.open(str(clip)) as source:
        assert len(sound) == len([p for p in source.demux(audio=0) if p.size])
    assert all(a < b for a, b in itertools.pairwise(sound))
