"""``upscale_video``: one video file in, one video file of 4x the size out."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import av

from srtrt.errors import InputError, UsageError
from srtrt.locks import output_claimed
from srtrt.paths import local_path
from srtrt.runtime.backends.options import BackendOptions
from srtrt.runtime.video.choice import AUTO, asked_for, choose_model
from srtrt.runtime.video.ffmpeg_errors import reason
from srtrt.runtime.video.job import VideoJob
from srtrt.runtime.video.network import Networks, SessionFactory, VideoSession
from srtrt.runtime.video.options import VideoOptions
from srtrt.runtime.video.plan import VideoWatcher
from srtrt.runtime.video.rate import bits_per_pixel
from srtrt.runtime.video.report import VideoReport
from srtrt.runtime.video.setup import set_up
from srtrt.runtime.video.source import VideoSource
from srtrt.runtime.video.target import check_writable


def upscale_video(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None = None,
    *,
    model: str = AUTO,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: str | int = "auto",
    backend_options: BackendOptions = None,
    trust_engine: bool = False,
    codec: str = "auto",
    encoder: str = "auto",
    crf: int | None = None,
    preset: str | None = None,
    audio: Literal["copy", "none"] = "copy",
    subtitles: Literal["copy", "none"] = "copy",
    max_frames: int | None = None,
    overwrite: bool = False,
    keep_going: bool = False,
    watcher: VideoWatcher | None = None,
    session_factory: SessionFactory | None = None,
) -> VideoReport:
    """Upscales a video 4x in each direction, frame by frame, with everything else kept.

    Every frame keeps its timestamp. Audio, subtitles, attachments, chapters, metadata, display
    rotation, sample aspect ratio and colour tags are carried over. The output appears under its
    name only when it holds as many frames as were decoded, at the same times.

    Args:
        src: a plain local video file.
        dst: the output; its extension names the container (mp4, m4v, mov, mkv, webm). None is
            ``<stem>_x4<extension>`` beside the source; where that kind cannot be written, the first
            of mp4, mov and mkv that takes every stream.
        model: name of a bundled model, or path of an exported one; ``auto`` is the bundled one
            that fits codec and bit rate of the source (:mod:`srtrt.runtime.video.choice`).
        backend: inference engine, or ``auto``.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        precision: arithmetic of the network, or ``auto``.
        tile: ``auto``, ``none``, or a number of source pixels.
        backend_options: settings of the engine, see :func:`srtrt.runtime.session.open_session`.
        trust_engine: load engines that another user may have written. An engine is code.
        codec: ``auto``, ``h264``, ``hevc``, ``av1`` or ``ffv1``.
        encoder: FFmpeg's name of an encoder, or ``auto``.
        crf: constant quality; smaller is better and larger.
        preset: speed preset of the encoder.
        audio: ``copy`` or ``none``.
        subtitles: ``copy`` or ``none``; ``none`` leaves the fonts that are attached for them, too.
        max_frames: stop after so many frames.
        overwrite: replace an existing output.
        keep_going: where the source breaks, write the good frames before that place.
        watcher: told the plan before the first frame, then how long it will take, the progress,
            and what is found on the way. Its exceptions end the run.
        session_factory: opens the network; for tests and for other engines.

    Raises:
        UsageError: if the options are wrong or contradict each other.
        InputError: if the source is no video; TruncatedInputError where it breaks.
        OutputError: if the output cannot be written.
        ModelError, BackendError, MissingPackageError: if the network cannot be opened or fails.
    """
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"max_frames is {max_frames}; expected at least 1.")
    for name, value in (("audio", audio), ("subtitles", subtitles)):
        if value not in ("copy", "none"):
            raise UsageError(f"{name} is {value!r}; expected 'copy' or 'none'.")
    options = VideoOptions(
        codec=codec,
        encoder=encoder,
        crf=crf,
        preset=preset,
        audio=audio == "copy",
        subtitles=subtitles == "copy",
        max_frames=max_frames,
        overwrite=overwrite,
        keep_going=keep_going,
    )
    network = {
        "backend": backend,
        "device": device,
        "precision": precision,
        "tile": tile,
        "backend_options": backend_options,
        "trust_engine": trust_engine,
    }
    try:
        with VideoSource(local_path(src), keep_going=keep_going) as source:
            setup = set_up(source, None if dst is None else Path(dst), options)
            with output_claimed(setup.target.path):
                # Another run may have finished it meanwhile.
                check_writable(source.path, setup.target.path, overwrite=overwrite)
                facts = source.facts
                rate = bits_per_pixel(source.path, source.stream.index, facts.width, facts.height)
                networks = Networks(
                    factory=session_factory or _open_session,
                    options=network,
                    choice=asked_for(model)
                    if model != AUTO
                    else choose_model(facts.codec, rate, facts.width * facts.height),
                )
                job = VideoJob(source, options, setup, networks)
                return job.run(rate, watcher or VideoWatcher())
    except av.FFmpegError as error:
        raise InputError(f"{src}: FFmpeg cannot process it ({reason(error)}).") from error


def _open_session(**options: Any) -> AbstractContextManager[VideoSession]:
    from srtrt.runtime.session import open_session

    session: AbstractContextManager[VideoSession] = open_session(**options)
    return session
