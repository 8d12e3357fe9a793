"""Runs ``srtrt benchmark`` in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from srtrt.cli import main


def benchmark(*arguments: object) -> Result:
    """Result of ``srtrt benchmark`` with these arguments."""
    return CliRunner().invoke(main, ["benchmark", *map(str, arguments)])
