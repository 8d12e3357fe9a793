"""Engines keep to the processors and the CPU quota of their process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from srtrt.errors import UsageError
from srtrt.runtime import threads
from srtrt.runtime.threads import allowed_processors, engine_threads, usable_processors

ONE_PROCESSOR = """
import os, sys
one = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {one})
import numpy, psutil
if sys.argv[2] == 'export':
    import onnx, srtrt.export.running
    engine = srtrt.export.running.quiet_session(onnx.load(sys.argv[1]))
else:
    import srtrt
    engine = srtrt.Upscaler(sys.argv[1], backend=sys.argv[2], device='cpu')
    engine(numpy.zeros((32, 32, 3), 'uint8'))
threads = psutil.Process().threads()
print({p for thread in threads for p in os.sched_getaffinity(thread.id)} == {one})
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs processor affinity")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch", "export"])
def test_no_thread_leaves_the_processors_of_its_process(
    backend: str, tiny_checkpoint: Path, tiny_graphs: dict[str, Path]
) -> None:
    if allowed_processors() < 2:
        pytest.skip("needs two processors")
    model = tiny_checkpoint if backend == "torch" else tiny_graphs["rgb8-fp32"]
    command = [sys.executable, "-c", ONE_PROCESSOR, str(model), backend]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.stdout.strip() == "True", found.stderr


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of control groups, with this process in group ``/a/b`` of both versions."""
    own = tmp_path / "own"
    own.write_text("0::/a/b\n3:cpuset:/\n4:cpu,cpuacct:/a/b\nunknown:memory:/a\n")
    monkeypatch.setattr(threads, "_OWN_CGROUP", own)
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "allowed_processors", lambda: 16)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(threads.psutil, "cpu_count", lambda logical: 16 if logical else 8)
    return tmp_path


def limit(folder: Path, quota: str, period: str = "100000") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{quota} {period}\n")
    (folder / "cpu.cfs_quota_us").write_text("-1" if quota == "max" else quota)
    (folder / "cpu.cfs_period_us").write_text(period)


@pytest.mark.parametrize("root", ["", "cpu"])
def test_the_tightest_quota_counts(root: str, groups: Path) -> None:
    assert usable_processors() == 16
    assert engine_threads(0) == 0
    limit(groups / root / "a/b", "max")
    assert engine_threads(0) == 0
    limit(groups / root / "a/b", "1200000")
    assert usable_processors() == 12
    assert engine_threads(0) == 8  # of the 16 processors, two each are one core
    limit(groups / root / "a", "250000")
    assert usable_processors() == 3
    assert engine_threads(0) == 3
    limit(groups / root, "1000")
    assert engine_threads(0) == 1
    assert engine_threads(5) == 5
    limit(groups / root, "nonsense")
    assert engine_threads(0) == 3


def test_more_threads_than_processors_are_refused(groups: Path) -> None:
    with pytest.raises(UsageError, match="threads is 17, and this process may run on 16"):
        engine_threads(17)
    assert engine_threads(16) == 16
