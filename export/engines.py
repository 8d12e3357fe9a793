"""From verified graphs to verified engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import InputError
from srtrt.graph import load_graph
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.engines.build import Note, build_engine
from srtrt.runtime.engines.cache import BuiltEngine, CachedEngine, EngineCache, Verify
from srtrt.runtime.engines.flavour import Flavour
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.key import EngineOptions, EngineShape, InputSize, engine_key
from srtrt.runtime.engines.monitor import Progress
from srtrt.runtime.models import Model
from srtrt.runtime.parity import (
    Picture,
    compare_outputs,
    form_inputs,
    reference_backend,
    require_parity,
)

OpenEngine = Callable[[BuiltEngine], Backend]
"""Opens an engine that was just built, to run it."""

_ENOUGH_PIXELS = 1 << 20
"""LR pixels on which an engine is compared; the reference runs on the CPU."""


def export_engine(
    graph: Path,
    shape: EngineShape,
    options: EngineOptions | None = None,
    *,
    flavour: Flavour,
    gpu: GpuFacts | None = None,
    cache: EngineCache | None = None,
    verify: Verify | None = None,
    because: str | None = None,
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> CachedEngine:
    """The engine of a graph, built if the cache has none that fits this machine.

    Args:
        graph: an ``.onnx`` file written by srtrt.
        shape: sizes the engine is to take.
        options: how it is built.
        flavour: TensorRT or TensorRT-RTX.
        gpu: facts about the GPU of this machine, None without one.
        cache: where it is kept; by default in the user's cache folder.
        verify: judges it, see :func:`engine_gate`; None where it cannot run.
        because: builds it anew for this reason (a clause), even if there is one.
        on_progress: see :func:`srtrt.runtime.engines.build.build_engine`.
        on_note: is told in sentences what is done and why.

    Raises:
        InputError, ModelError: if the graph is missing or unusable.
        UsageError: if the shape or an option does not fit.
        BackendError: if TensorRT fails.
        MissingPackageError: if it is not installed.
        ParityError: if the engine is under its gate; it is not kept.
        OutputError: if it cannot be written.
    """
    options, cache = options or EngineOptions(), cache or EngineCache()
    _, spec = load_graph(graph)
    try:
        data = graph.read_bytes()
    except OSError as error:
        raise InputError(f"{graph}: cannot be read ({error.strerror or error}).") from error
    key = engine_key(data, spec, shape, options, flavour=flavour, gpu=gpu)

    def build() -> BuiltEngine:
        return build_engine(
            data,
            shape,
            options,
            flavour=flavour,
            gpu=gpu,
            timing_cache=cache.timing_cache_path(flavour.name, key.flavour_version, key.gpu),
            on_progress=on_progress,
            on_note=on_note,
        )

    return cache.get_or_build(key, build, verify, because=because, on_note=on_note)


def engine_gate(source: Model, open_engine: OpenEngine, pictures: Sequence[Picture]) -> Verify:
    """A judge of engines: the generator as trained, in PyTorch float32, on real pictures.

    Args:
        source: a model with its checkpoint.
        open_engine: opens an engine, to run it.
        pictures: LR pictures, at least one; they are laid out to the size the engine takes.

    Returns:
        A function for :meth:`srtrt.runtime.engines.cache.EngineCache.get_or_build`. It raises
        ParityError for an engine under the gate of its precision.
    """

    def judge(built: BuiltEngine) -> Mapping[str, Any]:
        spec, size = built.spec, EngineShape.parse(built.facts["shape"]).best
        batches = [
            batch_inputs(batch, spec.form) for batch in picture_batches(pictures, size)
        ]  # fmt: skip
        with reference_backend(source, spec.form) as reference, open_engine(built) as candidate:
            parity = compare_outputs((reference.infer(x), candidate.infer(x)) for x in batches)
        require_parity(parity, spec.precision, f"the engine of {spec.name} at {size}")
        return {"against": "PyTorch fp32", **parity.to_dict()}

    return judge


def picture_batches(pictures: Sequence[Picture], size: InputSize) -> list[list[Picture]]:
    """Pictures of exactly the size of an engine, with all pictures in them as far as they fit.

    Args:
        pictures: uint8 ``[H, W, 3]`` RGB.
        size: of the engine's input.

    Returns:
        Batches of ``size.batch`` pictures ``[size.height, size.width, 3]``: one for each of
        ``pictures``, or fewer if they are large.
    """
    frames = min(len(pictures), max(1, _ENOUGH_PIXELS // (size.width * size.height)))
    batches = math.ceil(frames / size.batch)
    return [
        [_mosaic(pictures, size, first=b * size.batch + k) for k in range(size.batch)]
        for b in range(batches)
    ]


def batch_inputs(batch: Sequence[Picture], form: Any) -> dict[str, NDArray[Any]]:
    """Pictures of one size as the inputs of a form, together."""
    single = [form_inputs(picture, form) for picture in batch]
    images = {name for name, array in single[0].items() if array.dtype == np.uint8}
    return {
        name: np.concatenate([inputs[name] for inputs in single]) if name in images else array
        for name, array in single[0].items()
    }


def _mosaic(pictures: Sequence[Picture], size: InputSize, first: int) -> Picture:
    """Pictures in rows, from number ``first`` on and around, cut where they do not fit."""
    canvas = np.empty((size.height, size.width, 3), np.uint8)
    row_height = min(picture.shape[0] for picture in pictures)
    index = first
    for top in range(0, size.height, row_height):
        left = 0
        while left < size.width:
            picture = pictures[index % len(pictures)]
            part = picture[: min(row_height, size.height - top), : size.width - left]
            canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
            left += part.shape[1]
            index += 1
    return canvas
