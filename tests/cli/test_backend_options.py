"""Every option of a backend takes effect through the commands and the Python API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import av
import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from video_clips import VFR, make_clip

import srtrt
import srtrt.runtime.models
from srtrt.cli import main
from srtrt.errors import UsageError
from srtrt.runtime.backends import BACKENDS, backend_class
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeOptions
from srtrt.runtime.backends.openvino import OpenVinoOptions
from srtrt.runtime.backends.options import options_of
from srtrt.runtime.parity import read_pictures
from srtrt.runtime.ring import FrameRing, RingOptions


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def graph(tiny_graphs: dict[str, Path]) -> Path:
    return tiny_graphs["rgb8-fp32"]


@pytest.fixture
def upscaled(tmp_path: Path, picture: Path) -> Callable[..., Result]:
    """Runs ``srtrt upscale-image`` on the CPU in float32 with the options given as names."""

    def upscale(model: Path, backend: str, **options: Any) -> Result:
        given = [f"--backend-option={name}={value}" for name, value in options.items()]
        return run(
            "upscale-image", picture, "--model", model, "--backend", backend, "--device", "cpu",
            "--precision", "fp32", "--overwrite", "--json", tmp_path / "report.json", *given,
        )  # fmt: skip

    return upscale


def recorded(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """What a method or class returns from here on, each time that it is called."""
    results, real = [], getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        results.append(real(*arguments, **named))
        return results[-1]

    monkeypatch.setattr(owner, name, call)
    return results


def leaves(kind: type[Any]) -> set[str]:
    """Names of all fields, of dataclasses within as well."""
    found = set()
    for each in fields(kind):
        hint = get_type_hints(kind)[each.name]
        inner = [part for part in (hint, *get_args(hint)) if is_dataclass(part)]
        found |= leaves(inner[0]) if inner else {each.name}  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("name", BACKENDS)
def test_the_doctor_lists_every_field_with_its_meaning(name: str) -> None:
    kind = backend_class(name).options_type
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(each.kw_only for each in fields(kind))
    options = options_of(kind)
    names = [each.name for each in options]
    assert len(set(names)) == len(names), "names are unique"
    assert set(names) == {each.removesuffix("_bytes") for each in leaves(kind)}
    lines = run("doctor").output.splitlines()
    begin = next(k for k, line in enumerate(lines) if name in line.strip(" :").split(", "))
    for option in options:
        line = next(each for each in lines[begin:] if each.split()[:1] == [option.name])
        if option.refused is None:
            assert option.expected in line
            assert f"default {option.default}" in line
            assert option.meaning
            assert line.endswith(option.meaning)
        else:
            assert "cannot be given: " in line


def test_threads_of_openvino(
    upscaled: Callable[..., Result], graph: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiled = recorded(monkeypatch, openvino.Core, "compile_model")
    done = upscaled(graph, "openvino", threads=1)
    assert done.exit_code == 0, done.output
    assert [each.get_property("INFERENCE_NUM_THREADS") for each in compiled] == [1]
    assert "openvino fp32 (cpu) with threads=1" in done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["backend_options"] == {"threads": 1}
    assert upscaled(graph, "openvino").exit_code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["backend_options"] == {}


def test_settings_of_onnxruntime(
    upscaled: Callable[..., Result], graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = recorded(monkeypatch, onnxruntime, "InferenceSession")
    level = onnxruntime.GraphOptimizationLevel
    for options, threads, optimised in (
        ({"threads": 1}, 1, level.ORT_ENABLE_ALL),
        ({"optimise": "no", "threads": 1}, 1, level.ORT_DISABLE_ALL),
    ):
        sessions.clear()
        done = upscaled(graph, "onnxruntime", **options)
        assert done.exit_code == 0, done.output
        (settings,) = (each.get_session_options() for each in sessions)
        assert settings.intra_op_num_threads == threads
        assert settings.graph_optimization_level == optimised


@pytest.mark.parametrize(("kept", "times"), [(4, 2), (1, 3)])
def test_compiled_shapes_of_openvino(
    kept: int, times: int, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = recorded(monkeypatch, openvino.Core, "compile_model")
    for name, width in (("a", 16), ("b", 24), ("c", 16)):
        Image.fromarray(read_pictures()[0][:16, :width]).save(tmp_path / f"{name}.png")
    done = run(
        "upscale-image", tmp_path, "-o", f"{tmp_path}/out/", "--model", graph, "--backend",
        "openvino", "--backend-option", f"compiled_shapes={kept}",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert len(compiled) == times


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_frames_in_flight(
    backend: str,
    graph: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All numbers of the ring reach it, and the frames are the same as one after the other."""
    rings: list[FrameRing] = []
    real = FrameRing.__init__

    def opened(self: FrameRing, *arguments: Any) -> None:
        rings.append(self)
        real(self, *arguments)

    monkeypatch.setattr(FrameRing, "__init__", opened)
    clip = make_clip(tmp_path / "in.mp4")
    model = tiny_checkpoint if backend == "torch" else graph
    results = []
    for options in ((), ("streams=2", "slots=3", "batch=2")):
        given = [f"--backend-option={each}" for each in options]
        target = tmp_path / f"{len(options)}.mkv"
        done = run(
            "upscale-video", clip, "-o", target, "--model", model, "--backend", backend,
            "--device", "cpu", "--precision", "fp32", "--codec", "ffv1",
            "--json", tmp_path / "report.json", *given,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert bool(rings) == bool(options)
        results.append(frames_of(target))
    (ring,) = rings
    assert ring._options == RingOptions(streams=2, slots=3, batch=2)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["backend_options"] == {"streams": 2, "slots": 3, "batch": 2}
    assert "with streams=2, slots=3, batch=2" in report["network"]
    assert len(results[0]) == len(VFR)
    for one, other in zip(*results, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as video:
        return [frame.to_ndarray() for frame in video.decode(video=0)]


@pytest.mark.parametrize("rewritten", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_torch_runs_the_network_as_asked(
    rewritten: bool, channels_last: bool, upscaled: Callable[..., Result], tiny_checkpoint: Path
) -> None:
    normalised, orders = [], set()

    def see(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _: Any) -> None:
        if isinstance(module, torch.nn.BatchNorm2d):
            normalised.append(module)
        elif isinstance(module, torch.nn.Conv2d) and inputs[0].shape[1] == 8:
            orders.add(inputs[0].is_contiguous(memory_format=torch.channels_last))

    hook = torch.nn.modules.module.register_module_forward_hook(see)
    try:
        done = upscaled(tiny_checkpoint, "torch", rewritten=rewritten, channels_last=channels_last)
    finally:
        hook.remove()
    assert done.exit_code == 0, done.output
    assert bool(normalised) == (not rewritten)
    assert orders == {channels_last}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torch_compiles(upscaled: Callable[..., Result], tiny_checkpoint: Path) -> None:
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    for compiled in (False, True):
        counters.clear()
        done = upscaled(tiny_checkpoint, "torch", compile=compiled)
        assert done.exit_code == 0, done.output
        assert bool(counters["stats"]["unique_graphs"]) == compiled


def test_python_takes_names_texts_and_the_dataclass(graph: Path, picture: Path) -> None:
    same: list[Any] = [{"threads": 1}, ["threads=1"], ("threads=1",), OpenVinoOptions(threads=1)]
    for options in same:
        with srtrt.Upscaler(str(graph), backend="openvino", backend_options=options) as upscale:
            assert upscale.description.endswith("with threads=1")
    ring = OnnxRuntimeOptions(ring=RingOptions(batch=2))
    with srtrt.Upscaler(
        str(graph), backend="onnxruntime", device="cpu", backend_options=ring
    ) as upscale:
        assert upscale.description.endswith("with streams=2, slots=4, batch=2")


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("openvino", {"thread": 1}, r"openvino has no option 'thread'; perhaps threads is meant."),
        ("openvino", {"thread": 1}, r"It has threads, compiled_shapes."),
        ("openvino", {"streams": 2}, r"it is one of onnxruntime, onnxruntime-tensorrt, tensorrt"),
        ("auto", {"compile": True}, r"it is one of torch: choose with --backend"),
        ("onnxruntime", {"level": 3}, r"it is one of tensorrt: choose with --backend"),
        ("openvino", {"threads": "many"}, r"threads is 'many'; expected a whole number"),
        ("openvino", {"threads": 1.5}, r"threads is 1.5; expected a whole number"),
        ("openvino", {"threads": True}, r"threads is True; expected a whole number"),
        ("openvino", {"threads": None}, r"threads is None; expected a whole number"),
        ("openvino", {"threads": "none"}, r"threads is 'none'; expected a whole number"),
        ("openvino", {"threads": "0x1"}, r"threads is '0x1'; expected a whole number"),
        ("openvino", {"threads": -1}, r"threads is -1; expected at least 0"),
        ("openvino", {"threads": 10**6}, r"may run on \d+ processors; expected at most"),
        ("onnxruntime", {"threads": 10**6}, r"may run on \d+ processors; expected at most"),
        ("openvino", {"compiled_shapes": 0}, r"compiled_shapes is 0; expected at least 1"),
        ("onnxruntime", {"optimise": "maybe"}, r"'maybe'; expected true or false"),
        ("onnxruntime", {"graph": True}, r"cannot be given: ONNX Runtime may copy"),
        ("torch", {"trace": True}, r"cannot be given: only measurements read what it records"),
        ("torch", {"graph": True}, r"graph is for the GPU, and torch runs on cpu"),
        ("onnxruntime", {"streams": 5}, r"at least as many slots as streams \(such as slots=10"),
        ("onnxruntime", {"batch": 0}, r"expected positive numbers"),
        ("onnxruntime", {"slots": 10**9}, r"expected no number above"),
        ("openvino", "threads", r"'threads': expected NAME=VALUE"),
        ("openvino", ["=1"], r"'=1': expected NAME=VALUE"),
        ("openvino", [""], r"'': expected NAME=VALUE"),
        ("openvino", ["threads=1", "threads=1"], r"threads is given twice"),
        ("openvino", ["threads="], r"threads is ''; expected a whole number"),
        ("torch", OpenVinoOptions(), r"are OpenVinoOptions; torch takes TorchOptions"),
    ],
)
def test_what_cannot_be_met_is_refused(
    backend: str, options: Any, message: str, tiny_checkpoint: Path, graph: Path
) -> None:
    model = str(tiny_checkpoint if backend == "torch" else graph)
    with pytest.raises(UsageError, match=message):
        srtrt.Upscaler(model, backend=backend, device="cpu", backend_options=options)


def test_wrong_options_are_wrong_usage_before_anything_is_written(
    graph: Path, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    for given in ("thread=1", "threads=-1", "threads"):
        done = run(
            "upscale-video", clip, "--model", graph, "--backend", "openvino",
            "--backend-option", given,
        )  # fmt: skip
        assert done.exit_code == 2
        assert done.stderr.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_what_is_computed_beside_a_frame_takes_memory_too(graph: Path) -> None:
    """Tiles become smaller by as much as more frames are computed at the same time."""

    def pixel_bytes(**options: Any) -> int:
        ring = RingOptions(**options) if options else None
        with OnnxRuntimeBackend(
            srtrt.runtime.models.find_model(str(graph)),
            form="rgb8", device="cpu", precision="fp32", options=OnnxRuntimeOptions(ring=ring),
        ) as backend:  # fmt: skip
            return backend.frame_bytes_per_pixel

    alone = pixel_bytes()
    assert pixel_bytes(streams=3, slots=3) >= 3 * alone
    assert pixel_bytes(streams=1, slots=1, batch=4) >= 4 * alone
    assert pixel_bytes(streams=1, slots=64) > pixel_bytes(streams=1, slots=1)


def test_compiling_without_a_compiler_says_what_to_do(
    picture: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "CXX"}
    environment |= {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [
        sys.executable, "-m", "srtrt.cli", "upscale-image", str(picture), "--model",
        str(tiny_checkpoint), "--device", "cpu", "--backend-option", "compile=true",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 1
    assert "leave compile=true out, or give it what it lacks" in done.stderr
    assert "Traceback" not in done.stderr


def test_more_in_flight_than_the_memory_holds_is_refused(
    upscaled: Callable[..., Result], graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRTRT_MEMORY_LIMIT", "64")
    done = upscaled(graph, "onnxruntime", streams=16, slots=256, batch=8)
    assert done.exit_code == 2
    assert "256 batches of 8 frames on 16 streams take about" in done.stderr
    assert "the network may use 0.1 GiB; give a smaller batch" in done.stderr
    assert upscaled(graph, "onnxruntime", streams=2, slots=2).exit_code == 0
