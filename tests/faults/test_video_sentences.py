"""What is said of files that cannot be opened or decoded is true of them."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import pytest
from click.testing import CliRunner, Result
from compare_video import read_facts
from video_clips import NearestSession, make_clip

import srtrt.runtime.session
from srtrt.cli import main

SHARED = Path(os.environ.get("SRTRT_SHARED", Path(__file__).parents[3] / "shared"))
REAL = SHARED / "data" / "video"

FTYP = b"\x00\x00\x00\x14ftypisom\x00\x00\x02\x00isom"
ENCRYPTED = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "00" * 16,
    "encryption_kid": "11" * 16,
}
FRAGMENTED = {"movflags": "+frag_keyframe+empty_moov+default_base_moof"}


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)


def upscale(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["upscale-video", *map(str, arguments)])


def assert_said(done: Result, *words: str) -> None:
    """Refused before anything else was said, in one line with these words."""
    assert done.exit_code == 1, done.output
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert "moov" in words or "without its index" not in done.stderr


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    """ISO boxes, each as its kind and all of its bytes."""
    found = []
    while data:
        size, kind = struct.unpack_from(">I4s", data)
        found.append((kind, data[:size]))
        data = data[size:]
    return found


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("page.mp4", b"\n<!DOCTYPE html>\n<html><title>404</title>", "is a web page (HTML)"),
        ("paper.mkv", b"%PDF-1.7\n%\xe2\xe3", "is a PDF document"),
        ("film.mp4", b"PK\x03\x04\x14\x00\x00\x00", "is an archive or office document (zip)"),
        ("song.mp4", b"ID3\x04\x00\x00\x00\x00\x00\x00", "is a sound file (MP3)"),
        ("song.avi", b"RIFF\x24\x00\x00\x00WAVEfmt ", "is a sound file (WAV)"),
        ("film.torrent", b"d8:announce35:udp://x", "is a torrent"),
        ("sparse.mp4", bytes(10_000), "its first 4,096 bytes are zero"),
        ("void.mp4", FTYP + box(b"free") + box(b"mdat"), "holds only 'ftyp', 'free', an empty"),
        ("open.mp4", FTYP + b"\x00\x00\x00\x00mdat" + bytes(500), "500 bytes of media (mdat) but"),
        ("cut.mp4", FTYP + box(b"mdat", bytes(500))[:100], "lacks the last 408 bytes, and the"),
        ("odd.mp4", FTYP + b"\x00\x00\x00\x03free" + box(b"moov"), "'free' at byte 20 claims 3"),
        ("junk.mp4", FTYP + b"\x00\x00\x01\x00\x96\xe0\x00\x00" + bytes(90), "boxes at byte 20"),
        ("empty.mp4", FTYP + box(b"moov", box(b"trak")), "holds no video stream"),
        ("part.m4s", box(b"moof", box(b"mfhd", bytes(8))) + box(b"mdat"), "is a fragment of a"),
        ("cut.mkv", b"\x1aE\xdf\xa3\x80\x18S\x80g\x01" + bytes(6) + b"\x99", "lacks 153 bytes"),
    ],
)
def test_what_a_file_is_instead(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert_said(upscale(tmp_path / name), words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("WrongFile.mp4", "without any media"),
        ("broken.mp4", "4,300 bytes of media (mdat) but no index (moov)"),
        ("sample_malformed_free_box.mp4", "box 'free' at byte 32 claims 3 bytes"),
        ("sample_fragmented_widevine.mp4", "its video is encrypted (DRM, scheme cenc)"),
        ("short-cenc.mp4", "its video is encrypted (DRM, scheme cenc)"),
        ("empty.flv", "without any frame"),
    ],
)
def test_real_files(name: str, words: str) -> None:
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is not on this machine")
    assert_said(upscale(REAL / name, "-o", "/nonexistent/out.mp4"), words)


@pytest.mark.parametrize(
    ("suffix", "before", "after"),
    [
        (".mp4", b"avc1", b"xyzw"),
        (".avi", b"H264", b"XYZW"),
        (".mkv", b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"),
    ],
)
def test_unknown_codec(tmp_path: Path, suffix: str, before: bytes, after: bytes) -> None:
    clip = make_clip(tmp_path / f"in{suffix}", pts=range(0, 10, 1))
    clip.write_bytes(clip.read_bytes().replace(before, after))
    assert_said(upscale(clip), "has no decoder for", repr(after.decode()))


def remux(source: Path, path: Path, options: Mapping[str, str]) -> Path:
    with (
        av.open(str(source)) as film,
        av.open(str(path), "w", container_options=dict(options)) as output,
    ):
        copies = {s.index: output.add_stream_from_template(s, opaque=True) for s in film.streams}
        for packet in film.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                output.mux(packet)
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Twelve frames in two groups, with sound."""
    (tmp_path / "source").mkdir()
    times = range(0, 36000, 3000)
    return make_clip(tmp_path / "source" / "in.mp4", pts=times, audio="aac", options={"g": "6"})


