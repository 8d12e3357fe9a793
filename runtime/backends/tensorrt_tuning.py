"""The fastest ring of frames for TensorRT on this machine, measured with its own engines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from srtrt.runtime.backends.tensorrt import TensorRtBackend, TensorRtOptions
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.gate import mosaics
from srtrt.runtime.engines.key import EngineShape, InputSize
from srtrt.runtime.engines.tuning import (
    Measured,
    best_of,
    candidates,
    frames_per_second,
    write_choice,
)
from srtrt.runtime.models import Model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import RingOptions
from srtrt.runtime.tensor_limit import require_countable
from srtrt.spec import Form, Precision


def tune_backend(
    model: Model,
    size: InputSize,
    *,
    form: Form,
    device: str,
    precision: Precision,
    seconds: float,
    options: TensorRtOptions | None = None,
    on_measured: Callable[[Measured], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> tuple[RingOptions, Path]:
    """Measures every ring for frames of a size, and stores the fastest beside the engine.

    Args:
        model: the model.
        size: of single frames.
        form: of the frames.
        device: ``cuda:N``.
        precision: arithmetic of the network.
        seconds: how long each ring is measured.
        options: of the backend; its ring is not looked at.
        on_measured: told each figure.
        on_note: told in sentences what is built and why.

    Returns:
        The fastest ring, and the file it is stored in.

    Raises:
        BackendError: if no engine can run here.
        ParityError: if an engine is under its gate.
    """
    given, tell = options or TensorRtOptions(), on_note or (lambda _: None)
    (picture,) = mosaics(read_pictures()[:1], size)
    frame = form_inputs(picture, form)

    def opened(ring: RingOptions) -> TensorRtBackend:
        chosen = replace(given, ring=ring)
        return TensorRtBackend(model, form=form, device=device, precision=precision, options=chosen)

    def measure(ring: RingOptions) -> float:
        with opened(ring) as backend:
            try:
                backend.prepare(size.width, size.height)
            finally:
                for note in backend.notes:
                    tell(note)
            return frames_per_second(backend.submit, backend.in_flight, frame, seconds)

    with closing(opened(RingOptions())) as backend:
        key = backend.key(size)
        rings = _rings(backend, size)
        batches = [
            batch
            for batch in sorted({ring.batch for ring in rings})
            if backend.lacks_engine(replace(size, batch=batch))
        ]
    if batches:
        counts = " and ".join(map(str, batches))
        tell(f"Engines that will be built, minutes each: {len(batches)}, for {counts} at once.")
    best, measured = best_of(measure, rings, on_measured)
    return best, write_choice(EngineCache(given.cache_folder), key, best, measured)


def _rings(backend: TensorRtBackend, size: InputSize) -> list[RingOptions]:
    """The rings to compare for frames of a size: those whose batches can be counted.

    Raises:
        UsageError: if a single frame cannot be.
    """
    limit = backend.tensor_limit
    require_countable(limit, EngineShape.of(size), "TensorRT", backend.model.name)
    offered = candidates(graphs=backend.captures, pixels=size.pixels)
    return [ring for ring in offered if ring.batch * size.pixels <= limit.most_pixels]
