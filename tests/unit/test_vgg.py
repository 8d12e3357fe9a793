"""The content network: values, layouts, layers, errors and the download."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from srtrt.datasets import list_images, read_rgb8
from srtrt.errors import InputError, ModelError
from srtrt.networks import vgg
from srtrt.networks.vgg import LAYERS, VggFeatures, load_vgg

TORCHVISION = {
    "block1_conv1": (0, 3, 64),
    "block1_conv2": (2, 64, 64),
    "block2_conv1": (5, 64, 128),
    "block2_conv2": (7, 128, 128),
    "block3_conv1": (10, 128, 256),
}
NORMALISED = dict(zip(TORCHVISION, (2, 5, 9, 12, 16), strict=True))
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

State = dict[str, Tensor]


def weights(position: int, inputs: int, outputs: int, prefix: str = "") -> State:
    scale = (9 * inputs) ** -0.5
    return {
        f"{prefix}{position}.weight": 2 * scale * torch.randn(outputs, inputs, 3, 3),
        f"{prefix}{position}.bias": 0.1 * torch.randn(outputs),
    }


def torchvision_state(deepest: str, prefix: str = "features.") -> State:
    torch.manual_seed(0)
    state: State = {}
    for layer in list(TORCHVISION)[: list(TORCHVISION).index(deepest) + 1]:
        state |= weights(*TORCHVISION[layer], prefix)
    return state


def normalised_state(deepest: str) -> State:
    torch.manual_seed(0)
    state = {"0.weight": torch.randn(3, 3, 1, 1), "0.bias": torch.randn(3)}
    for layer in list(TORCHVISION)[: list(TORCHVISION).index(deepest) + 1]:
        state |= weights(NORMALISED[layer], *TORCHVISION[layer][1:])
    return state


def saved(folder: Path, state: object, name: str = "weights.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


def through_torchvision(state: State, picture: Tensor, layer: str) -> Tensor:
    x = (picture - MEAN) / STD
    for name in list(TORCHVISION)[: list(TORCHVISION).index(layer) + 1]:
        if name in ("block2_conv1", "block3_conv1"):
            x = F.max_pool2d(x, 2)
        key = f"features.{TORCHVISION[name][0]}"
        x = F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=1).clamp_min(0)
    return x


def through_normalised(state: State, picture: Tensor, layer: str) -> Tensor:
    matrix, offset = state["0.weight"][:, :, 0, 0], state["0.bias"].view(1, 3, 1, 1)
    x = torch.einsum("oc,nchw->nohw", matrix, picture) + offset
    for name in list(NORMALISED)[: list(NORMALISED).index(layer) + 1]:
        if name in ("block2_conv1", "block3_conv1"):
            x = F.max_pool2d(x, 2, ceil_mode=True)
        key = str(NORMALISED[name])
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        x = F.conv2d(padded, state[f"{key}.weight"], state[f"{key}.bias"]).clamp_min(0)
    return x


@pytest.mark.parametrize("prefix", ["features.", ""])
@pytest.mark.parametrize("layer", ["block1_conv1", "block1_conv2", "block2_conv2"])
def test_torchvision_weights_give_the_activations_of_the_layer(
    tmp_path: Path, layer: str, prefix: str
) -> None:
    state = torchvision_state("block3_conv1", prefix)
    net = load_vgg(saved(tmp_path, state), layer)
    picture = torch.rand(2, 3, 21, 30)
    expected = through_torchvision(torchvision_state("block3_conv1"), picture, layer)
    assert expected.std() > 0.1
    torch.testing.assert_close(net(picture), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", ["block1_conv1", "block1_conv2", "block2_conv2", "block3_conv1"])
def test_normalised_weights_give_the_activations_of_the_layer(tmp_path: Path, layer: str) -> None:
    state = normalised_state("block3_conv1")
    net = load_vgg(saved(tmp_path, state), layer)
    picture = torch.rand(2, 3, 21, 30)
    expected = through_normalised(state, picture, layer)
    assert expected.std() > 0.1
    torch.testing.assert_close(net(picture), expected, rtol=1e-4, atol=1e-4)


def test_positions_are_those_of_torchvision_down_to_the_last_layer() -> None:
    net = VggFeatures(LAYERS[-1])
    positions = [i for i, part in enumerate(net.features) if isinstance(part, torch.nn.Conv2d)]
    assert positions == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    assert net.state_dict()["features.34.weight"].shape == (512, 512, 3, 3)
    assert (len(LAYERS), LAYERS[0], LAYERS[-1]) == (16, "block1_conv1", "block5_conv4")


@pytest.mark.parametrize("state_of", [torchvision_state, normalised_state])
def test_gradients_flow_to_the_input_only(tmp_path: Path, state_of: Any) -> None:
    net = load_vgg(saved(tmp_path, state_of("block2_conv1")), "block2_conv1")
    picture = torch.rand(1, 3, 16, 16, requires_grad=True)
    net.train()(picture).square().mean().backward()
    assert picture.grad is not None
    assert picture.grad.abs().mean() > 1e-6
    assert not net.training
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert not any(buffer.requires_grad for buffer in net.buffers())


@pytest.mark.parametrize("state_of", [torchvision_state, normalised_state])
def test_channels_last_and_autocast_change_little(tmp_path: Path, state_of: Any) -> None:
    net = load_vgg(saved(tmp_path, state_of("block2_conv1")), "block2_conv1")
    picture = torch.rand(2, 3, 32, 32)
    expected = net(picture)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    channels_last = net(picture.contiguous(memory_format=torch.channels_last))
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last, expected, rtol=1e-4, atol=1e-4)
    leaf = picture.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        half = net(leaf)
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().mean() < 0.01 * expected.abs().mean()
    half.float().mean().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0


def test_the_normalised_file_has_mean_activations_of_about_one(shared: Path) -> None:
    file = shared / "perceptual" / "vgg19_normalised_conv3_1.pth"
    net = load_vgg(file, "block3_conv1")
    state = torch.load(file, weights_only=True)
    pictures = [
        torch.tensor(read_rgb8(path)).permute(2, 0, 1)[None] / 255
        for path in list_images([shared / "bench" / "Set5"])
    ]
    crops = torch.cat([picture[..., :97, :97] for picture in pictures])
    features = net(crops)
    assert features.shape == (5, 256, 25, 25)
    expected = through_normalised(state, crops, "block3_conv1")
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)
    # Its authors scaled every channel to a mean activation of 1; wrong colours give less.
    assert 0.8 < features.mean() < 1.2
    with pytest.raises(
        ModelError, match=r"up to block3_conv1; loss\.content_layer is block3_conv3"
    ):
        load_vgg(file, "block3_conv3")


@pytest.mark.parametrize("state_of", [torchvision_state, normalised_state])
def test_a_layer_the_file_does_not_reach_is_named_with_the_deepest(
    tmp_path: Path, state_of: Any
) -> None:
    state = state_of("block2_conv1")
    with pytest.raises(
        ModelError, match=r"up to block2_conv1;.*Set loss\.content_layer to block2_conv1"
    ):
        load_vgg(saved(tmp_path, state), "block3_conv3")
    state.popitem()  # the bias of block2_conv1
    with pytest.raises(ModelError, match="up to block1_conv2;"):
        load_vgg(saved(tmp_path, state), "block2_conv1")


def test_an_unknown_layer_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'conv3_3'.*block1_conv1 to block5_conv4"):
        load_vgg(tmp_path / "absent.pth", "conv3_3")


def test_a_picture_too_small_for_the_layer_is_refused(tmp_path: Path) -> None:
    net = load_vgg(saved(tmp_path, normalised_state("block2_conv1")), "block2_conv1")
    assert net(torch.rand(1, 3, 3, 3)).shape == (1, 128, 2, 2)
    with pytest.raises(ModelError, match="9x2; block2_conv1 needs at least 3x3"):
        net(torch.rand(1, 3, 2, 9))
    with pytest.raises(ModelError, match="at least 4x4"):
        VggFeatures("block3_conv1")(torch.rand(1, 3, 3, 9))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    state = torchvision_state("block2_conv1")
    with_batch_norm = state | {"features.1.running_mean": torch.zeros(64)}
    sixteen_layers = state | {"features.17.weight": torch.zeros(512, 256, 3, 3)}
    wrong_shape = state | {"features.2.weight": torch.zeros(64, 64, 1, 1)}
    integers = state | {"features.2.weight": torch.zeros(64, 64, 3, 3, dtype=torch.int8)}
    for other, message in (
        (with_batch_norm, r"features\.1\.running_mean.*not vgg19_bn"),
        (sixteen_layers, r"features\.17\.weight.*not vgg16"),
        (wrong_shape, r"features\.2\.weight.*\[64, 64, 1, 1\]; expected floats \[64, 64, 3, 3\]"),
        (integers, r"int8"),
        ({"conv1.weight": torch.zeros(1)}, r"features\.0\.weight' of VGG19 is missing"),
        ({}, r"features\.0\.weight' of VGG19 is missing"),
    ):
        with pytest.raises(ModelError, match=message):
            load_vgg(saved(tmp_path, other), "block2_conv1")


class Innocent:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was_run"),)


def test_what_is_no_state_dict_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch_file = saved(tmp_path, torchvision_state("block1_conv1") | {"x": Innocent()}, "code.pth")
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(Innocent()))
    whole = saved(tmp_path, torchvision_state("block1_conv1"), "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("<html>404</html>")
    listed = saved(tmp_path, [torch.zeros(1)], "list.pth")
    names = ("code.pkl", "cut.pth", "empty.pth", "text.pth")
    for path in (torch_file, listed, *(tmp_path / name for name in names)):
        with pytest.raises(InputError, match=rf"{path.name}: not a PyTorch state dict"):
            load_vgg(path, "block1_conv1")
    assert not (tmp_path / "was_run").exists()
    for absent in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(InputError, match=r"(no such file|a folder).*vgg19-dcbb9e9d\.pth"):
            load_vgg(absent, "block1_conv1")


def no_network(*args: object, **options: object) -> None:
    raise URLError("Name or service not known")


def test_a_failed_download_says_which_file_to_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(InputError, match="Name or service not known") as failure:
        load_vgg(None, "block1_conv1")
    message = str(failure.value)
    assert "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth" in message
    assert str(tmp_path / "vgg" / "vgg19-dcbb9e9d.pth") in message
    assert "--vgg FILE" in message
    assert "truncated" in message


def test_a_file_of_another_checksum_in_the_cache_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    (tmp_path / "vgg").mkdir()
    saved(tmp_path / "vgg", torchvision_state("block1_conv1"), "vgg19-dcbb9e9d.pth")
    with pytest.raises(InputError, match="could not be downloaded"):
        load_vgg(None, "block1_conv1")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file at the end of a URL that needs no network, named after its checksum."""
    (tmp_path / "server").mkdir()
    file = saved(tmp_path / "server", torchvision_state("block1_conv2"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file = file.rename(file.with_name(f"small-{digest[:8]}.pth"))
    monkeypatch.setattr(vgg, "WEIGHTS_URL", file.as_uri())
    monkeypatch.setattr(vgg, "WEIGHTS_SHA256", digest)
    monkeypatch.delenv("SRTRT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return file


def test_weights_are_downloaded_once_and_checked(
    server: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = torch.rand(1, 3, 8, 8)
    expected = through_torchvision(torchvision_state("block1_conv2"), picture, "block1_conv2")
    cached = tmp_path / "xdg" / "srtrt" / "vgg" / server.name
    torch.testing.assert_close(load_vgg(None, "block1_conv2")(picture), expected)
    assert cached.read_bytes() == server.read_bytes()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "downloading" in captured.err

    cached.write_bytes(cached.read_bytes()[:1000])
    torch.testing.assert_close(load_vgg(None, "block1_conv2")(picture), expected)
    assert cached.read_bytes() == server.read_bytes()

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    torch.testing.assert_close(load_vgg(None, "block1_conv2")(picture), expected)


def test_a_download_of_another_checksum_is_refused(server: Path, tmp_path: Path) -> None:
    server.write_bytes(server.read_bytes() + b"x")
    with pytest.raises(InputError, match="invalid hash"):
        load_vgg(None, "block1_conv1")
    assert list((tmp_path / "xdg" / "srtrt" / "vgg").iterdir()) == []


def test_without_variables_the_cache_is_in_the_home_folder(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load_vgg(None, "block1_conv1")
    assert (tmp_path / "home" / ".cache" / "srtrt" / "vgg" / server.name).is_file()


def test_a_file_that_only_starts_with_the_right_checksum_is_refused(
    server: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digest = vgg.WEIGHTS_SHA256
    monkeypatch.setattr(vgg, "WEIGHTS_SHA256", digest[:8] + digest[:7:-1])
    for _ in range(2):
        with pytest.raises(InputError, match="could not be downloaded"):
            load_vgg(None, "block1_conv2")
    assert [path.name for path in (tmp_path / "xdg/srtrt/vgg").iterdir()] == []


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("sparse_coo", torch.zeros(64, 3, 3, 3).to_sparse()),
        ("on the device meta", torch.zeros(64, 3, 3, 3, device="meta")),
    ],
)
def test_tensors_without_plain_values_are_refused(
    tmp_path: Path, kind: str, tensor: Tensor
) -> None:
    state = {**torchvision_state("block1_conv1"), "features.0.weight": tensor}
    with pytest.raises(InputError, match=rf"'features\.0\.weight' is {kind}; expected plain"):
        load_vgg(saved(tmp_path, state), "block1_conv1")
