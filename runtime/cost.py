"""What a model costs on this machine, measured on one small picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from srtrt.runtime.parity import read_pictures

_SECONDS = 0.4
_MOST_RUNS = 5


class Measurable(Protocol):
    """What is needed of a session to measure it; see :class:`srtrt.runtime.session.Session`."""

    def prepare(self, width: int, height: int) -> None:
        """Makes ready for pictures of a size."""

    def submit(self, inputs: Mapping[str, NDArray[Any]]) -> Callable[[], Any]:
        """Starts one picture; what it returns waits for it."""


def seconds_per_pixel(session: Measurable) -> float:
    """Seconds that one LR pixel takes, by the quickest of a few runs after a first one.

    A small picture costs somewhat more by the pixel than a large one, so the figure is a ceiling.

    Args:
        session: an opened model of the form ``rgb8``.

    Raises:
        BackendError: if the engine fails.
    """
    picture = np.ascontiguousarray(read_pictures()[0][None])
    height, width = picture.shape[1:3]
    session.prepare(width, height)
    session.submit({"rgb": picture})()
    best, began = float("inf"), time.perf_counter()
    for _ in range(_MOST_RUNS):
        started = time.perf_counter()
        session.submit({"rgb": picture})()
        ended = time.perf_counter()
        best = min(best, ended - started)
        if ended - began > _SECONDS:
            break
    return best / picture[0, ..., 0].size
