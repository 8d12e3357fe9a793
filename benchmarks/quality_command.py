"""``srtrt benchmark`` commands that measure pictures: quality, compressed video, bit rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from srtrt.benchmarks.command_parts import (
    Measurement,
    models_option,
    out_option,
    progress,
    show,
    write,
)
from srtrt.errors import UsageError
from srtrt.reports import ReportPlace
from srtrt.runtime.command_options import Number, Whole


@click.command(cls=Measurement)
@models_option
@click.option("--data", multiple=True, metavar="DIR", help="HR pictures; each folder is a set.")
@click.option(
    "--engine",
    default=None,
    help="By default the untouched generator, and onnxruntime-fp32 for graphs.",
)
@click.option(
    "--perceptual/--no-perceptual",
    default=True,
    show_default=True,
    help="Add LPIPS and DISTS, where the packages with their weights are installed.",
)
@click.option(
    "--protocol",
    type=click.Choice(["field", "report"]),
    default="field",
    show_default=True,
    help="Y of antialiased LR, or RGB of 224x224 pictures as the original report.",
)
@click.option("--runs", multiple=True, metavar="DIR", help="Tabulate finished training runs.")
@click.option(
    "--epochs", multiple=True, type=Number(), help="With --runs: not the last epoch alone."
)
@out_option
@click.pass_context
def quality(
    context: click.Context,
    models: tuple[str, ...],
    data: tuple[str, ...],
    engine: str | None,
    perceptual: bool,
    protocol: str,
    runs: tuple[str, ...],
    epochs: tuple[float, ...],
    out: ReportPlace | None,
) -> None:
    """Measure models on folders of HR pictures, beside bicubic; or tabulate training runs.

    PSNR, SSIM, LPIPS, DISTS, energy near the Nyquist frequency (a mesh of two pixels) and the
    colour bias.
    """
    if runs:
        given = {"--data": data, "--engine": engine, "--no-perceptual": not perceptual}
        given |= {"--protocol": protocol if protocol == "report" else ""}
        if context.get_parameter_source("models") is not ParameterSource.DEFAULT:
            given["--model"] = models
        _show_runs(runs, epochs, out, [name for name, value in given.items() if value])
        return
    if epochs:
        raise UsageError("--epochs belongs to --runs DIR, which was not given.")
    if not data:
        raise UsageError("nothing to measure on; give --data DIR, or --runs DIR for a table.")
    if protocol == "report":
        from srtrt.benchmarks.report_quality import measure_by_report

        folders = [Path(d) for d in data]
        result = measure_by_report(
            models, folders, engine=engine, on_picture=lambda path: progress(path.name)
        )
        show("quality", result, out)
        return
    from srtrt.benchmarks.quality import measure_quality

    result = measure_quality(
        models,
        [Path(d) for d in data],
        engine=engine,
        perceptual=perceptual,
        on_picture=lambda path: progress(path.name),
    )
    show("quality", result, out)


def _show_runs(
    runs: tuple[str, ...], epochs: tuple[float, ...], out: ReportPlace | None, stray: list[str]
) -> None:
    from srtrt.benchmarks.runs import runs_report
    from srtrt.benchmarks.tables import table

    if stray:
        raise UsageError(f"--runs reads what training logged; leave {' and '.join(stray)} out.")
    report = runs_report([Path(run) for run in runs], epochs)
    write(f"{table(report)}\n", "runs", report, out)


@click.command(cls=Measurement)
@models_option
@click.option("--data", default=None, metavar="DIR", help="HR pictures, made into panning clips.")
@click.option("--clip", "clips", multiple=True, metavar="VIDEO", help="Its frames are the HR ones.")
@click.option("--pictures", default=None, type=Whole(1), help="Use so many of DIR.")
@click.option("--frames", default=8, show_default=True, type=Whole(1), help="Of a clip.")
@click.option("--crf", default=28, show_default=True, type=Whole(0, 51), help="Of x264.")
@click.option("--engine", default=None, help="By default openvino-fp32, or torch-fp32 without it.")
@out_option
def compressed(
    models: tuple[str, ...],
    data: str | None,
    clips: tuple[str, ...],
    pictures: int | None,
    frames: int,
    crf: int,
    engine: str | None,
    out: ReportPlace | None,
) -> None:
    """PSNR and SSIM on LR video compressed with x264, beside bicubic."""
    from srtrt.benchmarks.compressed import measure_compressed

    result = measure_compressed(
        models,
        pictures=None if data is None else Path(data),
        clips=[Path(clip) for clip in clips],
        engine=engine,
        crf=crf,
        frames=frames,
        limit=pictures,
        on_clip=progress,
    )
    show("compressed", result, out)


@click.command(cls=Measurement)
@models_option
@click.option("--data", default=None, metavar="DIR", help="HR pictures, made into panning clips.")
@click.option("--clip", "clips", multiple=True, metavar="VIDEO", help="Its frames are the HR ones.")
@click.option("--pictures", default=None, type=Whole(1), help="Use so many of DIR.")
@click.option("--frames", default=48, show_default=True, type=Whole(1), help="Of a clip.")
@click.option("--every", default=6, show_default=True, type=Whole(1), help="Measure few.")
@click.option("--hr-width", default=720, show_default=True, type=Whole(64), help="At most.")
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    default=("libx264:16,20,23,26,28,30,34",),
    show_default=True,
    metavar="NAME:CRF,CRF...",
    help="Encoder and its quality factors; may be repeated.",
)
@click.option("--engine", default=None, help="By default openvino-fp32, or torch-fp32 without it.")
@out_option
def rates(
    models: tuple[str, ...],
    data: str | None,
    clips: tuple[str, ...],
    encoders: tuple[str, ...],
    out: ReportPlace | None,
    **options: Any,
) -> None:
    """PSNR and VMAF on LR video at many bit rates: where which model wins."""
    from srtrt.benchmarks.rates import measure_rates, read_encoders

    result = measure_rates(
        models,
        pictures=None if data is None else Path(data),
        clips=[Path(clip) for clip in clips],
        codecs=read_encoders(encoders),
        limit=options.pop("pictures"),
        on_row=progress,
        **options,
    )
    show("rates", result, out)
