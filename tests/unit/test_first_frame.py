"""A job whose first frame comes out black or white is refused; dark and bright sources are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from srtrt.errors import BackendError
from srtrt.graph import load_graph, save_graph
from srtrt.runtime.first_frame import require_plausible
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.session import open_session
from srtrt.spec import Form


def repeated(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    axes = {"rgb": 1, "y": 2, "uv": 2}
    return {
        f"{k}_x4": inputs[k].repeat(4, a).repeat(4, a + 1) for k, a in axes.items() if k in inputs
    }


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
@pytest.mark.parametrize("value", [0, 255])
def test_a_patch_of_overflow_is_found(form: Form, value: int) -> None:
    inputs = form_inputs(read_pictures()[0], form)
    outputs = repeated(inputs)
    require_plausible(inputs, outputs, "engine")
    for name, plane in outputs.items():
        index = (slice(None), slice(0, 64), slice(0, 64))
        plane[index if name == "rgb_x4" else (slice(None), *index)] = value
    word = "white" if value else "black"
    with pytest.raises(BackendError, match=f"engine fp16: .* % of the first frame came out {word}"):
        require_plausible(inputs, outputs, "engine fp16")


@pytest.mark.parametrize("value", [0, 20, 235, 255])
def test_black_and_white_sources_are_plausible(value: int) -> None:
    inputs = {"rgb": np.full((1, 8, 8, 3), value, np.uint8)}
    outputs = {"rgb_x4": np.full((1, 32, 32, 3), 255 if value > 128 else 0, np.uint8)}
    require_plausible(inputs, outputs, "engine")


def test_a_network_that_gives_nan_is_stopped(tmp_path: Path, tiny_graphs: dict[str, Path]) -> None:
    graph, _ = load_graph(tiny_graphs["rgb8-fp32"])
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("bias"):
            broken = np.full_like(numpy_helper.to_array(tensor), np.nan)
            tensor.CopyFrom(numpy_helper.from_array(broken, tensor.name))
    path = tmp_path / "broken.onnx"
    save_graph(path, graph)
    picture = read_pictures()[0][None]
    with (
        open_session(model=str(path), form="rgb8", backend="onnxruntime") as session,
        pytest.raises(BackendError, match=r"onnxruntime fp32 .* came out (black|white)"),
    ):
        session.infer({"rgb": picture})
