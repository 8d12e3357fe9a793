"""Engines side by side: which there are, what they compute, how they are named and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_command import benchmark

from srtrt.benchmarks.engines import ENGINES, choose_engines, survey_engines, usual_reference
from srtrt.runtime.ring import RingOptions
from srtrt.spec import PRECISIONS, Form

FORMS: tuple[Form, ...] = ("rgb8", "yuv420p8")
ON_GPU = [name for name, engine in ENGINES.items() if engine.on_gpu]
SMALL = ["--size", "64x48", "--rounds", 2, "--seconds", 0]


def measured(*arguments: object) -> dict[str, Any]:
    result = benchmark("latency", *arguments, *SMALL)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """TensorRT-RTX on a GPU, with really built engines and an empty cache."""
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx to build engines")
    from tensorrt_standin import install

    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path / "cache"))
    return install(monkeypatch)


def test_every_product_and_precision_has_a_name() -> None:
    for product in ("tensorrt", "tensorrt-rtx"):
        assert {f"{product}-{precision}" for precision in PRECISIONS} <= ENGINES.keys()
    for kind in ("torch-cuda", "torch-cuda-captured", "torch-cuda-compiled"):
        assert {f"{kind}-{precision}" for precision in ("fp32", "fp16", "bf16")} <= ENGINES.keys()
    assert {"onnxruntime-cuda-fp32", "onnxruntime-cuda-fp16"} <= ENGINES.keys()


def test_the_list_says_why_each_engine_cannot_run_here(tiny_graphs: dict[str, Path]) -> None:
    result = benchmark("engines", "--model", "fast")
    assert result.exit_code == 0, result.output
    offers = {offer["engine"]: offer for offer in json.loads(result.stdout)}
    assert offers.keys() == ENGINES.keys()
    assert offers["onnxruntime-int8"]["usable"]
    assert all(offer["reason"] for offer in offers.values())
    assert "srtrt export fast --precision fp8" in offers["tensorrt-fp8"]["reason"]
    fp16 = {o.engine: o for o in survey_engines(str(tiny_graphs["rgb8-fp16"]))}
    assert fp16["tensorrt-fp32"].reason == "it computes fp32, and this graph is fp16"
    assert "this model is a graph" in fp16["torch-fp32"].reason
    assert {o["engine"] for o in json.loads(benchmark("engines", "--device", "cpu").stdout)} == {
        name for name, engine in ENGINES.items() if not engine.on_gpu
    }


def test_speed_and_parity_are_in_one_table(tiny_graphs: dict[str, Path]) -> None:
    """An engine with frames in flight is timed by the device's events as well."""
    ring, plain = "onnxruntime-fp32:streams=2,slots=4", "openvino-fp32"
    model = tiny_graphs["rgb8-fp32"]
    given = ["--model", model, "--engine", ring, "--engine", plain]
    result = benchmark("latency", *given, *SMALL)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["engines"]
    for row in rows.values():
        assert row["passes_gate"]
        assert row["max_abs"] <= 1
        assert row["quartiles"][0] <= row["seconds_per_frame"] <= row["quartiles"][1]
    for key in ("network_ms", "copy_in_ms", "copy_out_ms", "frames_per_second"):
        assert rows[ring][key] > 0
        assert key not in rows[plain]
    assert rows[ring]["in_flight"] == 4
    assert rows[ring]["network_ms"] < 1000 * rows[ring]["quartiles"][1] * 2
    head = "| engine | network, ms | copies, ms | frame, ms | times faster | frames/s | parity, dB"
    assert head in result.stderr
    assert f"| {ring} | {rows[ring]['network_ms']:.2f} |" in result.stderr


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", ["64x48", "400x320"])
def test_parity_is_that_of_the_whole_frame(tiny_checkpoint: Path, form: Form, size: str) -> None:
    """Also where the frame is larger than the part that is compared: tiles are exact."""
    given = ["--model", tiny_checkpoint, "--engine", "torch-fp32", "--io", form, "--seconds", 0]
    result = benchmark("latency", *given, "--size", size, "--rounds", 1)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["engines"]
    assert rows["torch-eager-fp32"]["psnr_db"] in (None, pytest.approx(90, abs=20))
    assert rows["torch-fp32"]["passes_gate"]
    assert rows["torch-fp32"]["against"] == "PyTorch fp32"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_tensorrt_is_built_run_and_compared(standin: Any, form: Form, precision: str) -> None:
    engine = f"tensorrt-rtx-{precision}"
    report = measured("--model", "fast", "--engine", engine, "--io", form, "--device", "cuda:0")
    row = report["engines"][engine]
    assert report["reference"] == engine  # there is no other engine on this GPU
    assert (row["device"], row["precision"], row["passes_gate"]) == ("cuda:0", precision, True)
    assert row["network_ms"] > 0
    assert row["frames_per_second"] > 0
    assert row["in_flight"] == RingOptions().slots
    assert standin.builds == ["64x48"]
    assert all(device.open_resources == 0 for device in standin.devices)


