"""The options of backends, from the names and values that people give to each backend's own type.

All is read from the dataclasses of the backends: fields, types, metadata and attribute docstrings.
The fields of a dataclass within another one are named like the others. What a field holds in bytes
is given in MiB, under its name without the ending. Metadata of a field: ``device`` is the only kind
of device (``cpu`` or ``cuda``) on which it means something; ``refused`` says why it cannot be set
by its name, of a field that holds a dataclass for each of its fields.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, Protocol, get_args, get_origin, get_type_hints

from srtrt.errors import UsageError
from srtrt.runtime.backends import BACKENDS, backend_class

_MIB = 1 << 20
_BYTES = "_bytes"
_NOTHING: Mapping[str, str] = {}
_TRUTH = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False, "no": False, "off": False, "0": False
}  # fmt: skip


class OptionsDataclass(Protocol):
    """The options of one backend, such as ``OpenVinoOptions``."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


BackendOptions = Mapping[str, Any] | Sequence[str] | OptionsDataclass | None
"""Names and values, ``NAME=VALUE`` texts, a backend's own dataclass, or None for its defaults."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a backend."""

    name: str
    """What it is given by; unique within the backend."""
    path: tuple[str, ...]
    """Names of the fields that lead to it."""
    kind: Any
    """Type of its value, ``None`` left out."""
    may_be_none: bool
    """Whether ``none`` is a value."""
    default: str
    """As it would be written."""
    group: str
    """One sentence on what it belongs to, if that is off by default; else empty."""
    meaning: str
    """One sentence."""
    device: str | None
    """``cpu`` or ``cuda`` if it means something there only."""
    refused: str | None
    """Why it cannot be given by its name, a clause."""

    @property
    def unit(self) -> int:
        """What a value is multiplied with."""
        return _MIB if self.path[-1].endswith(_BYTES) else 1

    @property
    def expected(self) -> str:
        """What its values are, in a few words."""
        origin = get_origin(self.kind)
        if origin is Literal:
            words = " or ".join(get_args(self.kind))
        elif origin is tuple:
            words = "values with commas between"
        else:
            words = {bool: "true or false", int: "a whole number", Path: "a path"}[self.kind]
        return words + (" of MiB" if self.unit == _MIB else "")

    @property
    def line(self) -> str:
        """Name, type, default and meaning for people."""
        place = {"cpu": ", on the CPU", "cuda": ", on a GPU"}.get(self.device or "", "")
        if self.refused:
            return f"{self.name} cannot be given: {self.refused}."
        return f"{self.name} ({self.expected}; default {self.default}{place}): {self.meaning}"


@dataclass(frozen=True, kw_only=True)
class ChosenOptions:
    """The options of one opened backend."""

    options: Any
    """The backend's own dataclass."""
    given: Mapping[str, str | int | bool | None]
    """What was asked for, by name, as plain values for JSON; what holds bytes in MiB."""

    def __str__(self) -> str:
        return ", ".join(f"{name}={_written(value)}" for name, value in self.given.items())


def options_of(kind: type[Any]) -> tuple[Option, ...]:
    """Every option of a backend.

    Args:
        kind: the dataclass of its options.
    """
    return tuple(_options_of(kind))


def choose_options(backend: str, device: str, wanted: BackendOptions) -> ChosenOptions:
    """Reads and checks what was asked of a backend.

    Args:
        backend: its name.
        device: where it is to run, ``cpu`` or ``cuda:N``.
        wanted: what was asked for.

    Raises:
        UsageError: if the backend has no such option, or cannot have the value.
    """
    kind = backend_class(backend).options_type
    known = {option.name: option for option in options_of(kind)}
    if wanted is not None and is_dataclass(wanted):
        if not isinstance(wanted, kind):
            raise UsageError(
                f"the options are {type(wanted).__name__}; {backend} takes {kind.__name__}."
            )
        return ChosenOptions(options=wanted, given=_changed(wanted, kind(), known.values()))
    values: dict[tuple[str, ...], Any] = {}
    given: dict[str, Any] = {}
    for name, value in _pairs(wanted):
        if name not in known:
            usable = [each.name for each in known.values() if not each.refused]
            raise UsageError(_unknown(backend, name, usable))
        option = known[name]
        if option.refused:
            raise UsageError(f"the option {name} of {backend} cannot be given: {option.refused}.")
        if option.device and not device.startswith(option.device):
            place = "CPU" if option.device == "cpu" else "GPU"
            raise UsageError(
                f"the option {name} is for the {place}, and {backend} runs on {device}; "
                "leave it out."
            )
        given[name] = _value(option, value)
        values[option.path] = _scaled(option, given[name])
    plain = {name: _plain(value) for name, value in given.items()}
    return ChosenOptions(options=_made(kind, values), given=plain)


def option_lines() -> Iterator[str]:
    """Every option of every backend for people, backends with the same options together."""
    by_kind: dict[type[Any], list[str]] = {}
    for name in BACKENDS:
        by_kind.setdefault(backend_class(name).options_type, []).append(name)
    for kind, names in by_kind.items():
        yield f"{', '.join(names)}:"
        for group, options in itertools.groupby(options_of(kind), lambda each: each.group):
            if group:
                yield f"  {' '.join(group.replace('``', '').split())}"
            for option in options:
                yield f"  {'  ' if group else ''}{option.line}"


