"""What the doctor says of NVIDIA's GPUs: each of them, what serves it, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from srtrt.errors import MissingPackageError, SrtrtError
from srtrt.runtime.cuda_packages import cuda_problems, installed_packages
from srtrt.runtime.engines.flavour import FLAVOURS, Flavour
from srtrt.runtime.engines.gpu import GpuFacts, all_gpus, bus_address
from srtrt.runtime.nvidia import Machine, gpu_problem

_SERVED = {
    "tensorrt": "7.5 and later",
    "tensorrt-rtx": "7.5, 8.0, 8.6, 8.9, 12.0, 12.1",
}
"""Compute capabilities of products that are not installed and cannot be asked; see docs/gpu.md."""


def gpu_lines(machine: Machine | None = None) -> Iterator[str]:
    """Lines on every GPU and on what is wrong with the driver or the packages for it.

    Args:
        machine: where the facts about the system come from; this one by default.
    """
    machine = machine or Machine()
    packages = installed_packages()
    try:
        gpus = all_gpus()
    except SrtrtError as error:
        yield f"NVIDIA GPU: {error}"
        return
    if not gpus:
        problem = gpu_problem(machine) or "none"
        found = problem.removeprefix("no NVIDIA GPU with a driver was found; ")
        yield f"NVIDIA GPU: {'none was found; ' if found != problem else ''}{found}."
        if machine.shows_gpu:
            yield from (f"  {each}" for each in cuda_problems(packages, None, None))
        return
    order = (
        " in CUDA's order, which CUDA_DEVICE_ORDER=PCI_BUS_ID makes that of nvidia-smi"
        if len(gpus) > 1
        else ""
    )
    yield f"NVIDIA GPU{'s' if len(gpus) > 1 else ''}{order}:"
    for index, gpu in enumerate(gpus):
        place = bus_address(index)
        yield (
            f"  cuda:{index} {gpu.name}, compute capability {gpu.compute_capability}, "
            f"{gpu.memory_bytes / 2**30:.1f} GiB, driver {gpu.driver} (CUDA {gpu.driver_cuda})"
            + (f", PCI {place}" if place else "")
        )
        for flavour in FLAVOURS.values():
            yield f"    {_service(flavour, gpu)}"
    yield from (
        f"  {each}" for each in cuda_problems(packages, gpus[0].driver, gpus[0].driver_cuda)
    )


def _service(flavour: Flavour, gpu: GpuFacts) -> str:
    """Whether a product serves a GPU, by what it says itself or, not installed, by its version."""
    try:
        problem = flavour.refusal(gpu)
    except MissingPackageError:
        return (
            f"{flavour.label} is not installed; it serves compute capabilities "
            f"{_SERVED[flavour.name]}"
        )
    except SrtrtError as error:
        return str(error).rstrip(".")
    return f"{flavour.label} {flavour.version()} serves it" if problem is None else problem
