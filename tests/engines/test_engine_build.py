"""Engines are really built, ahead of time with TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import helper

from srtrt.errors import (
    BackendError,
    DeviceMemoryError,
    MissingPackageError,
    ModelError,
    UsageError,
)
from srtrt.graph import load_graph, stamp
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.flavour import FLAVOURS, flavour_of
from srtrt.runtime.engines.gpu import GpuFacts, gpu_facts
from srtrt.runtime.engines.key import EngineOptions, EngineShape

RTX = FLAVOURS["tensorrt-rtx"]
PLAIN = replace(FLAVOURS["tensorrt"], module="tensorrt_rtx", oldest=(1, 0))
"""TensorRT's way of building, on the module that can be installed here."""
SMALL = EngineShape.static(32, 24)
GPU = GpuFacts(
    name="NVIDIA Test", compute_capability="8.9", memory_bytes=1 << 33, driver="1", driver_cuda="13"
)
A_KERNEL_SHORT = EngineOptions(workspace_bytes=16 << 20)
"""Workspace for about 128x64 pixels of the tiny network."""


@pytest.fixture
def rgb(tiny_graphs: dict[str, Path]) -> bytes:
    return tiny_graphs["rgb8-fp32"].read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
def test_every_form_and_precision_builds_in_its_own_types(
    form: str, precision: str, tiny_graphs: dict[str, Path]
) -> None:
    built = build_engine(tiny_graphs[f"{form}-{precision}"].read_bytes(), SMALL, flavour=RTX)
    assert len(built.plan) > 100_000
    assert (built.spec.form, built.spec.precision) == (form, precision)
    assert built.facts["convolutions"] == {"HALF" if precision == "fp16" else "FLOAT": 9}
    images = {
        "rgb8": ({"rgb": [1, 24, 32, 3]}, {"rgb_x4": [1, 96, 128, 3]}),
        "yuv420p8": (
            {"y": [1, 1, 24, 32], "uv": [1, 2, 12, 16]},
            {"y_x4": [1, 1, 96, 128], "uv_x4": [1, 2, 48, 64]},
        ),
    }
    for place, expected in zip(("inputs", "outputs"), images[form], strict=True):
        found = {k: v for k, v in built.facts[place].items() if v.startswith("UINT8")}
        assert found == {name: f"UINT8{shape}" for name, shape in expected.items()}


def test_a_graph_of_another_type_than_its_spec_is_refused(tiny_graphs: dict[str, Path]) -> None:
    model, spec = load_graph(tiny_graphs["rgb8-fp32"])
    wrong = stamp(model, spec.with_(precision="fp16")).SerializeToString()
    with pytest.raises(ModelError, match="should compute in HALF; found 9 in FLOAT"):
        build_engine(wrong, SMALL, flavour=RTX)


def test_a_range_of_shapes_stays_dynamic(tiny_graphs: dict[str, Path]) -> None:
    graph = tiny_graphs["yuv420p8-fp16"].read_bytes()
    built = build_engine(graph, EngineShape.parse("16x16:32x24:2x64x48"), flavour=RTX)
    assert built.facts["shape"] == "16x16:32x24:2x64x48"
    assert built.facts["inputs"]["uv"] == "UINT8[-1, 2, -1, -1]"
    assert built.facts["steps"] == []


def test_equal_builds_are_equal_and_options_reach_the_builder(rgb: bytes) -> None:
    def plan(options: EngineOptions) -> bytes:
        return build_engine(rgb, SMALL, options, flavour=RTX).plan

    exact = plan(EngineOptions())
    assert plan(EngineOptions()) == exact
    assert plan(EngineOptions(tf32=True)) != exact
    assert plan(EngineOptions(workspace_bytes=1 << 30)) != exact


def test_chosen_compute_capabilities(rgb: bytes) -> None:
    plans = {
        build_engine(rgb, SMALL, EngineOptions(compute_capabilities=chosen), flavour=RTX).plan
        for chosen in ((), ("7.5",), ("8.6", "12.0"))
    }
    assert len(plans) == 3


@pytest.mark.parametrize("chosen", ["9.9", "86", "Ada"])
def test_an_unknown_compute_capability_is_refused_with_the_known_ones(
    chosen: str, rgb: bytes
) -> None:
    with pytest.raises(UsageError, match=rf"'{chosen}' is not one.*8\.6, 8\.9, 12\.0.*or current"):
        build_engine(rgb, SMALL, EngineOptions(compute_capabilities=(chosen,)), flavour=RTX)


