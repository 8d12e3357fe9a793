"""What identifies an engine: what it computes, what it is for, and how it was built."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx import ModelProto

from srtrt.canonical import graph_sha256
from srtrt.errors import BackendError
from srtrt.graph_spec import read_spec
from srtrt.runtime.engines.flavour import Flavour
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.key import USUAL_LEVEL, EngineOptions, EngineShape
from srtrt.spec import ModelSpec
from srtrt.text import foreign

FORMAT = 2
"""Version of the key. Engines of another version are rebuilt."""

RECIPE_PARTS = ("model", "network", "weights_sha256", "rewrites")
"""Parts of a key that say in words where its graph comes from. The graph itself decides."""

BUILD_PARTS = ("level", "workspace_bytes", "aux_streams", "tactics", "fusion")
"""Parts of a key that say how an engine was built, of which its results do not depend."""

_PLACE_PARTS = (
    "compute_capabilities",
    "gpu",
    "gpu_compute_capability",
    "gpu_memory_bytes",
)
"""Parts that say which GPUs an engine is for."""

OLDEST_USUAL_TARGET = (8, 0)
"""Least compute capability of the GPUs that TensorRT-RTX builds for unless told otherwise."""

Scalar = str | int | bool | None


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """An engine that is needed, or that is there: what it computes, for what, and how it is built.

    Its parts are of three kinds: those that an engine must match to be used, how it was built
    (:data:`BUILD_PARTS`), and the recipe of its graph for people (:data:`RECIPE_PARTS`).
    """

    spec: ModelSpec
    """Of the graph."""
    graph_sha256: str
    """Of what the graph computes; see :func:`srtrt.canonical.graph_sha256`."""
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
    """The GPU it is for; None if the engine is portable."""
    here: GpuFacts | None = None
    """The GPU of this machine, on which it is to run; no part of the key."""
    exact_shape: bool = False
    """Whether an engine that takes further sizes, too, does not serve; no part of the key."""

    def parts(self) -> dict[str, Scalar]:
        """The key as a flat JSON object: name of each part to its value."""
        options = self.options
        return {
            "format": FORMAT,
            **recipe_parts(self.spec),
            "form": self.spec.form,
            "precision": self.spec.precision,
            "graph_sha256": self.graph_sha256,
            "shape": str(self.shape),
            "tf32": options.tf32,
            "compute_capabilities": ", ".join(sorted(options.compute_capabilities)) or None,
            **environment_parts(self.flavour, self.flavour_version, self.cuda, self.gpu),
            "level": USUAL_LEVEL if options.level is None else options.level,
            "workspace_bytes": options.workspace_bytes,
            "aux_streams": options.aux_streams,
            "tactics": options.tactics or "all",
            "fusion": options.fusion is not False,
        }

    @property
    def sha256(self) -> str:
        """Of the parts, in hexadecimal."""
        return parts_sha256(self.parts())

    @property
    def stem(self) -> str:
        """Name of its files without suffix: readable, and unique by the start of the hash."""
        spec = self.spec
        facts = (spec.name, spec.form, spec.precision, str(self.shape), self.flavour)
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(facts))
        return f"{readable[:150]}-{self.sha256[:12]}"

    def suits(self, parts: Mapping[str, Scalar], takes: EngineShape) -> bool:
        """Whether an engine that was built can stand for this one.

        Args:
            parts: of the key of the engine that was built.
            takes: the sizes that it takes.
        """
        wanted = self.parts()
        elsewhere = {*RECIPE_PARTS, *BUILD_PARTS, *_PLACE_PARTS, "shape"}
        same = all(parts.get(name) == wanted[name] for name in wanted if name not in elsewhere)
        sized = parts.get("shape") == wanted["shape"]
        sized |= takes.covers(self.shape) and not self.exact_shape
        asked = {name: getattr(self.options, name) for name in BUILD_PARTS}
        built = all(value in (None, parts.get(name)) for name, value in asked.items())
        return same and sized and built and self._place_suits(parts, wanted)

    def _place_suits(self, parts: Mapping[str, Scalar], wanted: Mapping[str, Scalar]) -> bool:
        """Whether an engine is for this GPU, or else for the same targets."""
        if all(parts.get(name) == wanted[name] for name in _PLACE_PARTS):
            return True
        if self.here is None or self.options.compute_capabilities:
            return False
        return place_problem(parts, self.here) is None


def place_problem(parts: Mapping[str, Scalar], gpu: GpuFacts) -> str | None:
    """Why an engine is not for a GPU, as a clause; None if it is."""
    if parts.get("gpu") is not None:
        return (
            "; ".join(
                differences(
                    {name: parts.get(name) for name in _PLACE_PARTS[1:]},
                    gpu_parts(gpu),
                )
            )
            or None
        )
    targets = str(parts.get("compute_capabilities") or "").split(", ")
    found = gpu.compute_capability
    if found in targets or (targets == [""] and _number(found) >= OLDEST_USUAL_TARGET):
        return None
    listed = ", ".join(targets) if targets != [""] else "8.0 and later"
    return f"it is for compute capability {listed}, and {gpu.name} has {found}"


def _number(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))


def recipe_parts(spec: ModelSpec) -> dict[str, Scalar]:
    """Where a graph comes from: the parts of a key that only explain it."""
    sizes = ", ".join(f"{name} {value}" for name, value in sorted(spec.config.items()))
    return {
        "model": spec.name,
        "network": f"{spec.architecture} ({sizes})",
        "weights_sha256": spec.weights_sha256,
        "rewrites": spec.rewrites,
    }


def gpu_parts(gpu: GpuFacts | None) -> dict[str, Scalar]:
    """The parts of a key that say which GPU an engine is for."""
    return {
        "gpu": gpu.name if gpu else None,
        "gpu_compute_capability": gpu.compute_capability if gpu else None,
        "gpu_memory_bytes": gpu.memory_bytes if gpu else None,
    }


def environment_parts(
    flavour: str, flavour_version: str, cuda: str, gpu: GpuFacts | None
) -> dict[str, Scalar]:
    """The parts of a key that a machine and its software decide."""
    return {
        "flavour": flavour,
        "flavour_version": flavour_version,
        "cuda": cuda,
        **gpu_parts(gpu),
    }


def engine_key(
    graph: ModelProto,
    shape: EngineShape,
    options: EngineOptions,
    *,
    flavour: Flavour,
    gpu: GpuFacts | None,
) -> EngineKey:
    """The key of an engine on this machine.

    Args:
        graph: an ONNX graph written by srtrt.
        shape: sizes it is to take.
        options: how it is to be built.
        flavour: what builds it.
        gpu: the GPU of this machine, None if there is none; a portable engine is not bound to it.

    Raises:
        UsageError: if the form cannot have this shape.
        ModelError: if the graph has no spec, or is none.
        MissingPackageError, BackendError: if the package cannot be loaded, or there is no GPU and
            the engine is not portable.
    """
    spec = read_spec(graph, foreign(graph.graph.name))
    shape.require_form(spec.form)
    portable = flavour.is_portable(options.compute_capabilities)
    if gpu is None and not portable:
        raise BackendError(
            f"{flavour.label} builds engines on the GPU they are for, and this machine has none. "
            "Build on the machine with the GPU, or build for tensorrt-rtx."
        )
    return EngineKey(
        spec=spec,
        graph_sha256=graph_sha256(graph),
        shape=shape,
        options=for_gpu(options, flavour, gpu),
        flavour=flavour.name,
        flavour_version=flavour.version(),
        cuda=flavour.cuda(),
        gpu=None if portable else gpu,
        here=gpu,
    )


def for_gpu(options: EngineOptions, flavour: Flavour, gpu: GpuFacts | None) -> EngineOptions:
    """The options with this GPU as target, where the flavour would leave it out by default."""
    if gpu is None or options.compute_capabilities or not flavour.builds_ahead:
        return options
    capability = gpu.compute_capability
    if _number(capability) >= OLDEST_USUAL_TARGET:
        return options
    return replace(options, compute_capabilities=(capability,))


def parts_sha256(parts: Mapping[str, Scalar]) -> str:
    """Hash of the parts of a key, whatever their order and whatever the recipe is said to be."""
    counted = {name: value for name, value in parts.items() if name not in RECIPE_PARTS}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


_LABELS = {
    "format": "format of the key",
    "graph_sha256": "graph",
    "weights_sha256": "hash of the weights",
    "rewrites": "version of the rewrites",
    "level": "optimisation level",
    "workspace_bytes": "workspace",
    "tf32": "TF32",
    "aux_streams": "number of extra streams",
    "tactics": "choice of kernels",
    "fusion": "fusion of additions",
    "compute_capabilities": "set of target compute capabilities",
    "flavour": "kind of engine",
    "flavour_version": "TensorRT version",
    "cuda": "CUDA version of TensorRT",
    "gpu": "GPU",
    "gpu_compute_capability": "compute capability of the GPU",
    "gpu_memory_bytes": "memory of the GPU",
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
    if name.endswith("_sha256"):
        return str(value)[:12]
    return "not set" if value is None else str(value)
