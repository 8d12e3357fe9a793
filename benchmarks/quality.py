"""Quality of models on folders of HR pictures, beside bicubic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.benchmarks.engines import REFERENCE, open_engine
from srtrt.benchmarks.thirdparty import load_third_party
from srtrt.datasets import list_images, lr_hr_pair
from srtrt.metrics import (
    SMALLEST_BLOCK,
    colour_bias,
    near_nyquist_energy,
    near_nyquist_excess,
    psnr_y,
    ssim_y,
)
from srtrt.perceptual import PerceptualDistances, without_distances
from srtrt.resample import resize_bicubic
from srtrt.runtime.backends import backend_class
from srtrt.terminal import say

Picture = NDArray[np.uint8]
"""``[H, W, 3]`` RGB."""

Upscale = Callable[[Picture], Picture]
"""``[H, W, 3]`` to ``[4H, 4W, 3]``, uint8 RGB."""

BICUBIC = "bicubic"
THIRD_PARTY_ENGINE = "torch-third-party"
"""Engine of ``.pth`` models, which run in eager PyTorch float32 whatever engine is asked for."""

_FILES = (".onnx", ".safetensors", ".pth")
_RESERVED = (BICUBIC, "pictures", "compressed", "uncompressed")
_DIGITS = {
    "psnr_db": 3,
    "ssim": 4,
    "lpips": 4,
    "dists": 4,
    "near_nyquist": 4,
    "near_nyquist_excess": 4,
    "bias_red": 3,
    "bias_green": 3,
    "bias_blue": 3,
    "vmaf": 2,
    "vmaf_neg": 2,
}


def bicubic(lr: Picture) -> Picture:
    """The enlargement every model is set beside."""
    return resize_bicubic(lr, 4 * lr.shape[0], 4 * lr.shape[1])


def short_names(models: Sequence[str]) -> dict[str, str]:
    """A short name for each different model: a file's name without its ending.

    Where two would be alike, or like a key of the results, the model keeps the name as given.
    """
    unique = list(dict.fromkeys(models))
    stems = [Path(m).stem if Path(m).suffix in _FILES else m for m in unique]
    return {
        model: stem if stems.count(stem) == 1 and stem not in _RESERVED else model
        for model, stem in zip(unique, stems, strict=True)
    }


def engine_for(model: str, engine: str | None, *, fast: bool = False) -> str:
    """The engine that runs a model: the one asked for, or one that can open it.

    Args:
        model: a bundled name, or an ``.onnx``, ``.safetensors`` or ``.pth`` file.
        engine: the name of an engine; None leaves the choice to this function.
        fast: choose the fastest float32 engine instead of the untouched generator.
    """
    suffix = Path(model).suffix
    if suffix == ".pth":
        return THIRD_PARTY_ENGINE
    if engine is not None:
        return engine
    has_graph = suffix != ".safetensors"
    if fast and has_graph and any(c.usable for c in backend_class("openvino").capabilities()):
        return "openvino-fp32"
    if suffix == ".onnx":
        return "onnxruntime-fp32"
    return "torch-fp32" if fast else REFERENCE


@contextmanager
def open_upscaler(model: str, engine: str) -> Iterator[Upscale]:
    """Opens a model for single pictures.

    Args:
        model: a bundled name, or an ``.onnx``, ``.safetensors`` or ``.pth`` file.
        engine: as :func:`engine_for` gives it.

    Raises:
        UsageError: if the engine is unknown.
        InputError, ModelError: if the model is missing or unusable on this engine.
    """
    if engine == THIRD_PARTY_ENGINE:
        yield load_third_party(Path(model)).upscale
        return
    with open_engine(engine, model, "rgb8") as backend:

        def upscale(lr: Picture) -> Picture:
            sr: Picture = backend.infer({"rgb": np.ascontiguousarray(lr)[None]})["rgb_x4"][0]
            return sr

        yield upscale


@contextmanager
def open_upscalers(
    models: Sequence[str], engine: str | None, *, fast: bool = False
) -> Iterator[tuple[dict[str, Upscale], dict[str, Any]]]:
    """Opens bicubic and several models side by side.

    Yields:
        What upscales, by short name and with bicubic first; and the head of a result file, which
        names the models and their engines.

    Raises:
        UsageError, InputError, ModelError: see :func:`open_upscaler`.
    """
    names = short_names(models)
    engines = {name: engine_for(model, engine, fast=fast) for model, name in names.items()}
    upscalers: dict[str, Upscale] = {BICUBIC: bicubic}
    with ExitStack() as stack:
        for model, name in names.items():
            upscalers[name] = stack.enter_context(open_upscaler(model, engines[name]))
        if len(engines) == 1:
            ((name, only),) = engines.items()
            yield upscalers, {"model": name, "engine": only}
        else:
            yield upscalers, {"models": list(engines), "engines": engines}


def measure_quality(
    models: Sequence[str],
    folders: Sequence[Path],
    *,
    engine: str | None = None,
    perceptual: bool = True,
    on_picture: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Mean figures of uint8 output by folder and model.

    Args:
        models: bundled names, or ``.onnx``, ``.safetensors`` or ``.pth`` files.
        folders: HR pictures; each folder is one set.
        engine: of all models but ``.pth``; by default see :func:`engine_for`.
        perceptual: add LPIPS and DISTS; where their weights are not installed it is said what to
            type, and they are left out.
        on_picture: called after each picture.

    Returns:
        ``sets``: for each folder the number of ``pictures`` and, for ``bicubic`` and each model,
        ``psnr_db`` and ``ssim`` (Y of BT.601, 4-pixel border), ``lpips`` (``alex``) and ``dists``
        of whole pictures, ``near_nyquist`` and ``near_nyquist_excess``
        (:func:`srtrt.metrics.near_nyquist_energy`, in squared levels), and ``bias_red``,
        ``bias_green``, ``bias_blue`` (:func:`srtrt.metrics.colour_bias`, in levels of 255).
        Pictures that are too small for a figure are left out of its mean.

    Raises:
        InputError: if a folder, picture or model cannot be read.
        ModelError: if a model is unusable or does not run on the engine.
        UsageError: if the engine is unknown.
        BrokenPackageError: if the packages hold other weights.
    """
    distances = open_distances() if perceptual else None
    sets: dict[str, Any] = {}
    with open_upscalers(models, engine) as (upscalers, head):
        for folder in folders:
            figures: dict[str, list[dict[str, float]]] = {name: [] for name in upscalers}
            for path in list_images([folder]):
                lr, hr = lr_hr_pair(path)
                distance = None if distances is None else distances.against(hr)
                for name, upscale in upscalers.items():
                    figures[name].append(picture_figures(upscale(lr), hr, distance))
                if on_picture is not None:
                    on_picture(path)
            sets[folder.name] = {
                "pictures": len(figures[BICUBIC]),
                **{name: mean_figures(values) for name, values in figures.items()},
            }
    return {**head, "sets": sets}


