"""The first run on a GPU, rehearsed: on the CPU, and on a GPU that is a stand-in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from support import REPOSITORY

from srtrt.benchmarks import on_gpu
from srtrt.benchmarks.engines import ENGINES, Offer
from srtrt.benchmarks.on_gpu import Outcome, run_part
from srtrt.benchmarks.on_gpu_needs import Setting
from srtrt.benchmarks.on_gpu_parts import PARTS, Part

STANDIN = """\
import os
import tempfile

import pytest
from tensorrt_standin import install

# The stand-in runs what its own process has built.
os.environ["SRTRT_CACHE"] = tempfile.mkdtemp(dir={folder!r})
install(pytest.MonkeyPatch())
"""
REHEARSED = (
    "doctor",
    "torch-parity",
    "throughput",
    "profile",
    "profile-compiled",
    "profile-all",
    "video",
    "video-torch",
    "training",
)
ON_STANDIN = ("video", "tensorrt-rtx-fp16", "tensorrt-rtx-fp32", "tensorrt-rtx-bf16",
              "tensorrt-rtx-int8", "tune", "side-by-side")  # fmt: skip


def driven(
    folder: Path, *options: str, environment: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], str]:
    """Runs the script beside a folder called srtrt; exit status, summary, what it printed."""
    beside = folder.parent / "beside"
    (beside / "srtrt").mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [str(REPOSITORY / "benchmarks" / "on_gpu.sh"), "-o", str(folder), *options],
        cwd=beside,
        env={**os.environ, "PYTHON": sys.executable, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = folder / "on-gpu.json"
    report = json.loads(summary.read_text()) if summary.is_file() else {}
    return done.returncode, report, done.stdout + done.stderr


def states(report: dict[str, Any]) -> dict[str, str]:
    return {part["part"]: part["state"] for part in report["parts"]}


@pytest.fixture
def on_standin(tmp_path: Path) -> dict[str, str]:
    """What makes every process of a run see TensorRT-RTX on a GPU that computes on the CPU."""
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx to build engines")
    (tmp_path / "sitecustomize.py").write_text(STANDIN.format(folder=str(tmp_path)))
    paths = [str(tmp_path), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_parts_are_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    chosen = ("doctor", "device-layer", "torch-parity", "video", "tensorrt-fp16")
    options = [option for name in chosen for option in ("--part", name)]
    status, report, output = driven(tmp_path, "--device", "cpu", *options)
    assert status == 0, output
    assert report["benchmark"] == "on-gpu"
    assert report["rehearsal"] is True
    assert report["machine"]["date"]
    assert [part["part"] for part in report["parts"]] == list(chosen)
    doctor, layer, parity, video, engine = report["parts"]
    assert any("onnxruntime" in line for line in doctor["output"])
    assert (layer["state"], engine["state"]) == ("skipped", "skipped")
    assert "needs an NVIDIA GPU" in layer["reason"]
    assert all(row["passes_gate"] for row in parity["result"]["engines"].values())
    assert video["result"]["frames"] == 6
    assert {stage["name"] for stage in video["result"]["stages"]} == {"decode", "network", "encode"}
    assert (tmp_path / "cpu" / "video.mp4").is_file()
    assert "3 ran, 2 skipped, 0 failed" in output


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_everything_is_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    status, report, output = driven(tmp_path, "--device", "cpu", "--limit", "900")
    assert status == 0, output
    found = states(report)
    assert list(found) == [part.name for part in PARTS]
    assert {name for name, state in found.items() if state == "ran"} == set(REHEARSED)
    assert all(part["reason"] for part in report["parts"] if part["state"] == "skipped")


@pytest.mark.parametrize(
    "chosen",
    [
        ("tensorrt-fp16", "tensorrt-rtx-fp16", "device-layer"),
        pytest.param((), marks=pytest.mark.slow, id="all"),
    ],
)
def test_engines_are_run_on_a_stand_in(
    tmp_path: Path, on_standin: dict[str, str], chosen: tuple[str, ...]
) -> None:
    options = [option for name in chosen for option in ("--part", name)]
    status, report, output = driven(
        tmp_path / "out", "--small", "--limit", "900", *options, environment=on_standin
    )
    parts = {part["part"]: part for part in report["parts"]}
    told = {name: part["output"] for name, part in parts.items() if part["state"] == "failed"}
    assert status == 0, (told, output)
    ran = {name for name, part in parts.items() if part["state"] == "ran"}
    assert ran - {"doctor", "fp8-graph", "tensorrt-rtx-fp8"} == set(ON_STANDIN) & set(
        chosen or ON_STANDIN
    )
    row = parts["tensorrt-rtx-fp16"]["result"]["engines"]["tensorrt-rtx-fp16"]
    assert row["passes_gate"]
    assert row["network_ms"] > 0
    assert row["device"] == "cuda:0"
    assert "is not installed" in parts["tensorrt-fp16"]["reason"]
    if not torch.cuda.is_available():
        assert "CUDA" in parts["device-layer"]["reason"]


def test_without_being_installed_it_runs_from_its_sources(tmp_path: Path) -> None:
    """As on a machine that is lent with other packages."""
    packages = os.pathsep.join(each for each in sys.path if "site-packages" in each)
    program = tmp_path / "python"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{packages}" '
        f'exec {sys.executable} -S "$@"\n'
    )
    program.chmod(0o755)
    environment = {"PYTHON": str(program), "PYTHONPATH": ""}
    status, report, output = driven(
        tmp_path / "out", "--device", "cpu", "--part", "doctor", environment=environment
    )
    assert status == 0, output
    assert states(report) == {"doctor": "ran"}


def test_installed_away_from_the_clone_it_uses_the_sample_of_the_clone(tmp_path: Path) -> None:
    """As after `pip install .`, which copies the package and none of the tests and samples."""
    package = tmp_path / "packages" / "srtrt"
    shutil.copytree(REPOSITORY / "src" / "srtrt", package)
    for part in ("train", "export", "runtime", "benchmarks"):
        shutil.copytree(REPOSITORY / part, package / part)
    environment = {"PYTHONPATH": str(package.parent)}
    asked = ("--device", "cpu", "--part", "video")
    status, report, output = driven(tmp_path / "out", *asked, environment=environment)
    assert status == 0, output
    assert states(report) == {"video": "ran"}
    status, _, output = driven(tmp_path / "out", *asked, "--clone", str(tmp_path))
    assert status == 2
    assert f"--clone {str(tmp_path)!r}: expected a clone of srtrt" in output


def test_what_is_lacking_is_named(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    program.chmod(0o755)
    environment = {"PYTHON": str(program), "PYTHONPATH": str(tmp_path / "nothing")}
    status, _, output = driven(tmp_path / "out", environment=environment)
    assert status == 1
    assert "srtrt lacks a package: ModuleNotFoundError" in output
    assert 'pip install -e ".[gpu,train,test]"' in output


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a part that is a few lines of Python."""

    def run_script(script: str, limit_seconds: float = 60.0, **facts: Any) -> Outcome:
        setting = Setting(device="cpu", out=tmp_path, small=True)
        result = setting.result("x")
        command = (sys.executable, "-c", script, str(result))
        part = Part(name="x", shows="something", command=lambda _: command, **facts)
        return run_part(part, setting, limit_seconds)

    return run_script


WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text({!r})"


def test_a_part_that_runs_keeps_its_result(run: Run) -> None:
    found = run(WRITE.format(json.dumps({"figure": 1, "machine": {"a": 2}})))
    assert (found.state, found.result, found.output) == ("ran", {"figure": 1}, ())
    again = run("print('only words')")
    assert (again.state, again.result, again.output) == ("ran", None, ("only words",))


def test_a_part_that_fails_keeps_its_last_lines(run: Run) -> None:
    found = run("print(*range(100), sep='\\n'); raise SystemExit('too bad')")
    assert found.state == "failed"
    assert found.reason == "it ended with status 1"
    assert found.output[-1] == "too bad"
    assert len(found.output) == 30
    missed = {"engines": {"a": {"passes_gate": True}, "b": {"passes_gate": False}}}
    assert run(WRITE.format(json.dumps(missed))).reason == "b missed the gate of its precision"
    assert run("raise SystemExit(5)", is_test=True).reason == "no test was found"
    assert run(WRITE.format("[1]")).result is None


def test_a_part_is_ended_at_its_limit_with_all_it_started(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_gpu, "_GRACE_SECONDS", 0.3)
    stubborn = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    started = time.monotonic()
    found = run(stubborn, limit_seconds=5.0)
    assert time.monotonic() - started < 60
    assert (found.state, found.reason) == ("failed", "it ran past 5 s and was ended")
    pids = [int(word) for word in found.output[0].split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_part_may_clean_up_at_its_limit(run: Run, tmp_path: Path) -> None:
    polite = (
        "import sys, time\nprint('begun', flush=True)\n"
        "try:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('cleaned up')\n"
    )
    found = run(polite, limit_seconds=5.0)
    assert found.output == ("begun", "cleaned up")


def test_what_a_part_needs_is_asked_before_it_starts(run: Run, tmp_path: Path) -> None:
    prepared = []
    found = run("raise SystemExit(1)", needs=(lambda _: "it is Sunday",), prepare=prepared.append)
    assert (found.state, found.reason, found.seconds) == ("skipped", "it is Sunday", 0.0)
    assert prepared == []


def test_every_gpu_of_a_machine_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_gpu, "gpus", lambda: [{}, {}, {}])
    settings = on_gpu._settings(("all",), tmp_path, small=False, clone=None)
    assert [(each.device, each.out.name) for each in settings] == [
        ("cuda:0", "cuda-0"), ("cuda:1", "cuda-1"), ("cuda:2", "cuda-2"),
    ]  # fmt: skip
    third = settings[2]
    offers = {
        name: Offer(engine=name, device="cuda:2", usable=True, reason="")
        for name, engine in ENGINES.items()
        if engine.on_gpu
    }
    third.__dict__["offers"] = offers  # there is no such GPU to ask
    for part in PARTS:
        command = " ".join(part.command(third))
        assert "cuda:0" not in command, part.name
        assert part.is_test or "cuda:2" in command or part.name in ("doctor", "fp8-graph")


def test_tests_see_the_gpu_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert on_gpu._visible(2) == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc")
    assert on_gpu._visible(1) == "GPU-abc"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "thrughput"], "Did you mean 'throughput'?"),
        (["--device", "gpu"], "expected auto, cpu or cuda:N"),
        (["--limit", "0"], "expected a number of at least 1"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path: Path, options: list[str], message: str) -> None:
    status, _, output = driven(tmp_path, *options)
    assert status == 2
    assert message in output
    assert "Traceback" not in output
