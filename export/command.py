"""The ``srtrt export`` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from srtrt.errors import MissingPackageError

if TYPE_CHECKING:
    from srtrt.export.api import ExportedGraph

FORMS = ("rgb8", "yuv420p8")


@click.command()
@click.argument("model", metavar="CHECKPOINT|NAME")
@click.option("-o", "--out", default=".", show_default=True, help="Folder of the graphs.")
@click.option("--format", "format_", type=click.Choice(["onnx"]), default="onnx", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
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
@click.option("--verify", default=None, metavar="DIR", help="Pictures to compare with PyTorch on.")
@click.option("--overwrite", is_flag=True, help="Replace existing graphs.")
def export(
    model: str,
    out: str,
    format_: str,
    precision: tuple[str, ...],
    forms: tuple[str, ...],
    verify: str | None,
    overwrite: bool,
) -> None:
    """Turn a checkpoint into ONNX graphs, each proven against PyTorch before it is written."""
    try:
        from srtrt.export.api import export_model
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", "export", "`srtrt export`") from error

    def show(graph: ExportedGraph) -> None:
        click.echo(
            f"{graph.path}: {graph.parity} (against PyTorch fp32, {graph.parity.pictures} pictures)"
        )

    export_model(
        model,
        Path(out),
        forms=forms,  # type: ignore[arg-type]
        precisions=precision,  # type: ignore[arg-type]
        verify=Path(verify) if verify else None,
        overwrite=overwrite,
        on_graph=show,
    )
