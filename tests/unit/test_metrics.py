from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from srtrt.metrics import (
    colour_bias,
    luma_bt601,
    mod_crop,
    near_nyquist_energy,
    near_nyquist_excess,
    psnr,
    psnr_y,
    ssim,
    ssim_y,
)
from srtrt.resample import resize_bicubic
from srtrt.runtime.parity import read_pictures

SHARED = Path(os.environ.get("SRTRT_SHARED") or Path(__file__).parents[3] / "shared")


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A picture with smooth and busy parts, and a noisy copy."""
    generator = np.random.default_rng(3)
    y, x = np.mgrid[:61, :83]
    waves = np.stack([np.sin(x / 5 + y / 9), np.cos(x * y / 200), np.sin(y / 3)], axis=-1)
    picture = np.clip(128 + 100 * waves, 0, 255).astype(np.uint8)
    noisy = np.clip(picture + generator.normal(0, 9, picture.shape), 0, 255).astype(np.uint8)
    return picture, noisy


def reference_ssim(a: np.ndarray, b: np.ndarray, data_range: float) -> float:
    """scikit-image's SSIM over the windows that lie wholly inside the picture."""
    axis = 2 if a.ndim == 3 else None
    _, values = structural_similarity(
        a,
        b,
        data_range=data_range,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=axis,
        full=True,
    )
    return float(values[5:-5, 5:-5].mean())


def test_psnr_equals_scikit_image(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)
    inner = np.s_[4:-4, 4:-4]
    expected = peak_signal_noise_ratio(a[inner], b[inner], data_range=255)
    assert psnr(a, b, border=4) == pytest.approx(expected, abs=1e-9)
    scaled = psnr(a / 255, b / 255, data_range=1.0)
    assert scaled == pytest.approx(psnr(a, b), abs=1e-9)


