"""Which versions of CUDA the installed packages are for, and whether driver and packages agree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata

from srtrt.errors import install_hint
from srtrt.runtime.engines.gpu import GpuFacts

OLDEST_DRIVERS = {12: "525", 13: "580"}
"""Driver that each major version of CUDA needs at least, by NVIDIA's compatibility table."""

_SUFFIX = re.compile(r"^(?:nvidia|tensorrt|cupy)-.*?-?cu(?:da)?(1[0-9])(?:x|-.*)?$")
_OF_THE_TOOLKIT = ("cuda-python", "cuda-bindings", "cuda-toolkit", "nvidia-cuda-runtime")
"""Packages whose own version is that of CUDA."""
_GPU_RUNTIME = "onnxruntime-gpu"
_FIRST_WITH_13 = (1, 27)
"""The onnxruntime-gpu from which on it is built with CUDA 13."""


def installed_packages() -> dict[str, str]:
    """Every installed distribution with its version, by its normal name."""
    found = {}
    for each in metadata.distributions():
        name = each.metadata["Name"]
        if name:
            found[re.sub(r"[-_.]+", "-", name).lower()] = each.version
    return found


def cuda_of(packages: Mapping[str, str]) -> dict[int, list[str]]:
    """The major versions of CUDA that packages are for, each with those packages by name.

    Args:
        packages: distribution to version, see :func:`installed_packages`.
    """
    found: dict[int, list[str]] = {}
    for name, version in sorted(packages.items()):
        major = _major(name, version)
        if major is not None:
            found.setdefault(major, []).append(f"{name} {version}")
    return dict(sorted(found.items()))


def _major(name: str, version: str) -> int | None:
    match = _SUFFIX.match(name)
    if match:
        return int(match[1])
    if name in _OF_THE_TOOLKIT:
        return int(version.partition(".")[0])
    if name == _GPU_RUNTIME:
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        return 13 if numbers >= _FIRST_WITH_13 else 12
    local = re.search(r"\+cu(\d\d)\d$", version) if name == "torch" else None
    return int(local[1]) if local else None


def cuda_problems(
    packages: Mapping[str, str], driver: str | None, driver_cuda: str | None
) -> list[str]:
    """What does not go together, in sentences that say what to type.

    Args:
        packages: distribution to version.
        driver: version of NVIDIA's driver; None if there is none that works.
        driver_cuda: newest CUDA it supports, such as ``13.0``; None likewise.
    """
    found, problems = cuda_of(packages), []
    newest = int(driver_cuda.partition(".")[0]) if driver_cuda else max(found, default=0)
    beyond = [major for major in found if major > newest]
    if beyond:
        major = beyond[-1]
        problems.append(
            f"{_named(driver).capitalize()} goes up to CUDA {driver_cuda}, and "
            f"{_some(found[major])} need CUDA {major}: update the driver to "
            f"{OLDEST_DRIVERS.get(major, 'a newer one')} or later, or in a new environment "
            f"{install_hint(_extra(newest))}."
        )
    elif len(found) > 1:
        several = ", and ".join(f"CUDA {major}: {_some(names)}" for major, names in found.items())
        problems.append(
            f"Packages for several versions of CUDA are installed and can overwrite each other's "
            f"files ({several}); in a new environment {install_hint(_extra(newest))}."
        )
    return problems


def beyond_driver(what: str, cuda: str, gpu: GpuFacts) -> str | None:
    """Why a package does not run with the driver of a GPU, as a clause; None if it does.

    Args:
        what: name of the package for people.
        cuda: major version of CUDA it is built for, or ``unknown``.
        gpu: the GPU.
    """
    newest = int(gpu.driver_cuda.partition(".")[0])
    if not cuda.isdigit() or int(cuda) <= newest:
        return None
    return (
        f"{what} is built for CUDA {cuda}, and {_named(gpu.driver)} of {gpu.name} goes up to "
        f"CUDA {gpu.driver_cuda}; update the driver to {OLDEST_DRIVERS.get(int(cuda), 'a newer')} "
        f"or later, or in a new environment {install_hint(_extra(newest))}"
    )


def cuda_python_line(gpu: GpuFacts) -> str:
    """The pip line that brings a cuda-python which the driver of a GPU can serve."""
    newest = int(gpu.driver_cuda.partition(".")[0])
    bounds = ">=13.0.3,<14" if newest >= 13 else ">=12.9.1,<13"
    return f"pip install 'cuda-python{bounds}'"


def _named(driver: str | None) -> str:
    return "the driver" if driver in (None, "unknown") else f"the driver {driver}"


def _extra(newest: int) -> str:
    return "gpu" if newest >= 13 else "gpu-cu12"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
