"""Seconds per frame of several engines, interleaved in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from srtrt.benchmarks.engines import REFERENCE, open_engine
from srtrt.resample import resize_bicubic
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.spec import Form


def measure_latency(
    model: str,
    engines: Sequence[str],
    *,
    width: int,
    height: int,
    form: Form,
    rounds: int,
    reference: str = REFERENCE,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Times every engine once in each round, so that a busy machine slows all of them alike.

    Returns:
        For each engine the quartiles of its seconds per frame, and the median over the rounds of
        how many times faster it was than the reference in the same round.
    """
    picture = resize_bicubic(read_pictures()[0], height, width)
    inputs = form_inputs(picture, form)
    names = list(dict.fromkeys([reference, *engines]))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(open_engine(name, model, form)) for name in names}
        for backend in opened.values():
            backend.infer(inputs)
        for done in range(rounds):
            for name, backend in opened.items():
                start = time.perf_counter()
                backend.infer(inputs)
                seconds[name].append(time.perf_counter() - start)
            if on_round is not None:
                on_round(done + 1)
    yardstick = np.array(seconds[reference])
    rows = {}
    for name, values in seconds.items():
        low, middle, high = np.percentile(values, [25, 50, 75])
        rows[name] = {
            "seconds_per_frame": round(float(middle), 4),
            "quartiles": [round(float(low), 4), round(float(high), 4)],
            "times_faster": round(float(np.median(yardstick / np.array(values))), 2),
        }
    size = f"{width}x{height} to {4 * width}x{4 * height}"
    head = {"model": model, "form": form, "frame": size, "reference": reference}
    return {**head, "rounds": rounds, "engines": rows}
