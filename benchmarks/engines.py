"""The engines that are measured side by side, and which of them this machine has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from srtrt.errors import BackendError, ModelError, UsageError
from srtrt.nearest import did_you_mean
from srtrt.processor import this_processor
from srtrt.runtime.backends import backend_class
from srtrt.runtime.backends.base import Backend, Capability, gpu_of
from srtrt.runtime.backends.options import choose_options
from srtrt.runtime.backends.tensorrt import flavour_capability
from srtrt.runtime.cuda import installed_binding
from srtrt.runtime.cuda_packages import cuda_python_line
from srtrt.runtime.engines import gpu
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.nvidia import no_gpu
from srtrt.runtime.parity import reference_backend
from srtrt.runtime.ring import RingOptions
from srtrt.runtime.select import choose, require_device
from srtrt.spec import PRECISIONS, Form, Precision

REFERENCE = "torch-eager-fp32"
"""The untouched generator in PyTorch float32: what the others are compared with."""

GRAPH_REFERENCE = "onnxruntime-fp32"
"""What engines are compared with where the model is a graph, without its checkpoint."""

DEFAULT_ENGINES = ("torch-fp32", GRAPH_REFERENCE, "openvino-fp32", "openvino-bf16")
"""What is measured on the CPU where nothing else is asked for."""

ALL = "all"
"""Stands for every engine."""

_REDUCED = ("fp32", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A backend on a kind of device, in one precision, with options that give it its name."""

    name: str
    backend: str
    on_gpu: bool
    precision: Precision
    settings: tuple[str, ...] = ()
    """Options of the backend, as ``NAME=VALUE``."""
    flavour: str | None = None
    """TensorRT or TensorRT-RTX, of the backend that has both."""


def _family(
    name: str, backend: str, precisions: Sequence[str], *settings: str, **facts: str
) -> dict[str, Engine]:
    on_gpu = backend.endswith("tensorrt") or "cuda" in name
    return {
        f"{name}-{p}": Engine(
            name=f"{name}-{p}",
            backend=backend,
            on_gpu=on_gpu,
            precision=p,  # type: ignore[arg-type]
            settings=settings,
            **facts,
        )
        for p in precisions
    }


ENGINES: Mapping[str, Engine] = {
    REFERENCE: Engine(name=REFERENCE, backend="torch", on_gpu=False, precision="fp32"),
    **_family("torch", "torch", ("fp32", "bf16")),
    **_family("onnxruntime", "onnxruntime", ("fp32", "int8")),
    **_family("openvino", "openvino", ("fp32", "bf16", "int8")),
    **_family("torch-cuda", "torch", _REDUCED, "graph=false"),
    **_family("torch-cuda-captured", "torch", _REDUCED, "graph=true"),
    **_family("torch-cuda-compiled", "torch", _REDUCED, "graph=true", "compile=true"),
    **_family("onnxruntime-cuda", "onnxruntime", ("fp32", "fp16")),
    **_family("onnxruntime-tensorrt", "onnxruntime-tensorrt", ("fp16",)),
    **_family("tensorrt", "tensorrt", PRECISIONS, "product=tensorrt", flavour="tensorrt"),
    **_family(
        "tensorrt-rtx", "tensorrt", PRECISIONS, "product=tensorrt-rtx", flavour="tensorrt-rtx"
    ),
}
"""Every engine by its name."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Whether an engine can compute a model on this machine."""

    engine: str
    device: str
    usable: bool
    reason: str
    """What computes there, or why it cannot and what to do; a clause."""


def survey_engines(model: str, device: str = "auto") -> list[Offer]:
    """Every engine with whether it can compute a model here, and why not.

    Args:
        model: bundled name or file.
        device: ``cpu`` or ``cuda:N`` for the engines of that device, ``auto`` for the CPU and the
            first GPU.

    Raises:
        UsageError: if ``device`` is none of these.
        BackendError: if there are GPUs, but not this one.
    """
    require_device(device)
    place, found = gpu_of(device), find_model(model)
    names = [n for n, e in ENGINES.items() if device == "auto" or e.on_gpu == (device != "cpu")]
    return [_offer(ENGINES[name], found, place) for name in names]


def require_torch(device: str, precision: Precision) -> None:
    """Refuses a device or a precision in which PyTorch does not compute here.

    Raises:
        UsageError, BackendError: with what does.
    """
    if device.startswith("cuda"):
        gpu.gpu_facts(gpu_of(device))  # says how many there are where this one is not
    choose("torch", device, precision)


def _offer(engine: Engine, model: Model, place: str) -> Offer:
    device = place if engine.on_gpu else "cpu"
    facts = {"engine": engine.name, "device": device}
    problem = _lacking(engine, model)
    found = gpu.gpu_facts(place) if problem is None and engine.on_gpu else None
    if problem is None and engine.on_gpu and found is None:
        problem = no_gpu()
    if problem is not None:
        return Offer(**facts, usable=False, reason=problem)
    capability = _capability(engine, place)
    if found is not None and capability.usable and installed_binding() is None:
        problem = f"measuring on a GPU needs cuda-python: {cuda_python_line(found)}"
    elif not capability.usable:
        problem = capability.reason.rstrip(".")
    elif engine.precision not in capability.precisions:
        problem = capability.because or (
            this_processor().says_of_bf16
            if engine.precision == "bf16" and not engine.on_gpu
            else f"it computes {', '.join(capability.precisions)} there"
        )
    reason = capability.reason if problem is None else problem
    return Offer(**facts, usable=problem is None, reason=reason)


