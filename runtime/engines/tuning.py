"""Which ring of frames is fastest on this machine: streams x batch x graph, measured."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from srtrt.errors import BackendError, DeviceMemoryError, ParityError, UsageError
from srtrt.plain_data import DataError, shown
from srtrt.runtime.cuda.device import Device
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.execution import LoadedEngine
from srtrt.runtime.engines.flavour import Flavour
from srtrt.runtime.engines.folder import TUNE_SUFFIX
from srtrt.runtime.engines.gate import mosaics
from srtrt.runtime.engines.identity import EngineKey
from srtrt.runtime.engines.key import EngineShape
from srtrt.runtime.engines.record import BuiltEngine
from srtrt.runtime.engines.stored import UnusableError, make_folder, read_record, write_record
from srtrt.runtime.layouts import form_layouts
from srtrt.runtime.parity import Picture, form_inputs
from srtrt.runtime.ring import FrameRing, Pending, RingOptions

Submit = Callable[[Mapping[str, NDArray[Any]]], Pending]

SPEED_SECONDS = 1.0
"""How long the speed of an engine is measured after it passed its gate."""

STREAMS = (1, 2, 3)
BATCHES = (1, 2, 4)

SMALL_PIXELS = 640 * 360
"""LR pixels of a frame up to which several at once may be faster: larger ones fill a GPU alone."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The speed of one ring."""

    ring: RingOptions
    frames_per_second: float | None
    """None if it could not be opened."""
    problem: str | None = None
    """Why it could not."""


def ring_name(ring: RingOptions) -> str:
    """A ring in a few words."""
    graph = "with graphs" if ring.graph else "without graphs"
    return f"{ring.streams} streams, batch {ring.batch}, {graph}"


def candidates(*, graphs: bool, pixels: int = 1) -> Iterator[RingOptions]:
    """The rings to compare, the simplest first.

    Args:
        graphs: whether the device can record graphs.
        pixels: LR pixels of a frame.
    """
    for batch in BATCHES if pixels <= SMALL_PIXELS else BATCHES[:1]:
        for streams in STREAMS:
            for graph in (True, False) if graphs else (False,):
                yield RingOptions(streams=streams, slots=2 * streams, batch=batch, graph=graph)


def frames_per_second(
    submit: Submit, capacity: int, frame: Mapping[str, NDArray[Any]], seconds: float
) -> float:
    """Computes one frame again and again with as many in flight as fit, for about that long.

    Args:
        submit: starts a frame.
        capacity: frames in flight.
        frame: the inputs of one frame.
        seconds: how long it is to be measured; at least two rounds of the ring are.
    """
    waiting = deque(submit(frame) for _ in range(capacity))
    frames, started = 0, time.perf_counter()
    while frames < 2 * capacity or time.perf_counter() - started < seconds:
        waiting.popleft()()
        waiting.append(submit(frame))
        frames += 1
    elapsed = time.perf_counter() - started
    for each in waiting:
        each()
    return frames / elapsed


def engine_speed(
    built: BuiltEngine,
    pictures: Sequence[Picture],
    *,
    flavour: Flavour,
    device: Device,
    seconds: float | None = None,
) -> float:
    """Frames per second of an engine with the usual frames in flight, copies included.

    Args:
        built: the engine.
        pictures: LR pictures, at least one; they are laid out to the size the engine takes.
        flavour: what built it.
        device: where it runs.
        seconds: how long it is measured; by default :data:`SPEED_SECONDS`.

    Raises:
        BackendError: if it does not run here.
        DeviceMemoryError: if memory does not suffice.
    """
    size, form = EngineShape.parse(built.facts["shape"]).best, built.spec.form
    frame = form_inputs(mosaics(pictures, replace(size, batch=1))[0], form)
    with (
        device.current(),
        closing(
            LoadedEngine(built.plan, form=form, size=size, flavour=flavour, device=device)
        ) as loaded,
        FrameRing(
            device, form_layouts(form, size), loaded.executor, RingOptions(batch=size.batch)
        ) as ring,
    ):
        return frames_per_second(
            ring.submit, ring.capacity, frame, SPEED_SECONDS if seconds is None else seconds
        )


