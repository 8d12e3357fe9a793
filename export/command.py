"""The ``srtrt export`` command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TimeRemainingColumn

from srtrt import packages
from srtrt.datasets import list_images
from srtrt.errors import UsageError
from srtrt.paths import require_folder_writable
from srtrt.runtime.command_options import OneOf, Whole
from srtrt.runtime.models import find_model
from srtrt.spec import PRECISIONS, Form, Precision
from srtrt.terminal import bar as progress_bar
from srtrt.terminal import put, say, text_column
from srtrt.text import printable
from srtrt.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from srtrt.export.api import ExportedGraph
    from srtrt.runtime.backends.tensorrt import TensorRtOptions
    from srtrt.runtime.engines.record import CachedEngine

FORMS: tuple[Form, ...] = ("rgb8", "yuv420p8")
ENGINES = ("tensorrt", "tensorrt-rtx")
GRAPH_PRECISIONS: tuple[Precision, ...] = ("fp32",)


@click.command()
@click.argument("model", metavar="[CHECKPOINT|NAME]", required=False)
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
    type=OneOf(["onnx", *ENGINES]),
    default=None,
    help="An ONNX graph, or an engine built from one. By default graphs; without a model also an "
    "engine, where TensorRT and a GPU are.",
)
@click.option(
    "--precision",
    type=OneOf(PRECISIONS),
    multiple=True,
    help="May be repeated; by default fp32 for graphs, from which srtrt makes fp16 and bf16, and "
    "fp16 for engines, as upscale-video takes it.",
)
@click.option(
    "--io",
    "forms",
    type=OneOf(FORMS),
    multiple=True,
    help="Input and output form; may be repeated. By default both for graphs, yuv420p8 for "
    "engines.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="WxH",
    help="Size of the frames an engine takes, NxWxH for N at once, or a range MIN:BEST:MAX; "
    "repeated, it makes an engine of each. By default one for all sizes up to 1920x1080.",
)
@click.option(
    "--level",
    type=Whole(0, 5),
    default=None,
    help="Effort of TensorRT; by default 3, or what is built already.",
)
@click.option(
    "--workspace",
    type=Whole(1),
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
@click.option(
    "--backend-option",
    "backend_options",
    metavar="NAME=VALUE",
    multiple=True,
    help="Further setting of TensorRT, such as tf32=true or aux_streams=2; may be repeated. `srtrt "
    "doctor` lists all.",
)
@click.option(
    "--device",
    default=None,
    metavar="cuda:N",
    help="GPU that an engine is built for and tried on; by default cuda:0.",
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
    model: str | None,
    out: str | None,
    format_: str | None,
    precision: tuple[Precision, ...],
    forms: tuple[Form, ...],
    verify: str | None,
    calibrate: str | None,
    overwrite: bool,
    **engine: Any,
) -> None:
    """Turn a checkpoint into ONNX graphs, each proven against PyTorch, or into engines of them.

    Without a model it takes the checkpoint of the finished run in this folder, else the default
    model.
    """
    if out is not None:
        require_folder_writable(Path(out), option="--out")
    if model is not None:
        find_model(model)
    for folder in (verify, calibrate if {"int8", "fp8"} & set(precision) else None):
        if folder is not None:
            list_images([Path(folder)])
    packages.require_onnxruntime("`srtrt export`")
    packages.load(["srtrt.export.api"], extra="export", purpose="`srtrt export`")
    how: dict[str, Any] = {
        "verify": Path(verify) if verify else None,
        "calibrate": Path(calibrate) if calibrate else None,
        "overwrite": overwrite,
    }
    bare = model is None
    if model is None:
        model = _main_model()
    kinds = {"forms": forms, "precisions": precision}
    if format_ in ENGINES:
        _export_engines(model, format_, out, kinds, how, **engine)
        return
    if any(engine.values()) and not bare:
        raise UsageError(
            "--shape, --level, --workspace, --compute-capability, --backend-option and --device "
            "are for engines; an ONNX graph takes frames of every size. For an engine add --format "
            f"{' or '.join(ENGINES)}."
        )
    _export_graphs(model, out, kinds, how)
    if bare and format_ is None:
        from srtrt.export.engines import USUAL_DEVICE, usual_product

        product, problem = usual_product(engine["device"] or USUAL_DEVICE)
        if product is None:
            say(f"No engine was built: {problem}.")
            return
        _export_engines(model, product.name, None, {}, how, **engine)


def _main_model() -> str:
    """The checkpoint of a finished run in this folder, else the default model; says which."""
    from srtrt.export.api import finished_run

    path, reason = finished_run(Path())
    say(f"Exporting {path or DEFAULT_MODEL}: {reason}.")
    return str(path or DEFAULT_MODEL)


def _export_graphs(model: str, out: str | None, kinds: dict[str, Any], how: dict[str, Any]) -> None:
    from srtrt.export.api import export_model

    forms, precisions = kinds["forms"] or FORMS, kinds["precisions"] or GRAPH_PRECISIONS
    say(
        f"Graphs of {model}: {', '.join(forms)} in {', '.join(precisions)}, each compared with "
        f"PyTorch, into {Path(out or '.').resolve()}."
    )
    with _progress_bar() as bar:
        export_model(
            model,
            Path(out or "."),
            forms=forms,
            precisions=precisions,
            on_graph=lambda graph: _above(bar, f"{graph.path}: {_figures(graph)}"),
            on_progress=_describe(bar),
            **how,
        )


def _export_engines(
    model: str,
    product: str,
    out: str | None,
    kinds: dict[str, Any],
    how: dict[str, Any],
    *,
    shapes: tuple[str, ...],
    device: str | None,
    **settings: Any,
) -> None:
    """Says what is built, and what keeps upscale-video from using it; then builds it."""
    from srtrt.export.engines import USUAL_DEVICE, USUAL_SHAPE, engine_plan, export_engines
    from srtrt.runtime.engines.flavour import flavour_of

    chosen = _tensorrt_options(**settings)
    folder = Path(out) if out else None
    plan = engine_plan(
        model,
        flavour_of(product),
        device=device or USUAL_DEVICE,
        shapes=shapes,
        options=chosen.build,
        binding=chosen.binding,
        folder=folder,
        **kinds,
    )
    plan.flavour.load()
    sizes = ", ".join(map(str, plan.shapes))
    say(
        f"{plan.flavour.label} engines of {model}: {', '.join(plan.forms)} in "
        f"{', '.join(plan.precisions)} for frames of {sizes}; building takes minutes."
    )
    if not shapes:
        say(
            f"note: no --shape was given, so one engine takes every size of {USUAL_SHAPE} "
            "(smallest, tuned for, largest); one for a single size, such as --shape 1920x1080, "
            "can be faster."
        )
    for remark in plan.remarks():
        say(f"note: {remark}")
    tasks: dict[str, TaskID] = {}
    with _progress_bar() as bar:

        def advance(name: str, share: float) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(printable(name), total=1)
            bar.update(tasks[name], completed=share)

        export_engines(
            plan,
            on_graph=lambda graph: _above(bar, f"graph {graph.path.stem}: {_figures(graph)}"),
            on_progress=_describe(bar),
            on_build=advance,
            on_engine=lambda made: _above(bar, _engine_line(made)),
            on_note=lambda text: _above(bar, f"note: {text}", print_line=say),
            **how,
        )


def _tensorrt_options(
    *,
    level: int | None,
    workspace: int | None,
    targets: tuple[str, ...],
    backend_options: tuple[str, ...],
) -> TensorRtOptions:
    """What was asked of TensorRT, by options of their own or by ``--backend-option``.

    Raises:
        UsageError: if one is unknown, impossible or given twice, or means nothing here.
    """
    from srtrt.runtime.backends.options import choose_options

    own = {"level": level, "workspace": workspace, "compute_capabilities": ",".join(targets)}
    given = [f"{name}={value}" for name, value in own.items() if value not in (None, "")]
    chosen = choose_options("tensorrt", "cuda:0", [*given, *backend_options])
    options: TensorRtOptions = chosen.options
    if options.ring is not None:
        raise UsageError(f"{chosen}: frames in flight are no part of an engine; leave them out.")
    if {"product", "cache_folder"} & chosen.given.keys():
        raise UsageError(f"{chosen}: the product is given by --format, the folder by --out.")
    return options


def _figures(graph: ExportedGraph) -> str:
    text = f"{graph.parity} (against PyTorch fp32, {graph.parity.pictures} pictures)"
    if graph.kept:
        text = f"there already, the same graph; {text}"
    return f"{text}; {graph.layers}" if graph.layers else text


def _progress_bar() -> Progress:
    return progress_bar(
        text_column("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        redirect=False,
    )


def _above(bar: Progress, text: str, *, print_line: Callable[[str], None] = put) -> None:
    """Prints a line above the bar."""
    if bar.disable:
        print_line(text)
        return
    bar.stop()
    print_line(text)
    bar.start()


def _describe(bar: Progress) -> Callable[[str], None]:
    """Shows in a few words what is being done."""
    task = bar.add_task("making graphs", total=None)
    return lambda text: bar.update(task, description=printable(text))


def _engine_line(engine: CachedEngine) -> str:
    figures = engine.record.parity
    parity = f"parity {figures}" if figures else "not compared with PyTorch: it has not run yet"
    return f"{engine.path}: takes {engine.record.takes}, {parity}"
