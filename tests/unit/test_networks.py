from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from networks import lively_generator

from srtrt.errors import InputError, ModelError
from srtrt.networks.checkpoint import parameter_counts
from srtrt.networks.discriminator import Discriminator
from srtrt.networks.generator import Generator, GeneratorConfig, Upsampler
from srtrt.networks.initialise import initialise_as_interpolation, initialise_plainly
from srtrt.networks.rewrites import InferenceGenerator, forward_with_folded_tail
from srtrt.networks.vgg import VggFeatures


def test_parameter_counts_are_those_of_the_report() -> None:
    assert parameter_counts(Generator()) == (1_550_531, 4_224)
    assert parameter_counts(Generator(GeneratorConfig(upsampler="nearest"))) == (2_039_555, 4_224)
    assert parameter_counts(Discriminator()) == (107_451_713, 3_840)
    assert parameter_counts(VggFeatures())[0] == 1_735_488


def test_cost_is_that_of_the_convolutions() -> None:
    for upsampler in get_args(Upsampler):
        net = Generator(GeneratorConfig(upsampler=upsampler, blocks=2, features=8))
        counted = 0

        def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
            nonlocal counted
            assert isinstance(layer, torch.nn.Conv2d)
            counted += layer.weight.numel() * output.shape[2] * output.shape[3]

        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(count)
        net.eval()(torch.rand(1, 3, 5, 6))
        assert counted == 30 * net.config.macs_per_lr_pixel
    assert GeneratorConfig().macs_per_lr_pixel == 2_218_176


def test_receptive_radius_of_sixteen_blocks_is_forty_pixels() -> None:
    assert GeneratorConfig().receptive_radius == 40


@pytest.mark.parametrize("upsampler", get_args(Upsampler))
def test_no_output_depends_on_input_beyond_the_receptive_radius(upsampler: str) -> None:
    config = GeneratorConfig(upsampler=upsampler, blocks=1, features=4)  # type: ignore[arg-type]
    radius = config.receptive_radius
    net = lively_generator(config).double()
    picture = torch.rand(1, 3, 5, 2 * radius + 4, dtype=torch.float64, requires_grad=True)
    net(picture)[..., :4].sum().backward()
    assert picture.grad is not None
    reach = picture.grad.abs().amax(dim=(0, 1, 2)).nonzero().max().item()
    assert radius - 1 <= reach <= radius


@pytest.mark.parametrize("upsampler", get_args(Upsampler))
@pytest.mark.parametrize("size", [(1, 1), (7, 12)])
def test_rewrites_are_exact(upsampler: str, size: tuple[int, int]) -> None:
    net = lively_generator(GeneratorConfig(upsampler=upsampler, blocks=2, features=16))  # type: ignore[arg-type]
    picture = torch.rand(2, 3, *size)
    with torch.no_grad():
        expected = net(picture)
        folded_tail = forward_with_folded_tail(net, picture)
        inference = InferenceGenerator(net)(picture)
    assert expected.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert expected.std() > 0.05
    assert (folded_tail - expected).abs().max() <= 1e-5
    assert (inference - expected).abs().max() <= 1e-5


def test_rewrites_are_exact_on_the_full_generator() -> None:
    net = lively_generator(GeneratorConfig())
    picture = torch.rand(1, 3, 16, 20)
    with torch.no_grad():
        assert (InferenceGenerator(net)(picture) - net(picture)).abs().max() <= 1e-5


def test_folded_tail_passes_the_gradient_of_the_original_weights() -> None:
    net = lively_generator(GeneratorConfig(blocks=1, features=4))
    picture, weights = torch.rand(1, 3, 6, 6), torch.rand(1, 3, 24, 24)
    gradients = []
    for forward in (net, lambda x: forward_with_folded_tail(net, x)):
        net.zero_grad()
        (forward(picture) * weights).sum().backward()
        assert net.tail.weight.grad is not None
        gradients.append(net.tail.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("upsampler", get_args(Upsampler))
def test_an_untrained_generator_enlarges_smoothly(upsampler: str) -> None:
    net = Generator(GeneratorConfig(upsampler=upsampler, blocks=2, features=16))  # type: ignore[arg-type]
    initialise_as_interpolation(net)
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    with torch.no_grad():
        output = net.eval()(ramp)
    expected = (torch.arange(128) + 0.5) / 4 - 0.5
    inner = slice(24, -24)
    error = (output[0, :, inner, inner] - expected[inner] / 31).abs().max()
    assert error < 0.02


def test_generator_settings_are_checked() -> None:
    with pytest.raises(ModelError, match="bilinear"):
        GeneratorConfig(upsampler="bilinear")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="unknown generator setting 'depth'"):
        GeneratorConfig.from_dict({"depth": 3})


def test_discriminator_gives_logits_and_names_a_wrong_size() -> None:
    judge = Discriminator(size=32)
    assert judge(torch.rand(2, 3, 32, 32)).shape == (2, 1)
    with pytest.raises(ModelError, match="48x32"):
        judge(torch.rand(1, 3, 32, 48))
    with pytest.raises(ModelError, match="100"):
        Discriminator(size=100)


def test_vgg_features_load_from_a_torchvision_state_dict(tmp_path: Path) -> None:
    vgg = VggFeatures()
    assert [i for i, layer in enumerate(vgg.features) if isinstance(layer, torch.nn.Conv2d)] == [
        0, 2, 5, 7, 10, 12, 14,
    ]  # fmt: skip
    state = {key: torch.full_like(value, 0.01) for key, value in vgg.state_dict().items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "vgg.pth")
    vgg.load_weights(tmp_path / "vgg.pth")
    assert vgg(torch.rand(1, 3, 32, 32)).shape == (1, 256, 8, 8)
    assert torch.all(vgg.state_dict()["features.14.weight"] == 0.01)
    assert not any(parameter.requires_grad for parameter in vgg.parameters())


def test_vgg_refuses_what_is_not_its_state_dict(tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ModelError, match=r"features\.0\.weight"):
        VggFeatures().load_weights(tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a PyTorch state dict"):
        VggFeatures().load_weights(tmp_path / "text.pth")
    with pytest.raises(InputError, match="no such file"):
        VggFeatures().load_weights(tmp_path / "absent.pth")


def test_plain_weights_are_drawn_as_keras_draws_them() -> None:
    torch.manual_seed(0)
    nets = (lively_generator(GeneratorConfig(blocks=2)), Discriminator(32))
    for net in nets:
        initialise_plainly(net)
        for name, parameter in net.named_parameters():
            layer = net.get_submodule(name.rpartition(".")[0])
            if isinstance(layer, torch.nn.BatchNorm2d):
                assert bool((parameter == float(name.endswith("weight"))).all())
            elif parameter.dim() == 1:
                assert not parameter.any(), "biases, and slopes of PReLU"
            else:
                taps = parameter[0, 0].numel()
                limit = (6 / (taps * (parameter.shape[0] + parameter.shape[1]))) ** 0.5
                assert 0.98 * limit < parameter.abs().max() <= limit * (1 + 1e-6)
                assert parameter.std().item() == pytest.approx(limit / 3**0.5, rel=0.1)
        statistics = {n: b for n, b in net.named_buffers() if "running" in n}
        assert all(bool((b == float("var" in n)).all()) for n, b in statistics.items())
