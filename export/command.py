"""The ``srtrt export`` command."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress, TaskID

from srtrt.errors import MissingPackageError, UsageError
from srtrt.spec import PRECISIONS

if TYPE_CHECKING:
    from srtrt.export.api import ExportedGraph
    from srtrt.runtime.engines.cache import CachedEngine

FORMS = ("rgb8", "yuv420p8")
ENGINES = ("tensorrt", "tensorrt-rtx")


@click.command()
@click.argument("model", metavar="CHECKPOINT|NAME")
@click.option(
    "-o",
    "--out",
    default=None,
    help="Folder of the results; by default the current one for graphs, the user's engine cache "
    "for engines.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["onnx", *ENGINES]),
    default="onnx",
    show_default=True,
    help="An ONNX graph, or an engine built from one.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=["fp32"],
    show_default=True,
    help="May be repeated.",
)
@click.option(
    "--io",
    "forms",
    type=click.Choice(FORMS),
    multiple=True,
    default=FORMS,
    show_default=True,
    help="Input and output form; may be repeated.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="WxH",
    help="Size of the frames an engine takes, NxWxH for N at once, or a range MIN:BEST:MAX; "
    "repeated, it makes an engine of each.",
)
@click.option(
    "--level", type=click.IntRange(0, 5), default=3, show_default=True, help="Effort of TensorRT."
)
@click.option(
    "--workspace",
    type=click.IntRange(1),
    default=None,
    metavar="MIB",
    help="Most memory of one kernel; by default half of what is free on the GPU.",
)
@click.option(
    "--compute-capability",
    "targets",
    multiple=True,
    metavar="X.Y",
    help="GPUs a TensorRT-RTX engine is for, or 'current'; by default all from 8.0.",
)
@click.option("--verify", default=None, metavar="DIR", help="Pictures to compare with PyTorch on.")
@click.option(
    "--calibrate",
    default=None,
    metavar="DIR",
    help="Photographs that int8 and fp8 take their ranges from; by default a few that come with "
    "srtrt.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing graphs, rebuild engines.")
def export(
    model: str,
    out: str | None,
    format_: str,
    precision: tuple[str, ...],
    forms: tuple[str, ...],
    verify: str | None,
    calibrate: str | None,
    overwrite: bool,
    **engine: Any,
) -> None:
    """Turn a checkpoint into ONNX graphs, each proven against PyTorch, or into engines of them."""
    try:
        from srtrt.export.api import export_model
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", "export", "`srtrt export`") from error
    how: dict[str, Any] = {
        "forms": forms,
        "precisions": precision,
        "verify": Path(verify) if verify else None,
        "calibrate": Path(calibrate) if calibrate else None,
    }
    if format_ in ENGINES:
        _export_engines(model, out, format_, how, overwrite=overwrite, **engine)
        return
    if engine["shapes"]:
        raise UsageError("--shape is for engines; an ONNX graph takes frames of every size.")

    with _progress_bar() as bar:

        def show(graph: ExportedGraph) -> None:
            _say(bar, f"{graph.path}: {_figures(graph)}")

        export_model(
            model,
            Path(out or "."),
            overwrite=overwrite,
            on_graph=show,
            on_progress=_describe(bar),
            **how,
        )


def _export_engines(
    model: str,
    out: str | None,
    format_: str,
    how: dict[str, Any],
    *,
    overwrite: bool,
    shapes: tuple[str, ...],
    level: int,
    workspace: int | None,
    targets: tuple[str, ...],
) -> None:
    """Verified graphs in a temporary folder, then an engine of each for each shape."""
    from srtrt.export.api import checkpoint_of, export_model
    from srtrt.graph import load_graph
    from srtrt.runtime.backends.tensorrt import engine_judge
    from srtrt.runtime.engines.cache import EngineCache
    from srtrt.runtime.engines.flavour import flavour_of
    from srtrt.runtime.engines.gpu import gpu_facts
    from srtrt.runtime.engines.key import EngineOptions, EngineShape
    from srtrt.runtime.engines.provide import provide_engine

    if not shapes:
        raise UsageError("an engine needs the size of its frames, such as --shape 1920x1080.")
    parsed = [EngineShape.parse(shape) for shape in shapes]
    for shape in parsed:
        for form in how["forms"]:
            shape.require_form(form)
    options = EngineOptions(
        level=level,
        workspace_bytes=workspace << 20 if workspace else None,
        compute_capabilities=targets,
    )
    flavour, cache = flavour_of(format_), EngineCache(Path(out) if out else None)
    flavour.load()  # before any work is done
    gpu = gpu_facts()
    judge = engine_judge(checkpoint_of(model), flavour, gpu)
    with tempfile.TemporaryDirectory() as folder, _progress_bar() as bar:
        for graph in export_model(model, Path(folder), on_progress=_describe(bar), **how):
            _say(bar, f"graph {graph.path.stem}: {_figures(graph)}")
            for shape in parsed:
                task = bar.add_task(f"{graph.path.stem} {shape}", total=1)
                made = provide_engine(
                    load_graph(graph.path)[0],
                    shape,
                    options,
                    flavour=flavour,
                    gpu=gpu,
                    cache=cache,
                    verify=judge,
                    because="--overwrite was given" if overwrite else None,
                    on_progress=partial(_advance, bar, task),
                    on_note=lambda text: _say(bar, f"note: {text}", err=True),
                )
                _say(bar, _engine_line(made))


def _figures(graph: ExportedGraph) -> str:
    text = f"{graph.parity} (against PyTorch fp32, {graph.parity.pictures} pictures)"
    return f"{text}; {graph.layers}" if graph.layers else text


def _progress_bar() -> Progress:
    return Progress(
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _say(bar: Progress, text: str, *, err: bool = False) -> None:
    """Prints a line above the bar."""
    if bar.disable:
        click.echo(text, err=err)
        return
    bar.stop()
    click.echo(text, err=err)
    bar.start()


def _describe(bar: Progress) -> Callable[[str], None]:
    """Shows in a few words what is being done."""
    task = bar.add_task("making graphs", total=None)
    return lambda text: bar.update(task, description=text)


def _advance(bar: Progress, task: TaskID, share: float, _phase: str) -> None:
    bar.update(task, completed=share)


def _engine_line(engine: CachedEngine) -> str:
    figures = engine.record.parity
    parity = f"parity {figures}" if figures else "not compared with PyTorch: it has not run yet"
    return f"{engine.path}: takes {engine.record.built['shape']}, {parity}"
