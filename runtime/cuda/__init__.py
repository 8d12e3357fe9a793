"""CUDA streams, memory and graphs behind one small interface, whatever package provides them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from srtrt.errors import MissingPackageError, UsageError
from srtrt.runtime.cuda.device import Device

Binding = Literal["auto", "pycuda", "cuda-python"]
"""Package through which CUDA is called; ``auto`` is cuda-python, which records graphs and locks
memory, or else PyCUDA."""


def open_device(device: str = "cuda:0", binding: Binding = "auto") -> Device:
    """Opens a GPU.

    Args:
        device: ``cuda:N``, in CUDA's order.
        binding: the package to use.

    Raises:
        UsageError: if a name is unknown.
        MissingPackageError: if the package is not installed.
        BackendError: if the GPU cannot be used.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        raise UsageError(f"device {device!r}: expected cuda or cuda:N.")
    chosen = installed_binding() if binding == "auto" else binding
    if chosen == "pycuda":
        from srtrt.runtime.cuda.pycuda import PyCudaDevice

        return PyCudaDevice(int(number or 0))
    if chosen == "cuda-python":
        from srtrt.runtime.cuda.cuda_python import CudaPythonDevice

        return CudaPythonDevice(int(number or 0))
    if chosen is None:
        raise MissingPackageError("cuda-python", "gpu", "calling CUDA from Python")
    raise UsageError(f"CUDA package {chosen!r} is unknown; expected auto, pycuda or cuda-python.")


def installed_binding() -> Literal["pycuda", "cuda-python"] | None:
    """The package that ``auto`` takes; None if there is neither."""
    # The name `cuda` alone is a namespace that other packages share.
    if find_spec("cuda") and find_spec("cuda.bindings"):
        return "cuda-python"
    return "pycuda" if find_spec("pycuda") else None
