"""Degradations of training patches, on frames of the sample clip and on synthetic pictures."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from support import REPOSITORY
from torch import Tensor

from srtrt.datasets import list_images, read_rgb8
from srtrt.errors import TrainingError, UsageError
from srtrt.resample import bicubic_matrix, resize_bicubic
from srtrt.train.degrade import MARGIN, Degradation, DegradationConfig
from srtrt.train.degrade_codec import i420_to_rgb, rgb_to_i420

CPU = torch.device("cpu")
NOTHING: dict[str, Any] = {
    f"{name}_share": 0.0
    for name in (
        *("clean", "blur", "anisotropic", "area", "bilinear", "lanczos", "noise", "gray_noise"),
        *("codec", "hevc", "still", "jpeg", "chroma"),
    )
}
H264 = NOTHING | {"codec_share": 1.0, "h264_crf": (24.0, 24.0)}
HEVC = NOTHING | {"codec_share": 1.0, "hevc_share": 1.0, "hevc_crf": (24.0, 24.0)}
KINDS: dict[str, dict[str, Any]] = {
    "blur": NOTHING | {"blur_share": 1.0, "anisotropic_share": 0.5},
    "area": NOTHING | {"area_share": 1.0},
    "bilinear": NOTHING | {"bilinear_share": 1.0},
    "lanczos": NOTHING | {"lanczos_share": 1.0},
    "jpeg": NOTHING | {"jpeg_share": 1.0, "jpeg_quality": (80.0, 80.0)},
    "chroma": NOTHING | {"chroma_share": 1.0},
    "h264": H264,
    "hevc": HEVC,
}
MIXTURE = {"codec_share": 0.6, "hevc_share": 0.3}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On such small patches, threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def degradation(settings: dict[str, Any], patch: int = 32) -> Degradation:
    return Degradation(DegradationConfig(**settings), patch=patch, margin=MARGIN, device=CPU)


@functools.cache
def footage(number: int = 4, patch: int = 32) -> Tensor:
    """HR patches with their margin, float32 in 0..255, from the frames of the sample clip."""
    side = 4 * (patch + 2 * MARGIN)
    with av.open(str(REPOSITORY / "samples/rabbit.webm")) as clip:
        decoded = itertools.islice(clip.decode(video=0), number)
        frames = [frame.to_ndarray(format="rgb24") for frame in decoded]
    assert frames[0].shape[0] >= side
    cuts = []
    for i, frame in enumerate(frames):
        left = i * (frame.shape[1] - side) // max(1, number - 1)
        cut = frame[:side, left : left + side]
        cuts.append(cut[::-1] if i % 3 == 1 else cut.transpose(1, 0, 2) if i % 3 == 2 else cut)
    return torch.tensor(np.stack(cuts)).permute(0, 3, 1, 2).float()


def clean_lr(hr: Tensor) -> Tensor:
    side = hr.shape[-1] // 4
    shrink = torch.tensor(bicubic_matrix(4 * side, side)[MARGIN:-MARGIN], dtype=torch.float32)
    return (shrink @ hr @ shrink.T).round().clamp(0, 255)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(10 * torch.log10(255**2 / (a - b).square().mean()))


def blob(patch: int, sigma: float, grays: float = 240.0) -> Tensor:
    """A Gaussian spot in the centre of one HR patch; sigma in HR pixels."""
    side = 4 * (patch + 2 * MARGIN)
    line = torch.arange(side) + 0.5 - side / 2
    bell = torch.exp(-(line**2) / (2 * sigma**2))
    return (grays * bell * bell[:, None]).expand(1, 3, -1, -1).contiguous()


def spread(lr: Tensor) -> Tensor:
    """Covariance ``[2, 2]`` in HR pixels of a spot on black, without its centre's place."""
    weight = lr.mean((0, 1)).double() / lr.mean((0, 1)).sum()
    line = 4 * (torch.arange(lr.shape[-1], dtype=torch.float64) + 0.5 - lr.shape[-1] / 2)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    cross = (weight * rows * columns).sum()
    return torch.stack(
        [(weight * rows**2).sum(), cross, cross, (weight * columns**2).sum()]
    ).reshape(2, 2)


