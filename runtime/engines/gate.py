"""The judge of engines: real pictures through the engine and through what it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.runtime.engines.key import EngineShape, InputSize
from srtrt.runtime.engines.record import BuiltEngine, Verify
from srtrt.runtime.models import Model
from srtrt.runtime.parity import (
    ENOUGH_PIXELS,
    Picture,
    compare_frames,
    form_inputs,
    reference_for,
    require_parity,
)

Infer = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]

RunEngine = Callable[[BuiltEngine, Sequence[Mapping[str, NDArray[Any]]]], list[dict[str, Any]]]
"""Runs an engine that was just built on single frames of one size, and returns their outputs."""


def engine_gate(source: Model, run: RunEngine, pictures: Sequence[Picture]) -> Verify:
    """A judge of engines.

    The reference is the generator as trained, in PyTorch float32; without PyTorch or a
    checkpoint, it is the float32 graph in ONNX Runtime. The engine computes whole frames of its
    size, the reference no more of them than takes seconds: corners, borders, the middle, and a
    part of each picture, see :func:`srtrt.runtime.parity.compare_frames`.

    Args:
        source: the model the engine was made from.
        run: runs an engine.
        pictures: LR pictures, at least one; they are laid out to the size the engine takes.

    Returns:
        A function for :meth:`srtrt.runtime.engines.cache.EngineCache.get_or_build`. It raises
        ParityError for an engine under the gate of its precision.
    """

    def judge(built: BuiltEngine) -> Mapping[str, Any]:
        spec, shape = built.spec, EngineShape.parse(built.facts["shape"])
        with reference_for(source, spec.form) as (reference, against):
            for size in _judged_sizes(shape):
                frames = [form_inputs(frame, spec.form) for frame in mosaics(pictures, size)]
                points = _one_of_each(pictures, size)
                parity = compare_frames(reference, frames, run(built, frames), points)
                require_parity(parity, spec.precision, f"the engine of {spec.name} at {size}")
        return {"against": against, **parity.to_dict()}

    return judge


def _judged_sizes(shape: EngineShape) -> list[InputSize]:
    """Of an engine that takes many sizes, one far below that which it is tuned for, and that."""
    if shape.is_static:
        return [shape.best]
    width, height = (
        min(getattr(shape.best, side), max(getattr(shape.least, side), length))
        for side, length in (("width", 62), ("height", 46))
    )
    return [replace(shape.best, width=width, height=height), shape.best]


def mosaics(pictures: Sequence[Picture], size: InputSize) -> list[Picture]:
    """Pictures of exactly the size of an engine, with all pictures in them as far as they fit.

    Args:
        pictures: uint8 ``[H, W, 3]`` RGB.
        size: of the engine's input.

    Returns:
        Pictures ``[size.height, size.width, 3]``: one for each of ``pictures``, or fewer if they
        are large, and a whole number of batches.
    """
    frames = min(len(pictures), max(1, ENOUGH_PIXELS // (size.width * size.height)))
    frames = math.ceil(frames / size.batch) * size.batch
    return [_mosaic(pictures, size, first) for first in range(frames)]


def _one_of_each(pictures: Sequence[Picture], size: InputSize) -> list[tuple[int, int]]:
    """Row and column in the middle of each picture, in the first mosaic of them."""
    numbers = [
        np.full((*picture.shape[:2], 1), index, np.int32) for index, picture in enumerate(pictures)
    ]
    layout = _mosaic(numbers, size, 0)[..., 0]
    found = []
    for index in np.unique(layout):
        rows, columns = np.nonzero(layout == index)
        middle = len(rows) // 2
        found.append((int(rows[middle]), int(columns[middle])))
    return found


def _mosaic(pictures: Sequence[NDArray[Any]], size: InputSize, first: int) -> NDArray[Any]:
    """Pictures in rows, from number ``first`` on and around, cut where they do not fit."""
    canvas = np.empty((size.height, size.width, *pictures[0].shape[2:]), pictures[0].dtype)
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
