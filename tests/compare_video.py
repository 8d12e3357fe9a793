"""Compares an upscaled video with its source: ``python tests/compare_video.py SOURCE RESULT``.

Checks frame count and size, the time of every frame, every audio and subtitle packet, colour
tags, display matrix, sample aspect ratio, chapters and metadata. Used by the tests too.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition

from srtrt.runtime.video.pyav import METADATA, chapters, fraction, seconds

MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True)
class Check:
    """Outcome of one comparison."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Facts:
    """What is compared of one file."""

    size: tuple[int, int]
    times: list[Fraction]
    end: Fraction
    copied: dict[str, list[tuple[Fraction, str]]]
    hidden: dict[str, int]
    tags: tuple[int, int, int, int]
    matrix: tuple[int, ...] | None
    aspect: Fraction
    chapters: list[tuple[Fraction, Fraction, str]]
    metadata: dict[str, str]
    languages: list[tuple[str, str | None, int]]
    rate: Fraction | None


def read_facts(path: Path, max_frames: int | None = None) -> Facts:
    """Decodes the chosen video stream and reads all packets of audio and subtitles."""
    with av.open(f"file:{path.absolute()}", **METADATA) as container:
        films = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        video = next((s for s in films if s.disposition & Disposition.default), films[0])
        frames: list[av.VideoFrame] = []
        first: av.VideoFrame | None = None
        times, end = [], Fraction(0)
        copied: dict[str, list[tuple[Fraction, str]]] = {}
        hidden: dict[str, int] = {}
        names = _copied_names(container)
        for packet in container.demux():
            if packet.stream.index == video.index and (not max_frames or len(times) < max_frames):
                try:
                    frames = video.decode(packet)
                except av.FFmpegError:
                    frames = []
                for frame in frames[: max_frames - len(times) if max_frames else None]:
                    first = first or frame
                    pts = len(times) if frame.pts is None else frame.pts
                    given = video.time_base if frame.pts is not None else None
                    base = fraction(given) or 1 / fraction(video.average_rate)
                    times.append(pts * base)
                    end = (pts + frame.duration) * base
            elif packet.stream.index in names and packet.size:
                ticks = packet.pts if packet.pts is not None else packet.dts
                if packet.is_discard:
                    name = names[packet.stream.index]
                    hidden[name] = hidden.get(name, 0) + 1
                digest = hashlib.sha256(bytes(packet)).hexdigest()[:16]
                copied.setdefault(names[packet.stream.index], []).append(
                    (seconds(ticks, packet.time_base), digest)
                )
        assert first is not None
        return Facts(
            size=(first.width, first.height),
            times=times,
            end=end,
            copied=copied,
            hidden=hidden,
            tags=(first.colorspace, first.color_range, first.color_primaries, first.color_trc),
            matrix=_matrix(first),
            aspect=fraction(video.sample_aspect_ratio) or Fraction(1),
            chapters=[_chapter(c) for c in chapters(container)],
            metadata={k.lower(): v for k, v in container.metadata.items()},
            languages=[
                (s.type, s.language if s.language != "und" else None, int(s.disposition))
                for s in container.streams
                if s.index in names
            ],
            rate=fraction(video.average_rate),
        )


def compare(source: Path, result: Path, max_frames: int | None = None) -> list[Check]:
    """All comparisons of ``result`` with ``source``."""
    a, b = read_facts(source, max_frames), read_facts(result)
    matroska = result.suffix in (".mkv", ".webm")
    tick = MILLISECOND if matroska else Fraction(0)
    shift = b.times[0] - a.times[0]
    shift = Fraction(0) if abs(shift) <= tick else shift
    checks = [
        Check("size", b.size == (4 * a.size[0], 4 * a.size[1]), f"{a.size} -> {b.size}"),
        Check("frames", len(a.times) == len(b.times), f"{len(a.times)} -> {len(b.times)}"),
        Check("no shift", shift == 0, f"{float(shift):.6f} s"),
        _times("frame times", a.times, [t - shift for t in b.times], tick),
        _tags(a.tags, b.tags),
        Check(
            "display matrix",
            _same_matrix(a.matrix, b.matrix, matroska=matroska),
            f"{a.matrix} -> {b.matrix}",
        ),
        Check("sample aspect", a.aspect == b.aspect, f"{a.aspect} -> {b.aspect}"),
        _chapters(a, b, max_frames),
        _metadata(a.metadata, b.metadata),
        Check("languages", a.languages == b.languages, f"{a.languages} -> {b.languages}"),
    ]
    for name, packets in a.copied.items():
        kept = [p for p in packets if not max_frames or p[0] < a.end]
        if matroska:
            kept = kept[a.hidden.get(name, 0) :]
        checks.append(_packets(name, kept, b.copied.get(name, []), shift, tick))
    return checks