def _options_of(
    kind: type[Any],
    path: tuple[str, ...] = (),
    refused: Mapping[str, str] = _NOTHING,
    group: str = "",
) -> Iterator[Option]:
    hints, meanings = get_type_hints(kind), _attribute_docstrings(kind)
    for each in fields(kind):
        inner, may_be_none = _without_none(hints[each.name])
        if is_dataclass(inner):
            assert isinstance(inner, type)
            refusals = each.metadata.get("refused", _NOTHING)
            unset = meanings.get(each.name, "") if each.default is None else ""
            yield from _options_of(inner, (*path, each.name), refusals, unset)
            continue
        yield Option(
            name=each.name.removesuffix(_BYTES),
            path=(*path, each.name),
            kind=inner,
            may_be_none=may_be_none,
            default=_written(_plain(_default(each))),
            group=group,
            meaning=_first_sentence(meanings.get(each.name, "")),
            device=each.metadata.get("device"),
            refused=refused.get(each.name, each.metadata.get("refused")),
        )


def _without_none(hint: Any) -> tuple[Any, bool]:
    """A type without ``None``, and whether it was there."""
    if NoneType not in get_args(hint):
        return hint, False
    (inner,) = (each for each in get_args(hint) if each is not NoneType)
    return inner, True


def _default(each: Field[Any]) -> Any:
    return each.default_factory() if each.default_factory is not MISSING else each.default


def _attribute_docstrings(kind: type[Any]) -> dict[str, str]:
    """The text below each field; empty where Python's sources are not there."""
    try:
        source = inspect.getsource(kind)
    except OSError:
        return {}
    (body,) = (
        node.body
        for node in ast.parse(textwrap.dedent(source)).body
        if isinstance(node, ast.ClassDef)
    )
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _first_sentence(text: str) -> str:
    plain = " ".join(text.replace("``", "").replace("None", "none").split())
    return re.split(r"(?<=\.) ", plain, maxsplit=1)[0]


def _pairs(wanted: BackendOptions) -> Iterator[tuple[str, Any]]:
    """Names and values; those of texts are texts."""
    if wanted is None:
        return
    if isinstance(wanted, Mapping):
        yield from wanted.items()
        return
    assert isinstance(wanted, Sequence)
    seen: set[str] = set()
    for text in [wanted] if isinstance(wanted, str) else wanted:
        name, equals, value = str(text).partition("=")
        name = name.strip()
        if not (equals and name):
            raise UsageError(f"backend option {text!r}: expected NAME=VALUE, such as threads=4.")
        if name in seen:
            raise UsageError(f"the backend option {name} is given twice; give it once.")
        seen.add(name)
        yield name, value.strip()


def _unknown(backend: str, name: str, known: list[str]) -> str:
    having = [
        other
        for other in BACKENDS
        if name in (option.name for option in options_of(backend_class(other).options_type))
    ]
    hint = f"; it is one of {', '.join(having)}: choose with --backend" if having else ""
    if not having and (near := get_close_matches(name, known, 1)):
        hint = f"; perhaps {near[0]} is meant"
    return f"{backend} has no option {name!r}{hint}. It has {', '.join(known)}."


def _value(option: Option, given: Any) -> Any:
    """A value of the option's type, in the unit in which it is given."""
    found = _parsed(option, given.strip()) if isinstance(given, str) else _checked(option, given)
    if found is MISSING:
        none = " or none" if option.may_be_none else ""
        raise UsageError(
            f"the backend option {option.name} is {given!r}; expected {option.expected}{none}."
        )
    return found


def _parsed(option: Option, text: str) -> Any:
    """The value that a text stands for; MISSING if it stands for none."""
    origin = get_origin(option.kind)
    if option.may_be_none and text.lower() == "none":
        return None
    if option.kind is bool:
        return _TRUTH.get(text.lower(), MISSING)
    if option.kind is int:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else MISSING
    if origin is tuple:
        parts = tuple(part.strip() for part in text.split(","))
        return () if text.lower() == "none" else parts if all(parts) else MISSING
    if origin is Literal:
        return text if text in get_args(option.kind) else MISSING
    return Path(text) if text else MISSING


def _checked(option: Option, value: Any) -> Any:
    """The value if it is of the option's type, else MISSING."""
    if value is None:
        return None if option.may_be_none else MISSING
    if get_origin(option.kind) is tuple:
        fits = isinstance(value, tuple | list) and all(isinstance(each, str) for each in value)
        return tuple(value) if fits else MISSING
    if get_origin(option.kind) is Literal:
        return value if value in get_args(option.kind) else MISSING
    fits = isinstance(value, option.kind) and (option.kind is bool) == isinstance(value, bool)
    return value if fits else MISSING


def _scaled(option: Option, value: Any) -> Any:
    return value if value is None or option.unit == 1 else value * option.unit


def _made(kind: type[Any], values: Mapping[tuple[str, ...], Any]) -> Any:
    """The dataclass with the values of some paths; what is not mentioned is as by default."""
    hints, arguments = get_type_hints(kind), {}
    for each in fields(kind):
        inner, _ = _without_none(hints[each.name])
        below = {path[1:]: value for path, value in values.items() if path[0] == each.name}
        if () in below:
            arguments[each.name] = below[()]
        elif below:
            arguments[each.name] = _made(inner, below)
    return kind(**arguments)


def _changed(options: Any, default: Any, known: Iterable[Option]) -> dict[str, Any]:
    """What is not as by default; all of a part that is not there by default."""
    found = {}
    for option in known:
        value, usual = _at(options, option.path), _at(default, option.path)
        if value is not MISSING and value != usual and not option.refused:
            scaled = option.unit > 1 and value is not None
            found[option.name] = _plain(round(value / option.unit, 3) if scaled else value)
    return found


def _at(options: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if options is None:
            return MISSING
        options = getattr(options, name)
    return options


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, tuple):
        return ",".join(value) or None
    return str(value) if isinstance(value, Path) else value


def _written(value: Any) -> str:
    """A plain value as it would be given."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
