"""Options that several commands have."""

from __future__ import annotations

import click

backend_option = click.option(
    "--backend-option",
    "backend_options",
    metavar="NAME=VALUE",
    multiple=True,
    help="Setting of the backend, such as threads=4; may be repeated. `srtrt doctor` lists all.",
)
"""``--backend-option``, given to the command as texts called ``backend_options``."""
