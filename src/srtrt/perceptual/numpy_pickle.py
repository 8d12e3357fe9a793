"""Pickles of named NumPy arrays, read without running anything that they ask for.

A pickle names functions, and whoever loads it calls them. Here the three names that NumPy writes
for an array stand for classes of this module, which take float32 arrays alone; every other name is
refused before anything is called.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import InputError
from srtrt.plain_data import shown
from srtrt.reading import read_plain
from srtrt.text import foreign

Arrays = dict[str, NDArray[np.float32]]

_MAX_DEPTH = 8
"""Most mappings inside one another."""

_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
"""What damaged pickles, and those that hold something else, make the unpickler raise."""


class _Dtype:
    """Stands for ``numpy.dtype``: little-endian float32 and no other."""

    def __init__(self, name: object = None, *_: object) -> None:
        if name != "f4":
            raise pickle.UnpicklingError(f"it holds numbers of the type {shown(name)}, not 'f4'")

    def __setstate__(self, state: Any) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError(f"its byte order is {shown(state[1])}, not '<'")


class _Array:
    """Stands for ``numpy.ndarray``; ``values`` is None until its state was read."""

    values: NDArray[np.float32] | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, column_major, data = state
        sizes = all(type(size) is int and size > 0 for size in shape)
        if type(dtype) is not _Dtype or column_major is not False or type(data) is not bytes:
            raise pickle.UnpicklingError("it holds an array that is not float32 in C order")
        if not sizes or 4 * math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"an array {shown(shape)} has {len(data)} bytes")
        self.values = np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)


def _reconstruct(*_: object) -> _Array:
    """Stands for NumPy's function of this name, which makes the empty array."""
    return _Array()


_NAMES = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(
                f"it asks for {shown(f'{module}.{name}')}, and only NumPy arrays are read"
            )
        return found


def read_arrays(path: Path, expected: str, *, most: int) -> Arrays:
    """The float32 arrays of a pickled mapping, whose values may be mappings again.

    Args:
        path: the file.
        expected: what it should be, for messages.
        most: size in bytes of the largest file that is read.

    Returns:
        Arrays by their names from the outermost mapping inwards, joined with ``/``.

    Raises:
        InputError: if the file is missing, too large, damaged, or holds anything else.
    """
    data = read_plain(path, expected, most=most)
    try:
        return dict(_named(_ArrayUnpickler(io.BytesIO(data)).load(), "", _MAX_DEPTH))
    except _UNREADABLE as error:
        reason = foreign(str(error)) or type(error).__name__
        raise InputError(f"{path}: cannot be read: {reason}; expected {expected}.") from error


def _named(value: Any, name: str, depth: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The arrays below a value; ``name`` is empty or ends with a slash."""
    if type(value) is not dict or depth == 0:
        raise pickle.UnpicklingError(f"{shown(name or 'it')} is no mapping of names to arrays")
    for key, inner in value.items():
        if type(key) is not str:
            raise pickle.UnpicklingError(f"it has the name {shown(key)}; expected text")
        if isinstance(inner, _Array) and inner.values is not None:
            yield name + key, inner.values
        else:
            yield from _named(inner, f"{name}{key}/", depth - 1)