def test_plain_tensorrt_cannot_choose(rgb: bytes) -> None:
    with pytest.raises(UsageError, match="use tensorrt-rtx or leave it out"):
        build_engine(rgb, SMALL, EngineOptions(compute_capabilities=("8.9",)), flavour=PLAIN)


@pytest.mark.skipif(gpu_facts() is not None, reason="needs a machine without an NVIDIA GPU")
def test_a_failure_that_less_work_cannot_cure_ends_at_once(rgb: bytes) -> None:
    notes: list[str] = []
    here = EngineOptions(compute_capabilities=("current",))
    with pytest.raises(BackendError, match=r"cannot build tiny .*CUDA driver") as caught:
        build_engine(rgb, EngineShape.static(256, 256), here, flavour=RTX, on_note=notes.append)
    assert not isinstance(caught.value, DeviceMemoryError)
    assert notes == []


def test_parser_errors_are_collected_with_node_names(tiny_graphs: dict[str, Path]) -> None:
    model, _ = load_graph(tiny_graphs["rgb8-fp32"])
    for operator in ("Det", "Unique"):
        node = helper.make_node(operator, ["lr"], [operator], name=f"my_{operator}")
        model.graph.node.append(node)
    with pytest.raises(ModelError, match=r"node my_Det \(Det\): UNSUPPORTED_NODE") as caught:
        build_engine(model.SerializeToString(), SMALL, flavour=RTX)
    assert "node my_Unique (Unique)" in str(caught.value)
    assert str(RTX.version()) in str(caught.value)


@pytest.mark.parametrize("graph", [b"", b"\xff\x00 not a graph"])
def test_what_is_no_graph_is_refused(graph: bytes) -> None:
    with pytest.raises(ModelError, match="srtrt"):
        build_engine(graph, SMALL, flavour=RTX)


@pytest.mark.parametrize(
    "ladder",
    [
        ["256x256", "256x128", "256x64", "256x56", "128x56", "64x56", "56x56"],
        ["4x128x64", "128x64", "128x56", "64x56", "56x56"],
        ["64x64:128x64:512x512", "128x64", "128x56", "64x56", "56x56"],
    ],
)
def test_the_ladder_builds_less_and_says_so(ladder: list[str], rgb: bytes) -> None:
    notes: list[str] = []
    shape = EngineShape.parse(ladder[0])
    built = build_engine(rgb, shape, A_KERNEL_SHORT, flavour=RTX, on_note=notes.append)
    *failed, last = built.facts["steps"]
    assert 1 <= len(failed) < len(ladder)
    got = ladder[len(failed)]
    width, height = map(int, got.split("x"))
    assert [step.split(" at level")[0] for step in failed] == ladder[: len(failed)]
    assert all("OutOfMemory" in step for step in failed)
    assert last == f"built {got} at level 3 instead of {ladder[0]} at level 3"
    assert (built.facts["asked_shape"], built.facts["shape"]) == (ladder[0], got)
    assert built.facts["inputs"] == {"rgb": f"UINT8[1, {height}, {width}, 3]"}
    assert len(notes) == len(failed) + 1
    assert notes[-1] == f"TensorRT-RTX {last}."


def test_a_lower_level_is_a_rung_where_levels_matter(rgb: bytes) -> None:
    flavour = replace(PLAIN, timing_cache=False)
    built = build_engine(rgb, EngineShape.static(128, 128), A_KERNEL_SHORT, flavour=flavour)
    steps = [step.split(":")[0] for step in built.facts["steps"]]
    assert steps[:2] == ["128x128 at level 3", "128x128 at level 1"]
    assert steps[-1].endswith("at level 1 instead of 128x128 at level 3")
    assert built.facts["level"] == 1


def test_without_permission_to_shrink_it_fails_with_the_reason(rgb: bytes) -> None:
    shape = EngineShape.static(256, 256)
    with pytest.raises(DeviceMemoryError, match=r"256x256 at level 3: OutOfMemory .*larger work"):
        build_engine(rgb, shape, A_KERNEL_SHORT, flavour=RTX, may_shrink=False)


def test_the_ladder_ends(rgb: bytes) -> None:
    options = EngineOptions(workspace_bytes=1)
    with pytest.raises(DeviceMemoryError, match="The last of 3 attempts: 56x56 at level 3"):
        build_engine(rgb, EngineShape.static(64, 64), options, flavour=RTX)


