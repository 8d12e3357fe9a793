"""The TensorRT backend on engines that are really built, computed by a stand-in runtime."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_runtime
from engine_support import GPU, RTX, flip
from tensorrt_standin import StandIn

from srtrt.errors import (
    BackendError,
    DeviceLostError,
    DeviceMemoryError,
    EngineLoadError,
    ParityError,
)
from srtrt.graph import load_graph
from srtrt.runtime.backends import tensorrt as backend_module
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend
from srtrt.runtime.backends.tensorrt import TensorRtBackend, TensorRtOptions
from srtrt.runtime.backends.tensorrt_tuning import tune_backend
from srtrt.runtime.engines import products
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.key import EngineOptions, EngineShape, InputSize
from srtrt.runtime.engines.provide import EngineProvider
from srtrt.runtime.engines.record import sidecar_path
from srtrt.runtime.engines.tuning import Measured, best_of, candidates, choice_path, read_choice
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import RingOptions
from srtrt.runtime.select import choose
from srtrt.runtime.session import Session
from srtrt.spec import Form, Precision

Open = Callable[..., TensorRtBackend]


@pytest.fixture
def opened(standin: StandIn, tiny_graphs: dict[str, Path], tmp_path: Path) -> Open:
    def open_backend(
        form: Form = "rgb8", precision: Precision = "fp32", **options: Any
    ) -> TensorRtBackend:
        return TensorRtBackend(
            find_model(str(tiny_graphs["rgb8-fp32"])),
            form=form,
            device="cuda:0",
            precision=precision,
            options=TensorRtOptions(cache_folder=tmp_path, **options),
        )

    return open_backend


def frame(form: Form = "rgb8", width: int = 32, height: int = 24) -> dict[str, Any]:
    return dict(form_inputs(np.ascontiguousarray(read_pictures()[0][:height, :width]), form))


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_computes_what_onnxruntime_computes(
    form: Form,
    precision: Precision,
    opened: Open,
    standin: StandIn,
    tiny_graphs: dict[str, Path],
) -> None:
    model = find_model(str(tiny_graphs["rgb8-fp32"]))
    with OnnxRuntimeBackend(model, form=form, device="cpu", precision=precision) as reference:
        expected = reference.infer(frame(form))
    with opened(form, precision) as backend:
        assert backend.description == f"tensorrt-rtx {precision} (cuda:0)"
        found = backend.infer(frame(form))
        again = backend.infer(frame(form))
    for name, plane in expected.items():
        np.testing.assert_array_equal(found[name], plane)
        np.testing.assert_array_equal(again[name], plane)
    assert standin.builds == ["32x24"]
    assert all(device.open_resources == 0 for device in standin.devices)


def test_an_engine_is_built_once_told_about_and_judged(
    opened: Open, standin: StandIn, tmp_path: Path
) -> None:
    shares: list[float] = []
    with opened() as backend:
        backend.on_build = lambda share, _phase: shares.append(share)
        backend.prepare(32, 24)
        assert any("there is none yet" in note for note in backend.notes)
        assert backend.in_flight == 4
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    (engine,) = EngineCache(tmp_path).entries()
    assert engine.record is not None
    assert engine.record.parity is not None
    assert engine.record.parity["against"] == "the fp32 graph in onnxruntime"
    computed = standin.computed
    with opened() as backend:
        backend.prepare(32, 24)
        assert backend.notes == []
    assert standin.builds == ["32x24"]
    # Nothing but the ring's own first computation of each slot: the judge had no more to do.
    assert standin.computed - computed == 4


def test_a_wrong_engine_is_neither_kept_nor_used(
    opened: Open, standin: StandIn, tmp_path: Path
) -> None:
    standin.shift = 9
    with opened() as backend, pytest.raises(ParityError, match="does not compute what"):
        backend.infer(frame())
    assert EngineCache(tmp_path).entries() == []
    assert all(device.open_resources == 0 for device in standin.devices)


def test_a_damaged_engine_is_built_again_with_the_reason(opened: Open, tmp_path: Path) -> None:
    with opened() as backend:
        backend.prepare(32, 24)
    (entry,) = EngineCache(tmp_path).entries()
    flip(entry.path)
    with opened() as backend:
        backend.prepare(32, 24)
        (note,) = backend.notes
    assert note.startswith(f"Rebuilding {entry.path.name}: {entry.path.name} is damaged")


def test_an_engine_that_others_could_have_written_is_not_run(opened: Open, tmp_path: Path) -> None:
    with opened() as backend:
        backend.prepare(32, 24)
    (entry,) = EngineCache(tmp_path).entries()
    entry.path.chmod(0o666)
    with opened() as backend:
        backend.prepare(32, 24)
        (note,) = backend.notes
    assert "can be written by others" in note
    for path in (entry.path, sidecar_path(entry.path)):
        path.chmod(0o666)
    with opened() as backend:
        backend.trust_engine = True
        backend.prepare(32, 24)
        assert backend.notes == []


def test_what_was_compiled_is_kept_for_the_next_run(opened: Open, standin: StandIn) -> None:
    with opened() as backend:
        backend.prepare(32, 24)
    assert standin.compiled == []
    with opened() as backend:
        backend.prepare(32, 24)
    assert standin.compiled == [b"compiled kernels"]


def test_failures_carry_the_words_of_tensorrt(opened: Open, standin: StandIn) -> None:
    with opened() as backend:
        backend.prepare(32, 24)
        standin.failure = "Error Code 1: Cuda Runtime (misaligned address)"
        with pytest.raises(BackendError, match=r"TensorRT-RTX cannot compute: .*misaligned"):
            backend.infer(frame())
    assert all(device.open_resources == 0 for device in standin.devices)


@pytest.mark.parametrize("judged_elsewhere", [False, True])
def test_an_engine_that_cannot_be_loaded_is_built_again_with_the_reason(
    judged_elsewhere: bool, opened: Open, standin: StandIn, tmp_path: Path
) -> None:
    """Another build of the library may refuse it, though its version and checksum are right."""
    with opened() as backend:
        expected = backend.infer(frame())
    standin.graphs.clear()
    if judged_elsewhere:
        standin.gpus["cuda:0"] = replace(GPU, driver="590.1")
    with opened() as backend:
        np.testing.assert_array_equal(backend.infer(frame())["rgb_x4"], expected["rgb_x4"])
        told = " ".join(backend.notes)
    assert re.search(r"the one that was there cannot be loaded here \(.*another version", told)
    assert standin.builds == ["32x24"] * 2
    (entry,) = EngineCache(tmp_path).entries()
    assert entry.problem is None
    with opened() as backend:
        backend.prepare(32, 24)
        assert backend.notes == []
    assert len(standin.builds) == 2
    assert all(device.open_resources == 0 for device in standin.devices)


def test_an_engine_that_cannot_be_loaded_even_when_new_is_an_error(
    opened: Open, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened() as backend:
        backend.prepare(32, 24)
    monkeypatch.setattr(standin, "find", lambda _: None)
    with (
        opened() as backend,
        pytest.raises(EngineLoadError, match=r"cannot load .*another version"),
    ):
        backend.prepare(32, 24)
    assert len(standin.builds) == 2
    assert all(device.open_resources == 0 for device in standin.devices)


def test_no_engine_is_built_where_memory_or_the_gpu_failed(
    opened: Open, standin: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with opened() as backend:
        backend.prepare(32, 24)

    def refuse(words: str) -> None:
        def load(runtime: Any, _plan: bytes) -> None:
            standin.fail(runtime.logger_of(), runtime._trt, words)

        monkeypatch.setattr(tensorrt_runtime.Runtime, "deserialize_cuda_engine", load)

    for words, kind in (
        ("Error Code 2: OutOfMemory (Requested size was 123 bytes.)", DeviceMemoryError),
        ("Error Code 1: Cuda Runtime (an illegal memory access was enc.)", DeviceLostError),
    ):
        refuse(words)
        with opened() as backend, pytest.raises(kind):
            backend.prepare(32, 24)
    assert len(standin.builds) == 1
    assert len(EngineCache(tmp_path).entries()) == 1
    assert all(device.open_resources == 0 for device in standin.devices)


def test_too_little_memory_means_smaller_tiles(opened: Open, standin: StandIn) -> None:
    """The session goes on with tiles that fit, and the result is the same."""
    inputs = frame(width=96, height=80)
    with opened() as backend:
        session = Session(backend, radius=backend.spec.receptive_radius, scale=4, tile="auto")
        session.prepare(96, 80)
        whole = session.infer(inputs)["rgb_x4"]
    standin.memory_for = 96 * 60
    with opened() as backend:
        session = Session(backend, radius=backend.spec.receptive_radius, scale=4, tile="auto")
        session.prepare(96, 80)
        assert any("Memory ran out; went on with tiles" in note for note in session.notes)
        tiled = session.submit(inputs)()["rgb_x4"]
    np.testing.assert_allclose(tiled.astype(int), whole.astype(int), atol=1)
    assert len(set(standin.builds)) == 2
    standin.memory_for = 1
    with opened() as backend, pytest.raises(DeviceMemoryError):
        Session(backend, radius=40, scale=4, tile="auto").prepare(96, 80)


@pytest.mark.parametrize("ring", [RingOptions(streams=2, slots=3, batch=2)])
def test_batches_have_an_engine_of_their_own(
    ring: RingOptions, opened: Open, standin: StandIn
) -> None:
    frames = [frame(width=32, height=24) for _ in range(5)]
    for k, each in enumerate(frames):
        each["rgb"] = np.roll(each["rgb"], k, axis=2)
    with opened() as backend:
        expected = [backend.infer(each)["rgb_x4"] for each in frames]
    with opened(ring=ring) as backend:
        backend.prepare(32, 24)
        assert backend.in_flight == 6
        pending = [backend.submit(each) for each in frames]
        for one, each in zip(expected, pending, strict=True):
            np.testing.assert_array_equal(each()["rgb_x4"], one)
    assert standin.builds == ["32x24", "2x32x24"]


def test_an_engine_that_had_to_shrink_is_not_taken_for_a_whole_one(
    opened: Open, standin: StandIn, tiny_graphs: dict[str, Path], tmp_path: Path
) -> None:
    """An export may settle for a smaller engine; frames are then divided, not refused."""
    graph, _ = load_graph(tiny_graphs["rgb8-fp32"])
    options = EngineOptions(workspace_bytes=16 << 20)  # for about 128x64 pixels of this network
    shape = EngineShape.static(256, 256)
    notes: list[str] = []
    provider = EngineProvider(flavour=RTX, cache=EngineCache(tmp_path), on_note=notes.append)
    made = provider.provide(graph, shape, options)
    assert made.record.built["shape"] != "256x256"
    with opened(build=options) as backend, pytest.raises(DeviceMemoryError, match=r"takes .* only"):
        backend.prepare(256, 256)


def test_tuning_keeps_the_fastest_ring_for_later_runs(
    opened: Open, standin: StandIn, tmp_path: Path, tiny_graphs: dict[str, Path]
) -> None:
    seen: list[Measured] = []
    size = InputSize(width=32, height=24)
    best, path = tune_backend(
        find_model(str(tiny_graphs["rgb8-fp32"])),
        size,
        form="rgb8",
        device="cuda:0",
        precision="fp32",
        seconds=0.0,
        options=TensorRtOptions(cache_folder=tmp_path),
        on_measured=seen.append,
    )
    assert [each.ring for each in seen] == list(candidates(graphs=True))
    assert all(each.frames_per_second for each in seen)
    assert sorted(set(standin.builds)) == ["2x32x24", "32x24", "4x32x24"]
    with opened() as backend:
        assert backend.ring_options(size) == best
        assert read_choice(EngineCache(tmp_path), backend.key(size)) == (best, None)
        backend.prepare(32, 24)
        assert backend.in_flight == best.slots * best.batch
    stored = json.loads(path.read_text())
    assert len(stored["measured"]) == len(seen)
    path.write_text("{")
    with opened() as backend:
        assert backend.ring_options(size) == RingOptions()
        assert f"{path.name} is damaged" in backend.notes[0]
    cache = EngineCache(tmp_path)
    assert path == choice_path(cache, opened().key(size))
    for entry in cache.entries():
        assert cache.remove(entry.path)
    assert not path.exists()


def test_the_simplest_of_equally_fast_rings_wins() -> None:
    rings = list(candidates(graphs=True))
    speeds = dict.fromkeys(rings, 10.0) | {rings[3]: 99.0, rings[5]: 100.0, rings[7]: 90.0}

    def measure(ring: RingOptions) -> float:
        if ring == rings[0]:
            raise DeviceMemoryError("no room")
        return speeds[ring]

    best, measured = best_of(measure, rings)
    assert best == rings[3]
    assert measured[0].frames_per_second is None
    assert measured[0].problem == "no room"


def test_without_a_gpu_it_says_what_to_do() -> None:
    for capability in TensorRtBackend.capabilities():
        assert not capability.usable
    with pytest.raises(BackendError, match=r"no NVIDIA GPU with a driver was found.*nvidia-smi"):
        choose("tensorrt")


def test_what_is_missing_is_named(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, rtx = TensorRtBackend.capabilities()
    assert "pip install '.[tensorrt]'" in plain.reason
    assert rtx.usable
    assert rtx.precisions == ("fp16", "bf16", "fp32", "int8", "fp8")
    assert "on NVIDIA Test" in rtx.reason
    assert choose("tensorrt").precision == "fp16"
    assert choose().backend == "tensorrt"
    monkeypatch.setattr(products, "installed_binding", lambda: None)
    assert "needs cuda-python or PyCUDA" in TensorRtBackend.capabilities()[1].reason


@pytest.mark.parametrize(("capability", "serves"), [("9.0", False), ("7.0", False), ("7.5", True)])
def test_a_gpu_that_is_not_served_is_named(
    capability: str, serves: bool, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = replace(GPU, name="NVIDIA Other", compute_capability=capability)
    monkeypatch.setattr(backend_module, "gpu_facts", lambda *_: gpu)
    rtx = TensorRtBackend.capabilities()[1]
    assert rtx.usable == serves
    if not serves:
        assert f"does not serve NVIDIA Other (compute capability {capability}" in rtx.reason
        other = "TensorRT does: pip install '.[tensorrt]'"
        assert (other in rtx.reason) == (float(capability) >= 7.5)
    else:
        assert rtx.precisions == ("fp16", "fp32", "int8")


def test_an_explicit_flavour_that_is_missing_is_an_error(opened: Open) -> None:
    with pytest.raises(BackendError, match=r"no engine can run here: .*'\.\[tensorrt\]'"):
        opened(product="tensorrt")
