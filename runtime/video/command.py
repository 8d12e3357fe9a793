"""``srtrt upscale-video``."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from srtrt.errors import OutputError
from srtrt.reports import ReportPlace
from srtrt.runtime.backends import BACKENDS
from srtrt.runtime.command_options import OneOf, Whole, backend_option, json_option
from srtrt.runtime.video.report import VideoReport
from srtrt.signals import end_at_once
from srtrt.spec import PRECISIONS
from srtrt.terminal import put_path, say


@click.command("upscale-video")
@click.argument("source", metavar="INPUT")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Output file; its extension names the container. Default: INPUT's name with _x4.",
)
@click.option(
    "--model",
    default="auto",
    show_default=True,
    help="Bundled model or .onnx file; auto goes by the bit rate of INPUT.",
)
@click.option(
    "--backend",
    type=OneOf(["auto", *BACKENDS]),
    default="auto",
    show_default=True,
    help="Inference engine.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--precision",
    type=OneOf(["auto", *PRECISIONS]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network.",
)
@click.option(
    "--tile", default="auto", show_default=True, help="auto, none, or a size in source pixels."
)
@backend_option
@click.option(
    "--trust-engine",
    is_flag=True,
    help="Load TensorRT engines that another user may have written. An engine is code.",
)
@click.option(
    "--codec",
    type=OneOf(["auto", "h264", "hevc", "av1", "ffv1"]),
    default="auto",
    show_default=True,
    help="Video codec; auto is av1 for .webm and h264 elsewhere.",
)
@click.option("--encoder", default="auto", show_default=True, help="FFmpeg's name of an encoder.")
@click.option("--crf", type=Whole(), help="Constant quality; smaller is better and larger.")
@click.option("--preset", help="Speed preset of the encoder.")
@click.option(
    "--audio",
    type=OneOf(["copy", "none"]),
    default="copy",
    show_default=True,
    help="Whether audio is copied.",
)
@click.option(
    "--subtitles",
    type=click.Choice(["copy", "none"]),
    default="copy",
    show_default=True,
    help="Whether subtitles are copied.",
)
@click.option("--max-frames", type=Whole(1), help="Stop after so many frames.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option(
    "--keep-going", is_flag=True, help="Where INPUT is damaged, write the good frames before it."
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@json_option
def upscale_video(
    source: str, output: Path | None, quiet: bool, report: ReportPlace | None, **options: Any
) -> None:
    """Upscale a video 4x, frame by frame.

    Audio, subtitles, chapters, metadata, rotation, pixel shape, colour tags and every timestamp
    are kept.
    """
    from srtrt.runtime.video.api import upscale_video as run
    from srtrt.runtime.video.terminal import terminal_watcher

    if report is not None:
        report.require(output)
    with leave_running_threads(), terminal_watcher(report, quiet=quiet) as watcher:
        done = run(source, output, watcher=watcher, **options)
    if not quiet:
        _tell(done)
    if report is not None:
        _write(done, report)
    if not quiet and (report is None or report.path is not None):
        put_path(done.output)


def _tell(done: VideoReport) -> None:
    if done.damage:
        say(f"warning: {done.damage} Only those frames were written.")
    for line in done.summary().splitlines():
        say(line)


def _write(done: VideoReport, report: ReportPlace) -> None:
    try:
        report.write(done.to_dict(), Path(done.output))
    except OutputError as error:
        raise OutputError(
            f"The video was written to {done.output}, but its report could not be written: {error}"
        ) from error


@contextlib.contextmanager
def leave_running_threads() -> Iterator[None]:
    """Ends an interrupted process at once if a thread is still deep in an engine or encoder.

    An ordinary exit would tear down their C++ libraries under it, which aborts the process.
    """
    from srtrt.runtime.video.pipeline import threads_are_running

    try:
        yield
    except KeyboardInterrupt:
        if threads_are_running():
            end_at_once(signal.SIGINT, None)
        raise
