"""PSNR and SSIM of a model on folders of HR pictures, beside bicubic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srtrt.benchmarks.engines import open_engine
from srtrt.datasets import list_images, lr_hr_pair
from srtrt.metrics import psnr_y, ssim_y
from srtrt.resample import resize_bicubic


def measure_quality(
    model: str,
    engine: str,
    folders: Sequence[Path],
    *,
    on_picture: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Mean PSNR in dB and SSIM (Y of BT.601, 4-pixel border, uint8) by folder.

    Raises:
        InputError: if a folder or picture cannot be read.
    """
    sets: dict[str, Any] = {}
    with open_engine(engine, model, "rgb8") as backend:
        for folder in folders:
            figures = []
            for path in list_images([folder]):
                lr, hr = lr_hr_pair(path)
                bicubic = resize_bicubic(lr, hr.shape[0], hr.shape[1])
                sr = backend.infer({"rgb": lr[None]})["rgb_x4"][0]
                figures.append(
                    [psnr_y(bicubic, hr), ssim_y(bicubic, hr), psnr_y(sr, hr), ssim_y(sr, hr)]
                )
                if on_picture is not None:
                    on_picture(path)
            means = np.mean(figures, axis=0)
            sets[folder.name] = {
                "pictures": len(figures),
                "bicubic": {"psnr_db": round(means[0], 3), "ssim": round(means[1], 4)},
                model: {"psnr_db": round(means[2], 3), "ssim": round(means[3], 4)},
            }
    return {"model": model, "engine": engine, "sets": sets}
