"""Graphs in float16 and bfloat16, and which of their layers stay float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import lively_generator, loud_generator
from onnx import ModelProto, TensorProto, helper, numpy_helper

from srtrt.errors import ModelError, ParityError
from srtrt.export.api import export_model
from srtrt.export.onnx_graph import network_graph
from srtrt.export.sensitivity import activation_ranges, choose_layers, layer_damage, run_graph
from srtrt.graph import dress, element_types, layer_name, load_graph, to_typed
from srtrt.graph_spec import read_spec
from srtrt.networks.checkpoint import generator_state, load_checkpoint, make_spec, save_checkpoint
from srtrt.networks.generator import Generator, GeneratorConfig
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import (
    graph_backend,
    measure_parity,
    passes,
    read_pictures,
    reference_backend,
)
from srtrt.spec import Form, ModelSpec, Precision
from srtrt.twin import float32_twin

PICTURES = read_pictures()
CONFIG = GeneratorConfig(blocks=2, features=8)
ELEMENTS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
BOTH = pytest.mark.parametrize("precision", ["fp16", "bf16"])


def planes(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None] / np.float32(255))


def saved(net: Generator, name: str, folder: Path) -> Path:
    state = generator_state(net)
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, state, make_spec(state, net.config, name))
    return path


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(loud_generator(), "loud", tmp_path_factory.mktemp("loud"))


@pytest.fixture(scope="module")
def network(tiny_checkpoint: Path) -> tuple[ModelProto, ModelSpec]:
    net, spec = load_checkpoint(tiny_checkpoint)
    return network_graph(net), spec


def convolution_types(model: ModelProto) -> Mapping[str, int]:
    types = element_types(model)
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in nodes:
        assert len({types[name] for name in (*node.input, *node.output)}) == 1
    return {layer_name(node): types[node.output[0]] for node in nodes}


@BOTH
@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
def test_everything_in_the_network_is_typed_and_nothing_outside(
    form: Form, precision: Precision, tiny_graphs: dict[str, Path]
) -> None:
    graph, spec = load_graph(tiny_graphs[f"{form}-fp32"])
    typed = to_typed(graph, spec, precision)
    onnx.checker.check_model(typed, full_check=True)
    assert read_spec(typed, "typed").precision == precision
    element = ELEMENTS[precision]
    assert set(convolution_types(typed).values()) == {element}
    types = element_types(typed)
    crossing = [node for node in typed.graph.node if element in map(types.get, node.output)]
    assert {node.op_type for node in crossing} == {
        "Cast", "Conv", "PRelu", "Add", "LeakyRelu", "DepthToSpace"
    }  # fmt: skip
    assert sum(node.op_type == "Cast" for node in crossing) == 1, "only lr is cast to the type"
    assert types["lr"] == types["sr"] == TensorProto.FLOAT
    opset = next(i.version for i in typed.opset_import if not i.domain)
    assert opset == (22 if precision == "bf16" else 18)
    assert [i.data_type for i in typed.graph.initializer if i.name.endswith("weight")] == [
        element
    ] * 9


@BOTH
def test_weights_are_rounded_as_pytorch_rounds_them(
    precision: Precision, network: tuple[ModelProto, ModelSpec]
) -> None:
    model, spec = network
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    found = {i.name: i for i in float32_twin(to_typed(model, spec, precision)).graph.initializer}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        expected = torch.from_numpy(values).to(kind).float().numpy()
        np.testing.assert_array_equal(numpy_helper.to_array(found[tensor.name]), expected)
        assert not np.array_equal(values, expected), tensor.name


@BOTH
def test_every_result_of_the_twin_has_a_value_of_the_type(
    precision: Precision, network: tuple[ModelProto, ModelSpec]
) -> None:
    typed = to_typed(*network, precision)
    twin = float32_twin(typed)
    reduced = [n for n, t in element_types(typed).items() if t == ELEMENTS[precision]]
    constants = {tensor.name for tensor in typed.graph.initializer}
    names = sorted(set(reduced) - constants)
    assert len(names) > 15
    del twin.graph.output[:]
    twin.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    for name, array in zip(
        names, run_graph(twin, [planes(PICTURES[0])], optimise=False)[0], strict=True
    ):
        exact = torch.from_numpy(array)
        assert torch.equal(exact.to(kind).float(), exact), name


@BOTH
def test_the_twin_computes_what_pytorch_computes_in_the_type(
    precision: Precision, network: tuple[ModelProto, ModelSpec], tiny_checkpoint: Path
) -> None:
    """PyTorch's own arithmetic of the type is as far from float32, and nearer to the twin."""
    from srtrt.networks.rewrites import InferenceGenerator

    model, spec = network
    net, _ = load_checkpoint(tiny_checkpoint)
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    lr = planes(PICTURES[0])
    with torch.no_grad():
        exact = net(torch.from_numpy(lr)).numpy()
        typed = InferenceGenerator(net).to(kind)(torch.from_numpy(lr).to(kind)).float().numpy()
    twin = run_graph(float32_twin(to_typed(model, spec, precision)), [lr], optimise=False)[0][0]

    def error(a: Any, b: Any) -> float:
        return float(np.sqrt(np.mean(np.square(a - b))))

    assert 0.7 < error(twin, exact) / error(typed, exact) < 1.4
    assert error(twin, typed) < 0.9 * error(typed, exact)