@pytest.mark.parametrize("settings", [MIXTURE, H264, HEVC], ids=["mixture", "h264", "hevc"])
def test_the_same_seed_gives_the_same_bits(settings: dict[str, Any]) -> None:
    hr = footage()
    before = hr.clone()
    one, other = degradation(settings), degradation(settings)
    results = [one(hr, seed) for seed in range(3)]
    for seed in [2, 2, 1, 2, 0, 2, 2]:
        assert torch.equal(other(hr, seed), results[seed])
    assert torch.equal(hr, before)
    assert not any(torch.equal(results[0], result) for result in results[1:])


@pytest.mark.parametrize("patch", [1, 21, 32])
def test_results_are_whole_numbers_of_the_right_shape(patch: int) -> None:
    hr = footage(3, patch)
    for settings in (MIXTURE, H264, HEVC):
        lr = degradation(settings, patch)(hr, 5)
        assert lr.shape == (3, 3, patch, patch)
        assert lr.dtype == torch.float32
        assert torch.equal(lr, lr.round())
        assert lr.min() >= 0
        assert lr.max() <= 255


def test_without_shares_it_is_the_bicubic_reduction() -> None:
    hr = footage()
    expected = clean_lr(hr)
    assert torch.equal(degradation(NOTHING)(hr, 0), expected)
    whole = hr[0].permute(1, 2, 0).numpy().astype(np.uint8)
    side = hr.shape[-1] // 4
    field = resize_bicubic(whole, side, side)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    gap = (torch.tensor(field).permute(2, 0, 1) - expected[0]).abs()
    assert gap.max() <= 1
    assert (gap > 0).float().mean() < 0.001


def test_the_clean_share_stays_clean_among_compressed_patches() -> None:
    hr = footage()
    expected = clean_lr(hr)
    lr = degradation(H264 | {"clean_share": 0.5})(hr, 1)
    equal = [torch.equal(a, b) for a, b in zip(lr, expected, strict=True)]
    assert 0 < sum(equal) < len(equal)
    assert torch.equal(degradation(H264 | {"clean_share": 1.0})(hr, 1), expected)


