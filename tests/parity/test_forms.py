"""The exported graphs against the untouched generator in PyTorch, on real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from srtrt.colour import YuvColour
from srtrt.errors import InputError, ModelError, ParityError
from srtrt.graph import dress, load_graph, to_typed
from srtrt.graph_spec import read_spec
from srtrt.runtime.backends import backend_class
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import (
    Parity,
    form_inputs,
    graph_backend,
    measure_parity,
    passes,
    read_pictures,
    reference_backend,
    require_parity,
)
from srtrt.spec import SPEC_KEY, Form

FORMS: tuple[Form, ...] = ("rgb8", "yuv420p8")
PICTURES = read_pictures()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("backend", "precision"),
    [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("torch", "fp32")],
)
def test_backend_passes_its_gate(
    form: Form, backend: str, precision: str, tiny_graphs: dict[str, Path], tiny_checkpoint: Path
) -> None:
    capability = backend_class(backend).capabilities()[-1]
    if precision not in capability.precisions:
        pytest.skip(capability.reason)
    reference = Model("tiny", None, tiny_checkpoint)
    candidate = Model("tiny", tiny_graphs[f"{form}-fp32"], tiny_checkpoint)
    opened = backend_class(backend)(candidate, form=form, device="cpu", precision=precision)  # type: ignore[arg-type]
    with opened, reference_backend(reference, form) as expected:
        parity = measure_parity(expected, opened, PICTURES)
    assert passes(parity, precision), str(parity)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_half_graph_shows_its_rounding_and_passes(
    form: Form, tiny_graphs: dict[str, Path], tiny_checkpoint: Path
) -> None:
    graph, spec = load_graph(tiny_graphs[f"{form}-fp16"])
    assert spec.precision == "fp16"
    weights = {i.name: i.data_type for i in graph.graph.initializer if i.name.endswith("weight")}
    assert set(weights.values()) == {onnx.TensorProto.FLOAT16}
    with (
        reference_backend(Model("tiny", None, tiny_checkpoint), form) as reference,
        graph_backend("tiny", graph, form, "fp16") as half,
    ):
        parity = measure_parity(reference, half, PICTURES)
    assert passes(parity, "fp16"), str(parity)
    assert parity.equal < 0.9999, "float16 rounding should be visible"


@pytest.mark.parametrize(
    "colour",
    [
        YuvColour(matrix="bt709"),
        YuvColour(matrix="bt601", full_range=True, siting="center"),
        YuvColour(matrix="bt2020", siting="topleft"),
    ],
)
def test_yuv_graph_follows_the_colour_tables(
    colour: YuvColour, tiny_graphs: dict[str, Path], tiny_checkpoint: Path
) -> None:
    inputs = form_inputs(PICTURES[0], "yuv420p8") | colour.inputs()
    with (
        reference_backend(Model("tiny", None, tiny_checkpoint), "yuv420p8") as reference,
        graph_backend("tiny", load_graph(tiny_graphs["rgb8-fp32"])[0], "rgb8", "fp32") as rgb,
        graph_backend(
            "tiny", load_graph(tiny_graphs["yuv420p8-fp32"])[0], "yuv420p8", "fp32"
        ) as yuv,
    ):
        expected, found = reference.infer(inputs), yuv.infer(inputs)
        enlarged = rgb.infer({"rgb": PICTURES[0][None]})["rgb_x4"]
    for name, plane in expected.items():
        assert np.abs(plane.astype(int) - found[name]).max() <= 1
    assert enlarged.shape[1:3] == found["y_x4"].shape[2:]


def test_both_forms_show_the_same_picture(tiny_graphs: dict[str, Path]) -> None:
    """A gray picture has no chroma to lose, so both forms must agree on it after conversion."""
    gray = np.repeat(PICTURES[0].mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    colour = YuvColour(matrix="bt709", full_range=True)
    planes = form_inputs(gray, "yuv420p8")
    planes = {
        "y": gray[None, None, ..., 0],
        "uv": np.full_like(planes["uv"], 128),
        **colour.inputs(),
    }
    graph = load_graph(tiny_graphs["rgb8-fp32"])[0]
    yuv_graph = load_graph(tiny_graphs["yuv420p8-fp32"])[0]
    with (
        graph_backend("tiny", graph, "rgb8", "fp32") as rgb,
        graph_backend("tiny", yuv_graph, "yuv420p8", "fp32") as yuv,
    ):
        big = rgb.infer({"rgb": gray[None]})["rgb_x4"][0].astype(float)
        y = yuv.infer(planes)["y_x4"][0, 0]
    table = colour.rgb_to_yuv()[0]
    luma = np.clip(big @ table[:3] / 255, 0, 255)
    inside = (big > 0).all(axis=2) & (big < 255).all(axis=2)
    assert inside.mean() > 0.5
    assert np.abs(luma - y)[inside].max() <= 1.01


def test_a_form_can_be_made_from_the_other(tiny_graphs: dict[str, Path]) -> None:
    graph, spec = load_graph(tiny_graphs["rgb8-fp32"])
    yuv, _ = load_graph(tiny_graphs["yuv420p8-fp32"])
    converted = dress(graph, spec, "yuv420p8")
    assert read_spec(converted, "converted").form == "yuv420p8"
    inputs = form_inputs(PICTURES[0], "yuv420p8")
    with (
        graph_backend("a", converted, "yuv420p8", "fp32") as a,
        graph_backend("b", yuv, "yuv420p8", "fp32") as b,
    ):
        first, second = a.infer(inputs), b.infer(inputs)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_sizes_and_batches_are_dynamic(tiny_graphs: dict[str, Path]) -> None:
    graph, _ = load_graph(tiny_graphs["rgb8-fp32"])
    batch = np.stack([PICTURES[0][:33, :17], PICTURES[1][:33, :17]])
    with graph_backend("tiny", graph, "rgb8", "fp32") as backend:
        both = backend.infer({"rgb": batch})["rgb_x4"]
        alone = backend.infer({"rgb": batch[1:]})["rgb_x4"]
        dot = backend.infer({"rgb": batch[:1, :1, :1]})["rgb_x4"]
    assert both.shape == (2, 132, 68, 3)
    assert np.abs(both[1:].astype(int) - alone).max() <= 1
    assert dot.shape == (1, 4, 4, 3)


def test_an_artifact_under_its_gate_is_refused_with_advice() -> None:
    poor = Parity(pictures=3, psnr_db=50.0, max_abs=4, equal=0.8)
    with pytest.raises(ParityError, match=r"50\.0 dB.*at least 70 dB.*would pass as bf16"):
        require_parity(poor, "fp32", "tiny")
    hopeless = Parity(pictures=3, psnr_db=20.0, max_abs=90, equal=0.1)
    with pytest.raises(ParityError, match="No precision has so low a gate"):
        require_parity(hopeless, "bf16", "tiny")
    off_by_two = Parity(pictures=3, psnr_db=90.0, max_abs=2, equal=0.9999)
    assert not passes(off_by_two, "fp32")


def test_weights_beyond_float16_are_named(tiny_graphs: dict[str, Path]) -> None:
    graph, spec = load_graph(tiny_graphs["rgb8-fp32"])
    tensor = next(i for i in graph.graph.initializer if i.name == "head.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = 1e6
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ModelError, match=r"head\.weight"):
        to_typed(graph, spec, "fp16")


def test_graphs_whose_spec_is_wrong_are_refused(
    tiny_graphs: dict[str, Path], tmp_path: Path
) -> None:
    graph = onnx.load(tiny_graphs["rgb8-fp32"])
    spec = graph.metadata_props[0].value
    assert graph.metadata_props[0].key == SPEC_KEY
    graph.metadata_props[0].value = spec.replace('"rgb8"', '"yuv420p8"')
    onnx.save(graph, tmp_path / "lies.onnx")
    with pytest.raises(ModelError, match="its spec says yuv420p8"):
        load_graph(tmp_path / "lies.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "bare.onnx")
    with pytest.raises(ModelError, match="carries no srtrt spec"):
        load_graph(tmp_path / "bare.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(InputError, match="not a readable ONNX file"):
        load_graph(tmp_path / "text.onnx")


def test_bundled_model_passes_its_gates() -> None:
    model = find_model("srresnet")
    for form in FORMS:
        with (
            reference_backend(model, form) as reference,
            graph_backend("srresnet", model.graph(form, "fp32"), form, "fp32") as candidate,
        ):
            parity = measure_parity(reference, candidate, PICTURES[:1])
        assert passes(parity, "fp32"), f"{form}: {parity}"
