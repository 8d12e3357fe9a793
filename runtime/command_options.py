"""Options that several commands have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import click

from srtrt.nearest import did_you_mean
from srtrt.reports import place_of_option

_LARGEST = 2**31 - 1
"""Of whole numbers without a bound of their own."""

_SYNONYMS = {
    "h265": "hevc",
    "h.265": "hevc",
    "x265": "hevc",
    "h.264": "h264",
    "x264": "h264",
    "avc": "h264",
    "half": "fp16",
    "float": "fp32",
    "ort": "onnxruntime",
    "trt": "tensorrt",
}
"""Other names of what options take, which are less alike than they should be."""


class OneOf(click.Choice[str]):
    """One of a few names; where it is none of them, the message says which may have been meant."""

    def __init__(self, choices: Iterable[str]) -> None:
        super().__init__(list(choices))

    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        """The message, with the nearest name."""
        message = super().get_invalid_choice_message(value, ctx)
        return message + meant(str(value), [str(each) for each in self.choices])


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "integer"

    def __init__(self, least: int | None = None, most: int | None = None) -> None:
        super().__init__(least, _LARGEST if most is None else most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r}: expected a whole number{_bounds(self)}.", param, ctx)


class Number(click.FloatRange):
    """A finite number within bounds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        try:
            number = super().convert(value, param, ctx)
        except click.BadParameter:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value!r}: expected a number{_bounds(self)}.", param, ctx)
        return number


def _bounds(kind: click.IntRange | click.FloatRange) -> str:
    """The bounds of a number, for people."""
    most = None if kind.max == _LARGEST else kind.max
    if kind.min is None or most is None:
        least = "" if kind.min is None else f" of at least {kind.min:g}"
        return least if most is None else f" of at most {most:g}"
    return f" from {kind.min:g} to {most:g}"


def meant(name: str, known: Iterable[str], synonyms: Mapping[str, str] = _SYNONYMS) -> str:
    """`` Did you mean 'name'?`` to follow a sentence; empty if no known name is near."""
    names = list(known)
    other = synonyms.get(name.lower())
    return did_you_mean(other if other in names else name, names)


backend_option = click.option(
    "--backend-option",
    "backend_options",
    metavar="NAME=VALUE",
    multiple=True,
    help="Setting of the backend, such as threads=4; may be repeated. `srtrt doctor` lists all.",
)
"""``--backend-option``, given to the command as texts called ``backend_options``."""

json_option = click.option(
    "--json",
    "report",
    callback=place_of_option,
    metavar="FILE",
    help="Write a report of what was done; - is stdout, which then gets nothing else.",
)
"""``--json``, given to the command as a :class:`srtrt.reports.ReportPlace` called ``report``."""
