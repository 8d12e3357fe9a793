"""Which backend runs a model here, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from srtrt.errors import BackendError, UsageError
from srtrt.nearest import did_you_mean
from srtrt.processor import InstructionSet, this_processor
from srtrt.runtime.backends import BACKENDS, backend_class
from srtrt.runtime.backends.base import Capability, gpu_of
from srtrt.runtime.engines.gpu import all_gpus
from srtrt.runtime.models import Model
from srtrt.spec import PRECISIONS, Precision

AUTO_ORDER: tuple[tuple[str, str], ...] = (
    ("tensorrt", "cuda"),
    ("onnxruntime", "cuda"),
    ("openvino", "cpu"),
    ("onnxruntime", "cpu"),
)
"""Backends and devices that ``auto`` tries, the fastest first."""


INT8_TIMES: Mapping[InstructionSet, float] = {
    "avx2": 2,
    "avx2_vnni": 3,
    "avx512": 1.4,
    "avx512_vnni": 3,
    "avx512_bf16": 3,
}
"""How many times as fast as fp32 OpenVINO is in int8, about: measured on one processor, limited to
each (:mod:`srtrt.benchmarks.instruction_sets`)."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A backend, a device and a precision that can be used together."""

    backend: str
    device: str
    precision: Precision
    why: str
    """Why this, in few words for the user."""
    reasoning: str
    """The same with versions, and with what is not used and why."""
    otherwise: tuple[Precision, ...] = ()
    """What to take in turn where the precision fails on this machine; empty if it was asked for."""

    @property
    def reason(self) -> str:
        """What is used and why, in one short sentence for the user."""
        return f"{self.backend} {self.precision} on {self.device}: {self.why}."


def survey() -> Iterator[tuple[str, Capability]]:
    """Every backend with what it can do here, in the order of the table.

    Of several GPUs those that are like one before them are left out.
    """
    first, *others = _gpus()
    for name in BACKENDS:
        kind = backend_class(name)
        for capability in kind.capabilities(first):
            yield name, capability
        for gpu in others:
            for capability in kind.capabilities(gpu):
                if capability.device == gpu:
                    yield name, capability


def _gpus() -> list[str]:
    """Each kind of GPU once; the first one also where it is not there or cannot be asked."""
    try:
        gpus = all_gpus()
    except BackendError:
        gpus = []
    unlike = [f"cuda:{index}" for index, gpu in enumerate(gpus) if gpu not in gpus[:index]]
    return unlike or [gpu_of("auto")]


def choose(backend: str = "auto", device: str = "auto", precision: str = "auto") -> Choice:
    """Picks the first of :data:`AUTO_ORDER` that meets the wishes, or the explicit backend.

    Raises:
        UsageError: if a name is not one of those known.
        BackendError: if an explicit wish cannot be met; nothing else is taken instead.
    """
    return next(choices(backend, device, precision))


def choices(
    backend: str = "auto", device: str = "auto", precision: str = "auto"
) -> Iterator[Choice]:
    """What :func:`choose` would take, then what it would take without that, and so on.

    Raises:
        UsageError, BackendError: as it does, before the first.
    """
    require_device(device)
    if precision not in ("auto", *PRECISIONS):
        hint = did_you_mean(precision, PRECISIONS)
        raise UsageError(
            f"precision {precision!r} is unknown; expected auto, {', '.join(PRECISIONS)}.{hint}"
        )
    gpu = gpu_of(device)
    if backend == "auto":
        candidates = [
            (name, capability)
            for name, kind in AUTO_ORDER
            for capability in backend_class(name).capabilities(gpu)
            if capability.device.startswith(kind)
        ]
    else:
        candidates = [(backend, c) for c in backend_class(backend).capabilities(gpu)]
    refusals: list[str] = []
    taken: set[tuple[str, str]] = set()
    for name, capability in candidates:
        problem = _problem(name, capability, device, precision)
        if problem is None and (name, capability.device) not in taken:
            taken.add((name, capability.device))
            chosen = capability.precisions[0] if precision == "auto" else precision
            reasoning = f"{name} on {capability.device} in {chosen}: {capability.reason}."
            if refusals:
                reasoning += " Not used: " + "; ".join(refusals) + "."
            yield Choice(
                backend=name,
                device=capability.device,
                precision=chosen,  # type: ignore[arg-type]
                why=_why(capability, backend, precision),
                reasoning=reasoning,
                otherwise=capability.precisions[1:] if precision == "auto" else (),
            )
        elif problem is not None:
            refusals.append(problem)
    if not taken:
        raise BackendError(_refusal(candidates, backend, device, precision))


