"""Which metadata of a source a written file does not have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from srtrt.runtime.video.contents import Contents
from srtrt.runtime.video.described import Description, describe_streams
from srtrt.runtime.video.opening import OPEN_OPTIONS, is_attached_picture
from srtrt.runtime.video.pyav import METADATA, chapters
from srtrt.runtime.video.streams import container_metadata, describe, stream_metadata
from srtrt.text import printable

Losses = dict[str, list[str]]
"""Part of the file, such as ``the file`` or ``stream 1 (audio aac)``, to what it lost."""

_SHOWN = 40
"""Characters of a value that are shown."""

_KEY = 200
"""The same of a key."""

_MILLISECOND = Fraction(1, 1000)

_BIBLIOGRAPHIC = {
    "alb": "sqi",
    "arm": "hye",
    "baq": "eus",
    "bur": "mya",
    "chi": "zho",
    "cze": "ces",
    "dut": "nld",
    "fre": "fra",
    "geo": "kat",
    "ger": "deu",
    "gre": "ell",
    "ice": "isl",
    "mac": "mkd",
    "mao": "mri",
    "may": "msa",
    "per": "fas",
    "rum": "ron",
    "slo": "slk",
    "tib": "bod",
    "wel": "cym",
}
"""Languages with two codes in ISO 639-2; Matroska has the first, ISO 14496-12 the second."""


def find_losses(contents: Contents, written: InputContainer) -> Losses:
    """Compares the metadata of everything that was to be written with a file.

    Compared are keys and values of the file, the streams and the chapters, languages,
    dispositions, side data of copied streams, and the number of cover pictures and attachments.
    Streams that are not there are no concern of it.
    """
    tracks, others = _tracks(written)
    video = tracks.get(0)
    of_file = dict(written.metadata)
    if video is not None and "timecode" in video.metadata:
        # FFmpeg makes a track of the file's timecode, and the track gives it to the video.
        of_file["timecode"] = video.metadata["timecode"]
    losses: Losses = {"the file": _lost_keys(container_metadata(contents.source), of_file)}
    before, after = describe_streams(contents.source), describe_streams(written)
    for number, stream in enumerate(_expected(contents)):
        if (track := tracks.get(number)) is None:
            continue
        lost = _lost_of_stream(stream, track, reencoded=number == 0)
        if number > 0:
            lost += _lost_side_data(before[stream.index], after[track.index])
        losses[_place(stream)] = lost
    _forget_repeated_times(losses, contents.source)
    losses["the file"] += _missing(contents.copied, others)
    losses["the chapters"] = _lost_of_chapters(contents.chapters(), chapters(written))
    return {place: lost for place, lost in losses.items() if lost}


def written_losses(contents: Contents, path: Path, suffix: str) -> list[str]:
    """Sentences on what a finished file does not have.

    Args:
        contents: what was to be written.
        path: the file.
        suffix: extension of the output.
    """
    name = f"file:{path.absolute()}"
    with av.open(name, container_options=OPEN_OPTIONS, **METADATA) as written:
        tracks, _ = _tracks(written)
        missing = [s for n, s in enumerate(_expected(contents)) if n not in tracks]
        turned = [
            _turn(describe_streams(file)[stream.index])
            for file, stream in ((contents.source, contents.video), (written, tracks[0]))
        ]
        lost = describe_losses(find_losses(contents, written), suffix)
        if turned[0] not in ("", turned[1]):
            lost.append(f"A {suffix} file does not keep the picture's {turned[0]}.")
        return lost + [
            f"S{_place(stream)[1:]} is not in the output, because nothing of it lies within the "
            "frames that were upscaled."
            for stream in missing
        ]


def _turn(description: Description) -> str:
    """Such as ``rotation of -90.00 degrees``; empty if the picture is shown as it is coded."""
    kinds = [line.partition(":") for line in description.side_data]
    return next((what.strip() for name, _, what in kinds if name.lower() == "display matrix"), "")


def describe_losses(losses: Losses, suffix: str) -> list[str]:
    """One sentence on all losses, or none.

    Args:
        losses: from :func:`find_losses`.
        suffix: extension of the output.
    """
    if not losses:
        return []
    parts = [f"of {place}: {', '.join(lost)}" for place, lost in losses.items()]
    return [f"Metadata that the {suffix} container does not keep, {'; '.join(parts)}."]


def _expected(contents: Contents) -> list[Stream]:
    """The streams of the source that become tracks, in the order of the output."""
    return [contents.video, *(s for s in contents.copied if not _is_apart(s))]


def _tracks(written: InputContainer) -> tuple[dict[int, Stream], list[Stream]]:
    """Tracks by the order in which they were added, and pictures and attachments."""
    others = [s for s in written.streams if _is_apart(s)]
    tracks = [s for s in written.streams if s.type in ("video", "audio", "subtitle")]
    tracks = [s for s in tracks if s not in others]
    if written.format.name.startswith("mov"):
        # A track without samples is left out; the others keep their numbers.
        return {stream.id - 1: stream for stream in tracks}, others
    return dict(enumerate(tracks)), others


def _is_apart(stream: Stream) -> bool:
    """Whether containers keep a stream away from the tracks."""
    return stream.type == "attachment" or is_attached_picture(stream)


def _forget_repeated_times(losses: Losses, source: InputContainer) -> None:
    """A stream's time of creation is not lost where the file has the same and keeps it."""
    line = f"creation_time '{source.metadata.get('creation_time')}'"
    if line not in losses["the file"]:
        for lost in losses.values():
            if line in lost:
                lost.remove(line)


