"""Where the output goes, in which container, and whether it may be written there."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from srtrt.errors import OutputError
from srtrt.runtime.video.codecs import CODECS, CONTAINERS, Container, container_for
from srtrt.runtime.video.options import VideoOptions
from srtrt.runtime.video.source import VideoSource
from srtrt.runtime.video.streams import StreamPlan, plan_streams

EXACT_FIRST = (".mp4", ".mov", ".mkv")
"""Containers tried, in this order, when the source's own kind cannot be written."""

MATROSKA_FIRST = (".mkv", ".mp4", ".mov")
"""The same for sources that count in milliseconds already."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The chosen output."""

    path: Path
    """Final name."""
    container: Container
    """Kind of file."""
    streams: StreamPlan
    """Which streams of the source are copied."""
    notes: tuple[str, ...]
    """Sentences on why the container is another than the source's."""


def choose_target(source: VideoSource, dst: Path | None, options: VideoOptions) -> Target:
    """Chooses and checks the output.

    Args:
        source: the open input.
        dst: the path the user named, or None for ``<stem>_x4<extension>`` beside the input.
        options: what the user wants.

    Raises:
        OutputError: if the path cannot be written or its container refuses a stream.
    """
    if dst is None:
        target = _default_target(source, options)
    else:
        _refuse_directory(dst)
        container = container_for(dst)
        target = Target(
            path=dst, container=container, streams=_streams(source, container, options), notes=()
        )
    check_writable(source.path, target.path, overwrite=options.overwrite)
    if target.streams.refused:
        refused = "; ".join(target.streams.refused)
        raise OutputError(f"{target.path}: {refused}. {_remedy(source, target.container, options)}")
    return target


def _streams(source: VideoSource, container: Container, options: VideoOptions) -> StreamPlan:
    return plan_streams(source, container.format, options)


def _default_target(source: VideoSource, options: VideoOptions) -> Target:
    """The source's own kind of file, else the first that takes the codec and every stream."""
    suffix = source.path.suffix
    own = CONTAINERS.get(suffix.lower())
    if own is None:
        reasons = [f"srtrt does not write {suffix or 'such'} files"]
    elif not _takes_codec(own, options.codec):
        reasons = [f"the {suffix} container does not take {options.codec}"]
    else:
        streams = _streams(source, own, options)
        if not streams.refused:
            path = source.path.with_name(f"{source.path.stem}_x4{suffix}")
            return Target(path=path, container=own, streams=streams, notes=())
        reasons = list(streams.refused)
    choices = [c for c in _fallbacks(source) if _takes_codec(c, options.codec)]
    plans = [(container, _streams(source, container, options)) for container in choices]
    best, streams = next((p for p in plans if not p[1].refused), plans[0])
    for container, plan in plans:
        if container is best:
            break
        reasons += [sentence for sentence in plan.refused if sentence not in reasons]
    if not (best.is_matroska or _is_matroska(source)):
        reasons.append(f"{best.suffix} keeps exact times")
    return Target(
        path=source.path.with_name(f"{source.path.stem}_x4{best.suffix}"),
        container=best,
        streams=streams,
        notes=(f"The output is {best.suffix}, because {_listed(reasons)}.",),
    )


def _is_matroska(source: VideoSource) -> bool:
    return source.container.format.name.startswith("matroska")


def _fallbacks(source: VideoSource) -> list[Container]:
    return [CONTAINERS[s] for s in (MATROSKA_FIRST if _is_matroska(source) else EXACT_FIRST)]


def _takes_codec(container: Container, codec: str) -> bool:
    return codec not in CODECS or codec in container.codecs


def _listed(parts: list[str]) -> str:
    return " and ".join([*([", ".join(parts[:-1])] if parts[:-1] else []), parts[-1]])


def _remedy(source: VideoSource, container: Container, options: VideoOptions) -> str:
    """What the user can do about the streams that ``container`` refuses."""
    homes = [c for c in _fallbacks(source) if _takes_codec(c, options.codec)]
    home = next((c for c in homes if not _streams(source, c, options).refused), None)
    leave = ""
    for audio, subtitles in ((True, False), (False, True), (False, False)):
        less = replace(
            options, audio=audio and options.audio, subtitles=subtitles and options.subtitles
        )
        if not _streams(source, container, less).refused:
            left = [
                kind for kind, copied in (("audio", audio), ("subtitles", subtitles)) if not copied
            ]
            flags = " ".join(f"--{kind} none" for kind in left)
            leave = f"leave the {' and the '.join(left)} out with {flags}"
            break
    if home is None:
        way_out = leave or "remove the stream first"
        return f"No container that srtrt writes takes every stream; {way_out}."
    keep = f"To keep every stream, give an output name that ends in {home.suffix}"
    return f"{keep}; or {leave}." if leave else f"{keep}."


def check_writable(source: Path, path: Path, *, overwrite: bool) -> None:
    """Refuses an output that is the input, exists, or cannot be created.

    Raises:
        OutputError: with the reason and the remedy.
    """
    _refuse_directory(path)
    if os.path.lexists(path):
        if path.exists() and path.samefile(source):
            raise OutputError(f"{path} is the input itself; choose another output.")
        if not path.is_file() and not path.is_symlink():
            raise OutputError(f"{path} is not a plain file; choose another output.")
        if not overwrite:
            raise OutputError(f"{path} exists; use --overwrite to replace it.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a directory; create it or choose another output.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} is not writable; choose another place with -o.")


def _refuse_directory(path: Path) -> None:
    if os.path.isdir(path):  # noqa: PTH112 - False for a name that is too long
        raise OutputError(f"{path} is a directory; give the name of a video file.")
