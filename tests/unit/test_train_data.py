from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from srtrt.errors import TrainingError
from srtrt.resample import resize_bicubic
from srtrt.train.cache import open_cache
from srtrt.train.config import TrainConfig
from srtrt.train.data import Ahead, PatchBatches, WholeBatches, least_side
from srtrt.train.pictures import Pictures
from srtrt.train.sections import DataConfig

CPU = torch.device("cpu")
PLAIN = DataConfig(batch=6, patch=8, rescale=1.0, recolour=0.0)


def patches(folder: Path, config: DataConfig, seed: int = 3, **options: Any) -> PatchBatches:
    cache = open_cache(sorted(folder.iterdir()), least=least_side(config))
    return PatchBatches(cache, config, seed=seed, device=CPU, **options)


def as_uint8(pictures: torch.Tensor) -> np.ndarray:
    return np.rint(255 * pictures.permute(0, 2, 3, 1).numpy()).astype(np.uint8)


def test_patches_are_real_crops_with_a_real_neighbourhood(picture_folder: Path) -> None:
    """Undo flips and rotations by search: every HR patch lies in a picture, and its LR is the
    antialiased bicubic of a larger crop around it."""
    batch = patches(picture_folder, PLAIN).sample(11)
    images = [cv2.imread(str(f))[..., ::-1] for f in sorted(picture_folder.iterdir())]
    for hr, lr in zip(as_uint8(batch.hr), as_uint8(batch.lr), strict=True):
        assert any(_matches(image, hr, lr) for image in images)


def _matches(image: np.ndarray, patch: np.ndarray, small: np.ndarray) -> bool:
    for turns in range(4):
        for flip in (False, True):
            view = np.rot90(image[:, ::-1] if flip else image, turns)
            score = cv2.matchTemplate(np.ascontiguousarray(view), patch, cv2.TM_SQDIFF)
            top, left = np.unravel_index(score.argmin(), score.shape)
            if not np.array_equal(view[top : top + 32, left : left + 32], patch):
                continue
            around = view[top - 8 : top + 40, left - 8 : left + 40]
            assert around.shape == (48, 48, 3), "the margin lies inside the picture"
            expected = resize_bicubic(np.ascontiguousarray(around), 12, 12)[2:-2, 2:-2]
            return int(np.abs(expected.astype(int) - small).max()) <= 1
    return False


def test_a_batch_depends_on_seed_and_step_alone(picture_folder: Path) -> None:
    config = DataConfig(batch=4, patch=8)
    first, again = patches(picture_folder, config), patches(picture_folder, config)
    first.sample(5)
    assert torch.equal(first.sample(7).hr, again.sample(7).hr)
    assert not torch.equal(first.sample(7).hr, first.sample(8).hr)
    assert not torch.equal(first.sample(7).hr, patches(picture_folder, config, seed=4).sample(7).hr)
    ahead = Ahead(again)
    try:
        for step in (7, 8, 3):
            assert torch.equal(ahead.sample(step).lr, first.sample(step).lr)
    finally:
        ahead.close()


def test_processes_share_a_batch(picture_folder: Path) -> None:
    config = DataConfig(batch=4, patch=8, recolour=0.5)
    whole = patches(picture_folder, config).sample(2)
    for rank in range(2):
        part = patches(picture_folder, config, share=slice(rank, None, 2)).sample(2)
        assert torch.equal(part.hr, whole.hr[rank::2])
        assert torch.equal(part.lr, whole.lr[rank::2])


