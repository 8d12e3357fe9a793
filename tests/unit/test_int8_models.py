"""Bundled models in int8, as a user asks for them; and bundled float32 graphs, stored narrow."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from support import REPOSITORY

import srtrt
from srtrt.benchmarks.tables import table
from srtrt.cli import main
from srtrt.errors import BackendError, ModelError
from srtrt.graph import load_graph
from srtrt.metrics import psnr
from srtrt.runtime.models import Model, bundled_models, find_model, weights_folder
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.select import INT8_TIMES
from srtrt.runtime.session import open_session
from srtrt.widen import narrow, widen

INT8 = [name for name in bundled_models() if "int8" in find_model(name).calibrated_paths]
LEVELS = (0, 128, 255)


def test_the_default_model_has_an_int8_graph() -> None:
    assert "srresnet" in INT8
    assert not any("int8" in name for name in bundled_models())
    stray = {path.stem for path in weights_folder().glob("*-int8.onnx")}
    assert stray == {f"{name}-int8" for name in INT8}


@pytest.mark.parametrize("name", INT8)
def test_its_facts_meet_what_is_promised(name: str) -> None:
    graph, spec = load_graph(find_model(name).calibrated_paths["int8"])
    plain = find_model(name).spec
    assert (spec.name, spec.precision, spec.form) == (name, "int8", "rgb8")
    assert spec.weights_sha256 == plain.weights_sha256
    assert spec.quality["psnr_y_db"] == plain.quality["psnr_y_db"]
    facts = spec.quality["quantisation"]
    assert facts["db_lost"]["Set14"] <= 0.10
    assert spec.quality["parity"]["psnr_db"] >= 38
    int8 = sum(
        i.data_type == TensorProto.INT8 and len(i.dims) == 4 for i in graph.graph.initializer
    )
    assert int8 == len(facts["layers"])
    assert int8 + len(facts["kept"]) == sum(node.op_type == "Conv" for node in graph.graph.node)
    for reason in facts["kept"].values():
        assert len(reason) > 5


@pytest.mark.parametrize("name", INT8)
def test_no_pair_of_weights_can_saturate(name: str) -> None:
    """Processors without VNNI add the products of channels 2i and 2i + 1 in 16 bits."""
    graph, _ = load_graph(find_model(name).calibrated_paths["int8"])
    weights = [
        numpy_helper.to_array(i).astype(int)
        for i in graph.graph.initializer
        if i.data_type == TensorProto.INT8 and len(i.dims) == 4
    ]
    assert weights
    for weight in weights:
        for sign in (1, -1):
            one_sided = np.maximum(sign * weight, 0)
            pairs = one_sided[:, 0::2] + one_sided[:, 1::2]
            assert 255 * pairs.max() <= 32767


_VERIFY = """
import sys
from srtrt.runtime.select import INT8_TIMES
from srtrt.runtime.session import open_session
for model in sys.argv[1:]:
    for backend in ("openvino", "onnxruntime"):
        for form in ("rgb8", "yuv420p8"):
            open_session(model=model, form=form, backend=backend, precision="int8").close()
