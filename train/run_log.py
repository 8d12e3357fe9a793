"""The log of a training run: a JSON object with the figures of a step on each line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtrt.plain_data import DataError, read_json
from srtrt.reading import read_plain

MAX_BYTES = 1 << 30
"""Largest log that is read: about four million lines."""


@dataclass(frozen=True)
class LogLine:
    """One line."""

    text: str
    """As it is in the file."""
    values: dict[str, Any]
    """What it says; empty if it is damaged."""


def read_log(path: Path) -> Iterator[LogLine]:
    """The lines of a log, one after the other.

    Raises:
        InputError: if it cannot be read.
    """
    data = read_plain(path, "the log of a training run", most=MAX_BYTES)
    for text in data.decode(errors="replace").split("\n"):
        try:
            values = read_json(text)
        except DataError:
            values = None
        yield LogLine(text, values if isinstance(values, dict) else {})
