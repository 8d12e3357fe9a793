"""The simulated GPU behind the packages through which CUDA is called."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from cuda_simulator import Gpu
from cuda_standin import CudaRuntime, PyCudaDriver


class Packages(NamedTuple):
    """What was put where the packages were."""

    runtime: CudaRuntime
    """``cuda.bindings.runtime``."""
    driver: PyCudaDriver
    """``pycuda.driver``."""


def install_packages(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> Packages:
    """Puts a GPU behind cuda-python and PyCUDA."""
    packages = Packages(CudaRuntime(gpu), PyCudaDriver(gpu))
    monkeypatch.setattr("cuda.bindings.runtime", packages.runtime)
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=packages.driver))
    monkeypatch.setitem(sys.modules, "pycuda.driver", packages.driver)
    return packages


def install(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> Gpu:
    """Makes it the ``cuda:0`` that rings of backends open, through cuda-python.

    Args:
        monkeypatch: undoes it.
        seed: of the order in which the GPU does its work.
    """
    gpu = Gpu(seed)
    install_packages(monkeypatch, gpu)
    monkeypatch.setattr("srtrt.runtime.rings.installed_binding", lambda: "cuda-python")
    monkeypatch.setattr("srtrt.runtime.cuda.installed_binding", lambda: "cuda-python")
    return gpu
