"""Brings what documents quote of a model up to date: tables, and the list of the README."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srtrt.benchmarks.tables import table
from srtrt.errors import InputError
from srtrt.plain_data import DataError, read_json_object
from srtrt.reading import read_plain

_MAX_BYTES = 1 << 24
HISTORY = "Since then, by release:"
"""The line of a card under which each release adds one."""


def requoted(text: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """A document with the table of a new result in place of the old one's, wherever it stands."""
    return text.replace(table(dict(old)), table(dict(new)))


def model_row(text: str, name: str, psnr_db: float) -> str:
    """The README with another PSNR on Set5 in the row of a model."""
    return re.sub(
        rf"^(\| `{re.escape(name)}`.*\| )[\d.]+ dB( \|)$",
        rf"\g<1>{psnr_db:.2f} dB\g<2>",
        text,
        flags=re.MULTILINE,
    )


def with_history(card: str, line: str) -> str:
    """A card with one more line on how its model was trained, before what it was trained on."""
    if HISTORY in card:
        head, mark, rest = card.partition(HISTORY + "\n\n")
        entries, blank, after = rest.partition("\n\n")
        return f"{head}{mark}{entries}\n- {line}{blank}{after}"
    head, mark, rest = card.partition("\nAbout ")
    if not mark:
        head, mark, rest = card.rstrip("\n") + "\n", "", ""
    return f"{head}\n{HISTORY}\n\n- {line}\n{mark}{rest}"


def read_result(path: Path) -> dict[str, Any] | None:
    """A result file; None if there is none.

    Raises:
        InputError: if it cannot be read as JSON.
    """
    if not path.is_file():
        return None
    try:
        return read_json_object(read_plain(path, "a result file", most=_MAX_BYTES), most=_MAX_BYTES)
    except DataError as error:
        raise InputError(f"{path}: cannot be read as a result: {error}.") from error


def result_text(report: Mapping[str, Any]) -> str:
    """A result as its file has it."""
    return json.dumps(report, indent=2) + "\n"


def mentions(report: Mapping[str, Any], name: str) -> bool:
    """Whether a result has figures of a model."""
    models = report.get("models", [])
    return report.get("model") == name or name in models
