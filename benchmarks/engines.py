"""The engines that are measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from srtrt.errors import UsageError
from srtrt.export.api import checkpoint_of
from srtrt.runtime.backends import backend_class
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import reference_backend
from srtrt.spec import Form, Precision

REFERENCE = "torch-eager-fp32"
"""The untouched generator in PyTorch float32: what the others are compared with."""

_OTHERS: tuple[tuple[str, Precision], ...] = (
    ("torch", "fp32"),
    ("torch", "bf16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)


def _opener(name: str, precision: Precision) -> Callable[[Model, Form], Backend]:
    def open_(model: Model, form: Form) -> Backend:
        return backend_class(name)(model, form=form, device="cpu", precision=precision)

    return open_


ENGINES: Mapping[str, Callable[[Model, Form], Backend]] = {
    REFERENCE: lambda model, form: reference_backend(
        checkpoint_of(str(model.checkpoint_path)), form
    ),
    **{f"{name}-{precision}": _opener(name, precision) for name, precision in _OTHERS},
}
"""Name of an engine on the CPU and what opens it."""


def open_engine(engine: str, model: str, form: Form) -> Backend:
    """Opens one engine by its name.

    Raises:
        UsageError: if the name is unknown.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r} is unknown; expected {', '.join(ENGINES)}.")
    return ENGINES[engine](find_model(model), form)