def test_rescaled_patches_are_antialiased_reductions(tmp_path: Path) -> None:
    """The samples of a picture are its coordinates, so a patch shows by how much it was reduced."""
    side = 250
    ramp = np.zeros((side, side, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(side)[:, None], np.arange(side)[None]
    cv2.imwrite(str(tmp_path / "ramp.png"), ramp[..., ::-1])
    config = DataConfig(batch=8, patch=8, rescale=0.5, recolour=0.0)
    batches = patches(tmp_path, config)
    steps = set()
    for step in range(40):
        hr = 255 * batches.sample(step).hr
        along = (hr[:, 0, 0] - hr[:, 0, -1]).abs().amax(1), (hr[:, 0, :, 0] - hr[:, 0, :, -1]).abs()
        slope = torch.maximum(along[0], along[1].amax(1)) / 31
        assert torch.all((slope - slope[0]).abs() < 0.1), "one scale for a batch"
        steps.add(round(float(slope[0]), 1))
    assert min(steps) == 1.0
    assert max(steps) == pytest.approx(2.0, abs=0.15)
    assert len(steps) == 5


def test_all_eight_orientations_occur(tmp_path: Path) -> None:
    ramp = np.zeros((48, 48, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(48)[:, None], 2 * np.arange(48)[None]
    cv2.imwrite(str(tmp_path / "ramp.png"), ramp[..., ::-1])
    config = DataConfig(batch=64, patch=8, rescale=1.0, recolour=0.0)
    seen = set()
    for patch in patches(tmp_path, config, seed=0).sample(0).hr:
        down = patch[:2, -1, 0] - patch[:2, 0, 0]
        right = patch[:2, 0, -1] - patch[:2, 0, 0]
        seen.add((*down.sign().int().tolist(), *right.sign().int().tolist()))
    assert len(seen) == 8


def test_recolouring_changes_the_range_of_whole_channels(picture_folder: Path) -> None:
    plain = patches(picture_folder, PLAIN).sample(0).hr
    always = DataConfig(batch=6, patch=8, rescale=1.0, recolour=1.0)
    maker = patches(picture_folder, always)
    changed = maker.sample(0).hr
    for before, after in zip(plain.flatten(0, 1), changed.flatten(0, 1), strict=True):
        gain, offset = np.polyfit(before.flatten().numpy(), after.flatten().numpy(), 1)
        assert -1.001 <= gain <= 1.001
        assert np.abs(gain * before.numpy() + offset - after.numpy()).max() <= 1 / 255

    channels = torch.cat([maker.sample(step).hr.flatten(0, 1) for step in range(20)])
    assert bool((channels == 0).all((1, 2)).any()), "flat black channels occur"
    assert bool((channels == 1).all((1, 2)).any()), "flat full channels occur"


def rendered_folder(folder: Path, sides: dict[str, tuple[int, int]]) -> Path:
    """Flat pictures, each of a grey level and a side in pixels."""
    for name, (level, side) in sides.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.full((side, side, 3), level, np.uint8))
    return folder


def test_a_share_of_the_patches_is_cut_from_rendered_pictures(tmp_path: Path) -> None:
    folder = rendered_folder(tmp_path, {"a": (0, 64), "b": (10, 64), "c": (200, 64)})
    config = DataConfig(batch=64, patch=8, rescale=1.0, recolour=0.0, rendered=0.25)
    maker = patches(folder, config, rendered=1)
    levels = [as_uint8(maker.sample(step).hr)[:, 0, 0, 0].tolist() for step in range(20)]
    drawn = [level for batch in levels for level in batch]
    assert {*drawn} == {0, 10, 200}
    assert 0.2 < drawn.count(200) / len(drawn) < 0.3
    assert 0.3 < drawn.count(0) / len(drawn) < 0.45


@pytest.mark.parametrize("sides", [(64, 48), (48, 64)], ids=["rendered small", "photos small"])
def test_what_is_too_small_for_a_size_is_replaced(tmp_path: Path, sides: tuple[int, int]) -> None:
    folder = rendered_folder(tmp_path, {"a": (0, sides[0]), "b": (200, sides[1])})
    config = DataConfig(batch=8, patch=6, rescale=0.75, recolour=0.0, rendered=0.5)
    maker = patches(folder, config, rendered=1)
    batches = [as_uint8(maker.sample(step).hr)[:, 0, 0, 0].tolist() for step in range(40)]
    kinds = [frozenset(batch) for batch in batches]
    assert frozenset({0, 200}) in kinds
    assert frozenset({0 if sides[0] > sides[1] else 200}) in kinds


def test_links_to_pictures_elsewhere_are_named_as_they_are_called(
    picture_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for picture in picture_folder.iterdir():
        (tmp_path / f"mine/linked-{picture.name}").symlink_to(picture)
    pictures = Pictures.open([tmp_path], TrainConfig(data=PLAIN))
    names = {f"linked-{picture.name}": picture for picture in picture_folder.iterdir()}
    sizes = {name: picture.stat().st_size for name, picture in names.items()}
    assert pictures.manifest()["files"] == sizes


def test_the_last_patches_of_a_run_are_larger(picture_folder: Path, tmp_path: Path) -> None:
    small = TrainConfig().with_settings(["data.patch=8", "data.batch=4", "schedule.length=10"])
    grown = small.with_settings(["data.final_patch=12", "data.final_patch_share=0.3"])
    pictures = Pictures.open([picture_folder], grown)
    assert pictures.cache.sha256 == Pictures.open([picture_folder], small).cache.sha256
    before, after = (pictures.batches(c, device=CPU, share=slice(None)) for c in (small, grown))
    assert [after.sample(step).lr.shape[-1] for step in range(10)] == [8] * 7 + [12] * 3
    assert [after.sample(step).hr.shape[-1] for step in (6, 7)] == [32, 48]
    assert torch.equal(after.sample(6).hr, before.sample(6).hr)
    # In epochs, the share is one of their updates: 3 pictures are one batch.
    epochs = grown.with_settings(["schedule.unit=epochs", "data.batch=3", "schedule.length=20"])
    maker = pictures.batches(epochs, device=CPU, share=slice(None))
    assert [maker.sample(step).lr.shape[-1] for step in (13, 14)] == [8, 12]
    huge = grown.with_settings(["data.final_patch=400"])
    with pytest.raises(TrainingError, match=r"400 LR pixels need pictures of 1624 pixels; .* has"):
        pictures.batches(huge, device=CPU, share=slice(None))


@pytest.fixture
def three_kinds(tmp_path: Path) -> Path:
    """Of 20 pictures 10 are smooth, 9 show edges, and one is noise; their red says which."""
    folder, draws = tmp_path / "kinds", np.random.default_rng(1)
    folder.mkdir()
    side = 120
    ramp = np.linspace(100, 110, side)[None, :, None]
    bars = 100.0 + 10 * (np.arange(side) // 8 % 2)[None, :, None]
    noise = draws.uniform(0, 255, (side, side, 1))
    for number in range(20):
        kind = 0 if number < 10 else 1 if number < 19 else 2
        picture = np.broadcast_to([ramp, bars, noise][kind], (side, side, 3)).copy()
        picture[..., 2] = (0, 128, 255)[kind]
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


def shares_of(folder: Path, hard_share: float) -> list[float]:
    config = DataConfig(batch=64, patch=8, rescale=1.0, recolour=0.0, hard_share=hard_share)
    batches = patches(folder, config)
    reds = torch.cat([(255 * batches.sample(s).hr[:, 0]).mean((1, 2)).round() for s in range(20)])
    return [float((reds == red).float().mean()) for red in (0, 128, 255)]


def test_hard_crops_are_drawn_more_often_and_the_worst_are_not(three_kinds: Path) -> None:
    plain, chosen = shares_of(three_kinds, 0.0), shares_of(three_kinds, 1.0)
    assert plain == pytest.approx([0.5, 0.45, 0.05], abs=0.04)
    # Of two crops the harder one: smooth where both are smooth or the other is noise.
    assert chosen == pytest.approx([0.5**2 + 0.05, 0.7, 0.0025], abs=0.04)
    half = shares_of(three_kinds, 0.5)
    assert half == pytest.approx(
        [(a + b) / 2 for a, b in zip(plain, chosen, strict=True)], abs=0.05
    )


def test_hard_crops_leave_the_share_of_rendered_pictures(three_kinds: Path) -> None:
    """The rendered pictures, last in the order of names, are the hardest."""
    rename = {f"{n}.png": f"{n:02d}.png" for n in range(20)}
    for old, new in rename.items():
        (three_kinds / old).rename(three_kinds / new)
    config = DataConfig(
        batch=64, patch=8, rescale=1.0, recolour=0.0, rendered=0.2, hard_share=1.0
    )  # fmt: skip
    maker = patches(three_kinds, config, rendered=10)
    reds = torch.cat([(255 * maker.sample(s).hr[:, 0]).mean((1, 2)).round() for s in range(20)])
    shares = [float((reds == red).float().mean()) for red in (0, 128, 255)]
    assert shares[0] == pytest.approx(0.8, abs=0.04)
    assert shares[2] < 0.2 * 0.1


def test_hard_crops_are_the_same_in_every_run_and_process(picture_folder: Path) -> None:
    config = DataConfig(batch=6, patch=8, hard_share=0.7)
    maker = patches(picture_folder, config)
    whole = [maker.sample(step) for step in range(8)]
    for step in (5, 2, 7):
        again = patches(picture_folder, config).sample(step)
        assert torch.equal(again.lr, whole[step].lr)
        for rank in range(3):
            part = patches(picture_folder, config, share=slice(rank, None, 3)).sample(step)
            assert torch.equal(part.hr, whole[step].hr[rank::3])
    plain = patches(picture_folder, DataConfig(batch=6, patch=8))
    kept = [(a.hr == plain.sample(s).hr).flatten(1).all(1) for s, a in enumerate(whole)]
    assert 0.3 < float(torch.cat(kept).float().mean()) < 0.9, "the rest is as without it"


def test_whole_pictures_come_in_shuffled_epochs(picture_folder: Path) -> None:
    config = TrainConfig(data=DataConfig(mode="whole", batch=2, patch=14, rescale=1, recolour=0))
    pictures = Pictures.open([picture_folder], config)
    batches = pictures.batches(config, device=CPU, share=slice(None))
    assert isinstance(batches, WholeBatches)
    assert batches.steps_per_epoch == 2
    files = sorted(picture_folder.iterdir())
    expected = [
        cv2.resize(cv2.imread(str(f))[..., ::-1], (56, 56), interpolation=cv2.INTER_CUBIC)
        for f in files
    ]
    orders = set()
    for epoch in range(6):
        order = []
        for step in (2 * epoch, 2 * epoch + 1):
            batch = batches.sample(step)
            for hr, lr in zip(as_uint8(batch.hr), as_uint8(batch.lr), strict=True):
                which = [i for i, e in enumerate(expected) if np.array_equal(e, hr)]
                assert len(which) == 1
                order += which
                small = cv2.resize(hr, (14, 14), interpolation=cv2.INTER_CUBIC)
                assert np.array_equal(small, lr)
        assert sorted(order[:3]) == [0, 1, 2], "an epoch holds every picture"
        orders.add(tuple(order[:3]))
    assert len(orders) > 1


def test_the_degradation_of_video_reaches_the_batches(picture_folder: Path, tmp_path: Path) -> None:
    pictures = [cv2.imread(str(f)) for f in sorted(picture_folder.iterdir())]
    cv2.imwrite(str(tmp_path / "large.png"), np.hstack([np.vstack([p, p[::-1]]) for p in pictures]))
    settings = ["data.degradation=video", "data.patch=16", "data.batch=4", "degrade.clean_share=0"]
    config = TrainConfig().with_settings(settings)
    clean = TrainConfig().with_settings([*settings[1:], "data.degradation=bicubic"])
    makers = [
        Pictures.open([tmp_path], c).batches(c, device=CPU, share=slice(None))
        for c in (config, clean)
    ]
    degraded, again = makers[0].sample(3), makers[0].sample(3)
    assert degraded.lr.shape == makers[1].sample(3).lr.shape == (4, 3, 16, 16)
    assert torch.equal(degraded.lr, again.lr)
    small = torch.nn.functional.avg_pool2d(degraded.hr, 4)
    difference = (degraded.lr - small).abs().mean()
    assert 0.003 < difference < 0.1
    assert abs(float((degraded.lr - small).mean())) < 0.01
