"""JSON reports of commands, into a file or on stdout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from srtrt import terminal
from srtrt.errors import OutputError, UsageError
from srtrt.files import write_text
from srtrt.paths import require_writable

STDOUT = "-"
"""The name under which a report goes to stdout."""


class ReportPlace:
    """Where a report goes.

    Attributes:
        path: the file; None for stdout.
    """

    def __init__(self, option: str, name: str) -> None:
        """Takes what the user gave.

        Args:
            option: the option it was given with, for messages.
            name: the file, or ``-`` for stdout.

        Raises:
            UsageError: if the name is empty.
        """
        if not name:
            raise UsageError(f"{option}: the name is empty; expected a file, or - for stdout.")
        self._option = option
        self.path = None if name == STDOUT else Path(name)

    def require(self, *written: Path | None) -> None:
        """Refuses, before the work, a report that could not be written or would replace another.

        Args:
            written: other files that the command writes, as far as they are known.

        Raises:
            OutputError: if there is something that is no report, the file is one of the others, or
                it cannot be written.
        """
        path = self.path
        if path is None:
            return
        require_writable(path, option=self._option)
        place = os.path.realpath(path)
        if any(each is not None and os.path.realpath(each) == place for each in written):
            raise self._refusal("the result itself goes there")
        if path.is_file() and _is_something_else(path):
            raise self._refusal("this file is no report")

    def write(self, report: Mapping[str, Any], *written: Path | None) -> None:
        """Writes a report in one step.

        Args:
            report: plain values.
            written: the files that the command has written.

        Raises:
            OutputError: as :meth:`require`, and if it cannot be written.
        """
        text = json.dumps(report, indent=2) + "\n"
        if self.path is None:
            terminal.put_text(text)
            return
        self.require(*written)
        write_text(self.path, text)

    def _refusal(self, problem: str) -> OutputError:
        return OutputError(f"{self._option} {self.path}: {problem}; choose another name.")


def place_of_option(
    _context: click.Context, option: click.Parameter, name: str | None
) -> ReportPlace | None:
    """Callback of an option that names a place; raises what :meth:`ReportPlace.require` does."""
    if name is None:
        return None
    place = ReportPlace(option.opts[0], name)
    place.require()
    return place


def _is_something_else(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError:
        return True
    return bool(start) and not start.startswith(b"{")
