"""Codecs and containers srtrt writes, and the options their encoders take."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from srtrt.errors import OutputError, UsageError
from srtrt.runtime.video.encoders import ENCODERS, check_options, require_encoder

_NARROW_SIDE = 64
_LARGE_PIXELS = 3840 * 2160


@dataclass(frozen=True, kw_only=True)
class Codec:
    """One choice of ``--codec``."""

    name: str
    """Name on the command line, and FFmpeg's name of the codec."""
    encoder: str
    """FFmpeg encoder used by default."""
    crf: int | None
    """Default constant quality; None where the codec is lossless."""
    preset: str | None
    """Default speed preset."""
    options: dict[str, str] = field(default_factory=dict)
    """Further encoder options."""
    narrow_options: dict[str, str] = field(default_factory=dict)
    """Options for pictures below 64 pixels on a side."""
    large_options: dict[str, str] = field(default_factory=dict)
    """Options that bound the encoder's memory for pictures beyond 4K."""
    max_side: int
    """Largest width or height in pixels."""


CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec(
            name="h264",
            encoder="libx264",
            crf=17,
            preset="fast",
            large_options={"rc-lookahead": "8", "x264-params": "sync-lookahead=0"},
            max_side=16384,
        ),
        Codec(
            name="hevc",
            encoder="libx265",
            crf=19,
            preset="fast",
            options={"x265-params": "log-level=none"},
            # x265 4.2 writes past its buffers in the cu-tree of pictures narrower than 64.
            narrow_options={"x265-params": "log-level=none:cutree=0"},
            large_options={"x265-params": "log-level=none:rc-lookahead=8:frame-threads=1"},
            max_side=65535,
        ),
        Codec(name="av1", encoder="libsvtav1", crf=24, preset="8", max_side=16384),
        Codec(
            name="ffv1",
            encoder="ffv1",
            crf=None,
            preset=None,
            options={"level": "3", "g": "1", "slicecrc": "1"},
            max_side=65535,
        ),
    )
}
"""Everything ``--codec`` takes besides ``auto``."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """One container srtrt writes."""

    suffix: str
    """File name extension, with the dot."""
    format: str
    """FFmpeg's name of the muxer."""
    codecs: tuple[str, ...]
    """Codecs of ``--codec`` it takes; the first is the default."""

    @property
    def is_matroska(self) -> bool:
        """Whether it counts time in milliseconds from zero, as Matroska and WebM do."""
        return self.format in ("matroska", "webm")


CONTAINERS: dict[str, Container] = {
    container.suffix: container
    for container in (
        Container(suffix=".mp4", format="mp4", codecs=("h264", "hevc", "av1")),
        Container(suffix=".m4v", format="mp4", codecs=("h264", "hevc", "av1")),
        Container(suffix=".mov", format="mov", codecs=("h264", "hevc")),
        Container(suffix=".mkv", format="matroska", codecs=("h264", "hevc", "av1", "ffv1")),
        Container(suffix=".webm", format="webm", codecs=("av1",)),
    )
}
"""Every container srtrt writes, by extension."""


@dataclass(frozen=True, kw_only=True)
class EncoderPlan:
    """How the video stream is encoded."""

    codec: str
    """FFmpeg's name of the codec."""
    encoder: str
    """FFmpeg's name of the encoder."""
    options: dict[str, str]
    """Options for the encoder."""
    tag: str | None = None
    """Four-character code in the container, where the default is not the best."""

    def __str__(self) -> str:
        shown = [f"{key} {self.options[key]}" for key in ("crf", "preset") if key in self.options]
        return ", ".join([f"{self.codec} ({self.encoder})", *shown])


def container_for(path: Path) -> Container:
    """The container of an output path, by its extension.

    Raises:
        OutputError: for an extension srtrt does not write.
    """
    if str(path) == "-":
        raise OutputError("-: videos go to files, not to stdout; give a name such as out.mp4.")
    container = CONTAINERS.get(path.suffix.lower())
    if container is None:
        expected = ", ".join(CONTAINERS)
        raise OutputError(
            f"{path}: the extension {path.suffix or '(none)'!r} is not a container srtrt writes; "
            f"expected one of {expected}."
        )
    return container


