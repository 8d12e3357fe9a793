"""JSON that anybody may have written, read within limits.

A few bytes can ask for a great deal, such as nesting that exhausts the interpreter or numbers
without end. What is read here is plain, or an error that says what is wrong with it. Plain are
mappings with text as names, lists, text that can be written as UTF-8, truth values, nothing, whole
numbers of 64 bits and finite numbers. Of YAML, :mod:`srtrt.train.yaml_data` reads as much.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable
from typing import Any

from srtrt.text import foreign

MAX_JSON_BYTES = 1 << 26
"""Longest JSON that is read."""

MAX_DEPTH = 32
"""Most mappings and lists inside one another."""

_LARGEST = 1 << 63


class DataError(ValueError):
    """Text that is no JSON or YAML, or more than is read; ``str()`` is a clause for people."""


def shown(value: object) -> str:
    """A value for a message: its ``repr``, of which what is long or deep is left out."""
    return _SHORT.repr(value)


def _short_repr() -> reprlib.Repr:
    result = reprlib.Repr()
    result.maxlevel, result.maxdict, result.maxlist, result.maxtuple = 2, 4, 6, 6
    result.maxstring = result.maxother = 80
    return result


_SHORT = _short_repr()


def read_json(text: bytes | str, *, most: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON text.

    Args:
        text: in UTF-8.
        most: longest text, in bytes or characters, that is read.

    Raises:
        DataError: if it is no JSON, has a name twice in a mapping, or holds what is not plain.
    """
    try:
        value = json.loads(
            decoded(text, most, "JSON"), object_pairs_hook=_mapping, parse_constant=_refuse_number
        )
    except RecursionError as error:
        raise DataError(too_deep()) from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"it is no JSON ({foreign(str(error))})") from error
    require_plain(value)
    return value


def read_json_object(text: bytes | str, *, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The mapping that a JSON text holds; see :func:`read_json`.

    Raises:
        DataError: also if it holds something else.
    """
    value = read_json(text, most=most)
    if not isinstance(value, dict):
        raise DataError(f"it is {shown(value)}; expected names and values in braces")
    return value


def decoded(text: bytes | str, most: int, kind: str) -> str:
    """A text that is no longer than this, out of UTF-8."""
    if len(text) > most:
        raise DataError(f"it has {len(text)} bytes; {kind} of at most {most} is read")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8, so it is no {kind}") from error


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise DataError(f"it has the name {shown(repeated(name for name, _ in pairs))} twice")
    return result


def repeated(names: Iterable[str]) -> str | None:
    """The first name that occurs again."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _refuse_number(text: str) -> None:
    raise DataError(f"it holds the number {text}; expected finite ones")


def require_plain(value: Any) -> None:
    """Refuses numbers and text that others could not hold, and what is nested too deeply."""
    waiting = [(value, 1)]
    while waiting:
        each, depth = waiting.pop()
        if isinstance(each, (dict, list)) and depth > MAX_DEPTH:
            raise DataError(too_deep())
        if isinstance(each, dict):
            for name in each:
                if not isinstance(name, str):
                    raise DataError(f"it has the name {shown(name)}; expected text")
                _require_text(name)
            waiting += [(inner, depth + 1) for inner in each.values()]
        elif isinstance(each, list):
            waiting += [(inner, depth + 1) for inner in each]
        elif isinstance(each, str):
            _require_text(each)
        elif isinstance(each, int) and not -_LARGEST <= each < _LARGEST:
            raise DataError("it holds a whole number of more than 64 bits")
        elif isinstance(each, float) and not math.isfinite(each):
            raise DataError(f"it holds the number {each}; expected finite ones")


def _require_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"the text {shown(text)} is cut in the middle of a letter") from error


def too_deep() -> str:
    """What is said of values that are nested too deeply."""
    return f"its values are nested more than {MAX_DEPTH} deep"
