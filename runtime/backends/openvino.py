"""OpenVINO on the CPU: float32, bfloat16 where the processor has it, or a calibrated int8 graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, PackageError, first_line
from srtrt.packages import import_openvino
from srtrt.processor import this_processor
from srtrt.runtime.backends.base import Backend, Capability, require_at_least
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import form_layouts
from srtrt.runtime.models import Model
from srtrt.runtime.ring import Arrays
from srtrt.runtime.threads import engine_threads
from srtrt.spec import Form, Precision

_HINTS = {"fp32": "f32", "bf16": "bf16"}
"""What it computes in between the convolutions of a typed graph, or everywhere."""


@dataclass(frozen=True, kw_only=True)
class OpenVinoOptions:
    """Settings of the engine.

    Raises:
        UsageError: if a number is too small.
    """

    threads: int = 0
    """Threads; 0 is one for each core that the process may keep busy."""
    compiled_shapes: int = 4
    """How many frame sizes stay compiled; the least recently used one goes first."""

    def __post_init__(self) -> None:
        require_at_least(threads=(self.threads, 0), compiled_shapes=(self.compiled_shapes, 1))


class OpenVinoBackend(Backend):
    """An exported graph on OpenVINO, compiled anew for each frame size.

    Static shapes let it plan memory and kernels; compiling takes about half a second.
    """

    name = "openvino"
    options_type = OpenVinoOptions
    options: OpenVinoOptions
    packages = ("openvino",)
    bytes_per_pixel = 7_000
    failures = (RuntimeError, UnicodeDecodeError)  # it quotes names of a graph byte for byte

    def __init__(
        self,
        model: Model,
        *,
        form: Form,
        device: str,
        precision: Precision,
        options: OpenVinoOptions | None = None,
    ) -> None:
        super().__init__(model, form=form, device=device, precision=precision, options=options)
        openvino = import_openvino()
        if device != "cpu" or precision not in (*_HINTS, "int8"):
            raise BackendError(
                f"openvino runs on the cpu in {', '.join(_HINTS)} or int8, "
                f"not on {device} in {precision}."
            )
        self._threads = engine_threads(self.options.threads)
        self._core = openvino.Core()
        processor = this_processor()
        if precision == "bf16" and not _has_bf16(self._core):
            raise BackendError(
                "openvino computes in bf16 only where the processor does; "
                f"{processor.says_of_bf16}: {processor}. Use --precision fp32 or int8."
            )
        between = "bf16" if processor.faster_in_bf16 and _has_bf16(self._core) else "fp32"
        self._hint = _HINTS[between if precision == "int8" else precision]
        try:
            # It computes a float32 graph in bfloat16 by itself, and decides better where.
            by_hint = precision == "bf16" and model.spec.precision == "fp32"
            graph = model.graph(form, "fp32" if by_hint else precision)
            self._model = self._core.read_model(graph.SerializeToString(), b"")
        except self.failures as error:
            raise BackendError(f"openvino cannot read {model.name}: {first_line(error)}") from error
        self._names = [output.get_any_name() for output in self._model.outputs]
        self._compiled: OrderedDict[tuple[tuple[str, tuple[int, ...]], ...], Any] = OrderedDict()

    @classmethod
    def capabilities(cls, gpu: str = "cuda:0") -> Sequence[Capability]:
        """See :meth:`Backend.capabilities`; it computes on the CPU only."""
        try:
            openvino = import_openvino()
        except PackageError as error:
            return [Capability(device="cpu", precisions=(), reason=str(error))]
        version = f"openvino {openvino.__version__.split('-')[0]}"
        precisions, because = _precisions(openvino.Core())
        return [
            Capability(
                device="cpu",
                precisions=precisions,
                reason=f"{version}; {because}",
                because=because,
            )
        ]

    def prepare(self, width: int, height: int) -> None:
        """See :meth:`Backend.prepare`."""
        layouts = form_layouts(self.form, InputSize(width=width, height=height))
        with self._translated():
            self._request({layout.name: layout.shape for layout in layouts if layout.is_input})

    def _infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        request = self._request({name: array.shape for name, array in inputs.items()})
        # Shared inputs are read in place; the outputs are copied because the request reuses them.
        results = request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        return {name: np.array(results[name]) for name in self._names}

    def _request(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        key = tuple(sorted(shapes.items()))
        if key in self._compiled:
            self._compiled.move_to_end(key)
            return self._compiled[key]
        self._model.reshape(shapes)
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self._threads:
            config["INFERENCE_NUM_THREADS"] = self._threads
        request = self._core.compile_model(self._model, "CPU", config).create_infer_request()
        while len(self._compiled) >= self.options.compiled_shapes:
            self._compiled.popitem(last=False)
        self._compiled[key] = request
        return request

    def _release(self) -> None:
        self._compiled.clear()
        del self._model, self._core


def _precisions(core: Any) -> tuple[tuple[Precision, ...], str]:
    """What it computes here, the preferred precision first, and why that one."""
    processor = this_processor()
    if processor.bf16 and not _has_bf16(core):
        return ("fp32", "int8"), "openvino computes no bfloat16 on this processor"
    if not processor.bf16:
        return ("fp32", "int8"), processor.says_of_bf16
    order: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    return ("bf16", "fp32", "int8") if processor.faster_in_bf16 else order, processor.says_of_bf16


def _has_bf16(core: Any) -> bool:
    # OpenVINO names what the processor has, whatever the environment leaves of it.
    return this_processor().bf16 and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
