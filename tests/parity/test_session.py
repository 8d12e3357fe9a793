"""Sessions: tiles, memory, choice of backend, and the Python API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import srtrt
from srtrt.errors import (
    BackendError,
    DeviceMemoryError,
    InputError,
    ModelError,
    UsageError,
)
from srtrt.runtime import session as sessions
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend
from srtrt.runtime.backends.openvino import OpenVinoBackend
from srtrt.runtime.memory import MEMORY_VARIABLE
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.select import choose
from srtrt.runtime.session import open_session
from srtrt.spec import Form

PICTURE = np.concatenate(read_pictures()[:2], axis=1)


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_tiled_equals_untiled(
    form: Form, backend: str, tiny_graphs: dict[str, Path], tiny_checkpoint: Path
) -> None:
    model = tiny_checkpoint if backend == "torch" else tiny_graphs[f"{form}-fp32"]
    inputs = form_inputs(PICTURE, form)
    results = []
    for tile in ("none", 48):
        with open_session(
            model=str(model), form=form, backend=backend, precision="fp32", tile=tile
        ) as session:
            assert (session.plan(inputs).count == 1) == (tile == "none")
            results.append(session.infer(inputs))
    for name, whole in results[0].items():
        difference = np.abs(whole.astype(int) - results[1][name])
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= difference.size / 10_000


def test_a_memory_limit_leads_to_tiles(
    tiny_graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, "16")
    with open_session(model=str(tiny_graphs["rgb8-fp32"]), form="rgb8") as session:
        assert session.plan(form_inputs(PICTURE, "rgb8")).count > 1
    monkeypatch.setenv(MEMORY_VARIABLE, "none")
    with pytest.raises(UsageError, match="SRTRT_MEMORY_LIMIT='none'"):
        open_session(model=str(tiny_graphs["rgb8-fp32"]), form="rgb8")


def test_running_out_of_memory_leads_to_a_smaller_tile(
    tiny_graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = PICTURE.shape[0] * PICTURE.shape[1] // 3
    infer = OnnxRuntimeBackend._infer

    def limited(
        self: OnnxRuntimeBackend, inputs: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        if inputs["rgb"].size > 3 * largest:
            raise RuntimeError("[ONNXRuntimeError] Failed to allocate memory for requested buffer")
        return infer(self, inputs)

    graph = str(tiny_graphs["rgb8-fp32"])
    inputs = form_inputs(PICTURE, "rgb8")
    with open_session(model=graph, form="rgb8", backend="onnxruntime", tile="none") as session:
        expected = session.infer(inputs)["rgb_x4"]
    monkeypatch.setattr(OnnxRuntimeBackend, "_infer", limited)
    with open_session(model=graph, form="rgb8", backend="onnxruntime", tile="none") as session:
        found = session.infer(inputs)["rgb_x4"]
        assert any("Memory ran out" in note for note in session.notes)
    assert np.abs(expected.astype(int) - found).max() <= 1
    largest = 10
    with (
        open_session(model=graph, form="rgb8", backend="onnxruntime") as session,
        pytest.raises(DeviceMemoryError, match="out of memory"),
    ):
        session.infer(inputs)


def test_a_closed_backend_says_so(tiny_graphs: dict[str, Path]) -> None:
    session = open_session(model=str(tiny_graphs["rgb8-fp32"]), form="rgb8", backend="onnxruntime")
    session.close()
    session.close()
    with pytest.raises(BackendError, match="was closed"):
        session.infer(form_inputs(PICTURE, "rgb8"))


def test_an_engine_failure_is_one_sentence(tiny_graphs: dict[str, Path]) -> None:
    graph = str(tiny_graphs["rgb8-fp32"])
    with (
        open_session(model=graph, form="rgb8", backend="onnxruntime") as session,
        pytest.raises(BackendError, match=r"onnxruntime fp32 \(cpu\) failed: [^\n]+$"),
    ):
        session.infer({"rgb": PICTURE[None].astype(np.float32)})


def test_auto_says_what_it_takes_in_few_words_and_the_rest_apart() -> None:
    choice = choose()
    assert choice.backend in ("openvino", "onnxruntime")
    taken = f"{choice.backend} {choice.precision} on {choice.device}: the fastest here"
    assert choice.reason.startswith(taken)
    assert len(choice.reason) < 100
    assert choice.reasoning.startswith(f"{choice.backend} on {choice.device} in {choice.precision}")
    if choice.device == "cpu":
        assert "Not used: TensorRT" in choice.reasoning
        assert "TensorRT" not in choice.reason
        assert "onnxruntime" in choice.reasoning


def test_the_reason_does_not_speak_of_another_precision(
    on_processor: Callable[[str], None],
) -> None:
    on_processor("zen3")
    plain = choose("openvino")
    assert plain.reason == "openvino fp32 on cpu: as asked for; this processor has no bfloat16."
    for backend in ("auto", "openvino"):
        eight = choose(backend, "cpu", "int8")
        assert eight.precision == "int8"
        assert "float32" not in eight.reason + eight.reasoning
        assert "bfloat16" not in eight.reason


def test_auto_falls_to_onnxruntime_where_openvino_is_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    choice = choose(device="cpu")
    assert (choice.backend, choice.precision) == ("onnxruntime", "fp32")
    assert "pip install '.[cpu]'" in choice.reasoning
    assert not OpenVinoBackend.capabilities()[0].usable


def test_an_explicit_wish_is_never_replaced(
    monkeypatch: pytest.MonkeyPatch, on_processor: Callable[[str], None]
) -> None:
    with pytest.raises(BackendError, match="onnxruntime on cpu computes fp32, int8, not bf16"):
        choose("onnxruntime", "cpu", "bf16")
    on_processor("zen3")
    for backend in ("openvino", *(["torch"] if find_spec("torch") else [])):
        with pytest.raises(BackendError, match=f"{backend} on cpu computes fp32.*, not bf16"):
            choose(backend, "cpu", "bf16")
    with pytest.raises(BackendError, match=r"not bf16 \(this processor has no bfloat16\)"):
        choose(precision="bf16")
    with pytest.raises(UsageError, match="backend 'tensorflow' is unknown"):
        choose("tensorflow")
    with pytest.raises(UsageError, match="device 'tpu'"):
        choose(device="tpu")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(BackendError, match=r"pip install '\.\[cpu\]'"):
        choose("openvino")


@pytest.mark.parametrize("tile", ["0", "-4", "big", 0])
def test_a_tile_must_be_a_size(tile: str | int, tiny_graphs: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="expected auto, none, or a side"):
        open_session(model=str(tiny_graphs["rgb8-fp32"]), form="rgb8", tile=tile)


def test_models_are_found_or_explained(tiny_checkpoint: Path, tiny_graphs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="Did you mean 'srresnet'"):
        find_model("srresnt")
    with pytest.raises(InputError, match="no such model file"):
        find_model("absent.onnx")
    with pytest.raises(ModelError, match="srtrt export"):
        open_session(model=str(tiny_checkpoint), form="rgb8", backend="onnxruntime")
    with pytest.raises(ModelError, match="needs the checkpoint"):
        open_session(model=str(tiny_graphs["rgb8-fp32"]), form="rgb8", backend="torch")
    with pytest.raises(BackendError, match="not fp16"):
        open_session(model=str(tiny_graphs["rgb8-fp16"]), form="rgb8", device="cpu")


def test_upscaler_takes_pictures_and_batches(tiny_graphs: dict[str, Path]) -> None:
    with srtrt.Upscaler(str(tiny_graphs["yuv420p8-fp32"]), precision="fp32") as upscale:
        big = upscale(PICTURE)
        batch = upscale(PICTURE[None])
        assert big.shape == (4 * PICTURE.shape[0], 4 * PICTURE.shape[1], 3)
        assert np.array_equal(batch[0], big)
        with pytest.raises(
            InputError, match=r"float64, \[4, 4, 3\]; expected a NumPy array of uint8"
        ):
            upscale(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="empty"):
            upscale(np.zeros((0, 4, 3), np.uint8))


def test_default_model_beats_bicubic_on_a_real_picture() -> None:
    from srtrt.metrics import psnr_y
    from srtrt.resample import resize_bicubic

    hr = PICTURE[:96, :224]
    lr = resize_bicubic(hr, 24, 56)
    with sessions.open_session(form="rgb8") as session:
        sr = session.infer({"rgb": lr[None]})["rgb_x4"][0]
    assert psnr_y(sr, hr) > psnr_y(resize_bicubic(lr, 96, 224), hr) + 0.3


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torch_on_cuda_agrees_with_the_cpu(precision: str, tiny_checkpoint: Path) -> None:
    from srtrt.runtime.parity import compare_outputs, passes

    inputs = form_inputs(PICTURE, "yuv420p8")
    outputs = []
    for device, kind in (("cpu", "fp32"), ("cuda:0", precision)):
        with open_session(
            model=str(tiny_checkpoint), form="yuv420p8", backend="torch", device=device,
            precision=kind,
        ) as session:  # fmt: skip
            outputs.append(session.infer(inputs))
    assert passes(compare_outputs(iter([(outputs[0], outputs[1])])), precision)  # type: ignore[arg-type]