@pytest.mark.parametrize("patch", [21, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_moves(kind: str, patch: int) -> None:
    """The displacement against the clean LR, by least squares along the gradient."""
    hr = footage(patch=patch)
    clean = clean_lr(hr)
    down, right = torch.gradient(clean, dim=(2, 3))
    for seed in (0, 1):
        lr = degradation(KINDS[kind], patch)(hr, seed)
        assert not torch.equal(lr, clean)
        for slope in (down, right):
            moved = float((slope * (lr - clean)).sum() / slope.square().sum())
            assert abs(moved) < 0.05, f"{moved} LR pixels"


@pytest.mark.parametrize("kind", KINDS)
def test_a_spot_stays_where_it_is(kind: str) -> None:
    hr = blob(32, 14)
    lr = degradation(KINDS[kind])(hr, 3).mean((0, 1)).double()
    lr = (lr - 8).clamp(min=0)
    line = torch.arange(32) + 0.5 - 16
    for profile in (lr.sum(0), lr.sum(1)):
        assert abs(float((profile * line).sum() / profile.sum())) < 0.1


def test_what_lies_beyond_the_reach_does_not_matter() -> None:
    hr = footage()
    changed = torch.full_like(hr, 255.0)
    inner = slice(4 * MARGIN - 20, -(4 * MARGIN - 20))
    changed[:, :, inner, inner] = hr[:, :, inner, inner]
    kernels = {"area_share": 0.3, "bilinear_share": 0.3, "lanczos_share": 0.3, "noise_share": 0.5}
    sharp = degradation(NOTHING | kernels)
    assert torch.equal(sharp(hr, 4), sharp(changed, 4))
    blurred = degradation(NOTHING | kernels | {"blur_share": 1.0, "blur_sigma": (3.3, 3.3)})
    gap = (blurred(hr, 4) - blurred(changed, 4)).abs()
    assert gap.max() <= 1
    assert (gap > 0).float().mean() < 0.001


@pytest.mark.parametrize("settings", [H264, HEVC], ids=["h264", "hevc"])
def test_neighbours_in_the_mosaic_do_not_show(settings: dict[str, Any]) -> None:
    hr = footage()
    others = torch.cat([hr[:1], (255 - hr[1:]).flip(0)])
    clean = clean_lr(hr)[0]
    for seed in range(2):
        a, b = (degradation(settings)(batch, seed)[0] for batch in (hr, others))
        noise = (a - clean).square().mean().sqrt()
        assert (a - b).square().mean().sqrt() < noise
        assert abs(psnr(a, clean) - psnr(b, clean)) < 1.5


@pytest.mark.parametrize("settings", [H264, HEVC], ids=["h264", "hevc"])
def test_the_rim_of_a_patch_is_as_good_as_its_middle(settings: dict[str, Any]) -> None:
    hr = footage()
    clean = clean_lr(hr)
    error = sum((degradation(settings)(hr, seed) - clean).abs().mean((0, 1)) for seed in range(4))
    assert isinstance(error, Tensor)
    rim = torch.cat([error[:2].flatten(), error[-2:].flatten(), error[:, :2].flatten()])
    assert rim.mean() < 1.5 * error[4:-4, 4:-4].mean()


@pytest.mark.parametrize("kind", ["jpeg", "chroma", "h264", "hevc"])
def test_colours_keep_their_mean(kind: str) -> None:
    hr = footage()
    clean = clean_lr(hr)
    lr = torch.stack([degradation(KINDS[kind])(hr, seed) for seed in range(3)])
    assert (lr - clean).mean((0, 1, 3, 4)).abs().max() < 0.5


@pytest.mark.parametrize("kind", ["chroma", "h264", "hevc"])
def test_colours_of_many_pictures_keep_their_mean(shared: Path, kind: str) -> None:
    side = 4 * (32 + 2 * MARGIN)
    files = list_images([shared / "train"])[::48]
    crops = [read_rgb8(path)[:side, :side].transpose(2, 0, 1) for path in files]
    hr = torch.tensor(np.stack(crops)).float()
    shift = (degradation(KINDS[kind])(hr, 2) - clean_lr(hr)).mean((0, 2, 3))
    assert shift.abs().max() < 0.5


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_higher_crf_costs_quality(codec: str) -> None:
    hr = footage()
    clean = clean_lr(hr)
    quality = [
        psnr(degradation(KINDS[codec] | {f"{codec}_crf": (crf, crf)})(hr, 0), clean)
        for crf in (16.0, 24.0, 32.0, 40.0)
    ]
    assert all(a - b > 1 for a, b in itertools.pairwise(quality)), quality


def test_a_lower_jpeg_quality_costs_quality() -> None:
    hr = footage()
    clean = clean_lr(hr)
    quality = [
        psnr(degradation(NOTHING | {"jpeg_share": 1.0, "jpeg_quality": (q, q)})(hr, 0), clean)
        for q in (95.0, 70.0, 30.0)
    ]
    assert all(a - b > 1 for a, b in itertools.pairwise(quality)), quality


def test_motion_costs_quality() -> None:
    """Patches that stand still in the clip are predicted from themselves."""
    hr = footage()
    clean = clean_lr(hr)
    still = [psnr(degradation(H264 | {"still_share": 1.0})(hr, s), clean) for s in range(3)]
    moving = [psnr(degradation(H264 | {"speed": 1.5})(hr, s), clean) for s in range(3)]
    assert sum(still) > sum(moving)


def test_blur_has_the_width_that_was_asked_for() -> None:
    hr = blob(32, 8)
    sharp = spread(degradation(NOTHING)(hr, 0))
    once = NOTHING | {"blur_share": 1.0, "blur_sigma": (3.0, 3.0)}
    for seed in range(3):
        added = spread(degradation(once)(hr, seed)) - sharp
        assert torch.allclose(added, 9 * torch.eye(2, dtype=torch.float64), atol=0.6)
        stretched = once | {"anisotropic_share": 1.0, "anisotropy": (3.0, 3.0)}
        added = spread(degradation(stretched)(hr, seed)) - sharp
        widths = torch.linalg.eigvalsh(added)
        assert widths.tolist() == pytest.approx([1.0, 9.0], abs=0.6)


def test_blur_turns_to_every_side() -> None:
    hr = blob(32, 8).expand(8, -1, -1, -1).contiguous()
    settings = {"blur_share": 1.0, "anisotropic_share": 1.0, "anisotropy": (3.0, 3.0)}
    lr = degradation(NOTHING | settings | {"blur_sigma": (3.0, 3.0)})(hr, 0)
    slants = [float(spread(one[None])[0, 1]) for one in lr]
    assert min(slants) < -1
    assert max(slants) > 1


def test_noise_has_the_strength_that_was_asked_for() -> None:
    side = 4 * (32 + 2 * MARGIN)
    hr = torch.tensor([60.0, 180.0])[:, None, None, None].expand(2, 3, side, side).contiguous()
    fixed = NOTHING | {"noise_share": 1.0, "noise_sigma": (5.0, 5.0), "shot_gain": (0.0, 0.0)}
    noise = degradation(fixed)(hr, 0) - clean_lr(hr)
    assert noise.std((1, 2, 3)).tolist() == pytest.approx([5.0, 5.0], rel=0.06)
    assert noise.mean().abs() < 0.2
    assert abs(float(torch.corrcoef(noise[0].flatten(1))[0, 1])) < 0.15
    shot = fixed | {"noise_sigma": (0.0, 0.0), "shot_gain": (0.2, 0.2)}
    noise = degradation(shot)(hr, 0) - clean_lr(hr)
    assert noise.std((1, 2, 3)).tolist() == pytest.approx([12**0.5, 6.0], rel=0.06)
    gray = degradation(fixed | {"gray_noise_share": 1.0})(hr, 0)
    assert torch.equal(gray[:, 0], gray[:, 1])
    assert torch.equal(gray[:, 0], gray[:, 2])


def test_yuv_is_that_of_bt601_in_limited_range() -> None:
    colours = {(255, 0, 0): (81, 90, 240), (0, 255, 0): (145, 54, 34), (255, 255, 255): (235, 128)}
    for rgb, yuv in colours.items():
        picture = np.tile(np.array(rgb, np.float32)[:, None, None], (1, 8, 8))
        planes = rgb_to_i420(picture)
        assert planes.shape == (12, 8)
        assert tuple(planes[[0, 8, 10], 0])[: len(yuv)] == yuv
        assert np.abs(i420_to_rgb(planes) - picture).max() < 2


def test_chroma_stays_where_it_is() -> None:
    """A ramp of colour comes back in place: the chroma is sited the same way down and up."""
    ramp = np.linspace(40, 200, 32, dtype=np.float32)
    for line in (ramp, ramp[:, None]):
        picture = np.stack([np.broadcast_to(x, (32, 32)) for x in (line, 240 - line, line)])
        back = i420_to_rgb(rgb_to_i420(picture))
        assert np.abs(back - picture)[:, 3:-3, 3:-3].max() < 3
        assert np.abs((back - picture)[:, 3:-3, 3:-3].mean((1, 2))).max() < 0.5


def test_settings_survive_json() -> None:
    config = DegradationConfig(blur_sigma=(0.3, 1.5), codec_share=0.25)
    assert DegradationConfig(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clean_share", 1.2),
        ("codec_share", -0.1),
        ("noise_share", "much"),
        ("jpeg_share", True),
        ("hevc_share", float("nan")),
        ("blur_sigma", (1.0, 4.0)),
        ("blur_sigma", (0.0, 1.0)),
        ("anisotropy", (0.5, 2.0)),
        ("noise_sigma", (3.0, 1.0)),
        ("shot_gain", (-1.0, 1.0)),
        ("h264_crf", (18.0, 60.0)),
        ("hevc_crf", 30.0),
        ("jpeg_quality", (0.0, 50.0)),
        ("jpeg_quality", (10.0, 20.0, 30.0)),
        ("speed", 7.0),
        ("area_share", 0.9),
    ],
)
def test_wrong_settings_are_named(name: str, value: object) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(UsageError, match=rf"^{name}\b.*expected"):
        DegradationConfig(**settings)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        degradation(NOTHING)(footage(1, 31), 0)
    with pytest.raises(ValueError, match="margin"):
        Degradation(DegradationConfig(), patch=32, margin=2, device=CPU)


def test_a_missing_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"libx264", "mpeg4"})
    with pytest.raises(TrainingError, match=r"libx265.*codec_share"):
        degradation(HEVC)
    degradation(NOTHING)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_patches() -> None:
    hr = footage()
    config, device = DegradationConfig(codec_share=0.0), torch.device("cuda")
    there = Degradation(config, patch=32, margin=MARGIN, device=device)
    for seed in range(4):
        lr = there(hr.to(device), seed)
        assert lr.device.type == "cuda"
        assert torch.equal(lr, there(hr.to(device), seed))
        assert psnr(lr.cpu(), degradation({"codec_share": 0.0})(hr, seed)) > 50
