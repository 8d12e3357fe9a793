"""What FFmpeg's own description of a file says of its streams and PyAV does not show.

PyAV has no access to a stream's codec tag, to the codec of streams without a decoder, or to the
side data of a stream; the text that the ``ffmpeg`` command prints for an input has all three.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import av.logging
from av.container import InputContainer

from srtrt.runtime.video.ffmpeg_errors import captured_log

_STREAM = re.compile(
    r"^ +Stream #0:(\d+).*?: (?:Video|Audio|Subtitle|Data|Attachment|Unknown): (\w+)(.*)$"
)
_TAG = re.compile(r"\((.{4}) / 0x[0-9A-F]{8}\)")
_SERVICE = re.compile(r"^ {6}service_name *: (.*)$", re.MULTILINE)
_INVENTED = "Service01"
_HEADINGS = 4
"""Deepest indentation of the headings under a stream; what is said of it is deeper."""


@dataclass(frozen=True)
class Description:
    """One stream."""

    codec: str
    """FFmpeg's name of its codec; ``none`` or ``unknown`` where it has none."""
    tag: str
    """Four-character code in the file; empty if there is none."""
    side_data: tuple[str, ...]
    """One line for each kind of side data, its name first."""


def service_names(container: InputContainer) -> list[str]:
    """Names of the services of a transport stream; those that FFmpeg invents are left out."""
    names = _SERVICE.findall(_described(container))
    return [name.strip() for name in names if name.strip() not in ("", _INVENTED)]


def _described(container: InputContainer) -> str:
    with captured_log(av.logging.INFO):
        return str(cast(Any, container).dumps_format())  # not in the stubs


def describe_streams(container: InputContainer) -> dict[int, Description]:
    """Descriptions of the streams of an open file, by index.

    Among them are those that appeared while it was read, which PyAV does not know.
    """
    codecs: dict[int, tuple[str, str]] = {}
    side_data: dict[int, list[str]] = {}
    index, inside = -1, False
    for line in _described(container).splitlines():
        indent = len(line) - len(line.lstrip())
        if found := _STREAM.match(line):
            index, inside = int(found[1]), False
            tag = _TAG.search(found[3])
            codecs[index] = (found[2], tag[1].strip() if tag else "")
        elif line.strip() == "Side data:":
            inside = True
        elif indent <= _HEADINGS:
            inside = False
        elif inside:
            side_data.setdefault(index, []).append(line.strip())
    return {
        index: Description(*codecs.get(index, ("unknown", "")), tuple(side_data.get(index, ())))
        for index in sorted({*codecs, *(stream.index for stream in container.streams)})
    }
