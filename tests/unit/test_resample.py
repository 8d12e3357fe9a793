from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from srtrt.resample import bicubic_matrix, resize_bicubic, resize_bicubic_rows

SIZES = [(1, 4), (4, 1), (1, 1), (7, 7), (5, 20), (20, 5), (13, 31), (31, 13), (3, 100), (100, 3)]


def texture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize(("in_size", "out_size"), SIZES)
def test_rows_sum_to_one_and_the_matrix_is_symmetric_in_direction(
    in_size: int, out_size: int
) -> None:
    matrix = bicubic_matrix(in_size, out_size)
    assert matrix.shape == (out_size, in_size)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)


def test_same_size_changes_nothing() -> None:
    np.testing.assert_allclose(bicubic_matrix(9, 9), np.eye(9), atol=1e-12)


def test_weights_of_a_doubling_are_those_of_keys_kernel() -> None:
    """At a distance of 0.25, 0.75, 1.25 and 1.75 the kernel with a = -0.5 has these values."""
    row = bicubic_matrix(8, 16)[8]
    expected = [0, 0, -0.0234375, 0.2265625, 0.8671875, -0.0703125, 0, 0]
    np.testing.assert_allclose(row, expected, atol=1e-12)


def test_borders_reflect_with_the_edge_sample_repeated() -> None:
    ramp = np.arange(6.0)
    mirrored = np.concatenate([ramp[::-1], ramp, ramp[::-1]])
    inside = bicubic_matrix(18, 72)[24:48] @ mirrored
    np.testing.assert_allclose(bicubic_matrix(6, 24) @ ramp, inside, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(15, 20), (120, 160), (41, 77)])
def test_interior_equals_pillow(height: int, width: int) -> None:
    """Pillow uses the same kernel, but leaves samples beyond the border out."""
    source = texture(60, 80, 1)[..., 0].astype(np.float32)
    pillow = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.BICUBIC))
    ours = resize_bicubic_rows(source, height, width)
    edge_y, edge_x = (3 * max(1, -(-size // side)) for size, side in ((height, 60), (width, 80)))
    inner = np.s_[edge_y : height - edge_y, edge_x : width - edge_x]
    assert ours[inner].size > 20
    np.testing.assert_allclose(ours[inner], pillow[inner], atol=2e-3)


def test_result_is_rounded_once_and_clamped() -> None:
    image = texture(24, 36)
    vertical, horizontal = bicubic_matrix(24, 6), bicubic_matrix(36, 9)
    exact = np.einsum("yh,hwc,xw->yxc", vertical, image.astype(np.float64), horizontal)
    expected = np.clip(np.rint(exact), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(resize_bicubic(image, 6, 9), expected)
    edge = np.zeros((4, 8), np.uint8)
    edge[:, 4:] = 255
    enlarged = resize_bicubic(edge, 16, 32)
    assert enlarged.min() == 0
    assert enlarged.max() == 255


def test_16_bit_samples_keep_their_depth() -> None:
    image = texture(8, 8, 1)[..., 0].astype(np.uint16) * 257
    enlarged = resize_bicubic(image, 32, 32)
    assert enlarged.dtype == np.uint16
    small = resize_bicubic((image // 257).astype(np.uint8), 32, 32)
    assert np.abs(enlarged / 257.0 - small).max() <= 0.51


def test_strips_join_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    image = texture(17, 23)
    whole = resize_bicubic(image, 68, 92)
    monkeypatch.setattr("srtrt.resample._STRIP_SAMPLES", 1000)
    np.testing.assert_array_equal(resize_bicubic(image, 68, 92), whole)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        bicubic_matrix(0, 4)
    with pytest.raises(ValueError, match="float32"):
        resize_bicubic(np.zeros((4, 4), np.float32), 8, 8)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="0x8"):
        resize_bicubic(np.zeros((4, 4), np.uint8), 8, 0)
