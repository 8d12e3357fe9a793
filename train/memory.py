"""What is said when a run does not fit into memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from srtrt.errors import TrainingError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_SIGNS = ("out of memory", "allocate memory")
"""PyTorch says it in words only, on the CPU and on a GPU."""


def memory_errors_said(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Lets a function raise TrainingError when memory runs out in it."""

    @functools.wraps(function)
    def run(*arguments: _P.args, **named: _P.kwargs) -> _R:
        try:
            return function(*arguments, **named)
        except (MemoryError, RuntimeError) as error:
            known = isinstance(error, MemoryError)
            if not known and not any(sign in str(error).lower() for sign in _SIGNS):
                raise
            raise TrainingError(
                "there is not enough memory for these settings. Set a smaller data.batch, "
                "data.patch or generator.features, or cut each batch into parts with "
                "schedule.accumulate; saved states stay usable."
            ) from error

    return run
