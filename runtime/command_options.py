"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import click

from srtrt.nearest import did_you_mean
from srtrt.reports import place_of_option

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