def test_what_a_gpu_offers_is_measured_and_the_rest_is_named(
    standin: Any, tiny_graphs: dict[str, Path]
) -> None:
    result = benchmark("latency", "--model", tiny_graphs["rgb8-fp32"], "--device", "cuda:0", *SMALL)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert set(report["engines"]) == {f"tensorrt-rtx-{p}" for p in ("fp32", "fp16", "bf16")}
    assert set(report["left_out"]) == {*ON_GPU} - report["engines"].keys()
    assert "pip install '.[tensorrt]'" in report["left_out"]["tensorrt-fp16"]
    assert "tensorrt-fp32, tensorrt-fp16, tensorrt-bf16 are left out" in result.stderr
    chosen, _ = choose_engines((), str(tiny_graphs["rgb8-fp32"]))
    assert chosen[:2] == ("onnxruntime-fp32", "openvino-fp32")
    assert chosen[-1] == "tensorrt-rtx-bf16"
    assert usual_reference("fast", chosen) == "torch-eager-fp32"


def test_an_engine_that_fails_leaves_the_others(
    standin: Any, tiny_graphs: dict[str, Path], tmp_path: Path
) -> None:
    """The results are there, and the command has failed."""
    standin.shift = 40
    out = tmp_path / "latency.json"
    command = ["latency", "--model", tiny_graphs["rgb8-fp32"], *SMALL]
    result = benchmark(*command, "--engine", "all", "--out", out)
    assert result.exit_code == 1
    report = json.loads(out.read_text())
    assert set(report["problems"]) == {f"tensorrt-rtx-{p}" for p in ("fp32", "fp16", "bf16")}
    assert report["engines"]["onnxruntime-fp32"]["passes_gate"]
    assert "does not compute what PyTorch computes" in result.stderr
    alone = benchmark(*command, "--engine", "tensorrt-rtx-fp16")
    assert alone.exit_code == 1
    assert alone.stdout == ""


def test_parity_speaks_tensorrt(
    standin: Any, tiny_graphs: dict[str, Path], picture_folder: Path
) -> None:
    result = benchmark(
        "parity", "--model", "fast", "--data", picture_folder, "--io", "yuv420p8",
        "--engine", "tensorrt-rtx-fp16", "--engine", "onnxruntime-fp32", "--device", "cuda:0",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["engines"]
    assert rows["tensorrt-rtx-fp16"]["device"] == "cuda:0"
    assert all(row["passes_gate"] for row in rows.values())
    assert "| tensorrt-rtx-fp16 |" in result.stderr


def test_engines_are_opened_as_their_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, Any]] = []

    class Noted:
        def __init__(self, _model: Any, *, options: Any, device: str, **facts: Any) -> None:
            opened.append((device, options))

    from srtrt.benchmarks import engines
    from srtrt.runtime.backends import backend_class

    real = {name: backend_class(name).options_type for name in ("torch", "tensorrt")}
    monkeypatch.setattr(engines, "backend_class", lambda _: Noted)
    for name in ("torch-cuda", "torch-cuda-captured", "torch-cuda-compiled", "tensorrt-rtx"):
        engines.open_engine(f"{name}-fp16", "fast", "rgb8", device="cuda:3")
    engines.open_engine("torch-cuda-fp16:streams=3,slots=6", "fast", "rgb8", device="auto")
    kinds = [real["torch"]] * 3 + [real["tensorrt"], real["torch"]]
    assert [type(options) for _, options in opened] == kinds
    assert [device for device, _ in opened] == ["cuda:3"] * 4 + ["cuda:0"]
    eager, captured, compiled, rtx, several = (options for _, options in opened)
    assert (eager.ring.graph, eager.compile) == (False, False)
    assert (captured.ring.graph, captured.compile) == (True, False)
    assert (compiled.ring.graph, compiled.compile) == (True, True)
    assert rtx.product == "tensorrt-rtx"
    assert several.ring == RingOptions(streams=3, slots=6, graph=False)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--engine", "tensorrt-fp61"], 2, "Did you mean 'tensorrt-fp16'"),
        (["--engine", "tensorrt-fp16"], 1, "no NVIDIA GPU with a driver"),
        (["--engine", "tensorrt-fp16:product=tensorrt-rtx"], 2, "product is given twice"),
        (["--device", "cuda:0"], 1, "no engine can compute srresnet on cuda:0 here"),
        (["--device", "gpu"], 2, "expected auto, cpu or cuda:N. Did you mean 'cuda'?"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], status: int, message: str
) -> None:
    result = benchmark("latency", *arguments, *SMALL)
    assert result.exit_code == status
    assert message in result.output


@pytest.fixture(scope="session")
def fp8_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from srtrt.export.api import export_model

    folder = tmp_path_factory.mktemp("fp8")
    (graph,) = export_model("fast", folder, precisions=("fp8",), forms=("rgb8",))
    return graph.path


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("engine", ON_GPU)
def test_engines_of_the_gpu_pass_their_gates(
    engine: str, form: Form, request: pytest.FixtureRequest
) -> None:
    fp8 = engine.endswith("fp8")
    model = str(request.getfixturevalue("fp8_graph")) if fp8 else "fast"
    (offer,) = (each for each in survey_engines(model, "cuda:0") if each.engine == engine)
    if not offer.usable:
        pytest.skip(offer.reason)
    report = measured("--model", model, "--engine", engine, "--io", form, "--device", "cuda:0")
    row = report["engines"][engine]
    assert row["passes_gate"], row
    assert row["network_ms"] > 0
    assert row["frames_per_second"] > 0


@pytest.mark.gpu
def test_throughput_on_the_gpu() -> None:
    result = benchmark(
        "throughput", "--model", "fast", "--device", "cuda:0", "--precision", "fp16",
        "--size", "64x48", "--seconds", 0.1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["matmul_tflops"] > 0
    assert report["sizes"]["64x48"]["compiled"]["frames_per_second"] > 0
