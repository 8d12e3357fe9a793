"""Where the output goes, in which container, and whether it may be written there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from srtrt.errors import OutputError
from srtrt.runtime.video.codecs import CODECS, CONTAINERS, Container, container_for
from srtrt.runtime.video.source import VideoSource
from srtrt.runtime.video.streams import StreamPlan, plan_streams

FALLBACKS = (".mkv", ".mp4", ".mov")
"""Containers tried, in this order, when the source's own kind cannot be written."""


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


def choose_target(
    source: VideoSource, dst: Path | None, *, codec: str, audio: bool, overwrite: bool
) -> Target:
    """Chooses and checks the output.

    Args:
        source: the open input.
        dst: the path the user named, or None for ``<stem>_x4<extension>`` beside the input.
        codec: value of ``--codec``.
        audio: whether audio is copied.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: if the path cannot be written or its container refuses a stream.
    """
    if dst is None:
        target = _default_target(source, codec=codec, audio=audio)
    else:
        _refuse_directory(dst)
        container = container_for(dst)
        target = Target(
            path=dst, container=container, streams=_streams(source, container, audio), notes=()
        )
    check_writable(source.path, target.path, overwrite=overwrite)
    if target.streams.refused:
        raise OutputError(
            f"{target.path}: {'; '.join(target.streams.refused)}. {_remedy(source, audio)}"
        )
    return target


def _streams(source: VideoSource, container: Container, audio: bool) -> StreamPlan:
    return plan_streams(source.container, source.stream.index, container.format, audio=audio)


def _default_target(source: VideoSource, *, codec: str, audio: bool) -> Target:
    """The source's own kind of file, else the first that takes the codec and every stream."""
    suffix = source.path.suffix
    own = CONTAINERS.get(suffix.lower())
    why = ""
    if own is None:
        why = f"srtrt does not write {suffix or 'such'} files"
    elif not _takes_codec(own, codec):
        why = f"a {suffix} file does not take {codec}"
    else:
        streams = _streams(source, own, audio)
        if not streams.refused:
            path = source.path.with_name(f"{source.path.stem}_x4{suffix}")
            return Target(path=path, container=own, streams=streams, notes=())
        why = "; ".join(streams.refused)
    choices = [CONTAINERS[s] for s in FALLBACKS if _takes_codec(CONTAINERS[s], codec)]
    plans = [(container, _streams(source, container, audio)) for container in choices]
    best, streams = next((p for p in plans if not p[1].refused), plans[0])
    return Target(
        path=source.path.with_name(f"{source.path.stem}_x4{best.suffix}"),
        container=best,
        streams=streams,
        notes=(f"The output is {best.suffix}, because {why}.",),
    )


def _takes_codec(container: Container, codec: str) -> bool:
    return codec not in CODECS or codec in container.codecs


def _remedy(source: VideoSource, audio: bool) -> str:
    for suffix in FALLBACKS:
        if not _streams(source, CONTAINERS[suffix], audio).refused:
            return f"To keep every stream, give an output name that ends in {suffix}."
    if audio and not _streams(source, CONTAINERS[".mkv"], False).refused:
        return "No container takes every stream; leave the audio out with --audio none."
    return "No container that srtrt writes takes every stream; remove the stream first."


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