@pytest.mark.parametrize("layout", [{}, FRAGMENTED])
def test_encrypted(tmp_path: Path, film: Path, layout: dict[str, str]) -> None:
    clip = remux(film, tmp_path / "in.mp4", {**ENCRYPTED, **layout})
    for options in ([], ["--audio", "none", "--keep-going"], ["--max-frames", "1"]):
        assert_said(upscale(clip, *options), "its video is encrypted (DRM, scheme cenc), and srtrt")


def clear_lead(film: Path, path: Path) -> Path:
    """The header and the last fragments of an encrypted film; its first fragment is clear."""
    secret = split(remux(film, path, {**ENCRYPTED, **FRAGMENTED}).read_bytes())
    clear = split(remux(film, path, FRAGMENTED).read_bytes())
    names = [kind for kind, _ in secret]
    assert names == [kind for kind, _ in clear]
    cut = names.index(b"mdat") + 1
    boxes = [*secret[:2], *clear[2:cut], *secret[cut:]]
    path.write_bytes(b"".join(data for kind, data in boxes if kind != b"mfra"))
    return path


def test_encrypted_after_a_clear_lead(tmp_path: Path, film: Path) -> None:
    clip = clear_lead(film, tmp_path / "in.mp4")
    words = "its video is encrypted (DRM, scheme cenc) after 6 clear frames"
    assert_said(upscale(clip, "--audio", "none"), words, "--keep-going to write the 6 frames")
    done = upscale(clip, "--audio", "none", "--keep-going")
    assert done.exit_code == 0, done.output
    assert "warning: It is encrypted (DRM, scheme cenc) after 6 clear frames." in done.stderr
    assert "damaged" not in done.stderr
    assert len(read_facts(tmp_path / "in_x4.mp4").times) == 6
    assert upscale(clip, "--audio", "none", "--max-frames", "5", "--overwrite").exit_code == 0


def test_encrypted_sound_of_a_clear_video(tmp_path: Path, film: Path) -> None:
    clip = tmp_path / "in.mp4"
    secret = split(remux(film, clip, {**ENCRYPTED, **FRAGMENTED}).read_bytes())
    clear = split(remux(film, clip, FRAGMENTED).read_bytes())
    tracks = [data for kind, data in split(secret[1][1][8:]) if kind == b"trak"]
    header = split(clear[1][1][8:])
    places = [n for n, (kind, _) in enumerate(header) if kind == b"trak"]
    header[places[1]] = (b"trak", tracks[1])
    clear[1] = (b"moov", box(b"moov", b"".join(data for _, data in header)))
    clip.write_bytes(b"".join(data for kind, data in clear if kind != b"mfra"))
    words = "stream 1 (audio aac) is encrypted (DRM, scheme cenc), and a copy"
    assert_said(upscale(clip), words, "--audio none")
    done = upscale(clip, "--audio", "none")
    assert done.exit_code == 0, done.output
    assert len(read_facts(tmp_path / "in_x4.mp4").times) == 12


def test_encrypted_matroska(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", pts=range(0, 36000, 3000))
    data = clip.read_bytes()
    # RFC 9559: ContentEncodings, ContentEncoding, ContentEncodingType 1, ContentEncryption.
    encryption = bytes.fromhex("6d8092 62408f 50338101 503588 47e18105 47e28100")
    # In the place of the track's elements that say nothing which is needed here.
    place = data.index(b"\x22\xb5\x9c")
    size = data.index(b"\x86", place) - place
    filler = len(encryption) - size
    track = data.rindex(b"\xae\x01", 0, place)
    tracks = data.rindex(b"\x16\x54\xae\x6b", 0, place)
    changed = bytearray(data[:place] + encryption + data[place + size :])
    for start in (track + 1, tracks + 4, data.index(b"\x18\x53\x80\x67") + 4):
        width = 9 - changed[start].bit_length()
        length = int.from_bytes(changed[start : start + width], "big") + filler
        changed[start : start + width] = length.to_bytes(width, "big")
    clip.write_bytes(changed)
    assert_said(upscale(clip), "its video is encrypted (DRM, scheme Matroska ContentEncryption)")


def test_scrambled_transport_stream(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.ts", pts=range(0, 36000, 3000))
    data = bytearray(clip.read_bytes())
    for start in range(0, len(data), 188):
        if (data[start + 1] & 0x1F) << 8 | data[start + 2] == 0x100:
            data[start + 3] |= 0x80
    clip.write_bytes(data)
    assert_said(upscale(clip), "its video is encrypted (DRM, scheme DVB or ATSC scrambling)")


def test_windows_media_rights(tmp_path: Path) -> None:
    times = range(0, 400, 40)
    tick = Fraction(1, 1000)
    clip = make_clip(tmp_path / "in.wmv", pts=times, time_base=tick, codec="wmv2")
    assert upscale(clip).exit_code == 0
    # The object that lists the codecs becomes one on their encryption.
    codecs = bytes.fromhex("4052d1861d31d011a3a400a0c90348f6")
    encryption = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e")
    assert codecs in clip.read_bytes()
    clip.write_bytes(clip.read_bytes().replace(codecs, encryption))
    assert_said(upscale(clip, "--overwrite"), "its video is encrypted (DRM, scheme Windows Media)")