def best_of(
    measure: Callable[[RingOptions], float],
    rings: Iterable[RingOptions],
    on_measured: Callable[[Measured], None] | None = None,
) -> tuple[RingOptions, list[Measured]]:
    """The fastest ring; of those within two percent of it, the simplest.

    A ring that does not fit into memory, or whose engine is wrong, is left out; so are those with
    as many streams, frames and graphs or more, which would take minutes to fail.

    Args:
        measure: frames per second of a ring.
        rings: what to compare, the simplest first.
        on_measured: told each figure.

    Returns:
        The ring, and all figures.

    Raises:
        BackendError: if none could be opened.
    """
    found, too_large = [], list[RingOptions]()
    for ring in rings:
        smaller = next((r for r in too_large if _takes_less(r, ring)), None)
        speed, problem = None, f"not tried, as {ring_name(smaller)} does not fit" if smaller else ""
        try:
            speed = measure(ring) if smaller is None else None
        except DeviceMemoryError as error:
            problem = str(error)
            too_large.append(ring)
        except ParityError as error:
            problem = str(error)
        result = Measured(ring=ring, frames_per_second=speed, problem=problem or None)
        found.append(result)
        if on_measured is not None:
            on_measured(result)
    speeds = [each.frames_per_second or 0.0 for each in found]
    if not any(speeds):
        raise BackendError(f"no ring could be opened: {found[0].problem if found else 'none'}")
    chosen = next(
        each.ring for each, speed in zip(found, speeds, strict=True) if speed >= 0.98 * max(speeds)
    )
    return chosen, found


def _takes_less(ring: RingOptions, other: RingOptions) -> bool:
    """Whether a ring takes no more memory than another; recorded graphs take some, too."""
    return ring.batch <= other.batch and ring.streams <= other.streams and ring.graph <= other.graph


def choice_path(cache: EngineCache, key: EngineKey) -> Path:
    """The file beside an engine that holds the choice for it."""
    return cache.folder / f"{key.stem}{TUNE_SUFFIX}"


def write_choice(
    cache: EngineCache, key: EngineKey, ring: RingOptions, measured: Iterable[Measured]
) -> Path:
    """Stores the best ring for frames of an engine's size, with all figures.

    Args:
        cache: where the engine is.
        key: of the engine for single frames.
        ring: the best one.
        measured: all that were compared.

    Raises:
        OutputError: if it cannot be written.
    """
    make_folder(cache.folder)
    path = choice_path(cache, key)
    values = {
        "key_sha256": key.sha256,
        "ring": asdict(ring),
        "measured": [asdict(each) for each in measured],
    }
    write_record(path, values)
    return path


def read_choice(cache: EngineCache, key: EngineKey) -> tuple[RingOptions | None, str | None]:
    """The stored choice, or None and, unless there simply is none, why."""
    path = choice_path(cache, key)
    if not path.exists():
        return None, None
    try:
        stored = read_record(path)
        if stored.get("key_sha256") != key.sha256:
            return None, f"{path.name} is for another engine"
        return _ring(stored.get("ring")), None
    except UnusableError as error:
        return None, str(error)
    except (DataError, UsageError) as error:
        return None, f"{path.name} is damaged: {str(error).rstrip('.')}"


def _ring(values: object) -> RingOptions:
    """The ring of a stored choice.

    Raises:
        DataError: if its fields are others, or of another kind.
        UsageError: if one is out of range.
    """
    usual = asdict(RingOptions())
    if not isinstance(values, dict) or values.keys() != usual.keys():
        raise DataError(f"its ring is {shown(values)}")
    for name, value in usual.items():
        if type(values[name]) is not type(value):
            raise DataError(f"{name} of its ring is {shown(values[name])}")
    return RingOptions(**values)
