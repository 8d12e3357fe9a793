"""What the Python packages of TensorRT offer, by version: names, properties, calls and enumerators.

``tensorrt_api.json`` was read from the packages' own binding modules, which can be imported
without a GPU. To add a version that is installed::

    python tests/tensorrt_api.py tensorrt

:class:`Checked` puts an object of one version behind these facts: whatever that version does not
have, or would not take, fails as it fails there.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("tensorrt_api.json")

INSTALLED = "tensorrt_rtx 1.7"
"""The package whose builder the stand-in uses."""

CLASSES = (
    "Builder",
    "BuilderFlag",
    "ComputeCapability",
    "DataType",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "LayerType",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "Runtime",
)
"""Those that srtrt uses, as far as a version has them."""

READ_ONLY, WRITABLE = "read-only", "writable"

Member = str | list[list[list[str]]]
"""A property, or for a function its overloads: each a list of arguments, of name, type and
default (empty where it has none)."""


@cache
def recorded() -> dict[str, dict[str, dict[str, Member] | list[str]]]:
    """Every version that is recorded, such as ``tensorrt 10.13``, with its classes."""
    versions: dict[str, dict[str, dict[str, Member] | list[str]]]
    versions = json.loads(RECORD.read_text(encoding="ascii"))
    return versions


def read_module(module: Any) -> dict[str, dict[str, Member] | list[str]]:
    """The facts about a binding module that can be imported."""
    found: dict[str, dict[str, Member] | list[str]] = {}
    for name in CLASSES:
        kind = getattr(module, name, None)
        if kind is None:
            continue
        if hasattr(kind, "__members__"):
            found[name] = sorted(kind.__members__)
            continue
        members = {"__init__": kind.__init__} | {
            each: value
            for base in reversed(kind.__mro__)
            for each, value in vars(base).items()
            if not each.startswith("_")
        }
        found[name] = {each: _member(value) for each, value in sorted(members.items())}
    return found


def _member(value: Any) -> Member:
    if isinstance(value, property):
        return WRITABLE if value.fset is not None else READ_ONLY
    if not callable(value) or isinstance(value, type):
        return READ_ONLY
    lines = re.findall(r"^(?:\d+\. )?(?:\w+)(\(self.*\)) -> .*$", value.__doc__ or "", re.MULTILINE)
    return [_arguments(line) for line in lines]


def _arguments(signature: str) -> list[list[str]]:
    """``(self: X, name: str, size: int = 1)`` as ``[[name, str, ""], [size, int, 1]]``."""
    text = re.sub(r"(?:\w+::)+|[\w.]+\.(?=\w)", "", signature)
    text = re.sub(r"<(\w+): -?\d+>", r"\1", text)
    found = []
    for part in _split(text[1:-1])[1:]:
        name, _, rest = part.partition(": ")
        kind, _, default = rest.partition(" = ")
        found.append(
            [name, {"SupportsInt": "int", "SupportsFloat": "float"}.get(kind, kind), default]
        )
    return found


def _split(text: str) -> list[str]:
    """The arguments of a signature, at the commas that are in no bracket."""
    parts, depth, start = list[str](), 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


class Api:
    """One version, and what was asked of it.

    Attributes:
        module: name of its Python module.
        version: such as ``10.13``.
        used: class and member of every access, and for calls the types of the arguments.
    """

    def __init__(self, name: str) -> None:
        self.module, self.version = name.split()
        self._classes = recorded()[name]
        self.used: set[tuple[str, str]] = set()

    def has_class(self, name: str) -> bool:
        return name in self._classes

    def enumerators(self, name: str) -> list[str]:
        found = self._classes[name]
        assert isinstance(found, list)
        return found

    def is_enumeration(self, name: str) -> bool:
        return isinstance(self._classes[name], list)

    def member(self, kind: str, name: str) -> Member:
        """A member of a class.

        Raises:
            AttributeError: if this version has none of that name.
        """
        members = self._classes[kind]
        assert isinstance(members, dict), kind
        if name not in members:
            raise AttributeError(f"'{self.module}.{kind}' object has no attribute '{name}'")
        self.used.add((kind, name))
        return members[name]

    def check_call(
        self, kind: str, name: str, arguments: Sequence[Any], named: Mapping[str, Any]
    ) -> None:
        """Raises the TypeError of a call whose arguments no overload takes."""
        overloads = self.member(kind, name)
        assert isinstance(overloads, list), f"{kind}.{name} is no function"
        if not any(_takes(each, arguments, named) for each in overloads):
            given = ", ".join(type(each).__name__ for each in (*arguments, *named.values()))
            raise TypeError(
                f"{name}(): incompatible function arguments ({given}); expected one of {overloads}"
            )


def _takes(
    overload: Sequence[Sequence[str]], arguments: Sequence[Any], named: Mapping[str, Any]
) -> bool:
    if len(arguments) > len(overload):
        return False
    given = {each[0]: value for each, value in zip(overload, arguments, strict=False)}
    if given.keys() & named.keys():
        return False
    given |= named
    if not given.keys() <= {name for name, _, _ in overload}:
        return False
    return all(
        _fits(given[name], kind, default) if name in given else bool(default)
        for name, kind, default in overload
    )


_PLAIN: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "bytes": (bytes,),
    "tuple": (tuple,),
    "list": (list,),
    "Dims": (tuple, list),
    "Buffer": (bytes, bytearray, memoryview),
    "buffer": (bytes, bytearray, memoryview),
}


def _fits(value: Any, kind: str, default: str) -> bool:
    if value is None:
        return default == "None" or "None" in kind
    if kind in _PLAIN:
        # A bool is an int to Python; what wants a number or an address never means one.
        return isinstance(value, _PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))
    held = value._kind if isinstance(value, Checked) else None
    return kind in (held, *(each.__name__ for each in type(value).__mro__))


class Checked:
    """An object of one version, which has and takes only what that version has and takes."""

    def __init__(self, api: Api, kind: str, target: Any) -> None:
        vars(self).update(_api=api, _kind=kind, _target=target)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        member = self._api.member(self._kind, name)
        value = getattr(self._target, name)
        return (
            self._function(name, value) if isinstance(member, list) else wrapped(self._api, value)
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if self._api.member(self._kind, name) != WRITABLE:
            raise AttributeError(f"can't set attribute '{name}' of '{self._kind}'")
        setattr(self._target, name, bare(value))

    def __bytes__(self) -> bytes:
        assert self._kind == "IHostMemory", "it has no buffer"
        return bytes(self._target)

    def _function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._api.check_call(self._kind, name, arguments, named)
            given = {key: bare(each) for key, each in named.items()}
            return wrapped(self._api, function(*map(bare, arguments), **given))

        return call


class Enumeration:
    """The enumerators that one version has."""

    def __init__(self, api: Api, kind: str, real: Any) -> None:
        self._api, self._kind = api, kind
        self.__members__ = {
            name: getattr(real, name) for name in api.enumerators(kind) if hasattr(real, name)
        }

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._api.enumerators(self._kind):
            raise AttributeError(f"type object '{self._kind}' has no attribute '{name}'")
        self._api.used.add((self._kind, name))
        return self.__members__[name]


def wrapped(api: Api, value: Any) -> Any:
    """A result behind the facts about its class, if it is of a recorded one."""
    kind = "ILayer" if type(value).__name__.endswith("Layer") else type(value).__name__
    if isinstance(value, Checked) or not api.has_class(kind) or api.is_enumeration(kind):
        return value
    return Checked(api, kind, value)


def bare(value: Any) -> Any:
    """What is behind :class:`Checked`."""
    return value._target if isinstance(value, Checked) else value


if __name__ == "__main__":
    source = importlib.import_module(sys.argv[1])
    short = ".".join(source.__version__.split(".")[:2])
    label = f"{sys.argv[1].removesuffix('_bindings')} {short}"
    versions = (recorded() if RECORD.exists() else {}) | {label: read_module(source)}
    texts = [
        f"{json.dumps(version)}:{{\n"
        + ",\n".join(f'"{name}":{json.dumps(each)}' for name, each in sorted(classes.items()))
        + "}"
        for version, classes in sorted(versions.items())
    ]
    RECORD.write_text("{" + ",\n".join(texts) + "}\n", encoding="ascii")
