"""What identifies an engine: graph, shapes, options, software and GPU."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import onnx
from google.protobuf.message import DecodeError

from srtrt.errors import BackendError, ModelError, UsageError
from srtrt.runtime.engines.flavour import CURRENT, Flavour
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.spec import Form, ModelSpec, Precision

FORMAT = 1
"""Version of the key. Engines of another version are rebuilt."""

MAX_LEVEL = 5
"""Highest optimisation level of a builder."""

Scalar = str | int | bool | None

_SIZE = re.compile(r"(?:(\d+)x)?(\d+)x(\d+)")


@dataclass(frozen=True, kw_only=True)
class InputSize:
    """Size of a batch of LR frames; written ``WxH`` or ``NxWxH``.

    Raises:
        UsageError: if a side or the batch is not positive.
    """

    width: int
    """In LR pixels."""
    height: int
    """In LR pixels."""
    batch: int = 1
    """Frames computed at once."""

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.batch) < 1:
            raise UsageError(f"shape {self}: every side and the batch must be at least 1.")

    @property
    def pixels(self) -> int:
        """LR pixels of all frames."""
        return self.batch * self.height * self.width

    def __str__(self) -> str:
        batch = f"{self.batch}x" if self.batch != 1 else ""
        return f"{batch}{self.width}x{self.height}"


@dataclass(frozen=True, kw_only=True)
class EngineShape:
    """The sizes an engine takes: one, or a range with the size it is tuned for.

    Raises:
        UsageError: if the three sizes are not in order.
    """

    least: InputSize
    best: InputSize
    most: InputSize

    def __post_init__(self) -> None:
        for side in ("width", "height", "batch"):
            low, mid, high = (getattr(s, side) for s in (self.least, self.best, self.most))
            if not low <= mid <= high:
                raise UsageError(
                    f"shape {self}: {side} goes {low}, {mid}, {high}; "
                    "expected smallest, tuned and largest size in this order."
                )

    @classmethod
    def static(cls, width: int, height: int, batch: int = 1) -> EngineShape:
        """One size, in LR pixels."""
        return cls.of(InputSize(width=width, height=height, batch=batch))

    @classmethod
    def of(cls, size: InputSize) -> EngineShape:
        """One size."""
        return cls(least=size, best=size, most=size)

    @classmethod
    def parse(cls, text: str) -> EngineShape:
        """Reads ``WxH``, ``NxWxH``, or a range ``MIN:BEST:MAX`` of such sizes.

        Raises:
            UsageError: if it is none of these.
        """
        found = [_SIZE.fullmatch(part) for part in text.split(":")]
        sizes = [
            InputSize(width=int(m[2]), height=int(m[3]), batch=int(m[1] or 1)) for m in found if m
        ]
        if len(sizes) != len(found) or len(sizes) not in (1, 3):
            raise UsageError(
                f"shape {text!r} is not understood; expected WIDTHxHEIGHT such as 1920x1080, "
                "BATCHxWIDTHxHEIGHT, or a range such as 640x360:1280x720:1920x1080."
            )
        return cls(least=sizes[0], best=sizes[len(sizes) // 2], most=sizes[-1])

    @property
    def is_static(self) -> bool:
        """Whether it is one size."""
        return self.least == self.best == self.most

    def require_form(self, form: Form) -> None:
        """Refuses sizes that a form cannot have.

        Raises:
            UsageError: if the form halves the chroma and a side is odd.
        """
        sides = [
            s for size in (self.least, self.best, self.most) for s in (size.width, size.height)
        ]
        odd = [side for side in sides if side % 2]
        if form == "yuv420p8" and odd:
            raise UsageError(
                f"shape {self}: side {odd[0]} is odd, and {form} has chroma of half size; "
                f"use {odd[0] + 1}."
            )

    def __str__(self) -> str:
        sizes = (self.least,) if self.is_static else (self.least, self.best, self.most)
        return ":".join(map(str, sizes))


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is built; all of it is part of the key.

    Raises:
        UsageError: if a value is impossible.
    """

    level: int = 3
    """Optimisation level 0 to 5: higher builds longer and may run faster."""
    workspace_bytes: int | None = None
    """Most memory a kernel may use besides its tensors; None is half of what is free on the GPU,
    and no limit where there is none."""
    tf32: bool = False
    """Lets float32 convolutions round their inputs to 10 bits of mantissa."""
    aux_streams: int | None = None
    """Most extra CUDA streams of the engine; None lets the builder decide."""
    compute_capabilities: tuple[str, ...] = ()
    """Targets of TensorRT-RTX, such as ``8.9``, or ``current``; empty for all from 8.0."""

    def __post_init__(self) -> None:
        if not 0 <= self.level <= MAX_LEVEL:
            raise UsageError(
                f"optimisation level is {self.level}; expected a number from 0 to {MAX_LEVEL}."
            )
        for name, value, least, most in (
            ("workspace", self.workspace_bytes, 1, 1 << 50),
            ("number of extra streams", self.aux_streams, 0, 1 << 20),
        ):
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}; expected at least {least}.")
            if value is not None and value > most:
                raise UsageError(f"{name} is {value}; expected at most {most}.")
        targets = self.compute_capabilities
        if len(set(targets)) != len(targets) or (CURRENT in targets and len(targets) > 1):
            raise UsageError(
                f"compute capabilities are {', '.join(targets)}; "
                f"expected each once, and {CURRENT!r} alone."
            )


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything an engine depends on. Engines with equal keys are interchangeable."""

    model: str
    """Name of the model."""
    form: Form
    """Input and output form of the graph."""
    precision: Precision
    """Arithmetic of the graph."""
    graph_sha256: str
    """Of what the graph computes; see :func:`graph_sha256`."""
    shape: EngineShape
    """What was asked for; the builder may have had to shrink it."""
    options: EngineOptions
    """Every option of the build."""
    flavour: str
    """``tensorrt`` or ``tensorrt-rtx``."""
    flavour_version: str
    """Version of its package."""
    cuda: str
    """Major version of CUDA that the package is for."""
    gpu: GpuFacts | None
    """The GPU it is for, with its driver; None if the engine is portable."""

    def parts(self) -> dict[str, Scalar]:
        """The key as a flat JSON object: name of each part to its value."""
        options = asdict(self.options)
        options["compute_capabilities"] = ", ".join(self.options.compute_capabilities) or None
        return {
            "format": FORMAT,
            "model": self.model,
            "form": self.form,
            "precision": self.precision,
            "graph_sha256": self.graph_sha256,
            "shape": str(self.shape),
            **options,
            **environment_parts(self.flavour, self.flavour_version, self.cuda, self.gpu),
        }

    @property
    def sha256(self) -> str:
        """Of the parts, in hexadecimal."""
        return parts_sha256(self.parts())

    @property
    def stem(self) -> str:
        """Name of its files without suffix: readable, and unique by the start of the hash."""
        facts = (self.model, self.form, self.precision, str(self.shape), self.flavour)
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(facts))
        return f"{readable[:150]}-{self.sha256[:12]}"


def environment_parts(
    flavour: str, flavour_version: str, cuda: str, gpu: GpuFacts | None
) -> dict[str, Scalar]:
    """The parts of a key that a machine and its software decide."""
    return {
        "flavour": flavour,
        "flavour_version": flavour_version,
        "cuda": cuda,
        "gpu": gpu.name if gpu else None,
        "gpu_compute_capability": gpu.compute_capability if gpu else None,
        "gpu_memory_bytes": gpu.memory_bytes if gpu else None,
        "driver": gpu.driver if gpu else None,
        "driver_cuda": gpu.driver_cuda if gpu else None,
    }


def engine_key(
    graph: bytes,
    spec: ModelSpec,
    shape: EngineShape,
    options: EngineOptions,
    *,
    flavour: Flavour,
    gpu: GpuFacts | None,
) -> EngineKey:
    """The key of an engine on this machine.

    Args:
        graph: the bytes of the ONNX graph.
        spec: its spec.
        shape: sizes it is to take.
        options: how it is to be built.
        flavour: what builds it.
        gpu: the GPU of this machine, None if there is none; ignored for a portable engine.

    Raises:
        UsageError: if the form cannot have this shape.
        ModelError: if the graph is no ONNX graph.
        MissingPackageError, BackendError: if the package cannot be loaded, or there is no GPU and
            the engine is not portable.
    """
    shape.require_form(spec.form)
    portable = flavour.is_portable(options.compute_capabilities)
    if gpu is None and not portable:
        raise BackendError(
            f"{flavour.label} builds engines on the GPU they are for, and this machine has none. "
            "Build on the machine with the GPU, or build for tensorrt-rtx."
        )
    return EngineKey(
        model=spec.name,
        form=spec.form,
        precision=spec.precision,
        graph_sha256=graph_sha256(graph),
        shape=shape,
        options=options,
        flavour=flavour.name,
        flavour_version=flavour.version(),
        cuda=flavour.cuda(),
        gpu=None if portable else gpu,
    )


def graph_sha256(graph: bytes) -> str:
    """Hash of the operators and weights of an ONNX graph, without its name, metadata and order.

    Raises:
        ModelError: if it is no ONNX graph.
    """
    try:
        model = onnx.load_model_from_string(graph)
    except (DecodeError, ValueError) as error:
        raise ModelError(
            f"the graph is no ONNX model ({error}); expected a file written by `srtrt export`."
        ) from error
    for name in ("metadata_props", "producer_name", "producer_version", "doc_string"):
        model.ClearField(name)
    for name in ("name", "metadata_props", "value_info"):
        model.graph.ClearField(name)
    weights = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def parts_sha256(parts: Mapping[str, Scalar]) -> str:
    """Hash of the parts of a key, whatever their order."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()


_LABELS = {
    "format": "format of the key",
    "graph_sha256": "graph",
    "level": "optimisation level",
    "workspace_bytes": "workspace",
    "tf32": "TF32",
    "aux_streams": "number of extra streams",
    "compute_capabilities": "set of target compute capabilities",
    "flavour": "kind of engine",
    "flavour_version": "TensorRT version",
    "cuda": "CUDA version of TensorRT",
    "gpu": "GPU",
    "gpu_compute_capability": "compute capability of the GPU",
    "gpu_memory_bytes": "memory of the GPU",
    "driver_cuda": "CUDA version of the driver",
}


def differences(old: Mapping[str, Scalar], new: Mapping[str, Scalar]) -> list[str]:
    """Which parts changed, as clauses such as ``the driver is 580.65 and was 570.12``."""
    names = [*new, *(name for name in old if name not in new)]
    return [
        f"the {_LABELS.get(name, name)} is {_shown(name, new)} and was {_shown(name, old)}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _shown(name: str, parts: Mapping[str, Scalar]) -> str:
    value = parts.get(name)
    if name == "graph_sha256":
        return str(value)[:12]
    return "not set" if value is None else str(value)