def test_the_workspace_is_half_of_the_free_memory_of_the_gpu(
    rgb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRTRT_MEMORY_LIMIT", "300")
    assert build_engine(rgb, SMALL, flavour=RTX).facts["workspace_bytes"] is None
    built = build_engine(rgb, SMALL, flavour=RTX, gpu=GPU)
    assert built.facts["workspace_bytes"] == 300 << 20


def test_progress_rises_to_one(rgb: bytes) -> None:
    shares: list[float] = []
    build_engine(rgb, SMALL, flavour=RTX, on_progress=lambda share, _: shares.append(share))
    assert len(shares) > 20
    assert shares == sorted(set(shares))
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_of_the_callback_stops_the_build(
    error: type[BaseException], rgb: bytes
) -> None:
    calls: list[float] = []

    def stop(share: float, _phase: str) -> None:
        calls.append(share)
        if len(calls) == 5:
            raise error

    with pytest.raises(error):
        build_engine(rgb, SMALL, flavour=RTX, on_progress=stop)
    assert len(calls) == 5


def test_ctrl_c_stops_a_build(tiny_graphs: dict[str, Path]) -> None:
    graph, sender = tiny_graphs["yuv420p8-fp32"].read_bytes(), list[threading.Timer]()

    def press(share: float, _phase: str) -> None:
        if share > 0.1 and not sender:  # it arrives while TensorRT works
            sender.append(threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGINT)))
            sender[0].start()

    # Shells start what is in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build_engine(graph, EngineShape.static(64, 64), flavour=RTX, on_progress=press)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")
def test_timings_are_kept_and_a_corrupt_cache_is_discarded(rgb: bytes, tmp_path: Path) -> None:
    path, notes = tmp_path / "gpu.timing", list[str]()

    def build() -> bytes:
        built = build_engine(
            rgb, SMALL, flavour=PLAIN, timing_cache=path, on_note=notes.append
        )  # fmt: skip
        return built.plan

    plan = build()
    stored = path.read_bytes()
    assert len(stored) > 32
    assert build() == plan
    assert notes == []
    path.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))
    assert build() == plan
    assert notes == ["The stored kernel timings were discarded: gpu.timing is damaged."]
    assert path.read_bytes() == stored
    path.chmod(0o666)
    assert build() == plan
    assert "can be written by others" in notes[-1]
    assert path.stat().st_mode & 0o777 == 0o600
    nowhere = tmp_path / "absent" / "gpu.timing"
    build_engine(rgb, SMALL, flavour=PLAIN, timing_cache=nowhere, on_note=notes.append)
    assert notes[-1].startswith("The kernel timings were not kept: ")


def test_rtx_keeps_no_timings(rgb: bytes, tmp_path: Path) -> None:
    build_engine(rgb, SMALL, flavour=RTX, timing_cache=tmp_path / "gpu.timing")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_old_package_is_answered_with_the_pip_line(rgb: bytes) -> None:
    absent = replace(FLAVOURS["tensorrt"], module="no_such_tensorrt")
    with pytest.raises(MissingPackageError, match=r"pip install '\.\[tensorrt\]'"):
        build_engine(rgb, SMALL, flavour=absent)
    with pytest.raises(BackendError, match=r"too old; expected 99.1 or later: pip install -U"):
        build_engine(rgb, SMALL, flavour=replace(RTX, oldest=(99, 1)))
    with pytest.raises(UsageError, match="'trt' is unknown; expected tensorrt or tensorrt-rtx"):
        flavour_of("trt")


def test_odd_shapes_are_refused_for_halved_chroma(tiny_graphs: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"side 33 is odd.*use 34"):
        build_engine(
            tiny_graphs["yuv420p8-fp32"].read_bytes(), EngineShape.static(33, 24), flavour=RTX
        )


def test_the_garbage_collector_may_run_while_tensorrt_logs(tiny_graphs: dict[str, Path]) -> None:
    """A builder freed inside TensorRT's call to its logger would wait for that call for ever."""
    code = """
import gc, logging, sys
import onnx
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.key import EngineShape

class Collect(logging.Handler):
    def emit(self, record):
        gc.collect()

def build(model):
    shape, flavour = EngineShape.static(16, 16), FLAVOURS["tensorrt-rtx"]
    return build_engine(model.SerializeToString(), shape, flavour=flavour)

gc.disable()
good, bad = onnx.load(sys.argv[1]), onnx.load(sys.argv[1])
bad.graph.node[3].op_type = "Nonsense"
try:
    build(bad)
except Exception as error:
    error.itself = error  # a cycle, which only the collector frees
log = logging.getLogger("srtrt.tensorrt")
log.addHandler(Collect())
log.setLevel(logging.DEBUG)
print(len(build(good).plan) > 0)
"""
    command = [sys.executable, "-c", code, str(tiny_graphs["rgb8-fp32"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "True", done.stderr
