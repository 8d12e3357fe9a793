from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

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