def _capability(engine: Engine, place: str) -> Capability:
    if engine.flavour is not None:
        return flavour_capability(FLAVOURS[engine.flavour], gpu.gpu_facts(place), place)
    kind = "cuda" if engine.on_gpu else "cpu"
    offered = backend_class(engine.backend).capabilities(place)
    none = Capability(device=kind, precisions=(), reason=offered[0].reason)
    return next((each for each in offered if each.device.startswith(kind)), none)


def _lacking(engine: Engine, model: Model) -> str | None:
    """What a model lacks of what an engine computes; None if nothing."""
    if engine.backend == "torch":
        graph = "it computes a checkpoint, and this model is a graph"
        return None if model.checkpoint_path is not None else graph
    if model.graph_path is None:
        return "it computes a graph, and this model is a checkpoint"
    stored = model.spec.precision
    if engine.precision in (stored, *model.calibrated_paths):
        return None
    if stored == "fp32" and engine.precision in _REDUCED:
        return None
    if stored != "fp32":
        return f"it computes {engine.precision}, and this graph is {stored}"
    return (
        f"{model.name} has no graph calibrated for {engine.precision}; make one and give that: "
        f"srtrt export {model.name} --precision {engine.precision}"
    )


def choose_engines(
    asked: Sequence[str], model: str, device: str = "auto", usual: Sequence[str] = DEFAULT_ENGINES
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The engines to measure, and why others are left out.

    Args:
        asked: names, of which each is taken as it is; :data:`ALL`; or none, for the usual ones.
        model: bundled name or file.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        usual: engines of the CPU where none is asked for; those of the GPU, if there is one, are
            measured as well.

    Returns:
        The engines, and by the name of each that is left out a clause that says why.

    Raises:
        BackendError: if none is left.
    """
    if asked and ALL not in asked:
        return tuple(dict.fromkeys(asked)), {}
    offers = survey_engines(model, device)
    if not asked:
        there = device != "auto" or gpu.gpu_facts() is not None
        wanted = {offer.engine for offer in offers if ENGINES[offer.engine].on_gpu and there}
        offers = [offer for offer in offers if offer.engine in wanted | set(usual)]
    chosen = [offer.engine for offer in offers if offer.usable]
    # Names of this benchmark alone, such as those of graphs, are nobody's offer.
    chosen += [name for name in usual if name not in ENGINES and device != "cuda" and not asked]
    left_out = {offer.engine: offer.reason for offer in offers if not offer.usable}
    if not chosen:
        reasons = "; ".join(dict.fromkeys(left_out.values()))
        raise BackendError(f"no engine can compute {model} on {device} here: {reasons}.")
    return tuple(chosen), left_out


def usual_reference(model: str, engines: Sequence[str], device: str = "auto") -> str:
    """What others are compared with in speed where nothing was asked for.

    That is PyTorch float32 on the same kind of device, for a graph ONNX Runtime; on a GPU where
    neither can run, it is the first of the engines.
    """
    has_checkpoint = find_model(model).checkpoint_path is not None
    if not device.startswith("cuda"):
        return REFERENCE if has_checkpoint else GRAPH_REFERENCE
    usable = {offer.engine for offer in survey_engines(model, device) if offer.usable}
    first = (each for each in ("torch-cuda-fp32", "onnxruntime-cuda-fp32") if each in usable)
    return next(first, engines[0])


def engine_of(engine: str) -> tuple[Engine, list[str]]:
    """The engine of a name, and the options that follow it.

    Raises:
        UsageError: if the name is unknown.
    """
    name, _, settings = engine.partition(":")
    if name not in ENGINES:
        hint = did_you_mean(name, ENGINES)
        raise UsageError(f"engine {name!r} is unknown; expected {', '.join(ENGINES)}.{hint}")
    return ENGINES[name], settings.split(",") if settings else []


def open_engine(
    engine: str,
    model: str,
    form: Form,
    *,
    device: str = "cuda:0",
    ring: Callable[[RingOptions], RingOptions] | None = None,
) -> Backend:
    """Opens one engine by its name.

    Args:
        engine: a name of :data:`ENGINES`, with a colon and options of its backend if others than
            the default ones are to be measured, such as ``openvino-fp32:threads=1``.
        model: bundled name or file.
        form: of the frames.
        device: where those of the GPU compute, ``cuda:N``.
        ring: makes other frames in flight of those that it would have; what computes one frame
            after the other stays so.

    Raises:
        UsageError: if the name or an option is unknown.
        BackendError: if it cannot be opened, such as one in bf16 on a processor without it.
    """
    known, given = engine_of(engine)
    found = find_model(model)
    if known.name == REFERENCE:
        return _open_reference(found, form, given)
    place = gpu_of(device) if known.on_gpu else "cpu"
    options = choose_options(known.backend, place, [*known.settings, *given]).options
    current = getattr(options, "ring", None)
    if ring is not None and (current is not None or known.on_gpu):
        options = replace(options, ring=ring(current or RingOptions()))
    kind = backend_class(known.backend)
    return kind(found, form=form, device=place, precision=known.precision, options=options)


def _open_reference(model: Model, form: Form, settings: Sequence[str]) -> Backend:
    if settings:
        raise UsageError(f"{REFERENCE} is what others are compared with; it takes no options.")
    if model.checkpoint_path is None:
        raise ModelError(
            f"{model.graph_path} is a graph, and {REFERENCE} is computed from the checkpoint that "
            "it was exported from; give that (.safetensors)."
        )
    return reference_backend(model, form)