@BOTH
@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
def test_typed_graphs_pass_on_real_pictures_with_their_rounding_visible(
    form: Form, precision: Precision, tiny_graphs: dict[str, Path], tiny_checkpoint: Path
) -> None:
    graph, spec = load_graph(tiny_graphs[f"{form}-fp32"])
    typed = to_typed(graph, spec, precision)
    with (
        reference_backend(Model("tiny", None, tiny_checkpoint), form) as reference,
        graph_backend("tiny", graph, form, "fp32") as exact,
        graph_backend("tiny", typed, form, precision) as candidate,
    ):
        parity = measure_parity(reference, candidate, PICTURES)
        plain = measure_parity(reference, exact, PICTURES)
    assert passes(parity, precision), str(parity)
    assert parity.psnr_db < plain.psnr_db - 5
    assert parity.equal < 0.9999


@BOTH
def test_a_kept_layer_is_float32_with_what_follows_it(
    precision: Precision, network: tuple[ModelProto, ModelSpec]
) -> None:
    model, spec = network
    keep = {"head", "blocks.1.conv1", "enlarge.tail"}
    typed = to_typed(model, spec, precision, keep)
    element = ELEMENTS[precision]
    types = element_types(typed)
    expected = dict.fromkeys(convolution_types(model), element)
    expected |= dict.fromkeys(keep, TensorProto.FLOAT)
    assert convolution_types(typed) == expected
    makers = {output: node for node in typed.graph.node for output in node.output}
    for node in typed.graph.node:
        if node.op_type in ("PRelu", "DepthToSpace") and node.input[0] in makers:
            maker = makers[node.input[0]]
            if maker.op_type == "Conv":
                wanted = expected[layer_name(maker)]
                assert {types[name] for name in (*node.input, *node.output)} == {wanted}
    # lr is float32 for head; its result is cast once for all, and so is that of the other.
    casts = [node for node in typed.graph.node if node.op_type == "Cast"]
    assert len(casts) == len({node.input[0] for node in casts})
    form_typed = dress(typed, spec.with_(precision=precision), "yuv420p8")
    assert convolution_types(form_typed) == expected


@BOTH
def test_with_all_layers_kept_nothing_is_typed(
    precision: Precision, network: tuple[ModelProto, ModelSpec]
) -> None:
    model, spec = network
    typed = to_typed(model, spec, precision, convolution_types(model).keys())
    assert [node.op_type for node in typed.graph.node] == [n.op_type for n in model.graph.node]
    lr = [planes(PICTURES[0])]
    np.testing.assert_array_equal(run_graph(typed, lr)[0][0], run_graph(model, lr)[0][0])


def test_what_cannot_be_typed_is_refused(network: tuple[ModelProto, ModelSpec]) -> None:
    model, spec = network
    with pytest.raises(ModelError, match="no layer 'nose' to keep in fp32"):
        to_typed(model, spec, "fp16", {"head", "nose"})
    with pytest.raises(ModelError, match="no type for 'int8'; expected fp16 or bf16"):
        to_typed(model, spec, "int8")
    with pytest.raises(ModelError, match="is fp16 already"):
        to_typed(to_typed(model, spec, "fp16"), spec.with_(precision="fp16"), "bf16")


def test_activation_ranges_are_those_of_pytorch(
    network: tuple[ModelProto, ModelSpec], tiny_checkpoint: Path
) -> None:
    net, _ = load_checkpoint(tiny_checkpoint)
    model, _ = network
    found = activation_ranges(model, PICTURES)
    lr = [torch.from_numpy(planes(picture)) for picture in PICTURES]
    with torch.no_grad():
        head = max(float(net.head(x).abs().max()) for x in lr)
        sr = max(float(net(x).abs().max()) for x in lr)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    assert found[first.output[0]] == pytest.approx(head, rel=1e-5)
    assert found["sr"] == pytest.approx(sr, rel=1e-5)
    assert found["lr"] == pytest.approx(max(float(x.max()) for x in lr))


