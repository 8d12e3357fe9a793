"""Weights that others saved with torch.save: names and tensors alone, never other objects."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from srtrt.errors import InputError
from srtrt.plain_data import shown
from srtrt.reading import open_plain

_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
"""What torch.load raises for damaged files and for those that hold more than tensors."""


def read_state_dict(path: Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; what is no tensor is left out.

    Args:
        path: the file.
        expected: what it should be, for messages.

    Raises:
        InputError: if it is missing, no state dict, or holds a tensor that has no plain values.
    """
    with open_plain(path, expected):
        pass
    try:
        # Warnings about unusual pickles would only repeat the error below, in other words.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: not a PyTorch state dict. Expected names and tensors alone, saved with "
            "torch.save; a file with other Python objects is not read, as it could run code."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise InputError(
            f"{path}: not a PyTorch state dict, but a {type(state).__name__}. "
            "Expected names and tensors, saved with torch.save(network.state_dict(), ...)."
        )
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    for key, tensor in tensors.items():
        kind = _special_kind(tensor)
        if kind is not None:
            raise InputError(
                f"{path}: tensor {shown(key)} is {kind}; expected plain values in memory."
            )
    return tensors


def _special_kind(tensor: Tensor) -> str | None:
    """What keeps a tensor from being copied like any other; None if nothing does."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.is_quantized:
        return "quantised"
    return None if tensor.device.type == "cpu" else f"on the device {tensor.device.type}"
