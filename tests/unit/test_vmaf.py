"""VMAF and VMAF-NEG, as libvmaf computes them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from srtrt.benchmarks.vmaf import vmaf, vmaf_available
from srtrt.errors import MissingPackageError
from srtrt.runtime.parity import read_pictures


@pytest.fixture(scope="module")
def truth() -> list[np.ndarray]:
    photo = cv2.resize(read_pictures()[0], (224, 192), interpolation=cv2.INTER_CUBIC)
    return [photo, photo[::-1].copy()]


def sharpened(picture: np.ndarray, amount: float) -> np.ndarray:
    soft = cv2.GaussianBlur(picture, (0, 0), 1.5).astype(float)
    return np.clip(picture + amount * (picture - soft), 0, 255).astype(np.uint8)


@pytest.mark.skipif(not vmaf_available(), reason="needs imageio-ffmpeg")
def test_sharpening_is_rewarded_by_vmaf_and_not_by_its_neg(truth: list[np.ndarray]) -> None:
    soft = [cv2.GaussianBlur(picture, (0, 0), 1.2) for picture in truth]
    equal, blurred, sharp = (
        vmaf(frames, truth)
        for frames in (truth, soft, [sharpened(picture, 1.0) for picture in truth])
    )
    assert equal.keys() == {"vmaf", "vmaf_neg"}
    for name in equal:
        assert 100 >= equal[name] > 95 > blurred[name] > 0
    assert sharp["vmaf"] >= equal["vmaf"]
    assert sharp["vmaf_neg"] < equal["vmaf_neg"] - 1
    assert sharp["vmaf_neg"] < sharp["vmaf"] - 1


def test_without_the_package_the_line_to_type_is_named(
    truth: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingPackageError, match=r"VMAF needs the package 'imageio-ffmpeg'"):
        vmaf(truth, truth)
