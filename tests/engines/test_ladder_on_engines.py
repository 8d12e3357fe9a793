"""Wrong, slow and broken engines as the backend meets them, on engines that are really built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from engine_support import GPU
from tensorrt_standin import INSTALLED, StandIn
from video_clips import make_clip

from srtrt.cli import main
from srtrt.errors import BackendError, DeviceLostError, ParityError
from srtrt.runtime.backends import tensorrt as backend_module
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend
from srtrt.runtime.backends.tensorrt import TensorRtBackend, TensorRtOptions
from srtrt.runtime.backends.tensorrt_tuning import tune_backend
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.engines.record import EngineRecord
from srtrt.runtime.engines.tried import Attempt, way
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.session import open_session

Open = Callable[..., TensorRtBackend]

FRAME = dict(form_inputs(np.ascontiguousarray(read_pictures()[0][:24, :32]), "rgb8"))


RIGHT = ("level 2", "level 0 without generated kernels and fused additions")


@pytest.fixture
def model(tiny_graphs: dict[str, Path]) -> Path:
    return tiny_graphs["rgb8-fp32"]


@pytest.fixture
def opened(standin: StandIn, model: Path, tmp_path: Path) -> Open:
    def open_backend(**options: Any) -> TensorRtBackend:
        chosen = TensorRtOptions(cache_folder=tmp_path, **options)
        return TensorRtBackend(
            find_model(str(model)), form="rgb8", device="cuda:0", precision="fp16", options=chosen
        )

    return open_backend


def expected(model: Path) -> Any:
    with OnnxRuntimeBackend(
        find_model(str(model)), form="rgb8", device="cpu", precision="fp16"
    ) as reference:
        return reference.infer(FRAME)["rgb_x4"]


def how(plan: Any) -> str:
    return Attempt(**way(plan.way), outcome="passes").how


def the_record(tmp_path: Path) -> EngineRecord:
    (entry,) = EngineCache(tmp_path).entries()
    assert entry.record is not None
    return entry.record


def test_an_engine_wrong_by_fusion_gives_way_to_one_without(
    opened: Open, standin: StandIn, model: Path, tmp_path: Path
) -> None:
    standin.wrong_for = lambda plan: 9 * bool(plan.way.fusion)
    with opened() as backend:
        np.testing.assert_array_equal(backend.infer(FRAME)["rgb_x4"], expected(model))
        told = "\n".join(backend.notes)
    assert len(standin.builds) == 2
    assert "Tried: level 3 fails its gate: the engine of tiny at 32x24 does not compute" in told
    assert "Trying another way: level 3 without fused additions." in told
    assert "Tried: level 3 without fused additions passes" in told
    record = the_record(tmp_path)
    assert [each.outcome for each in record.attempts] == ["fails", "passes"]
    assert record.built["kept_apart"] > 0
    with opened() as backend:
        np.testing.assert_array_equal(backend.infer(FRAME)["rgb_x4"], expected(model))
    assert len(standin.builds) == 2


@pytest.mark.parametrize("standin", ["tensorrt 11.4"], indirect=True)
@pytest.mark.parametrize(
    "right", ["level 2", "level 0 without generated kernels and fused additions"]
)
def test_tensorrt_is_told_each_way_until_one_is_right(
    right: str, opened: Open, standin: StandIn, model: Path, tmp_path: Path
) -> None:
    standin.wrong_for = lambda plan: 9 * (how(plan) != right)
    with opened() as backend:
        np.testing.assert_array_equal(backend.infer(FRAME)["rgb_x4"], expected(model))
    tried = [how(plan) for plan in standin.graphs.values()]
    assert tried[-1] == right
    assert tried == [each.how for each in the_record(tmp_path).attempts]
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("standin", ["tensorrt 11.1"], indirect=True)
def test_the_winner_is_built_again_with_its_own_timings(
    opened: Open, standin: StandIn, tmp_path: Path
) -> None:
    """What other engines had timed meanwhile must not change it."""
    standin.wrong_for = lambda plan: 9 * (how(plan) != "level 2")
    with opened() as backend:
        backend.prepare(32, 24)
    (engine,) = tmp_path.glob("*.engine")
    plan = engine.read_bytes()
    for shared in tmp_path.glob("*.timing"):
        shared.unlink()
    engine.unlink()
    builds = len(standin.builds)
    with opened() as backend:
        backend.prepare(32, 24)
    assert len(standin.builds) == builds + 1
    assert engine.read_bytes() == plan
    engine.unlink()
    (own,) = tmp_path.glob("*.timings")
    own.unlink()
    for shared in tmp_path.glob("*.timing"):
        shared.unlink()
    with opened() as backend:
        backend.prepare(32, 24)
    assert engine.read_bytes() != plan


@pytest.mark.parametrize("standin", [("tensorrt 11.1", INSTALLED)], indirect=True)
def test_the_other_product_comes_next(
    opened: Open, standin: StandIn, model: Path, tmp_path: Path
) -> None:
    standin.wrong_for = lambda plan: 9 * (plan.gpu is not None)
    with opened() as backend:
        np.testing.assert_array_equal(backend.infer(FRAME)["rgb_x4"], expected(model))
        assert backend.description == "tensorrt-rtx fp16 (cuda:0)"
        told = "\n".join(backend.notes)
    assert len(standin.builds) == 7
    assert "6 ways of building it were tried" in told
    assert "pip install 'tensorrt>=10.13,<10.14'" in told
    assert "Trying TensorRT-RTX in its place." in told
    with opened() as backend:
        backend.infer(FRAME)
    assert len(standin.builds) == 7
    with opened(product="tensorrt") as backend, pytest.raises(ParityError, match="6 ways"):
        backend.infer(FRAME)
    assert len(standin.builds) == 7
    standin.wrong_for = lambda _: 9
    for path in EngineCache(tmp_path).folder.glob("*.engine*"):
        path.unlink()
    with opened() as backend, pytest.raises(ParityError) as caught:
        backend.infer(FRAME)
    assert "TensorRT: no engine is right" in str(caught.value)
    assert "TensorRT-RTX: no engine is right" in str(caught.value)
    assert all(device.open_resources == 0 for device in standin.devices)


def test_an_engine_that_breaks_the_gpu_ends_the_process(
    opened: Open, standin: StandIn, model: Path
) -> None:
    standin.sticky_for = lambda plan: bool(plan.way.fusion)
    for _ in range(2):
        with opened() as backend, pytest.raises(DeviceLostError, match="Run it again"):
            backend.infer(FRAME)
        standin.machine._dead = None  # type: ignore[attr-defined]
    with opened() as backend:
        np.testing.assert_array_equal(backend.infer(FRAME)["rgb_x4"], expected(model))
    assert len(standin.builds) == 3


def test_auto_goes_on_without_a_gpu_that_broke(
    standin: StandIn, user_cache: EngineCache, model: Path
) -> None:
    standin.sticky_for = lambda _: True
    with open_session(model=str(model), form="rgb8") as session:
        assert "tensorrt" in session.description
        found = session.infer(FRAME)["rgb_x4"]
        assert "(cuda:0)" not in session.description
        assert any("may not be able to use the GPU any more" in note for note in session.notes)
    assert np.abs(found.astype(int) - expected(model)).max() <= 2
    with (
        open_session(model=str(model), form="rgb8", backend="tensorrt") as session,
        pytest.raises(DeviceLostError),
    ):
        session.infer(FRAME)


def test_auto_goes_on_where_a_gpu_cannot_be_opened(
    standin: StandIn, user_cache: EngineCache, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise BackendError("CUDA: the driver does not answer.")

    monkeypatch.setattr(backend_module, "open_device", broken)
    with open_session(model=str(model), form="rgb8") as session:
        assert "tensorrt" not in session.description
        assert "tensorrt on cuda:0 is not used: CUDA: the driver does not answer." in session.notes
    for explicit in ({"backend": "tensorrt"}, {"device": "cuda:0"}):
        with pytest.raises(BackendError, match="the driver does not answer"):
            open_session(model=str(model), form="rgb8", **explicit)  # type: ignore[arg-type]


def test_tune_says_first_what_it_will_build(
    standin: StandIn, user_cache: EngineCache, model: Path
) -> None:
    notes = list[str]()

    def tune() -> None:
        notes.clear()
        tune_backend(
            find_model(str(model)), InputSize(width=32, height=24), form="rgb8", device="cuda:0",
            precision="fp16", seconds=0.0, on_note=notes.append,
        )  # fmt: skip

    tune()
    assert notes[0] == "Engines that will be built, minutes each: 3, for 1 and 2 and 4 at once."
    assert len(standin.builds) == 3
    tune()
    assert not any("will be built" in note for note in notes)
    assert len(standin.builds) == 3


def test_tune_measures_on_the_gpu_that_was_asked_for(
    standin: StandIn, user_cache: EngineCache, model: Path
) -> None:
    standin.gpus["cuda:1"] = replace(GPU, name="NVIDIA Other")
    done = CliRunner().invoke(
        main,
        ["tune", str(model), "--shape", "32x24", "--io", "rgb8", "--seconds", "0",
         "--device", "cuda:1"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert set(standin.opened) == {"cuda:1"}
    records = [entry.record for entry in user_cache.entries()]
    assert {record.verified_on["gpu"] for record in records if record and record.verified_on} == {
        "NVIDIA Other"
    }


@pytest.mark.parametrize("standin", ["tensorrt 10.16"], indirect=True)
def test_a_newer_version_that_is_slower_has_others_tried(
    opened: Open, standin: StandIn, tmp_path: Path
) -> None:
    with opened() as backend:
        backend.prepare(32, 24)
    record = the_record(tmp_path)
    assert record.frames_per_second == 100.0
    module = standin.modules["tensorrt"]
    module.__version__ = "10.17.0"
    standin.speed_for = lambda plan: {"level 3": 70.0, "level 5": 80.0}.get(how(plan), 95.0)
    with opened() as backend:
        backend.prepare(32, 24)
        told = "\n".join(backend.notes)
    older = f"the last one (tensorrt 10.16.0, driver {GPU.driver})"
    assert f"computes 70.0 frames/s and {older} 100.0" in told
    assert "Took level 2 with 95.0 frames/s" in told
    assert [how(plan) for plan in standin.graphs.values()][1:] == ["level 3", "level 5", "level 2"]


def test_an_explicit_level_is_tried_alone(
    standin: StandIn, user_cache: EngineCache, model: Path, tmp_path: Path
) -> None:
    standin.shift = 40
    clip = make_clip(tmp_path / "in.mp4")
    done = CliRunner().invoke(
        main,
        ["upscale-video", str(clip), "--model", str(model), "--backend", "tensorrt",
         "--backend-option", "level=5"],
    )  # fmt: skip
    assert done.exit_code == 1
    assert "leave out level=5" in done.stderr
    assert len(standin.builds) == 1
