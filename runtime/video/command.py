"""``srtrt upscale-video``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from srtrt.errors import OutputError
from srtrt.files import write_text
from srtrt.runtime.backends import BACKENDS
from srtrt.runtime.command_options import backend_option, require_report_place
from srtrt.runtime.video.report import VideoReport
from srtrt.spec import PRECISIONS


@click.command("upscale-video")
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
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
    type=click.Choice(["auto", *BACKENDS]),
    default="auto",
    show_default=True,
    help="Inference engine.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--precision",
    type=click.Choice(["auto", *PRECISIONS]),
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
    type=click.Choice(["auto", "h264", "hevc", "av1", "ffv1"]),
    default="auto",
    show_default=True,
    help="Video codec; auto is av1 for .webm and h264 elsewhere.",
)
@click.option("--encoder", default="auto", show_default=True, help="FFmpeg's name of an encoder.")
@click.option("--crf", type=int, help="Constant quality; smaller is better and larger.")
@click.option("--preset", help="Speed preset of the encoder.")
@click.option(
    "--audio",
    type=click.Choice(["copy", "none"]),
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
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after so many frames.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option(
    "--keep-going", is_flag=True, help="Where INPUT is damaged, write the good frames before it."
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report to this file.",
)
def upscale_video(
    source: Path, output: Path | None, quiet: bool, json_file: Path | None, **options: Any
) -> None:
    """Upscale a video 4x, frame by frame.

    Audio, subtitles, chapters, metadata, rotation, pixel shape, colour tags and every timestamp
    are kept.
    """
    from srtrt.runtime.video.api import upscale_video as run
    from srtrt.runtime.video.terminal import terminal_watcher

    if json_file is not None:
        require_report_place(json_file, output)
    with terminate_as_interrupt(), leave_running_threads():
        with terminal_watcher(quiet=quiet) as watcher:
            report = run(source, output, watcher=watcher, **options)
    if json_file is not None:
        _write_json(report, json_file)
    if not quiet:
        _print_report(report)


def _print_report(report: VideoReport) -> None:
    if report.damage:
        click.echo(f"warning: {report.damage} Only those frames were written.", err=True)
    click.echo(report.summary(), err=True)
    click.echo(report.output)


def _write_json(report: VideoReport, path: Path) -> None:
    try:
        require_report_place(path, Path(report.output))
        write_text(path, json.dumps(report.to_dict(), indent=2) + "\n")
    except OutputError as error:
        raise OutputError(
            f"The video was written to {report.output}, but its report could not be written: "
            f"{error}"
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
            click.echo("srtrt: interrupted.", err=True)
            sys.stderr.flush()
            os._exit(130)
        raise


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Lets SIGTERM end a run as Ctrl-C does: threads stopped, unfinished file removed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
