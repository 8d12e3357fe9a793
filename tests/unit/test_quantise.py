"""Calibrated networks of 8 bits: what they compute, on which engines, and what makes them good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from networks import lively_generator
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from srtrt.errors import InputError, ModelError
from srtrt.export.calibration import calibration_crops, run_network
from srtrt.export.onnx_graph import network_graph
from srtrt.export.pairs import prepared
from srtrt.export.quantise import FIRST, Residual, quantise_network
from srtrt.export.quantised import MOST_PICTURES, calibration_pictures, quantised_graph
from srtrt.export.rounding import FP8, INT8, covariance, round_weight, weight_scales
from srtrt.graph import dress, load_graph, save_graph
from srtrt.graph_spec import read_spec
from srtrt.metrics import psnr
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.networks.generator import GeneratorConfig
from srtrt.resample import resize_bicubic
from srtrt.runtime.backends.openvino import OpenVinoBackend
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import (
    form_inputs,
    graph_backend,
    measure_parity,
    passes,
    read_pictures,
    reference_backend,
)
from srtrt.runtime.session import open_session


@pytest.fixture(scope="module")
def network() -> ModelProto:
    """Three blocks of eight features, every weight of which matters."""
    return network_graph(lively_generator(GeneratorConfig(blocks=3, features=8)))


@pytest.fixture(scope="module")
def pictures() -> list[NDArray[np.uint8]]:
    return [picture[:48, :96] for picture in read_pictures()[:2]]


@pytest.fixture(scope="module")
def graphs(tiny_checkpoint: Path) -> dict[tuple[str, str], ModelProto]:
    """The tiny model by form and precision."""
    net, spec = load_checkpoint(tiny_checkpoint)
    network = network_graph(net)
    rgb, _ = quantised_graph(network, spec, "rgb8", "int8", read_pictures())
    yuv = dress(rgb, read_spec(rgb, "rgb"), "yuv420p8")
    fp8, _ = quantised_graph(network, spec, "rgb8", "fp8", read_pictures()[:1])
    return {("rgb8", "int8"): rgb, ("yuv420p8", "int8"): yuv, ("rgb8", "fp8"): fp8}


def counted(model: ModelProto, op: str) -> int:
    return sum(node.op_type == op for node in model.graph.node)


@pytest.mark.parametrize("key", [("rgb8", "int8"), ("yuv420p8", "int8"), ("rgb8", "fp8")])
def test_graphs_pass_their_gate_against_pytorch(
    key: tuple[Any, Any], graphs: dict[Any, ModelProto], tiny_checkpoint: Path
) -> None:
    form, precision = key
    model = find_model(str(tiny_checkpoint))
    with (
        reference_backend(model, form) as reference,
        graph_backend("tiny", graphs[key], form, precision) as candidate,
    ):
        parity = measure_parity(reference, candidate, read_pictures())
    assert passes(parity, precision), parity
    assert parity.psnr_db < 70  # it is quantised, not float


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
def test_openvino_and_onnxruntime_agree(form: Any, graphs: dict[Any, ModelProto]) -> None:
    model = Model.from_graph("tiny", graphs[form, "int8"])
    inputs = form_inputs(read_pictures()[0], form)
    with (
        graph_backend("tiny", graphs[form, "int8"], form, "int8") as first,
        OpenVinoBackend(model, form=form, device="cpu", precision="int8") as second,
    ):
        for name, plane in first.infer(inputs).items():
            other = second.infer(inputs)[name]
            assert psnr(plane.ravel()[None], other.ravel()[None]) > 45


def test_the_graph_says_what_it_is(graphs: dict[Any, ModelProto], tmp_path: Path) -> None:
    save_graph(tmp_path / "tiny.onnx", graphs["rgb8", "int8"])
    graph, spec = load_graph(tmp_path / "tiny.onnx")
    assert (spec.form, spec.precision) == ("rgb8", "int8")
    facts = spec.quality["quantisation"]
    assert facts["kept"] == {"head": FIRST}
    assert facts["pictures"] == 3
    assert set(facts["layers"]) | {"head"} == {
        name.removesuffix(".weight").removesuffix(".weight.q")
        for name in (i.name for i in graph.graph.initializer)
        if name.endswith((".weight", ".weight.q"))
    }
    assert facts["psnr_db"] >= facts["target_db"]
    types = {i.name: i.data_type for i in graph.graph.initializer}
    assert {types[f"{name}.weight.q"] for name in facts["layers"]} == {TensorProto.INT8}
    assert types["head.weight"] == TensorProto.FLOAT
    with open_session(model=str(tmp_path / "tiny.onnx"), form="rgb8") as session:
        assert "int8" in session.description


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_tensorrt_builds_it_and_computes_in_8_bits(
    precision: str, graphs: dict[Any, ModelProto]
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from srtrt.runtime.engines.build import build_engine
    from srtrt.runtime.engines.flavour import FLAVOURS, typed_network_flags
    from srtrt.runtime.engines.key import EngineShape

    data = graphs["rgb8", precision].SerializeToString()
    built = build_engine(data, EngineShape.static(32, 24), flavour=FLAVOURS["tensorrt-rtx"])
    assert built.spec.precision == precision
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    parsed = builder.create_network(typed_network_flags(trt))
    assert trt.OnnxParser(parsed, builder.logger).parse(data)
    layers = [parsed.get_layer(k) for k in range(parsed.num_layers)]
    source = {layer.get_output(0).name: layer for layer in layers}
    found = []
    for layer in layers:
        if layer.type == trt.LayerType.CONVOLUTION:
            above = source[layer.get_input(0).name]
            is_pair = above.type == trt.LayerType.DEQUANTIZE
            found.append(above.get_input(0).dtype.name if is_pair else "FLOAT")
    kept = len(built.spec.quality["quantisation"]["kept"])
    assert sorted(found) == ["FLOAT"] * kept + [precision.upper()] * (9 - kept)


def test_the_preparation_is_exact(network: ModelProto) -> None:
    """Activations before shuffles, and shuffles by phase, change no value."""
    ready = prepared(network)
    modes = [
        attribute.s
        for node in ready.graph.node
        if node.op_type == "DepthToSpace"
        for attribute in node.attribute
        if attribute.name == "mode"
    ]
    assert modes == [b"DCR", b"CRD"]
    crops = calibration_crops(read_pictures())[:3]
    for a, b in zip(run_network(network, crops), run_network(ready, crops), strict=True):
        assert np.abs(a - b).max() <= 1e-5


def test_each_part_of_the_calibration_matters(
    network: ModelProto, pictures: list[NDArray[np.uint8]]
) -> None:
    def reached(**settings: Any) -> float:
        return quantise_network(
            network, pictures, residual="float", target_db=0, **settings
        )[1].psnr_db  # fmt: skip

    best = reached()
    assert reached(correct_bias=False) < best - 0.1
    assert reached(spread_errors=False) < best - 0.1


def test_the_fastest_sums_that_reach_the_target_are_taken(
    network: ModelProto, pictures: list[NDArray[np.uint8]]
) -> None:
    ways: tuple[Residual, ...] = ("both", "skip", "float")
    made = {way: quantise_network(network, pictures, residual=way, target_db=0) for way in ways}
    pairs = [counted(made[way][0], "QuantizeLinear") for way in ways]
    assert pairs[0] > pairs[1] == pairs[2]
    best = max(ways, key=lambda way: made[way][1].psnr_db)
    _, report = quantise_network(network, pictures, target_db=made[best][1].psnr_db)
    assert report.residual == best
    least = min(report_.psnr_db for _, report_ in made.values())
    _, report = quantise_network(network, pictures, target_db=least - 0.1)
    assert report.residual == "both"


def test_sensitivity_finds_the_layers_to_leave_out(
    network: ModelProto, pictures: list[NDArray[np.uint8]]
) -> None:
    _, report = quantise_network(network, pictures, residual="float", target_db=0)
    alone = {layer.name: layer.alone_db for layer in report.layers if layer.quantised}
    worst = min(alone, key=lambda name: alone[name] or 0)
    best = max(alone, key=lambda name: alone[name] or 0)
    gain = {}
    for name in (worst, best):
        _, without = quantise_network(network, pictures, residual="float", target_db=0, keep=[name])
        assert without.kept == {"head": FIRST, name: "asked for"}
        gain[name] = without.psnr_db - report.psnr_db
    assert gain[worst] > gain[best]
    target = report.psnr_db + 0.5
    _, better = quantise_network(network, pictures, target_db=target)
    assert better.psnr_db >= target
    assert worst in better.kept
    assert better.kept[worst] == "with it the target was missed"


def test_what_cannot_be_done_is_refused(
    network: ModelProto, pictures: list[NDArray[np.uint8]]
) -> None:
    with pytest.raises(ModelError, match=r"no convolution 'blocks\.9\.conv1'; it has head, blocks"):
        quantise_network(network, pictures, keep=["blocks.9.conv1"])
    with pytest.raises(InputError, match="at least one picture"):
        quantise_network(network, [])
    with pytest.raises(ModelError, match="'fp16' needs no calibration; int8 and fp8 do"):
        quantise_network(network, pictures, precision="fp16")
    with pytest.raises(ModelError, match=r"cannot be computed in int8 with 200\.0 dB.*Use fp16"):
        quantise_network(network, pictures, target_db=200)
    half = ModelProto()
    half.CopyFrom(network)
    for tensor in half.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    with pytest.raises(ModelError, match="is float16; quantising starts from float32"):
        quantise_network(half, pictures)


def test_fp8_numbers_are_those_of_the_standard() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    chance = np.random.default_rng(0)
    values = np.concatenate([
        chance.normal(size=2000) * 10.0 ** chance.integers(-4, 3, 2000),
        [0, 448, 2**-9, 2**-10, 1.0625, 1.1875, 17, 19],
    ])  # fmt: skip
    values = np.clip(values, -448, 448)
    expected = values.astype(ml_dtypes.float8_e4m3fn)
    rounded = FP8.nearest(values)
    assert np.array_equal(rounded, expected.astype(np.float64))
    assert FP8.nearest(np.array([1e9, -1e9])).tolist() == [448, -448]
    stored = numpy_helper.to_array(FP8.tensor("x", rounded)).astype(np.float64)
    assert np.array_equal(stored, rounded)


@pytest.mark.parametrize("grid", [INT8, FP8])
def test_spread_errors_cancel_on_correlated_inputs(grid: Any) -> None:
    chance = np.random.default_rng(1)
    weight = chance.normal(size=(8, 4, 3, 3)).astype(np.float32)
    inputs = (chance.normal(size=(4000, 1)) + 0.1 * chance.normal(size=(4000, 36))).astype("f4")
    scales = weight_scales(weight, grid)
    wide = scales.astype(np.float64)[:, None, None, None]
    near = grid.nearest(weight / wide)
    spread = round_weight(weight, scales, covariance(inputs.copy()), grid)
    assert np.array_equal(spread, grid.nearest(spread))

    def error(steps: NDArray[Any]) -> float:
        return float(np.mean(((steps * wide - weight).reshape(8, -1) @ inputs.T) ** 2))

    assert error(spread) < 0.5 * error(near)
    assert np.abs(spread - near).max() <= (2 if grid is INT8 else 64)


def pair_sums(weight: NDArray[Any]) -> NDArray[np.int64]:
    """What the positive and the negative weights of channels 2i and 2i + 1 add up to at most."""
    even, odd = (
        np.pad(weight.astype(int), ((0, 0), (0, 1), (0, 0), (0, 0)))[:, k::2] for k in (0, 1)
    )
    count = min(even.shape[1], odd.shape[1])
    sums = [np.maximum(s * even[:, :count], 0) + np.maximum(s * odd[:, :count], 0) for s in (1, -1)]
    return np.stack(sums)


@pytest.mark.parametrize("channels", [1, 2, 5, 8])
@pytest.mark.parametrize("heavy", [0.0, 1.0])
def test_pairs_of_int8_weights_do_not_saturate(channels: int, heavy: float) -> None:
    """255 times both of a pair fits in 16 bits, however the weights are rounded."""
    chance = np.random.default_rng(channels)
    shape = (16, channels, 3, 3)
    # All of one sign and nearly equal is the worst case; the other is the usual one.
    weight = (chance.normal(size=shape) * (1 - heavy) + heavy).astype(np.float32)
    weight += 0.02 * chance.normal(size=shape).astype(np.float32)
    scales = weight_scales(weight, INT8)
    exact = weight / scales.astype(np.float64)[:, None, None, None]
    inputs = chance.normal(size=(4000, weight[0].size)).astype(np.float32)
    spread = round_weight(weight, scales, covariance(inputs), INT8)
    for steps in (spread, INT8.nearest(INT8.within_pairs(exact))):
        assert np.array_equal(steps, np.rint(steps))
        assert np.abs(steps).max() <= 127
        assert 255 * pair_sums(steps).max(initial=0) <= 32767
        error = np.abs(steps - exact) * scales[:, None, None, None]
        assert error.max() < 0.02 * np.abs(weight).max()


def test_calibration_pictures(tmp_path: Path) -> None:
    assert len(calibration_pictures()) == len(read_pictures())
    photo = resize_bicubic(read_pictures()[0], 64, 80)
    for k in range(MOST_PICTURES + 6):
        cv2.imwrite(str(tmp_path / f"{k:03}.png"), photo)
    pictures = calibration_pictures(tmp_path)
    assert len(pictures) == MOST_PICTURES
    assert {p.shape for p in pictures} == {(16, 20, 3)}
    with pytest.raises(InputError, match="no such folder"):
        calibration_pictures(tmp_path / "none")
