"""Constants of the rewrites are the same bits on every machine."""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from srtrt.canonical import graph_sha256
from srtrt.export.onnx_graph import network_graph
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.networks.generator import Generator, GeneratorConfig, Upsampler
from srtrt.networks.rewrites import REWRITES, batchnorm_gain, fold_batchnorm, fold_tail
from srtrt.runtime.models import bundled_models, find_model

GOLDEN: dict[int, dict[str, str]] = {
    1: {
        "pixelshuffle": "40ab4bfa40165a345e758e2ca508d3aba336a55fee1636d5701a44e0bbb73e40",
        "nearest": "dff968a92f80cd97bb52fc3df0492c1ced2dd9ed5e60a305e6a2e2197716b031",
        "pixelshuffledirect": "77a8a8aed75f260ea575395ccfd5e987a5d8028fc14cc028f3db825997d4869e",
    },
}
"""Identity of the graph of :func:`fixed_generator` by version of the rewrites and upsampler."""

_parameters = st.tuples(
    st.floats(-16.0, 16.0, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-60),
    st.floats(2.0**-30, 2.0**30, width=32),
    st.floats(-4.0, 4.0, width=32),
)
"""gamma, variance and another parameter of a channel."""


def exact_gain(gamma: float, variance: float) -> float:
    """gamma / sqrt(variance + 1e-5), each operation rounded once to float64, without hardware."""
    total = float(Fraction(variance) + Fraction(1e-5))
    root = float(Decimal(total).sqrt(Context(prec=60)))
    return float(Fraction(gamma) / Fraction(root))


def with_parameters(gamma: list[float], variance: list[float]) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(gamma))
    assert norm.running_var is not None
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(gamma))
        norm.running_var.copy_(torch.tensor(variance))
    return norm


@given(st.lists(_parameters, min_size=1, max_size=64))
def test_folding_rounds_as_ieee_754_says(channels: list[tuple[float, float, float]]) -> None:
    gamma, variance, values = (list(column) for column in zip(*channels, strict=True))
    norm, conv = with_parameters(gamma, variance), nn.Conv2d(1, len(gamma), 1)
    assert conv.bias is not None
    assert norm.running_mean is not None
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(values)[:, None, None, None])
        conv.bias.copy_(torch.tensor(values))
        norm.running_mean.copy_(torch.tensor(gamma))
        norm.bias.copy_(torch.tensor(values))
    gains = [exact_gain(*pair) for pair in zip(gamma, variance, strict=True)]
    assert batchnorm_gain(norm).tolist() == gains
    folded = fold_batchnorm(conv, norm)
    assert folded.bias is not None
    weight, bias = [], []
    for gain, value, mean in zip(gains, values, gamma, strict=True):
        weight.append(np.float32(float(Fraction(gain) * Fraction(value))))
        product = float(Fraction(float(Fraction(value) - Fraction(mean))) * Fraction(gain))
        bias.append(np.float32(float(Fraction(product) + Fraction(value))))
    np.testing.assert_array_equal(folded.weight.detach().numpy().ravel(), weight)
    np.testing.assert_array_equal(folded.bias.detach().numpy(), bias)


def test_the_values_would_show_a_root_that_is_off_by_a_bit() -> None:
    """What PyTorch may call is such a root; on 30,000 usual variances it must be seen."""
    chance = np.random.default_rng(4)
    variance = chance.uniform(0.01, 2, 30_000).astype(np.float32).tolist()
    exact = [exact_gain(1.0, value) for value in variance]
    assert batchnorm_gain(with_parameters([1.0] * len(variance), variance)).tolist() == exact
    x = np.asarray(variance, np.float64) + 1e-5
    inverse = 1 / np.sqrt(x)
    reciprocal = inverse * (1.5 - 0.5 * x * inverse * inverse)  # one step of Newton, as rsqrt does
    assert np.count_nonzero(reciprocal != exact) > 1000


@pytest.mark.parametrize("name", bundled_models())
def test_the_gains_in_bundled_graphs_are_exact(name: str) -> None:
    model = find_model(name)
    assert model.graph_path is not None
    assert model.checkpoint_path is not None
    net, _ = load_checkpoint(model.checkpoint_path)
    norms = {key: norm for key, norm in net.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    stored = {i.name: i for i in onnx.load(model.graph_path).graph.initializer}
    gains = {key: tensor for key, tensor in stored.items() if key.endswith(".gain")}
    assert len(gains) == len(norms)
    for key, tensor in gains.items():
        norm = norms[key.removesuffix(".weight.gain").replace("conv", "bn")]
        assert norm.running_var is not None
        pairs = zip(norm.weight.tolist(), norm.running_var.tolist(), strict=True)
        assert numpy_helper.to_array(tensor).ravel().tolist() == [exact_gain(*p) for p in pairs]


def test_the_tail_of_nearest_enlargement_adds_in_one_order() -> None:
    weight = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 64, 9, 9)))
    weight = weight.float()
    folded, _ = fold_tail(weight, torch.zeros(3), repeat=True)
    taps, expected = weight.numpy(), np.zeros((3, 2, 2, 64, 5, 5), np.float32)
    for i, j, row, column in np.ndindex(2, 2, 5, 5):
        total = np.float32(0)
        for a, b in np.ndindex(2, 2):
            dy, dx = 2 * row + a - i, 2 * column + b - j
            if 0 <= dy < 9 and 0 <= dx < 9:
                total = total + taps[:, :, dy, dx]
        expected[:, i, j, :, row, column] = total
    np.testing.assert_array_equal(folded.numpy(), expected.reshape(12, 64, 5, 5))


def fixed_generator(upsampler: Upsampler) -> Generator:
    """A tiny generator whose weights are the same float32 numbers everywhere."""
    net = Generator(GeneratorConfig(upsampler=upsampler, blocks=1, features=4)).eval()
    with torch.no_grad():
        for k, (name, tensor) in enumerate(net.state_dict().items()):
            if tensor.is_floating_point():
                steps = (np.arange(tensor.numel()) + 31 * k) * 7919 % 1009
                steps -= 0 if name.endswith("running_var") else 504
                tensor.copy_(torch.from_numpy(steps / 1024).reshape(tensor.shape))
    return net


@pytest.mark.parametrize("upsampler", get_args(Upsampler))
def test_another_graph_is_another_version_of_the_rewrites(upsampler: Upsampler) -> None:
    """Where this fails, every engine of every user is built again.

    If that is meant, raise REWRITES, put its hashes here, and make the bundled graphs anew:
    ``python -m srtrt.benchmarks.rebundle``.
    """
    assert graph_sha256(network_graph(fixed_generator(upsampler))) == GOLDEN[REWRITES][upsampler]


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_graphs_are_of_this_version(name: str) -> None:
    model = find_model(name)
    assert model.spec.rewrites == REWRITES
    for precision in model.calibrated_paths:
        graph = model.graph("rgb8", precision)
        assert f'"rewrites": {REWRITES}' in graph.metadata_props[0].value
