"""The engines that are measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from srtrt.errors import ModelError, UsageError
from srtrt.nearest import did_you_mean
from srtrt.processor import this_processor
from srtrt.runtime.backends import backend_class
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.backends.options import choose_options
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import reference_backend
from srtrt.spec import Form, Precision

REFERENCE = "torch-eager-fp32"
"""The untouched generator in PyTorch float32: what the others are compared with."""

GRAPH_REFERENCE = "onnxruntime-fp32"
"""What engines are compared with where the model is a graph, without its checkpoint."""

_OTHERS: tuple[tuple[str, Precision], ...] = (
    ("torch", "fp32"),
    ("torch", "bf16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)


Opener = Callable[[Model, Form, Sequence[str]], Backend]


def _opener(name: str, precision: Precision) -> Opener:
    def open_(model: Model, form: Form, settings: Sequence[str]) -> Backend:
        options = choose_options(name, "cpu", settings).options
        kind = backend_class(name)
        return kind(model, form=form, device="cpu", precision=precision, options=options)

    return open_


def _open_reference(model: Model, form: Form, settings: Sequence[str]) -> Backend:
    if settings:
        raise UsageError(f"{REFERENCE} is what others are compared with; it takes no options.")
    if model.checkpoint_path is None:
        raise ModelError(
            f"{model.graph_path} is a graph, and {REFERENCE} is computed from the checkpoint that "
            "it was exported from; give that (.safetensors)."
        )
    return reference_backend(model, form)


ENGINES: Mapping[str, Opener] = {
    REFERENCE: _open_reference,
    **{f"{name}-{precision}": _opener(name, precision) for name, precision in _OTHERS},
}
"""Name of an engine on the CPU and what opens it with options."""


def usual_reference(model: str) -> str:
    """What others are compared with where nothing was asked for; a graph has no checkpoint."""
    return REFERENCE if find_model(model).checkpoint_path is not None else GRAPH_REFERENCE


def offered(engines: Sequence[str], model: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The engines that can compute a model here, and for the others why they cannot."""
    problems = {}
    if find_model(model).checkpoint_path is None:
        why = "it computes a checkpoint, and this model is a graph"
        problems = {name: why for name in ENGINES if name.startswith("torch-")}
    for name, precision in _OTHERS:
        (cpu,) = (c for c in backend_class(name).capabilities() if c.device == "cpu")
        if cpu.usable and precision not in cpu.precisions:
            problems[f"{name}-{precision}"] = cpu.because or this_processor().says_of_bf16
    usable = tuple(engine for engine in engines if engine not in problems)
    return usable, {engine: problems[engine] for engine in engines if engine in problems}


def open_engine(engine: str, model: str, form: Form) -> Backend:
    """Opens one engine by its name.

    Args:
        engine: a name of :data:`ENGINES`, with a colon and options of its backend if others than
            the default ones are to be measured, such as ``openvino-fp32:threads=1``.
        model: bundled name or file.
        form: of the frames.

    Raises:
        UsageError: if the name or an option is unknown.
        BackendError: if it cannot be opened, such as one in bf16 on a processor without it.
    """
    name, _, settings = engine.partition(":")
    if name not in ENGINES:
        hint = did_you_mean(name, ENGINES)
        raise UsageError(f"engine {name!r} is unknown; expected {', '.join(ENGINES)}.{hint}")
    return ENGINES[name](find_model(model), form, settings.split(",") if settings else ())
