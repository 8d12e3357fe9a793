"""``srtrt upscale-image``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TimeElapsedColumn

from srtrt.reports import ReportPlace
from srtrt.runtime.backends import BACKENDS
from srtrt.runtime.command_options import OneOf, Whole, backend_option, json_option
from srtrt.runtime.images import ImageResult, ImageWatcher, upscale_images
from srtrt.runtime.session import Session
from srtrt.spec import PRECISIONS
from srtrt.terminal import bar, put, say, text_column
from srtrt.text import printable
from srtrt.weights import DEFAULT_MODEL


class _Terminal(ImageWatcher):
    """Says what happens: results on stdout, everything else on stderr."""

    def __init__(self, progress: Progress, report: ReportPlace | None, quiet: bool) -> None:
        self.progress = progress
        self.report = report
        self.quiet = quiet
        self.session: Session | None = None
        self.notes_told = 0
        self.task = progress.add_task("opening", total=None)
        self.engine: TaskID | None = None

    def planned(self, targets: Sequence[Path]) -> None:
        if self.report is not None:
            self.report.require(*targets)
        self.progress.update(self.task, total=len(targets))

    def opened(self, session: Session) -> None:
        self.session, self.notes_told = session, 0
        self._say(f"model: {session.model}")
        self._say(f"engine: {session.reason}")
        self._tell_notes()

    def prepared(self, session: Session) -> None:
        self._tell_notes()

    def started(self, source: Path) -> None:
        self.progress.update(self.task, description=printable(source.name))

    def noted(self, note: str) -> None:
        self._say(f"note: {note}")

    def building(self, share: float, phase: str) -> None:
        if self.engine is None:
            self.engine = self.progress.add_task("building the engine", total=1)
        self.progress.update(self.engine, completed=share, visible=share < 1)

    def finished(self, result: ImageResult) -> None:
        self.progress.advance(self.task)
        self._tell_notes()
        if result.error is not None:
            say(f"srtrt: {result.error}")
            return
        for note in result.notes:
            self._say(f"note: {result.source}: {note}.")
        if not self.quiet and result.input_size and result.output_size:
            before, after = (f"{w}x{h}" for w, h in (result.input_size, result.output_size))
            where = f"{result.source} -> {result.target}"
            self._line()(f"{where} ({before} to {after}, {result.seconds:.1f} s)")

    def _line(self) -> Callable[[str], None]:
        """What prints a result: a report on stdout has that for itself."""
        return say if self.report is not None and self.report.path is None else put

    def _tell_notes(self) -> None:
        notes = self.session.notes if self.session is not None else []
        for note in notes[self.notes_told :]:
            self._say(f"note: {note}")
        self.notes_told = len(notes)

    def _say(self, sentence: str) -> None:
        if not self.quiet:
            say(sentence)


def _progress(quiet: bool) -> Progress:
    return bar(
        text_column("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        quiet=quiet,
    )


def _report(results: list[ImageResult], session: Session | None) -> dict[str, Any]:
    """The content of ``--json``; sizes are width and height in pixels."""
    return {
        "engine": None if session is None else session.description,
        "engine_reason": None if session is None else session.reason,
        "backend_options": {} if session is None else dict(session.backend_options),
        "notes": [] if session is None else session.notes,
        "images": [
            {
                "input": str(result.source),
                "output": None if result.error is not None else str(result.target),
                "input_size": result.input_size,
                "output_size": result.output_size,
                "seconds": round(result.seconds, 3),
                "notes": result.notes,
                "error": None if result.error is None else str(result.error),
            }
            for result in results
        ],
    }


@click.command("upscale-image")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE|DIR", help="Where to; default: INPUT_x4.EXT beside.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Bundled name or file.")
@click.option(
    "--backend",
    type=OneOf(["auto", *BACKENDS]),
    default="auto",
    show_default=True,
    help="Engine that computes.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--precision",
    type=OneOf(["auto", *PRECISIONS]),
    default="auto",
    show_default=True,
    help="Arithmetic of the engine.",
)
@click.option("--tile", default="auto", show_default=True, help="auto, none or a side in pixels.")
@backend_option
@click.option(
    "--trust-engine",
    is_flag=True,
    help="Load TensorRT engines that another user may have written. An engine is code.",
)
@click.option("--quality", type=Whole(1, 100), help="JPEG: 95 by default; makes WebP lossy.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@json_option
def upscale_image(
    inputs: tuple[str, ...],
    output: str | None,
    quiet: bool,
    report: ReportPlace | None,
    **options: Any,
) -> None:
    """Upscale image files 4x.

    INPUT is a file, a folder (its subfolders are not searched; results of earlier runs are skipped)
    or a quoted pattern such as 'photos/*.png'. PNG, JPEG, WebP, TIFF and BMP are read and written;
    the ending of the output selects its format. Alpha, 16 bits, grayscale, ICC profile and EXIF are
    kept; a format that cannot hold them is refused. WebP is lossless unless --quality is given.
    """
    if report is not None:
        report.require(None if output is None else Path(output))
    with _progress(quiet) as progress:
        terminal = _Terminal(progress, report, quiet)
        results = upscale_images(inputs, output, watcher=terminal, **options)
    if report is not None:
        report.write(_report(results, terminal.session), *(result.target for result in results))
    failed = sum(result.error is not None for result in results)
    if failed and len(results) > 1:
        done = len(results) - failed
        say(f"srtrt: {done} of {len(results)} pictures upscaled, {failed} failed.")
    if failed:
        raise click.exceptions.Exit(1)
