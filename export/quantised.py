"""Calibrated graphs of 8 bits in their forms, and the pictures they are calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from srtrt.datasets import list_images, lr_hr_pair
from srtrt.export.quantise import quantise_network
from srtrt.graph import dress
from srtrt.runtime.parity import read_pictures
from srtrt.spec import Form, ModelSpec, Precision

MOST_PICTURES = 64
"""How many pictures of a folder calibration looks at."""


def calibration_pictures(folder: Path | None = None) -> list[NDArray[np.uint8]]:
    """LR pictures to calibrate on.

    Args:
        folder: photographs of full size, which are reduced 4x; of more than
            :data:`MOST_PICTURES`, so many at equal distances. By default the few LR pictures that
            come with srtrt.

    Returns:
        uint8 RGB ``[H, W, 3]`` each.

    Raises:
        InputError: if the folder is missing, holds no picture, or one cannot be read.
    """
    if folder is None:
        return read_pictures()
    paths = list_images([folder])
    count = min(len(paths), MOST_PICTURES)
    return [lr_hr_pair(paths[k * len(paths) // count])[0] for k in range(count)]


def quantised_network(
    network: ModelProto,
    precision: Precision,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[ModelProto, dict[str, Any]]:
    """A float32 network as one of 8 bits, with the settings that srtrt ships.

    Args:
        network: float32 from ``lr`` to ``sr``.
        precision: ``int8`` or ``fp8``.
        pictures: LR pictures to calibrate on, uint8 RGB ``[H, W, 3]``.
        on_progress: told a few words before each convolution is quantised or measured.

    Returns:
        The typed network from ``lr`` to ``sr``, and JSON facts for ``quality["quantisation"]`` of
        its spec: see :class:`srtrt.export.quantise.QuantisationReport`.

    Raises:
        InputError: if there is no picture.
        ModelError: if the network cannot be quantised.
        PackageError: if ONNX Runtime is not installed.
    """
    typed, report = quantise_network(
        network, pictures, precision=precision, on_progress=on_progress
    )
    return typed, {**report.to_dict(), "pictures": len(pictures)}


def quantised_graph(
    network: ModelProto,
    spec: ModelSpec,
    form: Form,
    precision: Precision,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[ModelProto, dict[str, Any]]:
    """A float32 network as a typed graph of 8 bits in a form.

    Args:
        network: float32 from ``lr`` to ``sr``.
        spec: facts about it; form, precision and ``quality["quantisation"]`` are replaced.
        form: form of the result.
        precision: ``int8`` or ``fp8``.
        pictures: LR pictures to calibrate on, uint8 RGB ``[H, W, 3]``.
        on_progress: told a few words before each convolution is quantised or measured.

    Returns:
        The graph with its spec inside, and the facts that were added to it.

    Raises:
        InputError, ModelError, MissingPackageError: see :func:`quantised_network`.
    """
    typed, facts = quantised_network(network, precision, pictures, on_progress=on_progress)
    quality = {**spec.quality, "quantisation": facts}
    return dress(typed, spec.with_(precision=precision, quality=quality), form), facts