@BOTH
def test_damage_of_a_layer_is_that_of_it_alone(
    precision: Precision, network: tuple[ModelProto, ModelSpec]
) -> None:
    model, spec = network
    damage = layer_damage(model, spec, precision, PICTURES)
    assert damage.keys() == convolution_types(model).keys()
    assert min(damage, key=lambda name: damage[name]) in ("head", "enlarge.tail")
    centres = [planes(picture[24:72, 32:80]) for picture in PICTURES]
    twin = float32_twin(to_typed(model, spec, precision))
    exact, typed = (
        np.array(run_graph(graph, centres, optimise=False)) for graph in (model, twin)
    )  # fmt: skip
    together = -10 * np.log10(np.mean(np.square(exact - typed)))
    noises = -10 * np.log10(sum(10 ** (-db / 10) for db in damage.values()))
    assert together < min(damage.values())
    assert together == pytest.approx(noises, abs=3), "noises of layers add up, sums make some more"
    rest = damage.keys() - {"head"}
    assert layer_damage(model, spec, precision, PICTURES, frozenset({"head"})).keys() == rest


def test_a_layer_that_overflows_float16_is_kept_and_the_result_passes(
    loud: Path, tmp_path: Path
) -> None:
    (made,) = export_model(str(loud), tmp_path, forms=["rgb8"], precisions=["fp16"])
    facts = made.spec.quality["typed"]
    assert facts["kept"].keys() == {"blocks.0.conv1", "blocks.0.conv2"}
    assert facts["kept"]["blocks.0.conv1"].startswith("overflows: ")
    assert "overflows: " in facts["kept"]["blocks.0.conv2"]
    assert facts["largest_in"] in ("blocks.0.conv1", "node_prelu_1")
    assert facts["largest_activation"] > 65504 / 4
    assert made.parity.psnr_db >= 55
    graph, spec = load_graph(made.path)
    assert spec.quality == made.spec.quality
    types = convolution_types(graph)
    assert {name for name, t in types.items() if t == TensorProto.FLOAT} == facts["kept"].keys()
    assert Counter(types.values())[TensorProto.FLOAT16] == 7
    plain = dress(to_typed(*_float32(loud), "fp16"), spec, "rgb8")
    with (
        reference_backend(find_model(str(loud)), "rgb8") as reference,
        graph_backend("loud", plain, "rgb8", "fp16") as unkept,
    ):
        parity = measure_parity(reference, unkept, PICTURES)
    assert parity.psnr_db < 40, "float16 should have overflowed"


def test_bfloat16_has_the_range_for_it(loud: Path, tmp_path: Path) -> None:
    (made,) = export_model(str(loud), tmp_path, forms=["rgb8"], precisions=["bf16"])
    assert made.spec.quality["typed"]["kept"] == {}
    assert made.layers == "all convolutions in bf16"


def test_weights_out_of_range_are_kept_too(tmp_path: Path) -> None:
    """Input so small that the results fit, but the weights do not."""
    net = lively_generator(CONFIG)
    block: Any = net.blocks[0]
    with torch.no_grad():
        block.bn1.weight *= 1e-7
        block.bn1.bias *= 1e-7
        block.conv2.weight *= 1e7
    model, spec = _float32(saved(net, "quiet", tmp_path))
    choice = choose_layers(model, spec, "fp16", PICTURES, lambda _: True)
    assert choice.kept.keys() == {"blocks.0.conv2"}
    assert choice.kept["blocks.0.conv2"].startswith("weight overflows: ")
    to_typed(model, spec, "fp16", choice.kept)
    with pytest.raises(ModelError, match=r"'blocks\.0\.conv2\.weight' exceeds the range of float"):
        to_typed(model, spec, "fp16")


def test_a_network_that_overflows_everywhere_is_refused(tmp_path: Path) -> None:
    net = lively_generator(CONFIG)
    with torch.no_grad():
        assert net.head.bias is not None
        net.head.weight *= 1e6
        net.head.bias *= 1e6
    path = saved(net, "shout", tmp_path)
    with pytest.raises(ParityError, match=r"of its 9 convolutions would.*such as head \(overfl"):
        export_model(str(path), tmp_path / "out", forms=["rgb8"], precisions=["fp16"])
    assert list((tmp_path / "out").iterdir()) == []


@BOTH
def test_the_fewest_layers_are_kept_that_meet_the_gate(
    precision: Precision, network: tuple[ModelProto, ModelSpec]
) -> None:
    model, spec = network
    asked: list[frozenset[str]] = []
    damage = layer_damage(model, spec, precision, PICTURES)
    ranked = sorted(damage, key=lambda name: damage[name])

    def judge(kept: frozenset[str]) -> bool:
        asked.append(kept)
        return len(kept) >= 3

    choice = choose_layers(model, spec, precision, PICTURES, judge)
    assert list(choice.kept) == ranked[:3]
    assert all("costs most accuracy" in why for why in choice.kept.values())
    assert len(asked) <= 4
    hopeless = choose_layers(model, spec, precision, PICTURES, lambda _: False)
    assert list(hopeless.kept) == ranked[:4], "at most half of nine"


def _float32(path: Path) -> tuple[ModelProto, ModelSpec]:
    net, spec = load_checkpoint(find_model(str(path)).checkpoint_path or path)
    return network_graph(net), spec