def _copied_names(container: Any) -> dict[int, str]:
    counts: dict[str, int] = {}
    names = {}
    for stream in container.streams:
        if stream.type in ("audio", "subtitle"):
            counts[stream.type] = counts.get(stream.type, -1) + 1
            names[stream.index] = f"{stream.type} {counts[stream.type]}"
    return names


def _times(name: str, a: list[Fraction], b: list[Fraction], tick: Fraction) -> Check:
    worst = max((abs(x - y) for x, y in zip(a, b, strict=False)), default=Fraction(0))
    ok = len(a) == len(b) and worst <= tick
    return Check(name, ok, "exact" if worst == 0 else f"off by at most {float(worst):.6f} s")


def _tags(a: tuple[int, ...], b: tuple[int, ...]) -> Check:
    unknown = (2, 0, 2, 2)
    ok = all(x in (u, y) for x, y, u in zip(a, b, unknown, strict=True))
    return Check(
        "colour tags", ok and b[0] != 2, f"{a} -> {b} (matrix, range, primaries, transfer)"
    )


def _packets(
    name: str,
    a: list[tuple[Fraction, str]],
    b: list[tuple[Fraction, str]],
    shift: Fraction,
    tick: Fraction,
) -> Check:
    same_bytes = [h for _, h in a] == [h for _, h in b]
    times = _times("", [t for t, _ in a], [t - shift for t, _ in b], tick)
    detail = f"{len(a)} -> {len(b)} packets, bytes {'equal' if same_bytes else 'DIFFER'}"
    return Check(name, same_bytes and times.ok, f"{detail}, times {times.detail}")


def _chapters(a: Facts, b: Facts, max_frames: int | None) -> Check:
    if max_frames:
        return Check("chapters", len(b.chapters) <= len(a.chapters), "cut")
    same = len(a.chapters) == len(b.chapters) and all(
        abs(x[0] - y[0]) <= MILLISECOND and x[2] == y[2]
        for x, y in zip(a.chapters, b.chapters, strict=True)
    )
    return Check("chapters", same, f"{len(a.chapters)} -> {len(b.chapters)}")


def _metadata(a: dict[str, str], b: dict[str, str]) -> Check:
    ours = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
    lost = sorted(k for k, v in a.items() if k not in ours and not _same_value(k, v, b.get(k)))
    lost = [k for k in lost if k.rpartition("-")[0] not in a]
    return Check("metadata", not lost, f"lost: {', '.join(lost)}" if lost else f"{len(a)} keys")


def _same_value(key: str, a: str, b: str | None) -> bool:
    if b is None or not key.startswith("location"):
        return a == b
    # MP4 stores a place as fixed-point numbers; 0.0001 degrees are 11 metres.
    x, y = (np.array(re.findall(r"[+-][0-9.]+", text), float) for text in (a, b))
    return len(x) == len(y) and bool(np.abs(x - y).max() < 1e-4)


def _same_matrix(a: tuple[int, ...] | None, b: tuple[int, ...] | None, *, matroska: bool) -> bool:
    """Rotation and flips the same; the translation 4 times as many pixels, if it is stored."""
    if a is None or b is None:
        return a is b
    moved = matroska or tuple(4 * v for v in a[6:8]) == b[6:8]
    return a[:6] == b[:6] and moved


def _matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    data: Any = frame.side_data.get(SideData.DISPLAYMATRIX)
    return None if data is None else tuple(int(v) for v in np.frombuffer(bytes(data), "<i4"))


def _chapter(chapter: Any) -> tuple[Fraction, Fraction, str]:
    base = chapter["time_base"]
    return chapter["start"] * base, chapter["end"] * base, chapter["metadata"].get("title", "")


def main() -> int:
    """Prints every check; exit status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--max-frames", type=int)
    arguments = parser.parse_args()
    checks = compare(arguments.source, arguments.result, arguments.max_frames)
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
