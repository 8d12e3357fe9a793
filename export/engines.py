"""Engines ahead of time, and what keeps ``upscale-video`` from using them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from srtrt.errors import BackendError, SrtrtError, UsageError
from srtrt.export.api import ExportedGraph, checkpoint_of, export_model
from srtrt.graph import load_graph
from srtrt.runtime.cuda import Binding, open_device
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.execution import run_engine
from srtrt.runtime.engines.flavour import Flavour
from srtrt.runtime.engines.gate import engine_gate
from srtrt.runtime.engines.gpu import GpuFacts, gpu_facts
from srtrt.runtime.engines.identity import for_gpu, place_problem
from srtrt.runtime.engines.key import EngineOptions, EngineShape
from srtrt.runtime.engines.products import USUAL_PRECISION, unusable_because, usable_flavour
from srtrt.runtime.engines.provide import EngineProvider
from srtrt.runtime.engines.record import BuiltEngine, CachedEngine
from srtrt.runtime.engines.tuning import engine_speed
from srtrt.runtime.models import Model
from srtrt.runtime.parity import read_pictures
from srtrt.spec import Form, Precision

USUAL_SHAPE = "64x64:1280x720:1920x1080"
"""Sizes that an engine takes where none is asked for: video up to full HD, tuned for 720p."""

USUAL_FORM: Form = "yuv420p8"
"""Form of an engine where none is asked for: that of nearly all video."""

USUAL_DEVICE = "cuda:0"
"""GPU that engines are for where none is named."""


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """Engines that are to be built.

    Raises:
        UsageError: if a form cannot have a shape.
    """

    model: Model
    """With a checkpoint."""
    flavour: Flavour
    options: EngineOptions
    shapes: tuple[EngineShape, ...] = (EngineShape.parse(USUAL_SHAPE),)
    forms: tuple[Form, ...] = (USUAL_FORM,)
    precisions: tuple[Precision, ...] = (USUAL_PRECISION,)
    folder: Path | None = None
    """Where they go; None is the user's engine cache."""
    gpu: GpuFacts | None
    """The GPU they are for and are tried on."""
    device: str = USUAL_DEVICE
    """That GPU as ``cuda:N``."""
    binding: Binding = "auto"
    """Package through which CUDA is called."""

    def __post_init__(self) -> None:
        for shape in self.shapes:
            for form in self.forms:
                shape.require_form(form)

    def misses(self) -> str | None:
        """Why the engines do not run on this machine, as a clause; None if they do."""
        problem = unusable_because(self.flavour, self.gpu)
        if problem is not None or self.gpu is None:
            return problem
        targets = for_gpu(self.options, self.flavour, self.gpu).compute_capabilities
        if not self.flavour.is_portable(targets):
            return None
        return place_problem({"compute_capabilities": ", ".join(targets) or None}, self.gpu)

    def remarks(self) -> list[str]:
        """What ``upscale-video`` needs to be told to use them, or why it cannot; in sentences."""
        found = []
        problem = self.misses()
        if problem is not None:
            found.append(
                f"This machine cannot run these engines: {problem}. They are compared with "
                "PyTorch when they first run on one that can, from its engine cache."
            )
        elif (usual := usable_flavour("auto", self.gpu)) is not self.flavour:
            found.append(
                f"upscale-video takes {usual.label} here; to use these engines tell it "
                f"--backend-option product={self.flavour.name}."
            )
        own = for_gpu(self.options, self.flavour, self.gpu).compute_capabilities
        if own != self.options.compute_capabilities and self.gpu is not None:
            found.append(
                f"These engines are for compute capability {', '.join(own)}, that of "
                f"{self.gpu.name}, which {self.flavour.label} leaves out unless told."
            )
        for precision in self.precisions:
            if precision != USUAL_PRECISION:
                found.append(
                    f"upscale-video computes {USUAL_PRECISION} on a GPU; to use the engines in "
                    f"{precision} tell it --precision {precision}."
                )
        if self.options.tf32:
            found.append(
                "upscale-video takes engines that round to TF32 only where it is asked to; to use "
                "these engines tell it --backend-option tf32=true."
            )
        if set(self.forms) - {USUAL_FORM}:
            found.append(
                "upscale-video takes rgb8 only for video that is not 4:2:0; upscale-image takes it."
            )
        for shape in self.shapes:
            if shape.least.batch > 1:
                found.append(
                    f"upscale-video computes one frame at a time; to use the engine for {shape} "
                    f"tell it --backend-option batch={shape.best.batch}, or let `srtrt tune` "
                    "find whether that is faster."
                )
        if self.folder is not None and self.folder.resolve() != EngineCache().folder.resolve():
            found.append(
                f"upscale-video looks into {EngineCache().folder}; to use these engines tell it "
                f"--backend-option cache_folder={self.folder}."
            )
        if self.model.graph_path is None:
            found.append(
                "upscale-video takes graphs: give it the one that `srtrt export "
                f"{self.model.checkpoint_path}` writes as --model."
            )
        return found


