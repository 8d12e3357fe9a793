"""At which bit rate of the source does which model win?

What ``srtrt upscale-video --model auto`` goes by, see :mod:`srtrt.runtime.video.choice`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srtrt.benchmarks.compressed import (
    ENCODERS,
    SCALE,
    panned_clip,
    read_clip,
    spread,
    through_encoder,
    turn,
)
from srtrt.benchmarks.quality import BICUBIC, Picture, Upscale, mean_figures, open_upscalers
from srtrt.benchmarks.vmaf import vmaf
from srtrt.datasets import list_images, read_rgb8
from srtrt.errors import UsageError
from srtrt.metrics import mod_crop, psnr_y
from srtrt.resample import resize_bicubic

_MULTIPLE = 2 * SCALE


def measure_rates(
    models: Sequence[str],
    *,
    pictures: Path | None = None,
    clips: Sequence[Path] = (),
    codecs: Mapping[str, Sequence[int]],
    engine: str | None = None,
    frames: int = 48,
    every: int = 6,
    hr_width: int = 720,
    limit: int | None = None,
    on_row: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """PSNR (Y, dB), VMAF and VMAF-NEG of models on LR video at many bit rates, clip by clip.

    HR frames are reduced four times, encoded, decoded, enlarged and compared with what they were
    made from. All frames are encoded, so that the rate is that of a film and not of its first
    picture; every few of them are measured.

    Args:
        models: bundled names, or ``.onnx``, ``.safetensors`` or ``.pth`` files.
        pictures: folder of HR pictures, each made into a clip by a moving window.
        clips: videos whose first frames are the HR ones.
        codecs: by encoder (:data:`srtrt.benchmarks.compressed.ENCODERS`) its quality factors.
        engine: of all models but ``.pth``; by default the fastest float32 engine of each.
        frames: frames of each clip.
        every: every how many frames one is measured.
        hr_width: wider clips are first reduced by a whole number until they fit.
        limit: how many of the pictures to use, spread evenly over the folder; all by default.
        on_row: told each line of the result.

    Returns:
        ``rows``: clip, LR size, encoder, crf (None: not encoded), bits per LR pixel and frame, and
        for each model ``psnr_db``, ``vmaf`` and ``vmaf_neg``.

    Raises:
        UsageError: if there is neither a folder nor a clip, or an encoder is unknown.
        InputError, ModelError: if a picture, clip or model is unusable.
    """
    if pictures is None and not clips:
        raise UsageError("nothing to measure on; give --data DIR, --clip VIDEO, or both.")
    unknown = sorted(set(codecs) - set(ENCODERS))
    if unknown:
        raise UsageError(f"--encoder {unknown[0]!r}: expected one of {', '.join(ENCODERS)}.")
    sources: list[tuple[str, Callable[[], list[Picture]]]] = []
    if pictures is not None:
        for index, path in enumerate(spread(list_images([pictures]), limit)):
            sources.append((path.name, _panned(path, frames, index)))
    sources += [(path.name, _reduced(path, frames, hr_width)) for path in clips]
    rows: list[dict[str, Any]] = []
    with open_upscalers(models, engine, fast=True) as (upscalers, head):
        compared = {name: upscale for name, upscale in upscalers.items() if name != BICUBIC}
        for name, load in sources:
            for row in _measure(load(), compared, codecs, every):
                rows.append({"clip": name, **row})
                if on_row is not None:
                    on_row(str(rows[-1]))
    used = {encoder: {**ENCODERS[encoder], "crf": list(crfs)} for encoder, crfs in codecs.items()}
    return {**head, "encoders": used, "frames": frames, "measured_every": every, "rows": rows}


def read_encoders(texts: Sequence[str]) -> dict[str, list[int]]:
    """Quality factors by encoder, from texts such as ``libx264:20,28``.

    Raises:
        UsageError: for a text of another form.
    """
    codecs: dict[str, list[int]] = {}
    for text in texts:
        name, _, factors = text.partition(":")
        if not factors or not all(part.isdigit() for part in factors.split(",")):
            raise UsageError(f"--encoder {text!r}: expected NAME:CRF,CRF, such as libx264:20,28.")
        codecs[name] = [int(part) for part in factors.split(",")]
    return codecs


def _panned(path: Path, frames: int, index: int) -> Callable[[], list[Picture]]:
    # A quarter of the speed of the compressed benchmark: these clips are longer.
    step = (turn(2 * index) // 3, turn(index) // 3)
    return lambda: panned_clip(read_rgb8(path), frames, step=step)


def _reduced(path: Path, frames: int, hr_width: int) -> Callable[[], list[Picture]]:
    def load() -> list[Picture]:
        pictures = read_clip(path, frames)
        height, width = pictures[0].shape[:2]
        factor = -(-width // hr_width)
        small = (resize_bicubic(p, height // factor, width // factor) for p in pictures)
        return [mod_crop(p, _MULTIPLE) for p in small]

    return load


def _measure(
    hr: Sequence[Picture],
    upscalers: Mapping[str, Upscale],
    codecs: Mapping[str, Sequence[int]],
    every: int,
) -> Iterable[dict[str, Any]]:
    height, width = (size // SCALE for size in hr[0].shape[:2])
    lr = [resize_bicubic(frame, height, width) for frame in hr]
    chosen = range(every // 2, len(hr), every)
    truth = [hr[i] for i in chosen]
    cases = [(encoder, crf) for encoder, crfs in codecs.items() for crf in crfs]
    for encoder, crf in [(None, None), *cases]:
        decoded, size = lr, 0
        if encoder is not None and crf is not None:
            decoded, size = through_encoder(lr, crf, encoder)
        row: dict[str, Any] = {
            "lr": f"{width}x{height}",
            "encoder": encoder,
            "crf": crf,
            "bits_per_pixel": round(8 * size / (len(lr) * width * height), 4) if size else None,
        }
        for name, upscale in upscalers.items():
            sr = [upscale(decoded[i]) for i in chosen]
            psnr = np.mean([psnr_y(a, b) for a, b in zip(sr, truth, strict=True)])
            row[name] = mean_figures([{"psnr_db": float(psnr), **vmaf(sr, truth)}])
        yield row
