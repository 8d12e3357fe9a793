"""TensorRT and TensorRT-RTX on a GPU of this machine: what serves it, and what it computes."""

from __future__ import annotations

from srtrt.errors import BackendError, SrtrtError, UsageError
from srtrt.runtime.cuda import installed_binding
from srtrt.runtime.cuda_packages import beyond_driver, cuda_python_line
from srtrt.runtime.engines.flavour import CURRENT, FLAVOURS, Flavour, flavour_of
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.key import EngineOptions
from srtrt.runtime.nvidia import no_gpu
from srtrt.spec import Precision

USUAL_PRECISION: Precision = "fp16"
"""Arithmetic of engines where none is asked for: what every tensor core computes, exactly enough.
Both exporting and upscaling take it from here."""


def unusable_because(flavour: Flavour, gpu: GpuFacts | None) -> str | None:
    """Why engines of a flavour cannot run here, as a clause that says what to do; None if they can.

    Args:
        flavour: TensorRT or TensorRT-RTX.
        gpu: the GPU of this machine, None if there is none.
    """
    if gpu is None:
        return f"{flavour.label}: {no_gpu()}"
    try:
        problem = flavour.refusal(gpu)
    except SrtrtError as error:
        return str(error).rstrip(".")
    if problem is None and installed_binding() is None:
        problem = f"{flavour.label} needs cuda-python or PyCUDA: {cuda_python_line(gpu)}"
    return problem or beyond_driver(flavour.label, flavour.cuda(), gpu)


def usable_flavour(name: str, gpu: GpuFacts | None) -> Flavour:
    """The first of :func:`usable_flavours`."""
    return usable_flavours(name, gpu)[0]


def usable_flavours(name: str, gpu: GpuFacts | None) -> list[Flavour]:
    """What builds and runs engines on a GPU, the first the usual one.

    Args:
        name: ``tensorrt``, ``tensorrt-rtx``, or ``auto`` for all that can be used.
        gpu: the GPU, None if there is none.

    Raises:
        BackendError: if none can, with what each lacks.
    """
    wanted = FLAVOURS.values() if name == "auto" else [flavour_of(name)]
    problems = {flavour.name: unusable_because(flavour, gpu) for flavour in wanted}
    found = [flavour for flavour in wanted if problems[flavour.name] is None]
    if not found:
        raise BackendError(f"no engine can run here: {'; '.join(filter(None, problems.values()))}.")
    return found


def require_target(build: EngineOptions, gpu: GpuFacts) -> None:
    """Refuses, before it is built, an engine that is only for other GPUs.

    Raises:
        UsageError: with what it would have to be for.
    """
    targets = build.compute_capabilities
    if targets and not {CURRENT, gpu.compute_capability} & set(targets):
        raise UsageError(
            f"compute_capabilities is {', '.join(targets)}, and {gpu.name} has "
            f"{gpu.compute_capability}; an engine that is to run here must be for that or "
            f"{CURRENT!r}. To make one for another machine, use `srtrt export`."
        )


def require_precision(precision: Precision, gpu: GpuFacts, device: str) -> None:
    """Refuses what the tensor cores of a GPU do not compute; GPUs of one machine may differ.

    Raises:
        BackendError: with what they compute.
    """
    if precision not in (computed := precisions_of(gpu)):
        raise BackendError(
            f"{gpu.name} ({device}, compute capability {gpu.compute_capability}) does not compute "
            f"in {precision}; expected --precision {' or '.join(computed)}."
        )


def precisions_of(gpu: GpuFacts) -> tuple[Precision, ...]:
    """What tensor cores of a compute capability compute, the fastest exact enough first."""
    capability = tuple(map(int, gpu.compute_capability.split(".")))
    precisions: list[Precision] = [USUAL_PRECISION]
    if capability >= (8, 0):
        precisions.append("bf16")
    precisions += ["fp32", "int8"]
    if capability >= (8, 9):
        precisions.append("fp8")
    return tuple(precisions)
