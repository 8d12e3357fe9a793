"""The extras of pyproject.toml: what they bring together, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from srtrt import packages
from srtrt.errors import BrokenPackageError, PackageError
from srtrt.packages import require_onnxruntime
from srtrt.runtime.cuda_packages import cuda_python_line
from srtrt.runtime.engines.gpu import GpuFacts

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PAIRS = list(itertools.combinations(sorted(EXTRAS), 2))
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}
CUDA_12 = {"gpu-cu12"}
CUDA_13 = {"gpu", "tensorrt", "rtx", "dev"}

CLASHING = {
    frozenset(pair)
    for pair in itertools.product(("gpu", "gpu-cu12"), ("cpu", "dev"))
    if pair != ("gpu-cu12", "dev")  # these are refused by pip already
}
"""Pairs that the README says not to install: both bring the module onnxruntime."""


def brought(*extras: str, python: str = "3.12") -> dict[str, list[Requirement]]:
    """Distribution to what is asked of it by extras, their own extras included."""
    found: dict[str, list[Requirement]] = {}
    for line in itertools.chain.from_iterable(EXTRAS[extra] for extra in extras):
        requirement = Requirement(line)
        version = {"python_version": python, "python_full_version": f"{python}.0"}
        if requirement.marker and not requirement.marker.evaluate(version):
            continue
        if requirement.name == "srtrt":
            for name, parts in brought(*requirement.extras, python=python).items():
                found.setdefault(name, []).extend(parts)
        else:
            found.setdefault(requirement.name, []).append(requirement)
    return found


def allows(requirements: list[Requirement], version: str) -> bool:
    return all(each.specifier.contains(Version(version)) for each in requirements)


def disagree(*extras: str) -> bool:
    """Whether two extras ask for versions of cuda-python that exclude each other."""
    wanted = brought(*extras).get("cuda-python", [])
    return not any(allows(wanted, version) for version in ("12.9.10", "13.4.4"))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_no_pair_brings_the_module_onnxruntime_twice(pair: tuple[str, str]) -> None:
    for python in PYTHONS:
        both = brought(*pair, python=python).keys() >= RUNTIMES
        assert not any(brought(extra, python=python).keys() >= RUNTIMES for extra in pair)
        if python == "3.10" and "gpu" in pair:
            assert both == ("gpu-cu12" in pair)  # which pip refuses
        elif not disagree(*pair):
            assert both == (frozenset(pair) in CLASHING)


def test_pip_refuses_two_versions_of_cuda() -> None:
    for old, new in itertools.product(CUDA_12, CUDA_13):
        assert disagree(old, new)
    for first, second in itertools.combinations(sorted(CUDA_13), 2):
        assert not disagree(first, second)


@pytest.mark.parametrize("extra", ["gpu", "gpu-cu12", "tensorrt", "rtx"])
def test_what_runs_on_a_gpu_can_call_cuda(extra: str) -> None:
    for python in PYTHONS:
        wanted = brought(extra, python=python)["cuda-python"]
        # Before 12.9.1 waiting for an event keeps the interpreter's lock.
        for old in ("11.8.7", "12.6.0", "12.6.2.post1", "12.9.0"):
            assert not allows(wanted, old)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_gpu_extras_bring_one_tensorrt_that_onnxruntime_links(python: str) -> None:
    for extra, name in (("gpu", "tensorrt"), ("gpu-cu12", "tensorrt-cu12")):
        found = brought(extra, python=python)
        (tensorrt,) = found[name]
        newest = ("11.4.0.106", "10.16.1.11")
        assert [v for v in newest if allows([tensorrt], v)] == [newest[python != "3.14"]]
        for gpu_runtime in found.get("onnxruntime-gpu", []):
            assert gpu_runtime.extras == {"cuda", "cudnn"}
    assert "onnxruntime" in brought("gpu", python="3.10")  # there is no GPU build of it


def test_tensorrt_that_pip_takes_is_for_the_cuda_of_its_extra() -> None:
    """From 10.13.2 on the distribution tensorrt brings CUDA 13, before it CUDA 12."""
    for extra in ("gpu", "tensorrt"):
        assert not allows(brought(extra)["tensorrt"], "10.13.0.35")


@pytest.mark.parametrize("cuda", ["12.4", "13.0"])
def test_the_line_for_cuda_python_is_that_of_the_extra(cuda: str) -> None:
    gpu = GpuFacts(name="", compute_capability="8.9", memory_bytes=1, driver="", driver_cuda=cuda)
    (wanted,) = brought("gpu" if cuda == "13.0" else "gpu-cu12")["cuda-python"]
    assert Requirement(cuda_python_line(gpu).split("'")[1]) == wanted


def test_every_version_has_an_upper_bound() -> None:
    unbounded = {"types-protobuf", "types-psutil", "types-pyyaml"}  # they have no major versions
    for line in (*PROJECT["dependencies"], *itertools.chain.from_iterable(EXTRAS.values())):
        requirement = Requirement(line)
        if requirement.name not in unbounded | {"srtrt"}:
            assert any(each.operator == "<" for each in requirement.specifier), line


def test_versions_of_several_extras_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "tensorrt<11,>=10.13.2; python_version < '3.14' and extra == 'gpu'",
        "tensorrt<12,>=11.0; python_version >= '3.14' and extra == 'gpu'",
        "onnxruntime-gpu[cuda,cudnn]<1.32,>=1.29; python_version >= '3.11' and extra == 'gpu'",
        "onnxruntime-gpu[cuda,cudnn]<1.27,>=1.23; extra == 'gpu-cu12'",
    ]
    monkeypatch.setattr(packages.metadata, "requires", lambda _: lines)
    packages.requirements.cache_clear()
    try:
        assert packages.requirements() == {
            "tensorrt": ">=10.13.2,<12",
            "onnxruntime-gpu": ">=1.23,<1.32",
        }
    finally:
        packages.requirements.cache_clear()


def test_one_onnxruntime_is_asked_for_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(packages, "installed", lambda name: "1.31.1" if name in there else None)
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with pytest.raises(PackageError) as none:
        require_onnxruntime("`srtrt export`")
    assert "`srtrt export` needs ONNX Runtime, which is not installed" in str(none.value)
    assert "pip install '.[gpu]'" in str(none.value)
    assert "pip install '.[cpu]'" in str(none.value)
    for name in sorted(RUNTIMES):
        there.clear()
        there.add(name)
        require_onnxruntime("`srtrt export`")
    there |= RUNTIMES
    with pytest.raises(BrokenPackageError) as two:
        require_onnxruntime("`srtrt export`")
    assert "are both installed" in str(two.value)
    assert "pip uninstall onnxruntime onnxruntime-gpu" in str(two.value)
    assert "'onnxruntime-gpu[cuda,cudnn]>=" in str(two.value)


BACKEND = '''
"""Answers for packages whose libraries lie on another index, which need not be reached."""
import email, pathlib
def get_requires_for_build_wheel(config_settings=None): return []
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    text = pathlib.Path("PKG-INFO").read_text()
    facts = email.message_from_string(text)
    name = f"{facts['Name'].replace('-', '_')}-{facts['Version']}.dist-info"
    info = pathlib.Path(folder, name)
    info.mkdir()
    (info / "METADATA").write_text(text)
    (info / "WHEEL").write_text("Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    return name
'''


def resolved(folder: Path, extras: tuple[str, ...]) -> dict[str, str] | str:
    """What pip would install for extras: distribution to version; its words if it refuses."""
    backend = folder / "backend" / "wheel_stub"
    backend.mkdir(parents=True, exist_ok=True)
    (backend / "__init__.py").touch()
    (backend / "buildapi.py").write_text(BACKEND)
    wanted = [str(each) for parts in brought(*extras, python=PYTHON).values() for each in parts]
    options = ["--dry-run", "--ignore-installed", "--quiet", "--no-build-isolation"]
    report = folder / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--report", str(report), *wanted],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(backend.parent), "PIP_FIND_LINKS": ""},
    )
    if done.returncode:
        return done.stderr
    facts = json.loads(report.read_text())["install"]
    return {
        re.sub(r"[-_.]+", "-", each["metadata"]["name"]).lower(): each["metadata"]["version"]
        for each in facts
    }


PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
GPU_SETS = [
    *((extra,) for extra in ("gpu", "gpu-cu12", "tensorrt", "rtx")),
    *(pair for pair in PAIRS if (CUDA_12 | CUDA_13) & set(pair) and not {"test"} & set(pair)),
]


@pytest.mark.slow
@pytest.mark.parametrize("extras", GPU_SETS, ids="-".join)
def test_extras_resolve_to_one_cuda(extras: tuple[str, ...], tmp_path: Path) -> None:
    """Asks the package index; the packages themselves are not downloaded."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp_path, "iniconfig"]
    if subprocess.run(pip, capture_output=True).returncode:
        pytest.skip("pip reaches no package index here")
    found = resolved(tmp_path, extras)
    if disagree(*extras):
        assert isinstance(found, str)
        assert "conflict" in found.lower()
        return
    assert isinstance(found, dict), found
    majors = {
        int(match[1])
        for name in found
        if (match := re.search(r"(?:nvidia-.*|tensorrt.*)-cu(\d+)(?:$|-)", name))
    }
    if "cuda-python" in found:
        majors.add(int(found["cuda-python"].split(".")[0]))
    assert len(majors) <= 1, found
    if frozenset(extras) not in CLASHING:
        assert not found.keys() >= RUNTIMES
