"""Whatever a video loses is named: metadata, side data of stream and frames, data streams."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from av.packet import Packet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_clips import NearestSession, make_clip

import srtrt
from srtrt.runtime.video.plan import VideoPlan, VideoWatcher
from srtrt.runtime.video.pyav import METADATA
from srtrt.runtime.video.report import VideoReport
from srtrt.text import printable


class Listener(VideoWatcher):
    """Keeps what was said before the first frame and after it."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.after: list[str] = []

    def planned(self, plan: VideoPlan) -> None:
        self.before = list(plan.notes)

    def noted(self, note: str) -> None:
        self.after.append(note)


def upscale(
    source: Path, output: Path, watcher: VideoWatcher | None = None, max_frames: int | None = None
) -> VideoReport:
    return srtrt.upscale_video(
        source,
        output,
        encoder="libvpx-vp9" if output.suffix == ".webm" else "auto",
        preset=None if output.suffix == ".webm" else "ultrafast",
        overwrite=True,
        watcher=watcher,
        max_frames=max_frames,
        session_factory=lambda **options: NearestSession(**options),  # type: ignore[arg-type]
    )


def remux(
    source: Path,
    output: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    change: Callable[[int, bytes], bytes] = lambda _number, data: data,
    stream_metadata: Mapping[str, str] | None = None,
    chapter: Mapping[str, str] | None = None,
) -> Path:
    """Copies the packets of a clip into another with this metadata and these changes."""
    options = {"movflags": "+use_metadata_tags"} if output.suffix == ".mov" else {}
    with (
        av.open(str(source), **METADATA) as clip,
        av.open(str(output), "w", container_options=options, **METADATA) as file,
    ):
        copies = [file.add_stream_from_template(s, opaque=True) for s in clip.streams]
        copies[0].codec_context.framerate = Fraction(30)  # type: ignore[union-attr]
        copies[0].metadata.update(stream_metadata or {})
        file.metadata.update(metadata or {})
        if chapter is not None:
            base = Fraction(1, 1000)
            parts = [{"id": 1, "start": 0, "end": 30, "time_base": base, "metadata": dict(chapter)}]
            file.set_chapters(parts)  # type: ignore[arg-type]
        for number, packet in enumerate(p for p in clip.demux() if p.size):
            copy: Packet[Any] = Packet(change(number, bytes(packet)))
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
            copy.stream = copies[packet.stream.index]
            file.mux_one(copy)
    return output


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of 16x16."""
    path = tmp_path_factory.mktemp("small") / "small.mp4"
    return make_clip(path, size=(16, 16), pts=(0, 3000), options={"bf": "0"})


KNOWN = (
    "title artist album comment date genre hd_video sort_name keywords synopsis location rating "
    "com.apple.quicktime.model com.android.version creation_time track encoded_by language timecode"
)
KEYS = st.sampled_from(KNOWN.split()) | st.text(
    string.ascii_letters + "._- ", min_size=1, max_size=9
)
VALUES = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1),
    st.text("ab\x1b\r\n\u202e", min_size=1),
    st.text(string.ascii_letters, min_size=200, max_size=300),
    st.sampled_from(
        ["1", "3/6", "2020-01-02T03:04:05.000000Z", "+48.8789+002.3376/", "01:02:03:04"]
    ),
)

WRITTEN_ANEW = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(metadata=st.dictionaries(KEYS, VALUES, max_size=6), title=VALUES)
def test_metadata_is_kept_or_named(
    suffix: str, metadata: dict[str, str], title: str, small: Path
) -> None:
    labels = {"title": title, "handler_name": title}
    source = remux(small, small.with_name("in.mov"), metadata=metadata, stream_metadata=labels)
    report = upscale(source, small.with_name(f"out{suffix}"))
    said = " ".join(report.notes)
    assert said == printable(said)
    with av.open(str(source), **METADATA) as before, av.open(report.output, **METADATA) as after:
        video = after.streams[0].metadata
        # A timecode of the file becomes a track, and that of the video.
        timecode = {"timecode": video["timecode"]} if "timecode" in video else {}
        pairs = (
            (before.metadata, {**timecode, **after.metadata}),
            (before.streams[0].metadata, video),
        )
    for old, new in pairs:
        # A stream need not repeat what the file says of all.
        of_file = pairs[0][1].get("creation_time")
        new = {**({"creation_time": of_file} if of_file else {}), **new}
        found = {key.lower().replace(" ", "_"): value for key, value in new.items()}
        for key, value in old.items():
            if key.lower().rpartition("-")[0] in old or key.lower() in {*WRITTEN_ANEW, "vendor_id"}:
                continue
            same = found.get(key.lower().replace(" ", "_")) == value
            assert same or f"{printable(key)} '" in said or value == "und", (key, value, said)


def test_keys_of_itunes_that_the_muxer_drops(small: Path, tmp_path: Path) -> None:
    kept = {"title": "A film", "hd_video": "1"}
    source = remux(small, tmp_path / "in.mov", metadata={**kept, "sort_name": "Film, A"})
    listener = Listener()
    upscale(source, tmp_path / "out.mp4", listener)
    sentence = "Metadata that the .mp4 container does not keep, of the file: sort_name 'Film, A'."
    assert sentence in listener.before
    assert sentence not in listener.after
    with av.open(str(tmp_path / "out.mp4")) as output:
        assert kept.items() <= output.metadata.items()


def test_a_cover_is_not_given_up_for_keys_with_dots(tmp_path: Path) -> None:
    metadata = {"title": "A film", "com.apple.quicktime.model": "X"}
    clip = make_clip(tmp_path / "in.mkv", metadata=metadata)
    with av.open(str(clip)) as source:
        assert "COM.APPLE.QUICKTIME.MODEL" in source.metadata
    plain = upscale(clip, tmp_path / "plain.mp4")
    assert not any("does not keep" in note for note in plain.notes)
    cover = make_clip(tmp_path / "cover.mp4", cover=True)
    with (
        av.open(str(cover)) as pictures,
        av.open(str(tmp_path / "both.mkv"), "w", **METADATA) as both,
    ):
        copy = both.add_stream_from_template(pictures.streams[0], opaque=True)
        packets = [p for p in pictures.demux() if p.size]
        art = next(bytes(p) for p in packets if p.stream.index == 1)
        both.add_attachment("cover.jpg", "image/jpeg", art)
        both.metadata.update(metadata)
        for packet in packets:
            if packet.stream.index == 0:
                packet.stream = copy
                both.mux_one(packet)
    report = upscale(tmp_path / "both.mkv", tmp_path / "both.mp4")
    with av.open(report.output) as output:
        assert [bytes(p) for p in output.demux(1) if p.size] == [art]
    assert any("COM.APPLE.QUICKTIME.MODEL 'X'" in note for note in report.notes)


def test_marks_languages_and_chapters_are_named(small: Path, tmp_path: Path) -> None:
    source = remux(
        small,
        tmp_path / "in.mkv",
        stream_metadata={"language": "fre", "story": "x"},
        chapter={"title": "One", "artist": "Somebody"},
    )
    notes = " ".join(upscale(source, tmp_path / "out.mp4").notes)
    assert "of stream 0 (video h264, fre): STORY 'x'" in notes
    assert "of the chapters: ARTIST of 1" in notes
    assert "language" not in notes
    assert not any("does not keep" in n for n in upscale(source, tmp_path / "out.mkv").notes)


@pytest.mark.parametrize("language", ["e)(x: Video: h264", "a\nb", "\x1b[2J", "en-US"])
def test_languages_that_are_none(small: Path, tmp_path: Path, language: str) -> None:
    source = remux(small, tmp_path / "in.mkv", stream_metadata={"language": language})
    with av.open(str(source)) as clip:
        assert clip.streams[0].language == language
    report = upscale(source, tmp_path / "out.mp4")
    assert any("language '" in note for note in report.notes)
    assert all(note == printable(note) for note in report.notes)


def test_a_stream_that_begins_after_the_part_is_named(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", pts=range(0, 60000, 3000), audio="aac")
    with av.open(str(clip)) as source, av.open(str(tmp_path / "in.mp4"), "w") as file:
        copies = [file.add_stream_from_template(s, opaque=True) for s in source.streams]
        for packet in source.demux():
            if packet.size:
                late = round(Fraction(1, 2) / packet.time_base) if packet.stream.index else 0
                packet.pts, packet.dts = packet.pts + late, packet.dts + late
                packet.stream = copies[packet.stream.index]
                file.mux_one(packet)
    words = (
        "Stream 1 (audio aac) is not in the output, because nothing of it lies within the frames"
    )
    report = upscale(tmp_path / "in.mp4", tmp_path / "part.mp4", max_frames=3)
    assert any(words in note for note in report.notes)
    report = upscale(tmp_path / "in.mp4", tmp_path / "whole.mp4")
    assert not any("not in the output" in note for note in report.notes)


def sei(kind: int, payload: bytes) -> bytes:
    """An SEI message (ISO 14496-10, 7.3.2.3) with its length before it."""
    unit = bytes([6, kind, len(payload)]) + payload + b"\x80"
    return len(unit).to_bytes(4, "big") + unit


CAPTIONS = sei(4, bytes.fromhex("b500314741393403") + bytes([0x41, 0xFF, 0xFC, 0x94, 0x20, 0xFF]))
DIARY = sei(5, bytes(range(16)) + b"12:34 it rained")


@pytest.mark.parametrize(
    ("message", "words"),
    [(CAPTIONS, "Closed captions inside the video stream"), (DIARY, "User data inside the video")],
)
@pytest.mark.parametrize("at", [0, 5])
def test_side_data_of_frames_is_named(tmp_path: Path, message: bytes, words: str, at: int) -> None:
    clip = make_clip(tmp_path / "clip.mp4", pts=range(0, 60000, 3000), options={"bf": "0"})
    assert not any(words in note for note in upscale(clip, tmp_path / "plain.mp4").notes)
    source = remux(
        clip,
        tmp_path / "in.mp4",
        change=lambda number, data: message + data if number >= at else data,
    )
    listener = Listener()
    upscale(source, tmp_path / "out.mp4", listener)
    said = [words in " ".join(notes) for notes in (listener.before, listener.after)]
    assert said == ([True, False] if at == 0 else [False, True])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_timecodes_are_kept(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "in.mov"
    with av.open(str(source), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 16, 16
        stream.metadata["timecode"] = "10:11:12:13"
        file.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        file.mux(stream.encode(None))
    report = upscale(source, tmp_path / f"out{suffix}")
    with av.open(report.output) as output:
        video = {k.lower(): v for k, v in output.streams.video[0].metadata.items()}
    assert video["timecode"] == "10:11:12:13"
    assert not any("Data streams" in note or "timecode" in note for note in report.notes)


def test_data_streams_are_named_by_what_they_hold(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with av.open(str(clip)) as source, av.open(str(tmp_path / "in.ts"), "w") as file:
        video = file.add_stream_from_template(source.streams[0], opaque=True)
        data = file.add_data_stream("klv")
        for packet in source.demux():
            if packet.size:
                packet.stream = video
                file.mux_one(packet)
                note: Packet[Any] = Packet(
                    bytes.fromhex("060e2b34020b01010e01030101000000") + b"\0"
                )
                note.pts = note.dts = packet.dts
                note.time_base, note.stream = packet.time_base, data
                file.mux_one(note)
    report = upscale(tmp_path / "in.ts", tmp_path / "out.mp4")
    assert any("not carried over: 1 (KLV metadata)." in note for note in report.notes)


def with_box(source: Path, output: Path, box: bytes) -> Path:
    """A copy of an MP4 file with another box at the end of its first sample entry."""
    data = bytearray(source.read_bytes())
    at, end = 0, len(data)
    entry = 0
    for kind, skipped in PATH:
        while data[at + 4 : at + 8] != kind:
            at += int.from_bytes(data[at : at + 4], "big")
            assert at < end
        size = int.from_bytes(data[at : at + 4], "big")
        data[at : at + 4] = (size + len(box)).to_bytes(4, "big")
        entry, at = at + size, at + 8 + skipped
    data[entry:entry] = box
    output.write_bytes(data)
    return output


PATH = ((b"moov", 0), (b"trak", 0), (b"mdia", 0), (b"minf", 0), (b"stbl", 0), (b"stsd", 8))
PATH += ((b"avc1", 0),)


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def dolby(profile: int, compatibility: int) -> bytes:
    fields = bytes([1, 0, profile << 1, 1 << 3 | 0b101, compatibility << 4])
    return box(b"dvcC", fields + bytes(19))


BOXES = {
    "dolby 8": (
        dolby(8, 1),
        "Dolby Vision metadata is not carried over; the output shows its base",
    ),
    "dolby 5": (dolby(5, 0), "without a compatible base layer) has wrong colours without it"),
    "icc": (box(b"colr", b"prof" + bytes(128)), "The ICC profile of the video is not carried over"),
    "clap": (
        box(b"clap", b"".join(n.to_bytes(4, "big") for n in (8, 1, 16, 1, 0, 1, 0, 1))),
        "The cropping that the source's container asks for is not carried over",
    ),
    "st3d": (box(b"st3d", bytes(4) + b"\x02"), "stereoscopic (3D) is not carried over"),
    "clli": (box(b"clli", bytes([4, 0, 1, 0])), "HDR metadata"),
}


@pytest.mark.parametrize("name", BOXES)
def test_side_data_of_the_stream_is_named(small: Path, tmp_path: Path, name: str) -> None:
    content, words = BOXES[name]
    source = with_box(small, tmp_path / "in.mp4", content)
    listener = Listener()
    upscale(source, tmp_path / "out.mp4", listener)
    assert words in " ".join(listener.before)
    assert sum(words in note for note in [*listener.before, *listener.after]) == 1


def test_names_of_services(tmp_path: Path) -> None:
    plain = make_clip(tmp_path / "plain.ts")
    named = make_clip(tmp_path / "named.ts", metadata={"service_name": "News\x1b[2J at 8"})
    notes = [" ".join(upscale(clip, tmp_path / "out.mp4").notes) for clip in (plain, named)]
    assert "service" not in notes[0]
    assert r"are not carried over: 'News\x1b[2J at 8'." in notes[1]


def test_timecodes_and_windows_of_mpeg2(tmp_path: Path) -> None:
    """Frames of MPEG-2 have both, often saying nothing."""
    timing: dict[str, Any] = {"pts": range(20), "time_base": Fraction(1, 25)}
    for name, options in (("plain", {}), ("timed", {"gop_timecode": "01:02:03:04"})):
        clip = make_clip(
            tmp_path / f"{name}.ts", codec="mpeg2video", options={"g": "5", **options}, **timing
        )
        notes = " ".join(upscale(clip, tmp_path / f"{name}.mp4").notes)
        assert "Pan-scan" not in notes
        assert ("Timecodes inside the video stream" in notes) == (name == "timed")
