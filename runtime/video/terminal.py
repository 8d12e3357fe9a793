"""What ``srtrt upscale-video`` says while it works: all of it on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.progress import BarColumn, TaskID
from rich.progress import Progress as Bar

from srtrt.reports import ReportPlace
from srtrt.runtime.video.plan import Estimate, Progress, VideoPlan, VideoWatcher
from srtrt.terminal import bar, say, text_column
from srtrt.text import printable

_FIRST_FRAMES = 3
"""Frames after which the first line of progress is printed: the first one is not typical."""

_SECONDS = 10.0
"""Least time between two lines of progress."""

_SHARE = 0.01
"""Least share of the whole time between two lines of progress: a week makes a hundred."""

_UNKNOWN = 4
"""Where the length is unknown: how much longer than it has run a job is taken to run."""


class QuietWatcher(VideoWatcher):
    """Says nothing, but ends a run whose report could not be written."""

    def __init__(self, report: ReportPlace | None = None) -> None:
        self._report = report

    def planned(self, plan: VideoPlan) -> None:
        """See :meth:`VideoWatcher.planned`."""
        if self._report is not None:
            self._report.require(Path(plan.output))


class LineWatcher(QuietWatcher):
    """Prints plain lines, now and then one of progress."""

    def __init__(self, report: ReportPlace | None = None) -> None:
        super().__init__(report)
        self._next = 0.0
        self._building = False

    def planned(self, plan: VideoPlan) -> None:
        """See :meth:`VideoWatcher.planned`."""
        super().planned(plan)
        for line in plan.lines():
            say(line)

    def building(self, share: float, phase: str) -> None:
        """See :meth:`VideoWatcher.building`."""
        if not self._building:
            self._building = True
            say(f"building the engine: {phase}")

    def noted(self, note: str) -> None:
        """See :meth:`VideoWatcher.noted`."""
        say(f"note: {note}")

    def estimated(self, estimate: Estimate) -> None:
        """See :meth:`VideoWatcher.estimated`."""
        if estimate.is_long:
            for line in estimate.lines():
                say(line)

    def progressed(self, progress: Progress) -> None:
        """See :meth:`VideoWatcher.progressed`."""
        if progress.frames < _FIRST_FRAMES or progress.seconds < self._next:
            return
        left = progress.seconds_left
        whole = progress.seconds + (_UNKNOWN * progress.seconds if left is None else left)
        self._next = progress.seconds + max(_SECONDS, _SHARE * whole)
        say(progress.line())


class BarWatcher(LineWatcher):
    """Prints the same lines, but bars instead of those of progress."""

    def __init__(self, bar: Bar, report: ReportPlace | None = None) -> None:
        super().__init__(report)
        self._bar = bar
        self._engine: TaskID | None = None
        self._frames: TaskID | None = None

    def building(self, share: float, phase: str) -> None:
        """See :meth:`VideoWatcher.building`."""
        if self._engine is None:
            self._engine = self._bar.add_task("building the engine", total=1, rate="")
        self._bar.update(self._engine, completed=share, rate=printable(phase), visible=share < 1)

    def progressed(self, progress: Progress) -> None:
        """See :meth:`VideoWatcher.progressed`."""
        if self._frames is None:
            self._frames = self._bar.add_task("frames", total=None, rate="")
        self._bar.update(
            self._frames,
            completed=progress.frames,
            total=progress.expected_frames,
            rate=progress.line(),
        )


@contextlib.contextmanager
def terminal_watcher(
    report: ReportPlace | None = None, *, quiet: bool = False
) -> Iterator[VideoWatcher]:
    """What suits the terminal: bars, plain lines where stderr is none, or nothing.

    Args:
        report: where the report is to go, which must not be the output.
        quiet: whether nothing is to be said.
    """
    if quiet:
        yield QuietWatcher(report)
    elif not sys.stderr.isatty():
        yield LineWatcher(report)
    else:
        columns = (
            text_column("{task.description}"),
            BarColumn(bar_width=20),
            text_column("{task.fields[rate]}"),
        )
        with bar(*columns) as shown:
            yield BarWatcher(shown, report)
