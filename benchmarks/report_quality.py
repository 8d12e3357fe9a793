"""PSNR of models by the protocol of the original report, beside OpenCV's bicubic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from srtrt.benchmarks.quality import BICUBIC, Picture, mean_figures, open_upscalers
from srtrt.datasets import list_images, squeeze, squeezed_pair
from srtrt.metrics import psnr

PROTOCOL = (
    "the report's: HR squeezed to 224x224 and LR to 56x56 with OpenCV's bicubic, PSNR of RGB, "
    "mean of the pictures"
)


def measure_by_report(
    models: Sequence[str],
    folders: Sequence[Path],
    *,
    engine: str | None = None,
    on_picture: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Mean PSNR in dB by folder and model, as the report measured.

    Args:
        models: bundled names, or ``.onnx``, ``.safetensors`` or ``.pth`` files.
        folders: HR pictures; each folder is one set.
        engine: see :func:`srtrt.benchmarks.quality.engine_for`.
        on_picture: called after each picture.

    Returns:
        ``protocol`` in words; ``sets``: for each folder the number of ``pictures`` and, for
        ``bicubic`` and each model, ``psnr_db``.

    Raises:
        InputError: if a folder, picture or model cannot be read.
        ModelError: if a model is unusable or does not run on the engine.
        UsageError: if the engine is unknown.
    """
    sets: dict[str, Any] = {}
    with open_upscalers(models, engine) as (upscalers, head):
        upscalers[BICUBIC] = _bicubic
        for folder in folders:
            figures: dict[str, list[dict[str, float]]] = {name: [] for name in upscalers}
            for path in list_images([folder]):
                lr, hr = squeezed_pair(path)
                for name, upscale in upscalers.items():
                    figures[name].append({"psnr_db": psnr(upscale(lr), hr)})
                if on_picture is not None:
                    on_picture(path)
            sets[folder.name] = {
                "pictures": len(figures[BICUBIC]),
                **{name: mean_figures(values) for name, values in figures.items()},
            }
    return {**head, "protocol": PROTOCOL, "sets": sets}


def _bicubic(lr: Picture) -> Picture:
    return squeeze(lr, 4 * lr.shape[0])
