"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

from srtrt.errors import OutputError

backend_option = click.option(
    "--backend-option",
    "backend_options",
    metavar="NAME=VALUE",
    multiple=True,
    help="Setting of the backend, such as threads=4; may be repeated. `srtrt doctor` lists all.",
)
"""``--backend-option``, given to the command as texts called ``backend_options``."""


def require_report_place(path: Path, *written: Path | None) -> None:
    """Refuses a report that would take the place of a picture, a video or anything else.

    Args:
        path: where the report is to go; an earlier report may be there.
        written: other files that the command writes, as far as they are known.

    Raises:
        OutputError: if there is something that is no report, or the file is one of the others.
    """
    if not path.absolute().parent.is_dir():
        raise OutputError(
            f"--json {path}: the folder {path.parent} does not exist; create it first."
        )
    if any(each is not None and each.resolve() == path.resolve() for each in written):
        raise OutputError(f"--json {path}: the result itself goes there; choose another name.")
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(64).lstrip()
        if start and not start.startswith(b"{"):
            raise OutputError(f"--json {path}: this file is no report; choose another name.")
