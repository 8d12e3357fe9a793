"""Both discriminators: shared convolutions, shapes, reach, gradients."""

from __future__ import annotations

from math import ceil

import pytest
import torch
from torch.nn import functional as F

from srtrt.errors import ModelError
from srtrt.networks.checkpoint import parameter_counts
from srtrt.networks.discriminator import Discriminator, PatchDiscriminator


def test_both_heads_share_the_convolutions() -> None:
    dense, patch = Discriminator(16), PatchDiscriminator()
    assert parameter_counts(dense.features) == parameter_counts(patch.features)
    convolutions, statistics = parameter_counts(patch.features)
    assert statistics == 3_840
    assert parameter_counts(patch)[0] - convolutions == 512 * 1024 + 1024 + 1024 + 1
    assert parameter_counts(patch)[0] == 5_215_553
    patch.features.load_state_dict(dense.features.state_dict())
    pictures = torch.rand(2, 3, 16, 16)
    assert torch.equal(dense.features(pictures), patch.features(pictures))


def test_the_convolutions_have_the_kernels_and_strides_of_the_paper() -> None:
    kernels = [
        (part.out_channels, part.stride[0])
        for part in PatchDiscriminator(4).features
        if isinstance(part, torch.nn.Conv2d)
    ]
    assert kernels == [(4, 1), (4, 2), (8, 1), (8, 2), (16, 1), (16, 2), (32, 1), (32, 2)]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (33, 96), (100, 45)])
def test_one_logit_per_region_at_any_size(height: int, width: int) -> None:
    logits = PatchDiscriminator(4)(torch.rand(2, 3, height, width))
    assert logits.shape == (2, 1, ceil(height / 16), ceil(width / 16))


def test_logits_have_no_sigmoid() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(8)
    with torch.no_grad():
        judge.classifier[-1].weight.mul_(1000)
        logits = judge(torch.rand(4, 3, 64, 64))
    assert logits.min() < -1
    assert logits.max() > 1


def test_a_logit_sees_61_pixels_around_the_first_of_its_region() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(4).double().eval()
    picture = torch.rand(1, 3, 112, 128, dtype=torch.float64, requires_grad=True)
    judge(picture)[0, 0, 3, 4].backward()
    assert picture.grad is not None
    seen = picture.grad.abs().sum(dim=(0, 1)).nonzero()
    assert seen.amin(0).tolist() == [48 - 30, 64 - 30]
    assert seen.amax(0).tolist() == [48 + 30, 64 + 30]


@pytest.mark.parametrize("size", [(32, 32), (35, 50)])
def test_gradients_reach_every_parameter_and_the_picture(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(4)
    pictures = torch.rand(2, 3, *size, requires_grad=True)
    logits = judge(pictures)
    F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
    assert pictures.grad is not None
    assert (pictures.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
    for name, parameter in judge.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for head in (judge.features[0], judge.classifier[0], judge.classifier[-1]):
        assert head.weight.grad.abs().max() > 0


def test_what_it_cannot_judge_is_refused() -> None:
    judge = PatchDiscriminator(4)
    with pytest.raises(ModelError, match="20x15; expected at least 16x16"):
        judge(torch.rand(2, 3, 15, 20))
    with pytest.raises(ModelError, match="one picture of 16x16"):
        judge(torch.rand(1, 3, 16, 16))
    assert judge.eval()(torch.rand(1, 3, 16, 16)).shape == (1, 1, 1, 1)
    with pytest.raises(ModelError, match="0 features"):
        PatchDiscriminator(0)
