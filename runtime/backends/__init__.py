"""One file per inference engine, behind one boundary."""

from __future__ import annotations

import importlib

from srtrt.errors import UsageError
from srtrt.nearest import did_you_mean
from srtrt.runtime.backends.base import Backend

BACKENDS: dict[str, str] = {
    "onnxruntime": "srtrt.runtime.backends.onnxruntime:OnnxRuntimeBackend",
    "onnxruntime-tensorrt": "srtrt.runtime.backends.onnxruntime:OnnxRuntimeTensorRtBackend",
    "openvino": "srtrt.runtime.backends.openvino:OpenVinoBackend",
    "tensorrt": "srtrt.runtime.backends.tensorrt:TensorRtBackend",
    "torch": "srtrt.runtime.backends.torch:TorchBackend",
}
"""Backend name: module and class. A new engine is one file and one line here."""


def backend_class(name: str) -> type[Backend]:
    """The class of a backend; its engine's package is not imported yet.

    Raises:
        UsageError: if there is no backend of this name.
    """
    if name not in BACKENDS:
        hint = did_you_mean(name, BACKENDS)
        raise UsageError(
            f"backend {name!r} is unknown; expected {', '.join(BACKENDS)} or auto.{hint}"
        )
    module, _, attribute = BACKENDS[name].partition(":")
    found: type[Backend] = getattr(importlib.import_module(module), attribute)
    return found