def require_device(device: str) -> None:
    """Refuses what is no name of a device.

    Raises:
        UsageError: if it is neither ``auto``, ``cpu`` nor ``cuda:N``.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        hint = " Did you mean 'cuda'?" if device.lower() in ("gpu", "nvidia") else ""
        raise UsageError(f"device {device!r}: expected auto, cpu or cuda:N.{hint}")


def _refusal(
    candidates: Sequence[tuple[str, Capability]], backend: str, device: str, precision: str
) -> str:
    """Why nothing meets the wishes, and what would."""
    there = [(n, c) for n, c in candidates if _is_on(c, device)]
    usable = [(n, c) for n, c in there if c.usable]
    if usable:  # so they lack the precision
        offers = "; ".join(_problem(n, c, device, precision) or "" for n, c in usable)
        on_gpu = any(not c.usable for _, c in candidates if _is_on(c, "cuda"))
        gpu = " An NVIDIA GPU may: `srtrt doctor` says what is missing here." if on_gpu else ""
        return (
            f"precision {precision} cannot be computed here: {offers}. "
            f"Leave --precision out, or take one of these.{gpu}"
        )
    wishes = {"backend": backend, "device": device, "precision": precision}
    wish = ", ".join(f"{name} {value}" for name, value in wishes.items() if value != "auto")
    problems = [c.reason.rstrip(".") for _, c in there]
    if not there:
        places = " or ".join(dict.fromkeys(c.device for _, c in candidates))
        problems = [f"{backend} runs on {places}"]
    return f"nothing here offers {wish or 'a backend'}: {'; '.join(problems)}."


def with_int8_hint(choice: Choice, model: Model) -> Choice:
    """A choice of fp32 that says how much faster int8 would be, where that is known."""
    times = INT8_TIMES.get(this_processor().instruction_set)
    if (choice.backend, choice.device, choice.precision) != ("openvino", "cpu", "fp32"):
        return choice
    if times is None or "int8" not in model.calibrated_paths:
        return choice
    hint = f"--precision int8 is about {times:g} times as fast"
    return replace(choice, why=f"{choice.why}; {hint}")


def _why(capability: Capability, backend: str, precision: str) -> str:
    """Why this one, in few words."""
    if backend != "auto":
        why = "as asked for"
    elif precision != "auto":
        why = f"the fastest here that computes {precision}"
    else:
        why = "the fastest here"
    return f"{why}; {capability.because}" if capability.because and precision == "auto" else why


def _problem(name: str, capability: Capability, device: str, precision: str) -> str | None:
    """Why a capability does not meet the wishes, or None."""
    if not _is_on(capability, device):
        return f"{name} on {capability.device} is not the device {device}"
    if not capability.usable:
        return capability.reason.rstrip(".")
    if precision not in ("auto", *capability.precisions):
        offered = ", ".join(capability.precisions)
        because = f" ({capability.because})" if capability.because and precision == "bf16" else ""
        return f"{name} on {capability.device} computes {offered}, not {precision}{because}"
    return None


def _is_on(capability: Capability, device: str) -> bool:
    """Whether a capability is on the kind of device that is wanted."""
    return device == "auto" or device.partition(":")[0] == capability.device.partition(":")[0]