def open_distances() -> PerceptualDistances | None:
    """LPIPS and DISTS; None, with a sentence that says what to type, where they are missing."""
    reason = without_distances()
    if reason is not None:
        say(reason)
        return None
    return PerceptualDistances()


def picture_figures(
    sr: Picture, hr: Picture, distance: Callable[[Picture], dict[str, float]] | None = None
) -> dict[str, float]:
    """All figures of a picture against its ground truth, see :func:`measure_quality`.

    Args:
        sr: uint8 RGB ``[H, W, 3]``.
        hr: the ground truth of the same shape.
        distance: what :meth:`PerceptualDistances.against` gave for ``hr``; None leaves it out.
    """
    figures = {"psnr_db": psnr_y(sr, hr), "ssim": ssim_y(sr, hr)}
    if distance is not None:
        figures |= distance(sr)
    if min(hr.shape[:2]) >= SMALLEST_BLOCK:
        figures["near_nyquist"] = near_nyquist_energy(sr)
        figures["near_nyquist_excess"] = near_nyquist_excess(sr, hr)
    bias = colour_bias(sr, hr)
    colours = zip(("bias_red", "bias_green", "bias_blue"), bias, strict=True)
    return {**figures, **{name: float(value) for name, value in colours}}


def mean_figures(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure, rounded as result files have it."""
    return {
        key: round(float(np.mean([row[key] for row in figures if key in row])), digits) + 0.0
        for key, digits in _DIGITS.items()
        if any(key in row for row in figures)
    }