def test_ssim_equals_scikit_image(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert ssim(a, b) == pytest.approx(reference_ssim(a, b, 255), abs=1e-9)
    gray = (a[..., 1], b[..., 1])
    assert ssim(*gray) == pytest.approx(reference_ssim(*gray, 255), abs=1e-9)
    cut = tuple(image[4:-4, 4:-4] for image in pair)
    assert ssim(a, b, border=4) == pytest.approx(reference_ssim(*cut, 255), abs=1e-9)
    unit = ssim(a / 255, b / 255, data_range=1.0)
    assert unit == pytest.approx(reference_ssim(a / 255, b / 255, 1.0), abs=1e-9)


def test_equal_pictures_are_perfect(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert psnr(pair[0], pair[0]) == math.inf
    assert ssim(pair[0], pair[0]) == pytest.approx(1.0)


def test_luma_equals_scikit_image_and_spans_the_studio_range(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    np.testing.assert_allclose(luma_bt601(pair[0]), rgb2ycbcr(pair[0])[..., 0], atol=1e-9)
    assert luma_bt601(np.zeros((1, 1, 3), np.uint8)) == 16.0
    assert luma_bt601(np.full((1, 1, 3), 255, np.uint8)) == pytest.approx(235.0)


def test_gray_counts_as_rgb_with_equal_channels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (image[..., 0] for image in pair)
    wide_a, wide_b = (np.repeat(image[..., None], 3, axis=2) for image in (a, b))
    assert psnr_y(a, b) == pytest.approx(psnr_y(wide_a, wide_b))
    assert ssim_y(a, wide_b) == pytest.approx(ssim_y(wide_a, wide_b))


def test_the_border_is_left_out(pair: tuple[np.ndarray, np.ndarray]) -> None:
    framed = pair[0].copy()
    framed[:4], framed[-4:], framed[:, :4], framed[:, -4:] = 0, 0, 255, 255
    assert psnr_y(framed, pair[0]) == math.inf
    assert math.isfinite(psnr_y(framed, pair[0], border=3))


def test_mod_crop_cuts_bottom_and_right() -> None:
    image = np.arange(7 * 9).reshape(7, 9)
    np.testing.assert_array_equal(mod_crop(image, 4), image[:4, :8])
    np.testing.assert_array_equal(mod_crop(image, 1), image)


def test_wrong_arguments_are_refused(pair: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"\(61, 83, 3\) and \(60, 83, 3\)"):
        psnr(pair[0], pair[0][:-1])
    with pytest.raises(ValueError, match="border of 31"):
        psnr(*pair, border=31)
    with pytest.raises(ValueError, match="11x11"):
        ssim(np.zeros((20, 10)), np.zeros((20, 10)))
    with pytest.raises(ValueError, match="uint16"):
        luma_bt601(np.zeros((4, 4), np.uint16))  # type: ignore[arg-type]


def bicubic_figures(pictures: list[np.ndarray]) -> tuple[float, float]:
    """Mean luma PSNR and SSIM of pictures that were reduced 4 times and enlarged again."""
    psnrs, ssims = [], []
    for picture in pictures:
        original = mod_crop(picture, 4)
        height, width = original.shape[:2]
        reduced = resize_bicubic(original, height // 4, width // 4)
        enlarged = resize_bicubic(reduced, height, width)
        psnrs.append(psnr_y(enlarged, original))
        ssims.append(ssim_y(enlarged, original))
    return float(np.mean(psnrs)), float(np.mean(ssims))


def test_bicubic_figures_of_a_generated_picture(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Guards the whole chain where the benchmark sets are absent; figures by this same code."""
    db, similarity = bicubic_figures([pair[0]])
    assert db == pytest.approx(42.434, abs=0.005)
    assert similarity == pytest.approx(0.9977, abs=0.0005)


@pytest.mark.parametrize(
    ("name", "count", "db", "similarity"),
    [("Set5", 5, 28.43, 0.811), ("Set14", 14, 26.09, 0.705), ("BSD100", 100, 25.96, 0.668)],
)
def test_bicubic_reproduces_the_published_figures(
    name: str, count: int, db: float, similarity: float
) -> None:
    folder = SHARED / "data" / "bench" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; set SRTRT_SHARED to the folder that holds data/bench")
    pictures = []
    for path in sorted(folder.iterdir()):
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        pictures.append(picture if picture.ndim == 2 else picture[..., 2::-1])
    assert len(pictures) == count
    measured = bicubic_figures(pictures)
    assert round(measured[0], 2) == db
    assert round(measured[1], 3) == similarity


def meshed(
    picture: np.ndarray, levels: int, period: int, *, down: bool, across: bool
) -> np.ndarray:
    """A picture of mid-tones with a pattern of +-``levels`` added."""
    row, column = np.indices(picture.shape[:2]) * 2 // period
    sign = 1 - 2 * ((row * down + column * across) % 2)
    return np.clip(picture + levels * sign[..., None], 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (21, 40)])
@pytest.mark.parametrize(("down", "across"), [(True, False), (False, True), (True, True)])
def test_a_mesh_of_two_pixels_counts_with_its_square(
    size: tuple[int, int], down: bool, across: bool
) -> None:
    plain = np.full((*size, 3), (30, 90, 200), np.uint8)
    for levels in (1, 4):
        mesh = meshed(plain, levels, 2, down=down, across=across)
        assert near_nyquist_energy(mesh) == pytest.approx(levels**2, rel=0.1)
        assert near_nyquist_excess(mesh, plain) == pytest.approx(levels**2, rel=0.1)
        assert near_nyquist_excess(plain, mesh) == 0
        wide = meshed(plain, levels, 4, down=down, across=across)
        assert near_nyquist_energy(wide) < 0.02 * levels**2


def test_a_mesh_is_seen_in_a_photo_that_detail_is_missing_from() -> None:
    photo = read_pictures()[0][:96, :96]
    soft = resize_bicubic(resize_bicubic(photo, 24, 24), 96, 96)
    mesh = soft.copy()
    mesh[:, 48:] = meshed(soft[:, 48:], 3, 2, down=True, across=True)
    assert near_nyquist_energy(soft) < 0.03 < near_nyquist_energy(photo)
    assert near_nyquist_energy(mesh) == pytest.approx(4.5, rel=0.2)
    assert near_nyquist_excess(mesh, photo) > 20 * near_nyquist_excess(soft, photo)


def test_near_nyquist_energy_of_noise_is_its_share_of_the_spectrum() -> None:
    noise = np.random.default_rng(1).normal(128, 20, (400, 400, 3)).round().astype(np.uint8)
    assert near_nyquist_energy(noise) == pytest.approx(0.18 * 400, rel=0.05)
    assert near_nyquist_energy(noise[..., 0]) == pytest.approx(0.18 * 400, rel=0.05)


@settings(max_examples=50, deadline=None)
@given(a=arrays(np.uint8, (21, 40, 3)), b=arrays(np.uint8, (21, 40, 3)), shift=st.integers(-20, 20))
def test_rules_of_energy_and_bias(a: np.ndarray, b: np.ndarray, shift: int) -> None:
    assert near_nyquist_excess(a, a) == 0
    excess = near_nyquist_excess(a, b)
    assert 0 <= excess <= near_nyquist_energy(a)
    assert excess >= near_nyquist_energy(a) - near_nyquist_energy(b) - 1e-9
    np.testing.assert_allclose(colour_bias(a, b), -colour_bias(b, a))
    tinted = np.clip(a // 2 + 50, 0, 255).astype(np.uint8)
    moved = (tinted.astype(int) + np.array([shift, 0, -shift])).astype(np.uint8)
    np.testing.assert_allclose(colour_bias(moved, tinted), (shift, 0, -shift), atol=1e-12)
    assert near_nyquist_energy(moved) == pytest.approx(near_nyquist_energy(tinted), abs=1e-9)


def test_colour_bias_leaves_the_border_out() -> None:
    hr = np.full((20, 20, 3), 100, np.uint8)
    sr = hr.copy()
    sr[:4], sr[:, -4:] = 255, 0
    assert colour_bias(sr, hr).tolist() == [0, 0, 0]
    assert colour_bias(sr, hr, border=0)[1] != 0


def test_pictures_that_do_not_fit_are_refused() -> None:
    rgb = np.zeros((24, 24, 3), np.uint8)
    with pytest.raises(ValueError, match="differ in shape"):
        near_nyquist_excess(rgb, rgb[1:])
    with pytest.raises(ValueError, match="at least 20x20"):
        near_nyquist_energy(rgb[:19])
    with pytest.raises(ValueError, match="expected uint8"):
        near_nyquist_energy(rgb.astype(float))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected \[H, W, 3\]"):
        colour_bias(rgb[..., 0], rgb[..., 0])