def plan_encoder(
    container: Container,
    *,
    codec: str,
    encoder: str,
    crf: int | None,
    preset: str | None,
    width: int,
    height: int,
) -> EncoderPlan:
    """Chooses encoder and options for an output of ``width`` x ``height`` pixels.

    Raises:
        UsageError: if the options contradict each other or the container.
        OutputError: if the codec cannot hold pictures of this size.
    """
    if encoder != "auto":
        return _plan_named_encoder(container, codec, encoder, crf, preset)
    entry = _codec_entry(container, codec)
    check_options(entry.encoder, crf, preset)
    if max(width, height) > entry.max_side:
        raise OutputError(
            f"The output would be {width}x{height} pixels; {entry.name} goes up to "
            f"{entry.max_side} on a side. Choose --codec hevc."
        )
    options = dict(entry.options)
    if min(width, height) < _NARROW_SIDE:
        options.update(entry.narrow_options)
    if width * height > _LARGE_PIXELS:
        # An encoder's look-ahead holds some 40 pictures: gigabytes at 8K.
        options.update(entry.large_options)
    if entry.crf is not None:
        options["crf"] = str(entry.crf if crf is None else crf)
    if entry.preset is not None:
        options["preset"] = preset or entry.preset
    return EncoderPlan(
        codec=entry.name,
        encoder=entry.encoder,
        options=options,
        tag=_tag(entry.name, container),
    )


def _codec_entry(container: Container, codec: str) -> Codec:
    name = container.codecs[0] if codec == "auto" else codec
    if name not in CODECS:
        raise UsageError(f"--codec {name!r}: expected one of auto, {', '.join(CODECS)}.")
    if name not in container.codecs:
        homes = [c.suffix for c in CONTAINERS.values() if name in c.codecs]
        raise UsageError(
            f"The {container.suffix} container does not take {name}; name an output with "
            f"{' or '.join(homes)}, or choose --codec {' or '.join(container.codecs)}."
        )
    return CODECS[name]


def _plan_named_encoder(
    container: Container, codec: str, encoder: str, crf: int | None, preset: str | None
) -> EncoderPlan:
    found = require_encoder(encoder)
    if found.type != "video":
        raise UsageError(f"--encoder {encoder!r} encodes {found.type}, not video.")
    formats = [f.name for f in found.video_formats or []]
    if formats and "yuv420p" not in formats:
        raise UsageError(
            f"--encoder {encoder!r} does not take 8-bit 4:2:0 (yuv420p), which srtrt writes."
        )
    name = found.canonical_name
    if codec not in ("auto", name):
        raise UsageError(f"--encoder {encoder!r} writes {name}, not --codec {codec}.")
    check_options(encoder, crf, preset)
    known = next((c for c in CODECS.values() if c.encoder == encoder), None)
    options = dict(known.options) if known else {}
    quality = crf if crf is not None or known is None else known.crf
    speed = preset if preset is not None or known is None else known.preset
    if quality is not None:
        limits = ENCODERS.get(encoder)
        options["crf" if limits is None else limits.quality] = str(quality)
    if speed is not None:
        options["preset"] = speed
    if encoder == "libvpx-vp9" and quality is None:
        options.update({"crf": "24", "deadline": "good", "cpu-used": "4", "row-mt": "1"})
    return EncoderPlan(codec=name, encoder=encoder, options=options, tag=_tag(name, container))


def _tag(codec: str, container: Container) -> str | None:
    # Apple's players open HEVC in MP4 only under this tag.
    return "hvc1" if codec == "hevc" and container.format in ("mp4", "mov") else None


def quiet_svt() -> None:
    """Keeps SVT-AV1 from printing for itself; it reads this variable when first used."""
    os.environ.setdefault("SVT_LOG", "0")


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Undoes the priority that an encoder takes for itself when it is opened.

    Where it may, which is as root, SVT-AV1 makes its threads and the one that opens it real-time
    threads of the highest priority, and nothing else on the machine gets to run.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if os.sched_getscheduler(int(thread.name)) != policy:
                    os.sched_setscheduler(int(thread.name), policy, parameters)