"""


def test_int8_passes_its_gate_on_a_processor_without_vnni(tmp_path: Path) -> None:
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
    environment = {**os.environ, **limits, "SRTRT_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", _VERIFY, *INT8]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "verified").glob("*.json")]
    assert len(records) == 4 * len(INT8)
    for record in records:
        assert record["subject"]["device"]["processor"].endswith("-avx2")
        assert record["parity"]["psnr_db"] >= 38
        assert record["parity"]["lost_db"] <= 0.10


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", INT8)
def test_int8_is_near_float32_on_a_real_picture(name: str, backend: str) -> None:
    picture = read_pictures()[1][:64, :64]
    with srtrt.Upscaler(name, backend=backend, precision="int8") as upscale:
        assert "int8" in upscale.description
        fast = upscale(picture)
    with srtrt.Upscaler(name, backend="onnxruntime", precision="fp32") as upscale:
        exact = upscale(picture)
    assert 38 < psnr(fast, exact) < 60


@pytest.mark.parametrize("name", INT8)
def test_flat_colours_keep_their_place_in_int8(name: str) -> None:
    colours = np.array(list(itertools.product(LEVELS, repeat=3)), np.uint8)
    fields = np.broadcast_to(colours[:, None, None], (len(colours), 16, 16, 3))
    with srtrt.Upscaler(name, precision="int8") as upscale:
        big = upscale(np.ascontiguousarray(fields))[:, 24:40, 24:40].astype(int)
    error = np.abs(big - colours[:, None, None].astype(int)).max(axis=(1, 2, 3))
    assert error.max() <= 10, f"{colours[error.argmax()]} is off by {error.max()}"
    assert error.mean() <= 5


def test_int8_is_taken_only_when_asked_for() -> None:
    for backend in ("auto", "openvino", "onnxruntime"):
        with open_session(form="rgb8", backend=backend, device="cpu") as session:
            assert "int8" not in session.description
    with open_session(form="yuv420p8", precision="int8") as session:
        assert "int8" in session.description
        inputs = form_inputs(read_pictures()[0][:32, :32], "yuv420p8")
        assert session.infer(inputs)["uv_x4"].shape == (1, 2, 64, 64)


def test_upscale_image_in_int8(tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    cv2.imwrite(str(source), read_pictures()[0][:40, :48, ::-1])
    arguments = ["upscale-image", str(source), "--precision", "int8", "--backend"]
    for backend in ("openvino", "onnxruntime"):
        target = tmp_path / f"{backend}.png"
        result = CliRunner().invoke(main, [*arguments, backend, "-o", str(target)])
        assert result.exit_code == 0, result.output
        assert cv2.imread(str(target)).shape == (160, 192, 3)


def test_without_an_int8_graph_the_export_line_is_named(tiny_graphs: dict[str, Path]) -> None:
    path = str(tiny_graphs["rgb8-fp32"])
    with pytest.raises(ModelError, match=r"is fp32 and cannot run as int8; .*--precision int8"):
        open_session(model=path, form="rgb8", precision="int8")
    with pytest.raises(ModelError, match="is int8 and cannot run as fp32"):
        open_session(
            model=str(find_model("srresnet").calibrated_paths["int8"]),
            form="rgb8",
            precision="fp32",
        )
    with pytest.raises(BackendError, match="int8"):
        open_session(form="rgb8", backend="torch", precision="int8")


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_graphs_are_stored_narrow_and_loaded_wide(name: str, tmp_path: Path) -> None:
    from srtrt.benchmarks.bundle import save_narrow

    model = find_model(name)
    assert model.graph_path is not None
    assert model.checkpoint_path is not None
    stored = onnx.load(model.graph_path)
    onnx.checker.check_model(stored, full_check=True)
    wide, _ = load_graph(model.graph_path)
    weights = [i for i in wide.graph.initializer if len(i.dims) == 4]
    assert {i.data_type for i in weights} == {TensorProto.FLOAT}
    halves = {i.name for i in stored.graph.initializer if i.data_type == TensorProto.FLOAT16}
    assert halves == {f"{i.name}.half" for i in weights}
    assert stored.ByteSize() < 0.6 * wide.ByteSize()
    # Any engine computes the same from the file as it is.
    inputs = form_inputs(read_pictures()[0][:24, :32], "rgb8")
    first, second = (
        onnxruntime.InferenceSession(
            graph.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, inputs)[0]
        for graph in (stored, wide)
    )
    assert np.array_equal(first, second)
    onnx.save(wide, tmp_path / "wide.onnx")
    save_narrow(tmp_path / "again.onnx", tmp_path / "wide.onnx", model.checkpoint_path)
    assert (tmp_path / "again.onnx").read_bytes() == model.graph_path.read_bytes()


def test_narrow_loses_nothing(tiny_graphs: dict[str, Path]) -> None:
    """The weights of this model are no float16 values, so none but exact ones may be narrowed."""
    wide = onnx.load(tiny_graphs["rgb8-fp32"])
    some = next(i for i in wide.graph.initializer if i.name == "blocks.0.conv1.weight")
    exact = np.asarray(numpy_helper.to_array(some).astype(np.float16), np.float32)
    some.CopyFrom(numpy_helper.from_array(exact, some.name))
    stored = narrow(wide, {})
    halves = {i.name for i in stored.graph.initializer if i.data_type == TensorProto.FLOAT16}
    assert halves == {"blocks.0.conv1.weight.half"}
    assert widen(stored).SerializeToString() == wide.SerializeToString()
    assert widen(wide) is wide


def test_narrow_takes_gains_only_where_they_are_exact() -> None:
    chance = np.random.default_rng(0)
    half = chance.normal(size=(4, 3, 3, 3)).astype(np.float16)
    gain = chance.uniform(0.5, 2, 4)
    exact = (half.astype(np.float64) * gain[:, None, None, None]).astype(np.float32)
    for weight, narrowed in ((exact, True), (np.nextafter(exact, np.float32(9)), False)):
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
        graph = helper.make_graph(
            nodes,
            "one",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        stored = narrow(model, {"w": (half, gain)})
        assert ("w.gain" in {i.name for i in stored.graph.initializer}) == narrowed
        assert widen(stored).SerializeToString() == model.SerializeToString()


def test_a_model_in_memory_has_no_other_precisions() -> None:
    graph, _ = load_graph(find_model("srresnet").calibrated_paths["int8"])
    model = Model.from_graph("quantised", graph)
    assert model.graph("rgb8", "int8") is graph
    with pytest.raises(ModelError, match="quantised is int8 and cannot run as bf16"):
        model.graph("rgb8", "bf16")


def test_int8_graphs_are_bundled_for_the_models_that_pass_and_no_others() -> None:
    """At most 0.10 dB lost on Set14 everywhere, 1.5 times as fast as float32 on plain AVX2."""
    results = REPOSITORY / "benchmarks" / "results"
    report = json.loads((results / "int8-cpu.json").read_text())
    limited = json.loads((results / "int8-instruction-sets.json").read_text())
    assert set(report["models"]) == set(limited["models"]) == set(bundled_models())
    for name, row in report["models"].items():
        runs = limited["models"][name]
        assert {"openvino avx2", "openvino avx512_vnni"} <= set(runs)
        on_set14 = [run["sets"]["Set14"] for run in runs.values() if "Set14" in run["sets"]]
        good = all(figures["db_lost"] <= 0.10 and figures["passes_gate"] for figures in on_set14)
        fast = runs["openvino avx2"]["times_fp32"] >= 1.5
        assert (name in INT8) == (good and fast), name
        card = (weights_folder() / f"{name}.md").read_text()
        assert table({**report, "models": {name: row}}) in card
        if name in INT8:
            assert row["bytes"]["int8"] == find_model(name).calibrated_paths["int8"].stat().st_size


def test_what_is_said_of_int8_was_measured() -> None:
    report = json.loads(
        (REPOSITORY / "benchmarks" / "results" / "int8-instruction-sets.json").read_text()
    )
    for name, runs in report["models"].items():
        for run, row in runs.items():
            engine, kind = run.split()
            if engine == "openvino":
                assert INT8_TIMES[kind] == pytest.approx(row["times_fp32"], rel=0.35), name
