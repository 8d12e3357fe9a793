"""Seconds per frame of several engines, interleaved in one run, beside what they compute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.benchmarks.engines import engine_of, open_engine, usual_reference
from srtrt.benchmarks.sampled import Sampled
from srtrt.errors import SrtrtError, UsageError
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.engines.gate import mosaics
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.engines.tuning import frames_per_second
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import RingOptions
from srtrt.spec import Form


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """What is measured, and how often."""

    width: int
    """Of the LR frame, even."""
    height: int
    form: Form = "rgb8"
    device: str = "auto"
    """``cuda:N`` for the engines of a GPU; ``auto`` is the first."""
    rounds: int = 10
    """How often each engine is timed, interleaved."""
    seconds: float = 1.0
    """How long frames in flight are measured."""
    reference: str | None = None
    """The engine that others are compared with in speed; None is the usual one."""
    parity: bool = True
    """Compares the output with PyTorch float32."""
    keep_going: bool = False
    """Reports engines that fail as problems, instead of ending."""


@dataclass(kw_only=True)
class _Measured:
    """What is known of the engines so far, by name."""

    settings: LatencySettings
    model: str
    tell: Callable[[str], None]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str, reference: str) -> Iterator[None]:
        """Notes what an engine fails with, where the others go on without it."""
        try:
            yield
        except UsageError:
            raise
        except SrtrtError as error:
            if not self.settings.keep_going or name == reference:
                raise
            self.problems[name] = str(error)
            self.tell(f"{name} failed: {error}")

    def opened(self, name: str, ring: Callable[[RingOptions], RingOptions] | None) -> Backend:
        settings = self.settings
        backend = open_engine(name, self.model, settings.form, device=settings.device, ring=ring)
        backend.on_build = lambda share, what: self.tell(f"{name}: {what} ({share:.0%})")
        return backend


def measure_latency(
    model: str,
    engines: Sequence[str],
    settings: LatencySettings,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Times every engine once in each round, so that a busy machine slows all of them alike.

    Args:
        model: bundled name or file.
        engines: their names, see :func:`srtrt.benchmarks.engines.open_engine`.
        settings: what is measured.
        on_step: told what was done.

    Returns:
        ``engines``: for each the quartiles of its seconds per frame, one frame after the other
        with all copies, and the median over the rounds of how many times faster it was than the
        reference in the same round; parity with PyTorch float32; and of those that can have frames
        in flight also ``network_ms``, ``copy_in_ms`` and ``copy_out_ms`` as the device's own events
        timed them, and ``frames_per_second``. ``problems``: by name what others failed with.

    Raises:
        UsageError: if a name or an option is unknown.
        SrtrtError: if the reference fails, or another engine and ``settings`` end there.
    """
    reference = settings.reference or usual_reference(model, engines, settings.device)
    names = list(dict.fromkeys([reference, *engines]))
    size = InputSize(width=settings.width, height=settings.height)
    (picture,) = mosaics(read_pictures()[:1], size)
    inputs = form_inputs(picture, settings.form)
    measured = _Measured(settings=settings, model=model, tell=on_step or (lambda _: None))
    seconds = _one_by_one(names, reference, inputs, measured)
    yardstick = np.array(seconds[reference])
    for name, values in seconds.items():
        low, middle, high = np.percentile(values, [25, 50, 75])
        measured.rows[name] |= {
            "seconds_per_frame": _digits(middle),
            "quartiles": [_digits(low), _digits(high)],
            "times_faster": round(float(np.median(yardstick / np.array(values))), 2),
        }
    for name in seconds:
        with measured.of(name, reference):
            measured.rows[name] |= _in_flight(name, inputs, measured)
    frame = f"{size} to {4 * size.width}x{4 * size.height}"
    head = {"model": model, "form": settings.form, "frame": frame, "reference": reference}
    rows = {name: row for name, row in measured.rows.items() if name in seconds}
    problems = {"problems": measured.problems} if measured.problems else {}
    return {**head, "rounds": settings.rounds, "engines": rows, **problems}


def _one_by_one(
    names: Sequence[str],
    reference: str,
    inputs: Mapping[str, NDArray[Any]],
    measured: _Measured,
) -> dict[str, list[float]]:
    """Seconds of each round by engine, and its parity as a row."""
    settings, seconds = measured.settings, dict[str, list[float]]()
    sampled = Sampled.of(measured.model, settings.form, inputs) if settings.parity else None
    opened: dict[str, Backend] = {}
    with ExitStack() as stack:
        for name in names:
            with measured.of(name, reference):
                backend = stack.enter_context(measured.opened(name, _alone))
                backend.prepare(settings.width, settings.height)
                row = {"device": backend.device, "precision": backend.precision}
                found = backend.infer(inputs)
                if sampled is not None:
                    row |= sampled.compared(found, backend.precision)
                opened[name], measured.rows[name], seconds[name] = backend, row, []
                measured.tell(f"{name} opened")
        for done in range(settings.rounds):
            for name, backend in list(opened.items()):
                with measured.of(name, reference):
                    start = time.perf_counter()
                    backend.infer(inputs)
                    seconds[name].append(time.perf_counter() - start)
                if name in measured.problems:
                    del opened[name], seconds[name]
            measured.tell(f"round {done + 1}/{settings.rounds}")
        for name, backend in opened.items():
            if backend.notes:
                measured.rows[name]["notes"] = list(backend.notes)
    return seconds


def _in_flight(
    name: str, inputs: Mapping[str, NDArray[Any]], measured: _Measured
) -> dict[str, Any]:
    """Copies and computing as the device times them, and the speed with frames in flight.

    Empty for an engine that computes one frame after the other.
    """
    settings = measured.settings
    with measured.opened(name, None) as backend:
        given = getattr(backend.options, "ring", None)
        if given is None and not engine_of(name)[0].on_gpu:
            return {}
        backend.prepare(settings.width, settings.height)
        rate = frames_per_second(backend.submit, backend.in_flight, inputs, settings.seconds)
        row: dict[str, Any] = {"in_flight": backend.in_flight, "frames_per_second": round(rate, 3)}
    measured.tell(f"{name} in flight")
    with measured.opened(name, _traced) as backend:
        backend.prepare(settings.width, settings.height)
        for _ in range(settings.rounds):
            backend.infer(inputs)
        times = backend.times()
    for key, part in (("network", "compute"), ("copy_in", "copy_in"), ("copy_out", "copy_out")):
        spans = [getattr(each, part) for each in times]
        values = np.percentile([end - start for start, end in spans], [25, 50, 75])
        row[f"{key}_ms"] = _digits(values[1])
        if key == "network":
            row["network_quartiles_ms"] = [_digits(values[0]), _digits(values[2])]
    measured.tell(f"{name} network")
    return row


def _alone(ring: RingOptions) -> RingOptions:
    return replace(ring, streams=1, slots=1, batch=1)


def _traced(ring: RingOptions) -> RingOptions:
    return replace(_alone(ring), trace=True)


def _digits(value: float) -> float:
    """Four significant digits, which suits a GPU's microseconds and a CPU's minutes."""
    return float(f"{value:.4g}")