def export_engines(
    plan: EnginePlan,
    *,
    verify: Path | None = None,
    calibrate: Path | None = None,
    overwrite: bool = False,
    on_graph: Callable[[ExportedGraph], None] | None = None,
    on_progress: Callable[[str], None] | None = None,
    on_build: Callable[[str, float], None] | None = None,
    on_engine: Callable[[CachedEngine], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[CachedEngine]:
    """Verified graphs in a temporary folder, then an engine of each for each shape.

    Args:
        plan: what to build.
        verify: see :func:`srtrt.export.api.export_model`.
        calibrate: see there.
        overwrite: build engines again that are there.
        on_graph: told each verified graph.
        on_progress: told a few words before each step of making graphs.
        on_build: told the name of an engine, and what share of it is built, 0..1.
        on_engine: told each engine.
        on_note: told in sentences what is done and why.

    Raises:
        SrtrtError: see :func:`srtrt.export.api.export_model` and
            :meth:`srtrt.runtime.engines.provide.EngineProvider.provide`.
    """
    plan.flavour.load()  # before any work is done
    problem = plan.misses()
    trial = _Trial(plan) if problem is None else None
    provider = EngineProvider(
        flavour=plan.flavour,
        gpu=plan.gpu,
        device=plan.device,
        cache=EngineCache(plan.folder),
        verify=engine_gate(plan.model, trial.run, read_pictures()) if trial else None,
        measure=trial.measure if trial else None,
        exact_shape=True,
        on_note=on_note,
    )
    because, made = "--overwrite was given" if overwrite else None, []
    with _current(plan, problem), tempfile.TemporaryDirectory() as folder:
        graphs = export_model(
            str(plan.model.checkpoint_path if plan.model.graph_path is None else plan.model.name),
            Path(folder),
            forms=plan.forms,
            precisions=plan.precisions,
            verify=verify,
            calibrate=calibrate,
            on_graph=on_graph,
            on_progress=on_progress,
        )
        for graph in graphs:
            model, _ = load_graph(graph.path)
            for shape in plan.shapes:
                told = replace(provider, on_progress=_named(on_build, f"{graph.path.stem} {shape}"))
                made.append(told.provide(model, shape, plan.options, because=because))
                if on_engine is not None:
                    on_engine(made[-1])
    return made


@dataclass(frozen=True)
class _Trial:
    """Engines of a plan on its GPU, which is opened for each trial."""

    plan: EnginePlan

    def run(
        self, built: BuiltEngine, frames: Sequence[Mapping[str, NDArray[Any]]]
    ) -> list[dict[str, Any]]:
        """The outputs of single frames."""
        with open_device(self.plan.device, self.plan.binding) as device:
            return run_engine(built, frames, flavour=self.plan.flavour, device=device)

    def measure(self, built: BuiltEngine) -> float:
        """Frames per second."""
        with open_device(self.plan.device, self.plan.binding) as device:
            return engine_speed(built, read_pictures(), flavour=self.plan.flavour, device=device)


@contextmanager
def _current(plan: EnginePlan, problem: str | None) -> Iterator[None]:
    """Makes the GPU of a plan current, on which TensorRT builds.

    Args:
        plan: what is to be built.
        problem: why its engines cannot run here, None if they can.

    Raises:
        BackendError: if it would be built on another GPU than the one it is for.
    """
    if problem is None:
        with open_device(plan.device, plan.binding) as device, device.current():
            yield
        return
    if plan.device != USUAL_DEVICE and not plan.flavour.builds_ahead:
        raise BackendError(f"nothing can be built on {plan.device}: {problem}.")
    yield


def _named(
    on_build: Callable[[str, float], None] | None, name: str
) -> Callable[[float, str], None] | None:
    if on_build is None:
        return None
    return lambda share, _phase: on_build(name, share)


def engine_plan(
    model: str,
    product: Flavour,
    *,
    device: str = USUAL_DEVICE,
    shapes: Sequence[str] = (),
    **settings: Any,
) -> EnginePlan:
    """A plan for this machine.

    Args:
        model: a checkpoint or the name of a bundled model.
        product: TensorRT or TensorRT-RTX.
        device: the GPU that the engines are for, ``cuda:N``.
        shapes: sizes as texts, see :meth:`EngineShape.parse`; by default :data:`USUAL_SHAPE`.
        settings: further fields of :class:`EnginePlan`; what is empty is its default.

    Raises:
        UsageError: if the device is no GPU's name.
        SrtrtError: if the model or a shape is unusable, or the GPU cannot be asked.
    """
    named = re.fullmatch(r"cuda(?::([0-9]{1,3}))?", device)
    if named is None:
        raise UsageError(f"device {device!r}: expected cuda:N, such as {USUAL_DEVICE}.")
    device = f"cuda:{named[1] or 0}"
    given = {name: value for name, value in settings.items() if value not in (None, ())}
    if shapes:
        given["shapes"] = tuple(EngineShape.parse(shape) for shape in shapes)
    given.setdefault("options", EngineOptions())
    gpu = gpu_facts(device)
    return EnginePlan(model=checkpoint_of(model), flavour=product, gpu=gpu, device=device, **given)


def usual_product(device: str = USUAL_DEVICE) -> tuple[Flavour | None, str]:
    """The product whose engines run on a GPU, or None and why as a clause."""
    try:
        return usable_flavour("auto", gpu_facts(device)), ""
    except SrtrtError as error:
        return None, str(error).rstrip(".")
