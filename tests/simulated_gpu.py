"""The simulated GPU as the one that rings of backends open, through cuda-python."""

from __future__ import annotations

import pytest
from cuda_simulator import Gpu
from cuda_standin import CudaRuntime


def install(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> Gpu:
    """Makes it ``cuda:0``.

    Args:
        monkeypatch: undoes it.
        seed: of the order in which the GPU does its work.
    """
    gpu = Gpu(seed)
    monkeypatch.setattr("cuda.bindings.runtime", CudaRuntime(gpu))
    monkeypatch.setattr("srtrt.runtime.rings.installed_binding", lambda: "cuda-python")
    monkeypatch.setattr("srtrt.runtime.cuda.installed_binding", lambda: "cuda-python")
    return gpu
