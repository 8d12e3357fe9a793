"""Pickled arrays are read without running what a pickle asks for."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from srtrt.errors import InputError
from srtrt.perceptual.numpy_pickle import read_arrays

FLOATS = arrays(np.float32, array_shapes(max_dims=4, max_side=4))
NAMES = st.text(st.characters(exclude_characters="/", codec="utf-8"), max_size=5)
TREES = st.dictionaries(NAMES, FLOATS | st.dictionaries(NAMES, FLOATS, max_size=3), max_size=4)


def read(folder: Path, data: bytes) -> dict[str, Any]:
    path = folder / "weights.ckpt"
    path.write_bytes(data)
    return read_arrays(path, "weights", most=1 << 20)


@settings(max_examples=30, deadline=None)
@given(tree=TREES, protocol=st.integers(3, 4))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any], protocol: int
) -> None:
    found = read(tmp_path_factory.getbasetemp(), pickle.dumps(tree, protocol))
    expected = {}
    for name, value in tree.items():
        inner = value.items() if isinstance(value, dict) else ()
        expected |= {f"{name}/{key}": array for key, array in inner}
        expected |= {} if isinstance(value, dict) else {name: value}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable


class Calls:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.mkdir, "mkdir"),
        (exec, "builtins.exec"),
        (np.load, "numpy.load"),
        (getattr, "builtins.getattr"),
        (np.dtype("f8").type, "numpy.float64"),
        (OrderedDict, "collections.OrderedDict"),
    ],
)
def test_any_other_name_is_refused_before_it_is_called(
    tmp_path: Path, function: Any, name: str
) -> None:
    made = tmp_path / "made"
    data = pickle.dumps({"a": Calls(function, str(made))}, 3)
    with pytest.raises(InputError, match=f"asks for '.*{name}', and only NumPy arrays are read"):
        read(tmp_path, data)
    assert not made.exists()


@settings(max_examples=100, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
def test_damage_is_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, position: float, value: int, cut: bool
) -> None:
    data = bytearray(pickle.dumps({"a": {"b": np.ones((2, 3), np.float32)}, "c": {}}, 3))
    index = int(position * len(data))
    data[index] = value
    try:
        found = read(tmp_path_factory.getbasetemp(), bytes(data[: index + 1] if cut else data))
    except InputError:
        return
    assert all(array.dtype == np.float32 for array in found.values())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": np.ones(2, np.float64)}, "numbers of the type 'f8', not 'f4'"),
        ({"a": np.ones(2, ">f4")}, "byte order is '>', not '<'"),
        ({"a": np.ones((2, 2), np.float32).T.copy("F")[:, ::-1].copy("F")}, "not float32 in C"),
        ({"a": np.array([None])}, "numbers of the type 'O8', not 'f4'"),
        ({"a": [np.ones(2, np.float32)]}, "'a/' is no mapping"),
        ({1: np.ones(2, np.float32)}, "has the name 1; expected text"),
        (np.ones(2, np.float32), "'it' is no mapping"),
        ("text", "'it' is no mapping"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, value: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read(tmp_path, pickle.dumps(value, 3))


def test_what_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(InputError, match="is no mapping of names to arrays"):
        read(tmp_path, pickle.dumps(endless, 3))


def test_large_files_are_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2097152 bytes; expected weights of at most 1048576"):
        read(tmp_path, bytes(1 << 21))
