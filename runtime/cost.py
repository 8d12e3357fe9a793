"""What a model costs on this machine, measured on one small picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import SrtrtError
from srtrt.runtime.parity import read_pictures
from srtrt.runtime.session import open_session

_SECONDS = 0.4
_MOST_RUNS = 5


class Measurable(Protocol):
    """What is needed of a session to measure it; see :class:`srtrt.runtime.session.Session`."""

    def prepare(self, width: int, height: int) -> None:
        """Makes ready for pictures of a size."""

    def submit(self, inputs: Mapping[str, NDArray[Any]]) -> Callable[[], Any]:
        """Starts one picture; what it returns waits for it."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one model costs here."""

    seconds_per_pixel: float | None
    """Of an LR pixel; None if it was not measured."""
    engine: str
    """What it was measured on, or why it was not."""


def measure_cost(model: str) -> Cost:
    """Opens a model as ``auto`` does, and measures it; engines are not built for this."""
    try:
        with open_session(model=model, form="rgb8") as session:
            if session.builds_engines:
                why = "not measured, as an engine would be built; see srtrt benchmark latency"
                return Cost(seconds_per_pixel=None, engine=f"{session.reason} {why}")
            return Cost(seconds_per_pixel=seconds_per_pixel(session), engine=session.reason)
    except SrtrtError as error:
        return Cost(seconds_per_pixel=None, engine=f"not measured: {error}")


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
