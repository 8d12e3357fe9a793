"""What the commands that train share."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from srtrt import signals
from srtrt.errors import OutputError
from srtrt.locks import output_claimed
from srtrt.terminal import console
from srtrt.text import printable

if TYPE_CHECKING:
    from srtrt.train.pictures import Pictures
    from srtrt.train.progress import Progress

Tell = Callable[[str], None]
"""What says a sentence."""


def nothing(_text: str) -> None:
    """Says nothing."""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Makes the run folder and keeps other runs from it; one that stays empty is removed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}).") from error
    with output_claimed(folder):
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()


def introduce(tell: Tell, pictures: Pictures) -> None:
    """Says what is trained on, and what is left out."""
    dataset, cache = pictures.dataset, pictures.cache
    tell(f"{dataset.name}: {len(pictures.photographs)} pictures")
    if pictures.rendered:
        tell(f"rendered: {len(cache.files) - len(pictures.photographs)} pictures")
    for path, reason in cache.skipped:
        tell(f"skipped {path}: {reason}")
    if cache.skipped:
        tell(f"{len(cache.skipped)} pictures skipped")
    if cache.rebuilt_because:
        tell(f"note: {cache.rebuilt_because}")


@contextmanager
def progress_line(tell: Tell) -> Iterator[Callable[[Progress], None]]:
    """One live line on a terminal; a line for each report elsewhere."""
    if tell is nothing or not sys.stderr.isatty():
        yield lambda progress: tell(_progress_text(progress))
        return
    from rich.live import Live

    with Live(console=console(), auto_refresh=False) as live:
        yield lambda progress: live.update(printable(_progress_text(progress)), refresh=True)


def _progress_text(progress: Progress) -> str:
    losses = "  ".join(f"{name} {value:.5f}" for name, value in progress.losses.items())
    psnr = "" if progress.psnr is None else f"  PSNR {progress.psnr:.2f} dB"
    eta = timedelta(seconds=round(progress.eta_seconds))
    return (
        f"step {progress.step}/{progress.steps}  epoch {progress.epoch:.1f}  {losses}{psnr}  "
        f"{1 / progress.seconds_per_step:.2f} steps/s  ETA {eta}"
    )


@contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into a wish met after the current update."""
    asked = threading.Event()

    def ask(number: int, _frame: object) -> None:
        asked.set()
        signal.signal(number, signals.interrupt)

    with signals.handled_by(ask):
        yield asked.is_set
