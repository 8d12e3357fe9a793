"""Folders of pictures for training and measuring."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from srtrt.errors import InputError
from srtrt.images import read_image
from srtrt.metrics import mod_crop
from srtrt.reading import require_folder
from srtrt.resample import resize_bicubic

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})

REPORT_SIDE = 56
"""Side, in pixels, of the LR pictures of the report; its HR pictures have four times as many."""


def list_images(folders: Sequence[Path]) -> list[Path]:
    """All image files below the folders, sorted within each, so that a run can be repeated.

    Raises:
        InputError: if a folder is missing, cannot be read, or holds no image.
    """
    found: list[Path] = []
    for folder in folders:
        require_folder(folder, "a folder of images")
        names = (
            Path(root, name)
            for root, _, inside in os.walk(folder, onerror=_refuse)
            for name in inside
        )
        inside = sorted(path for path in names if path.suffix.lower() in IMAGE_SUFFIXES)
        if not inside:
            raise InputError(f"{folder}: holds no image; expected files such as .png or .jpg.")
        found += inside
    return found


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror}).") from error


def read_rgb8(path: Path) -> NDArray[np.uint8]:
    """An image as uint8 RGB ``[H, W, 3]``; alpha is dropped, 16-bit samples are rounded to 8.

    Raises:
        InputError: if it cannot be read.
    """
    rgb = read_image(path).rgb
    if rgb.dtype == np.uint16:
        return np.rint(rgb / 257.0).astype(np.uint8)
    return rgb.astype(np.uint8, copy=False)


def lr_hr_pair(path: Path, scale: int = 4) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """LR ``[H/s, W/s, 3]`` and HR ``[H, W, 3]`` of a picture, uint8 RGB.

    HR is cropped to a multiple of the scale; LR is its antialiased bicubic reduction, the
    convention of the field's benchmarks.

    Raises:
        InputError: if it cannot be read or is smaller than the scale.
    """
    hr = mod_crop(read_rgb8(path), scale)
    if 0 in hr.shape:
        raise InputError(f"{path}: is smaller than {scale}x{scale} pixels.")
    return resize_bicubic(hr, hr.shape[0] // scale, hr.shape[1] // scale), hr


def squeeze(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture ``[H, W, 3]`` resized to ``side`` square with OpenCV's bicubic, as the report.

    Reductions are not antialiased, and the aspect ratio is not kept.
    """
    resized = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


def squeezed_pair(
    path: Path, side: int = REPORT_SIDE
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """LR ``[side, side, 3]`` and HR ``[4 side, 4 side, 3]`` of a picture, uint8 RGB.

    The report's protocol: HR is the picture squeezed to 224x224, LR is HR squeezed to 56x56.

    Raises:
        InputError: if it cannot be read.
    """
    hr = squeeze(read_rgb8(path), 4 * side)
    return squeeze(hr, side), hr
