"""The ``srtrt benchmark`` commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from srtrt.errors import MissingPackageError, UsageError
from srtrt.weights import DEFAULT_MODEL

_MODEL = click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name or file.")
_OUT = click.option("--out", default=None, metavar="FILE.json", help="Also write the result here.")
_FORM = click.option(
    "--io", "form", type=click.Choice(["rgb8", "yuv420p8"]), default="rgb8", show_default=True
)
_DEFAULT_ENGINES = ("torch-fp32", "onnxruntime-fp32", "openvino-fp32", "openvino-bf16")


@click.group()
def benchmark() -> None:
    """Measure latency, quality and parity; results are JSON."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingPackageError("torch", "export", "`srtrt benchmark`") from error


@benchmark.command()
@_MODEL
@click.option("--engine", "engines", multiple=True, default=_DEFAULT_ENGINES, show_default=True)
@click.option("--size", default="160x90", show_default=True, metavar="WxH", help="LR frame size.")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1))
@_FORM
@_OUT
def latency(
    model: str, engines: tuple[str, ...], size: str, rounds: int, form: Any, out: str | None
) -> None:
    """Seconds per frame of several engines, interleaved in one run."""
    from srtrt.benchmarks.latency import measure_latency

    width, height = _size(size)
    result = measure_latency(
        model,
        engines,
        width=width,
        height=height,
        form=form,
        rounds=rounds,
        on_round=lambda done: _progress(f"round {done}/{rounds}"),
    )
    _show("latency", result, out)


@benchmark.command()
@_MODEL
@click.option("--data", multiple=True, required=True, metavar="DIR", help="HR pictures.")
@click.option("--engine", default="torch-eager-fp32", show_default=True)
@_OUT
def quality(model: str, data: tuple[str, ...], engine: str, out: str | None) -> None:
    """PSNR and SSIM on folders of HR pictures, beside bicubic."""
    from srtrt.benchmarks.quality import measure_quality

    result = measure_quality(
        model, engine, [Path(d) for d in data], on_picture=lambda path: _progress(path.name)
    )
    _show("quality", result, out)


@benchmark.command()
@_MODEL
@click.option("--data", required=True, metavar="DIR", help="HR pictures; LR is made from them.")
@click.option(
    "--engine",
    "engines",
    multiple=True,
    default=("onnxruntime-fp32", "graph-fp16", "openvino-fp32", "openvino-bf16"),
    show_default=True,
)
@_FORM
@_OUT
def parity(model: str, data: str, engines: tuple[str, ...], form: Any, out: str | None) -> None:
    """Agreement with PyTorch float32 on real pictures."""
    from srtrt.benchmarks.parity import measure_parity_of

    result = measure_parity_of(model, engines, Path(data), form=form, on_engine=_progress)
    _show("parity", result, out)


def _size(text: str) -> tuple[int, int]:
    width, x, height = text.partition("x")
    if not (x and width.isdigit() and height.isdigit()) or min(int(width), int(height)) < 2:
        raise UsageError(f"--size {text!r}: expected WIDTHxHEIGHT, such as 160x90.")
    return int(width) // 2 * 2, int(height) // 2 * 2


def _progress(text: str) -> None:
    console = Console(stderr=True)
    if console.is_terminal:
        console.print(text, highlight=False)


def _show(name: str, result: dict[str, Any], out: str | None) -> None:
    from srtrt.benchmarks.report import write_report

    click.echo(json.dumps(result, indent=2))
    if out is not None:
        write_report(Path(out), name, result)