def _missing(copied: tuple[Stream, ...], others: list[Stream]) -> list[str]:
    """Pictures and attachments that are not there."""
    expected = sum(_is_apart(stream) for stream in copied)
    missing = expected - len(others)
    return [f"{missing} of {expected} pictures and attachments"] if missing > 0 else []


def _place(stream: Stream) -> str:
    return f"stream {stream.index} ({describe(stream)})"


def _lost_side_data(before: Description, after: Description) -> list[str]:
    """Names of side data, but for what describes the bit rate."""
    names = [line.partition(":")[0].lower() for line in before.side_data]
    found = {line.partition(":")[0].lower() for line in after.side_data}
    return [name for name in names if name not in found and name != "cpb properties"]


def _lost_of_stream(before: Stream, after: Stream, *, reencoded: bool) -> list[str]:
    metadata = {
        key: value
        for key, value in stream_metadata(before, reencoded=reencoded).items()
        # Who encoded a stream is no part of the film; most containers have no place for it.
        if key.lower() != "encoder" and not (key.lower() == "language" and value in ("und", ""))
    }
    lost = _lost_keys(metadata, after.metadata)
    # The upscaled stream has one layer; that the others are gone is said by itself.
    gone = before.disposition & ~after.disposition & ~Disposition.multilayer
    return lost + [f"the mark {flag.name}" for flag in Disposition if flag & gone]


def _lost_keys(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    found = {_plain(key): value for key, value in after.items()}
    lost = []
    for key, value in before.items():
        base = key.rpartition("-")[0]
        # FFmpeg tells a text that has a language twice, as "title" and as "title-eng".
        names = [key, base] if before.get(base) == value else [key]
        if not any(_same(key, value, found.get(_plain(name))) for name in names):
            lost.append(f"{_short(key, _KEY)} '{_short(value, _SHOWN)}'")
    return lost


def _short(text: str, length: int) -> str:
    return printable(text if len(text) <= length else f"{text[:length]}...")


def _plain(key: str) -> str:
    """Matroska writes the names of tags in capitals and without spaces."""
    return key.lower().replace(" ", "_")


def _same(key: str, before: str, after: str | None) -> bool:
    if after is None:
        return False
    if key.lower() == "language":
        return _BIBLIOGRAPHIC.get(before, before) == _BIBLIOGRAPHIC.get(after, after)
    if key.lower().startswith("location"):
        # MP4 stores a place as fixed-point numbers; 0.0001 degrees are 11 metres.
        numbers = [re.findall(r"[+-][0-9.]+", text) for text in (before, after)]
        try:
            pairs = list(zip(*([float(n) for n in some] for some in numbers), strict=True))
        except ValueError:
            return before == after
        return bool(pairs) and all(abs(a - b) < 1e-4 for a, b in pairs)
    return before == after


def _lost_of_chapters(before: list[Any], after: list[Any]) -> list[str]:
    if len(before) != len(after):
        return [f"{len(before)} were to be written and {len(after)} are there"]
    lost: Counter[str] = Counter()
    for a, b in zip(before, after, strict=True):
        found = {_plain(key): value for key, value in b["metadata"].items()}
        lost.update(
            _short(key, _KEY)
            for key, value in a["metadata"].items()
            if found.get(_plain(key)) != value
        )
        times = (abs(a[k] * a["time_base"] - b[k] * b["time_base"]) for k in ("start", "end"))
        if any(time > _MILLISECOND for time in times):
            lost["times"] += 1
    return [f"{key} of {count}" for key, count in lost.items()]
