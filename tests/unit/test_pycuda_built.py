"""PyCUDA really compiled, on a driver library whose device memory is the host's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from driver_standin import compiled_driver

RELEASE = "2026.1"
TESTS = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip"]


def toolkit() -> Path:
    """The CUDA toolkit that nvcc belongs to."""
    nvcc = shutil.which("nvcc")
    for root in (Path(nvcc).resolve().parents[1] if nvcc else None, Path("/usr/local/cuda")):
        if root and (root / "include" / "cuda.h").is_file():
            return root
    pytest.skip("needs the headers of a CUDA toolkit to compile PyCUDA")


def built(folder: Path, driver: Path) -> Path:
    """PyCUDA and what it needs in a folder, compiled from its source distribution."""
    root = toolkit()
    missing = [name for name in ("pip", "setuptools") if find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} to compile PyCUDA")
    fetch = ["download", "-q", "--no-deps", "--no-build-isolation", "--no-binary", "pycuda"]
    done = subprocess.run([*PIP, *fetch, "-d", str(folder), f"pycuda=={RELEASE}"])
    if done.returncode:
        pytest.skip("pip cannot fetch the source distribution of PyCUDA here")
    with tarfile.open(folder / f"pycuda-{RELEASE}.tar.gz") as archive:
        archive.extractall(folder)
    source, site = folder / f"pycuda-{RELEASE}", folder / "site"
    settings = {
        "USE_SHIPPED_BOOST": True,
        "CUDA_ROOT": str(root),
        "CUDA_ENABLE_CURAND": False,  # random numbers on the GPU, which srtrt does not use
        "CUDADRV_LIB_DIR": [str(driver)],
        "CUDADRV_LIBNAME": ["cuda"],
        "CXXFLAGS": ["-O0"],
    }
    lines = [f"{name} = {value!r}\n" for name, value in settings.items()]
    (source / "siteconf.py").write_text("".join(lines))
    run(
        [*PIP, "install", "-q", "--target", str(site), "--no-build-isolation", "--no-deps", "."],
        source,
    )
    run([*PIP, "install", "-q", "--target", str(site), "pytools", "platformdirs", "mako"], folder)
    return site


def run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_frames_go_through_the_real_pycuda(tmp_path: Path) -> None:
    driver = compiled_driver(tmp_path)
    site = built(tmp_path, driver)
    done = subprocess.run(
        [sys.executable, str(TESTS / "pycuda_child.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(site), str(TESTS)]),
            "LD_LIBRARY_PATH": str(driver),
            "SRTRT_CUDA_GPUS": "NVIDIA Stand-in:8.9:8192,NVIDIA Other:9.0:81559",
        },
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["differences"] == []
    assert found["frames"] == [24] * 9
    assert found["left open"] == 0
    assert found["problem"] is None
    assert (found["gpus"], found["memory_limit"]) == (2, 4 << 30)
    assert "name='NVIDIA Stand-in', compute_capability='8.9'" in found["facts"]
    assert "GPU memory ran out (cuMemAlloc failed" in found["memory"]
    assert "CUDA failed (cuMemcpyHtoDAsync failed" in found["address"]
