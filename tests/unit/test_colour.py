from __future__ import annotations

import numpy as np
import pytest

from srtrt.colour import YuvColour

# 100 % colour bars in 8-bit limited range, as the standards tabulate them.
BARS_601 = {
    (1, 1, 1): (235, 128, 128),
    (0, 0, 0): (16, 128, 128),
    (1, 0, 0): (81, 90, 240),
    (0, 1, 0): (145, 54, 34),
    (0, 0, 1): (41, 240, 110),
}
BARS_709 = {
    (1, 1, 1): (235, 128, 128),
    (1, 0, 0): (63, 102, 240),
    (0, 1, 0): (173, 42, 26),
    (0, 0, 1): (32, 240, 118),
}


@pytest.mark.parametrize(("matrix", "bars"), [("bt601", BARS_601), ("bt709", BARS_709)])
def test_colour_bars(matrix: str, bars: dict[tuple[int, ...], tuple[int, ...]]) -> None:
    table = YuvColour(matrix=matrix).rgb_to_yuv()  # type: ignore[arg-type]
    for rgb, yuv in bars.items():
        assert np.rint(table[:, :3] @ rgb + table[:, 3]).tolist() == list(yuv)


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
def test_the_way_back_is_the_inverse(matrix: str, full_range: bool) -> None:
    colour = YuvColour(matrix=matrix, full_range=full_range)  # type: ignore[arg-type]
    rgb = np.random.default_rng(0).random((3, 100))
    there, back = colour.rgb_to_yuv(), colour.yuv_to_rgb()
    yuv = there[:, :3] @ rgb + there[:, 3:]
    assert np.abs(back[:, :3] @ yuv + back[:, 3:] - rgb).max() < 1e-5
    white = there[:, :3] @ np.ones(3) + there[:, 3]
    assert np.allclose(white, [255 if full_range else 235, 128, 128], atol=1e-4)


@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
def test_chroma_of_a_ramp_stays_where_it_is(siting: str) -> None:
    """Chroma sampled from a linear ramp at its site and interpolated gives the ramp again."""
    colour = YuvColour(siting=siting)  # type: ignore[arg-type]
    offsets = {"left": (0.5, 0.0), "center": (0.5, 0.5), "topleft": (0.0, 0.0)}[siting]
    for axis, offset in enumerate(offsets):
        fine = np.arange(32, dtype=float)
        coarse = np.arange(16) * 2 + offset
        up = colour.chroma_up()[axis]
        for phase in (0, 1):
            found = up[phase] @ np.stack([coarse[0:-2], coarse[1:-1], coarse[2:]])
            assert np.allclose(found, fine[2 + phase : -2 : 2][: len(found)])
        down = colour.chroma_down()[axis]
        middle = range(1, 15)
        found = [down @ fine[2 * i - 1 : 2 * i + 2] for i in middle]
        assert np.allclose(found, coarse[1:15])
