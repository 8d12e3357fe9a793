"""YAML that anybody may have written, read within limits; see :mod:`srtrt.plain_data`."""

from __future__ import annotations

from typing import Any

import yaml

from srtrt.plain_data import (
    MAX_DEPTH,
    DataError,
    decoded,
    repeated,
    require_plain,
    shown,
    too_deep,
)
from srtrt.text import foreign

MAX_YAML_BYTES = 1 << 18
"""Longest document that is read; its parser takes about two seconds for this."""

MAX_YAML_VALUES = 10_000
"""Most values of a document, each counted as often as aliases repeat it."""

_TAG = "tag:yaml.org,2002:"
_AS_TEXT = (f"{_TAG}timestamp", f"{_TAG}value")


def read_yaml(text: bytes | str) -> Any:
    """The value of a YAML document; dates stay text, and nothing stands for an empty one.

    Raises:
        DataError: if it is no YAML, has a name twice in a mapping, or holds what is not plain:
            also tags, names that are no text, and aliases that multiply.
    """
    loader = None
    try:
        loader = yaml.SafeLoader(decoded(text, MAX_YAML_BYTES, "YAML"))
        node = loader.get_single_node()
        if node is None:
            return None
        _Nodes(loader).require_plain(node)
        value = loader.construct_document(node)
    except RecursionError as error:
        raise DataError(too_deep()) from error
    except yaml.YAMLError as error:
        raise DataError(f"it is no YAML ({_yaml_reason(error)})") from error
    except DataError:
        raise
    except ValueError as error:  # such as 0b_, which looks like a number and is none
        raise DataError(f"it holds an impossible value ({foreign(str(error))})") from error
    finally:
        if loader is not None:
            loader.dispose()
    require_plain(value)
    return value


class _Nodes:
    """Looks at a YAML document before anything is made of it."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self._loader = loader
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def require_plain(self, node: yaml.Node, depth: int = 1) -> tuple[int, int]:
        """Values of a node and how deep they are nested, aliases followed.

        Raises:
            DataError: if there are too many, or one is not plain.
        """
        if id(node) in self._open:
            raise DataError(f"line {_line(node)} holds itself")
        if id(node) not in self._known:
            self._open.add(id(node))
            found = [self.require_plain(inner, depth + 1) for inner in self._inner(node, depth)]
            values = 1 + sum(count for count, _ in found)
            height = 1 + max((below for _, below in found), default=0)
            self._open.discard(id(node))
            if values > MAX_YAML_VALUES:
                raise DataError(
                    f"it holds more than {MAX_YAML_VALUES} values, those that aliases repeat "
                    "included; write fewer aliases"
                )
            self._known[id(node)] = values, height
        values, height = self._known[id(node)]
        if depth + height > MAX_DEPTH + 2:
            raise DataError(too_deep())
        return values, height

    def _inner(self, node: yaml.Node, depth: int) -> list[yaml.Node]:
        if depth > MAX_DEPTH + 1:
            raise DataError(too_deep())
        if isinstance(node, yaml.ScalarNode):
            self._require_scalar(node)
            return []
        usual = f"{_TAG}{'map' if isinstance(node, yaml.MappingNode) else 'seq'}"
        if node.tag != usual:
            raise DataError(f"line {_line(node)} has the tag {shown(node.tag)}; leave it out")
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        keys = [key for key, _ in node.value]
        for key in keys:
            if not isinstance(key, yaml.ScalarNode):
                raise DataError(f"line {_line(key)} has a name that is no text")
        name = repeated(key.value for key in keys)
        if name is not None:
            raise DataError(f"it has the name {shown(name)} twice in line {_line(node)} or below")
        return [inner for pair in node.value for inner in pair]

    def _require_scalar(self, node: yaml.ScalarNode) -> None:
        """Refuses a tag that the text would not have by itself; a date stays text."""
        resolve: Any = self._loader.resolve
        implied = resolve(yaml.ScalarNode, node.value, (True, False))
        if node.tag not in (implied, f"{_TAG}str"):
            raise DataError(f"line {_line(node)} has the tag {shown(node.tag)}; leave it out")
        if node.tag in _AS_TEXT:
            node.tag = f"{_TAG}str"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _yaml_reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {foreign(str(error.problem))}"
    return foreign(str(error).partition("\n")[0])
