from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from srtrt.benchmarks.lpips import NETWORK_FILE, WEIGHTS_FILE, Lpips
from srtrt.benchmarks.tables import table
from srtrt.errors import InputError, MissingPackageError
from srtrt.resample import resize_bicubic
from srtrt.runtime.parity import read_pictures


@pytest.fixture(scope="module")
def distance(shared: Path) -> Lpips:
    pytest.importorskip("h5py")
    return Lpips(shared / "perceptual")


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    return read_pictures()[0]


def blurred(picture: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def test_equal_pictures_are_at_no_distance(distance: Lpips, photo: NDArray[np.uint8]) -> None:
    assert distance(photo, photo.copy()) == 0.0


def test_order_of_the_pictures_does_not_matter(distance: Lpips, photo: NDArray[np.uint8]) -> None:
    other = blurred(photo, 1.0)
    assert distance(photo, other) == pytest.approx(distance(other, photo), rel=1e-5)


def test_distance_grows_with_blur_and_noise(distance: Lpips, photo: NDArray[np.uint8]) -> None:
    noise = np.random.default_rng(0).normal(size=photo.shape)
    for pictures in (
        [blurred(photo, sigma) for sigma in (0.5, 1.0, 2.0, 4.0)],
        [np.clip(photo + s * noise, 0, 255).astype(np.uint8) for s in (2, 8, 20, 50)],
    ):
        distances = [distance(photo, picture) for picture in pictures]
        assert distances == sorted(distances)
        assert 0 < distances[0] < distances[-1] / 3


def test_a_shift_weighs_less_than_a_blur_of_larger_psnr(
    distance: Lpips, photo: NDArray[np.uint8]
) -> None:
    """What PSNR gets wrong: a shift of one pixel keeps every detail, and a reduction loses them."""
    whole = photo[:, 1:]
    shifted = photo[:, :-1]
    height, width = whole.shape[:2]
    soft = resize_bicubic(resize_bicubic(whole, height // 3, width // 3), height, width)
    errors = [np.mean((whole.astype(float) - other) ** 2) for other in (shifted, soft)]
    assert errors[0] > 0.8 * errors[1]
    assert distance(whole, shifted) < 0.7 * distance(whole, soft)


def test_smallest_picture(distance: Lpips, photo: NDArray[np.uint8]) -> None:
    corner = photo[:17, :17]
    assert distance(corner, 255 - corner) > 0
    with pytest.raises(ValueError, match="17x17 pixels; got 17x16"):
        distance(corner[:16], corner[:16])


def test_wrong_arrays_are_refused(distance: Lpips, photo: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        distance(photo, photo[1:])
    with pytest.raises(ValueError, match="expected uint8"):
        distance(photo[..., 0], photo[..., 0])


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{NETWORK_FILE}: no such file"):
        Lpips(tmp_path)
    (tmp_path / NETWORK_FILE).touch()
    with pytest.raises(InputError, match=f"{WEIGHTS_FILE}: no such file"):
        Lpips(tmp_path)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / WEIGHTS_FILE).write_bytes(b"neither")
    (tmp_path / NETWORK_FILE).write_bytes(b"nor")
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        Lpips(tmp_path)
    with h5py.File(tmp_path / NETWORK_FILE, "w") as file:
        file["conv1/kernel"] = np.zeros((7, 7, 3, 96), np.float32)
    with pytest.raises(InputError, match=r"'conv1' holds \[\(7, 7, 3, 96\)\]"):
        Lpips(tmp_path)


def test_layers_of_another_network_are_refused(tmp_path: Path, shared: Path) -> None:
    pytest.importorskip("h5py")
    (tmp_path / NETWORK_FILE).symlink_to(shared / "perceptual" / NETWORK_FILE)
    weights = tmp_path / WEIGHTS_FILE
    weights.write_bytes(b"neither")
    with pytest.raises(InputError, match="not a PyTorch state dict"):
        Lpips(tmp_path)
    torch.save({"lin0": torch.ones(1)}, weights)
    with pytest.raises(InputError, match="does not hold the linear layers"):
        Lpips(tmp_path)
    torch.save({f"lin{i}.model.1.weight": torch.ones(1, 8, 1, 1) for i in range(7)}, weights)
    with pytest.raises(InputError, match=r"\(8, 8, 8, 8, 8, 8, 8\) channels"):
        Lpips(tmp_path)


def test_without_h5py_the_pip_line_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (NETWORK_FILE, WEIGHTS_FILE):
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingPackageError, match=r"pip install '\.\[dev\]'"):
        Lpips(tmp_path)


def test_tables_show_the_distance_as_third_figure() -> None:
    figures = {"psnr_db": 28.431, "ssim": 0.8113, "lpips": 0.1987}
    plain = {"psnr_db": 30.0, "ssim": 0.9}
    report = {"benchmark": "quality", "sets": {"Set5": {"pictures": 5, "a": figures, "b": plain}}}
    assert table(report).splitlines() == [
        "| set | a | b |",
        "|---|---|---|",
        "| Set5 | 28.43 / 0.8113 / 0.1987 | 30.00 / 0.9000 |",
    ]


def test_table_of_compressed_video() -> None:
    low, high = {"psnr_db": 22.0, "ssim": 0.5}, {"psnr_db": 24.0, "ssim": 0.625}
    source = {"clips": 1, "compressed": {"bicubic": low}, "uncompressed": {"bicubic": high}}
    report = {"benchmark": "compressed", "codec": {"crf": 28}, "sources": {"clips": source}}
    assert table(report).splitlines() == [
        "| source | bicubic |",
        "|---|---|",
        "| clips, uncompressed | 24.00 / 0.6250 |",
        "| clips, x264 crf 28 | 22.00 / 0.5000 |",
    ]
