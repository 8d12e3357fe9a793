"""The ``srtrt benchmark`` commands."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from srtrt import packages
from srtrt.errors import UsageError
from srtrt.reports import ReportPlace, place_of_option
from srtrt.runtime.command_options import Number, OneOf, Whole
from srtrt.spec import PRECISIONS
from srtrt.terminal import put_text, say
from srtrt.weights import DEFAULT_MODEL

_MODEL = click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name or file.")
_MODELS = click.option(
    "--model",
    "models",
    multiple=True,
    default=(DEFAULT_MODEL,),
    show_default=True,
    help="Name, .onnx, .safetensors or third-party .pth; may be repeated.",
)
_OUT = click.option(
    "--out",
    callback=place_of_option,
    metavar="FILE.json",
    help="Also write the result here, with the machine; - is stdout, in its place.",
)
_FORM = click.option(
    "--io", "form", type=OneOf(["rgb8", "yuv420p8"]), default="rgb8", show_default=True
)
_LARGEST_SIDE = 4096
"""LR pixels; the result has 16 times as many."""

_DEFAULT_ENGINES = ("torch-fp32", "onnxruntime-fp32", "openvino-fp32", "openvino-bf16")


class _Measurement(click.Command):
    """A command that needs PyTorch."""

    def invoke(self, ctx: click.Context) -> Any:
        packages.load(["torch"], extra="export", purpose="`srtrt benchmark`")
        return super().invoke(ctx)


@click.group()
def benchmark() -> None:
    """Measure latency, quality and parity; results are JSON."""


benchmark.command_class = _Measurement


@benchmark.command()
@_MODEL
@click.option(
    "--engine",
    "engines",
    multiple=True,
    default=_DEFAULT_ENGINES,
    show_default=True,
    help="May be repeated; options of the backend follow a colon: openvino-fp32:threads=1.",
)
@click.option("--size", default="160x90", show_default=True, metavar="WxH", help="LR frame size.")
@click.option("--rounds", default=10, show_default=True, type=Whole(1))
@click.option(
    "--reference",
    default=None,
    help="Engine to compare with; by default PyTorch, for a graph onnxruntime-fp32.",
)
@_FORM
@_OUT
@click.pass_context
def latency(
    context: click.Context,
    model: str,
    engines: tuple[str, ...],
    size: str,
    rounds: int,
    reference: str | None,
    form: Any,
    out: ReportPlace | None,
) -> None:
    """Seconds per frame of several engines, interleaved in one run."""
    from srtrt.benchmarks.engines import usual_reference
    from srtrt.benchmarks.latency import measure_latency

    width, height = _size(size)
    chosen, left_out = _engines(context, engines, model)
    result = measure_latency(
        model,
        chosen,
        width=width,
        height=height,
        form=form,
        rounds=rounds,
        reference=reference or usual_reference(model),
        on_round=lambda done: _progress(f"round {done}/{rounds}"),
    )
    _show("latency", result | left_out, out)


@benchmark.command()
@_MODELS
@click.option("--data", multiple=True, metavar="DIR", help="HR pictures; each folder is a set.")
@click.option(
    "--engine",
    default=None,
    help="By default the untouched generator, and onnxruntime-fp32 for graphs.",
)
@click.option(
    "--lpips",
    default=None,
    metavar="DIR",
    help="Add a perceptual distance after LPIPS, from files in DIR.",
)
@click.option("--runs", multiple=True, metavar="DIR", help="Tabulate finished training runs.")
@click.option(
    "--epochs", multiple=True, type=Number(), help="With --runs: not the last epoch alone."
)
@_OUT
@click.pass_context
def quality(
    context: click.Context,
    models: tuple[str, ...],
    data: tuple[str, ...],
    engine: str | None,
    lpips: str | None,
    runs: tuple[str, ...],
    epochs: tuple[float, ...],
    out: ReportPlace | None,
) -> None:
    """PSNR and SSIM on folders of HR pictures, beside bicubic; or a table of training runs."""
    if runs:
        given = {"--data": data, "--engine": engine, "--lpips": lpips}
        if context.get_parameter_source("models") is not ParameterSource.DEFAULT:
            given["--model"] = models
        _show_runs(runs, epochs, out, [name for name, value in given.items() if value])
        return
    if epochs:
        raise UsageError("--epochs belongs to --runs DIR, which was not given.")
    if not data:
        raise UsageError("nothing to measure on; give --data DIR, or --runs DIR for a table.")
    from srtrt.benchmarks.quality import measure_quality

    result = measure_quality(
        models,
        [Path(d) for d in data],
        engine=engine,
        lpips=None if lpips is None else Path(lpips),
        on_picture=lambda path: _progress(path.name),
    )
    _show("quality", result, out)


def _show_runs(
    runs: tuple[str, ...], epochs: tuple[float, ...], out: ReportPlace | None, stray: list[str]
) -> None:
    from srtrt.benchmarks.runs import runs_report
    from srtrt.benchmarks.tables import table

    if stray:
        raise UsageError(f"--runs reads what training logged; leave {' and '.join(stray)} out.")
    report = runs_report([Path(run) for run in runs], epochs)
    _write(f"{table(report)}\n", "runs", report, out)


@benchmark.command()
@_MODELS
@click.option("--data", default=None, metavar="DIR", help="HR pictures, made into panning clips.")
@click.option("--clip", "clips", multiple=True, metavar="VIDEO", help="Its frames are the HR ones.")
@click.option("--pictures", default=None, type=Whole(1), help="Use so many of DIR.")
@click.option("--frames", default=8, show_default=True, type=Whole(1), help="Of a clip.")
@click.option("--crf", default=28, show_default=True, type=Whole(0, 51), help="Of x264.")
@click.option("--engine", default=None, help="By default openvino-fp32, or torch-fp32 without it.")
@_OUT
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
        on_clip=_progress,
    )
    _show("compressed", result, out)


@benchmark.command()
@_MODELS
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
@_OUT
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
        on_row=_progress,
        **options,
    )
    _show("rates", result, out)


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
@click.pass_context
def parity(
    context: click.Context,
    model: str,
    data: str,
    engines: tuple[str, ...],
    form: Any,
    out: ReportPlace | None,
) -> None:
    """Agreement with PyTorch float32 on real pictures."""
    from srtrt.benchmarks.parity import measure_parity_of

    chosen, left_out = _engines(context, engines, model)
    result = measure_parity_of(model, chosen, Path(data), form=form, on_engine=_progress)
    _show("parity", result | left_out, out)


@benchmark.command()
@click.option("--model", "models", multiple=True, help="Bundled; by default all with int8.")
@click.option(
    "--data", multiple=True, required=True, metavar="DIR", help="HR pictures; a set each."
)
@click.option(
    "--size", "sizes", multiple=True, default=("160x90", "480x270"), show_default=True
)  # fmt: skip
@click.option("--rounds", default=10, show_default=True, type=Whole(1))
@_OUT
def int8(
    models: tuple[str, ...],
    data: tuple[str, ...],
    sizes: tuple[str, ...],
    rounds: int,
    out: ReportPlace | None,
) -> None:
    """What int8 graphs lose in quality and gain in speed, on every engine of the CPU."""
    from srtrt.benchmarks.calibrated import measure_int8

    result = measure_int8(
        models,
        [Path(d) for d in data],
        sizes=[_size(text) for text in sizes],
        rounds=rounds,
        on_step=_progress,
    )
    _show("int8", result, out)


@benchmark.command()
@click.option("--preset", default="psnr", show_default=True, help="Settings of the update.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting.")
@click.option("--data", multiple=True, required=True, metavar="DIR", help="Training pictures.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--steps", default=10, show_default=True, type=Whole(1), help="In a round.")
@click.option("--rounds", default=3, show_default=True, type=Whole(1))
@_OUT
def training(
    preset: str,
    settings: tuple[str, ...],
    data: tuple[str, ...],
    device: str,
    steps: int,
    rounds: int,
    out: ReportPlace | None,
) -> None:
    """Updates per second of training, against a plain loop and ready batches."""
    from srtrt.benchmarks.training import measure_training
    from srtrt.train import config
    from srtrt.train.device import choose_device

    chosen = config.preset(preset).with_settings(settings)
    result = measure_training(
        chosen,
        [Path(d) for d in data],
        device=choose_device(device),
        steps=steps,
        rounds=rounds,
        on_round=lambda done: _progress(f"round {done}/{rounds}"),
    )
    _show("training", {"preset": preset, **result}, out)


@benchmark.command()
@_MODEL
@click.option("--data", required=True, metavar="DIR", help="HR pictures; LR is made from them.")
@click.option("--size", default="480x270", show_default=True, metavar="WxH", help="LR frame size.")
@click.option(
    "--precision",
    "chosen",
    multiple=True,
    type=OneOf(PRECISIONS),
    default=PRECISIONS,
    show_default=True,
)
@click.option("--calibrate", default=None, metavar="DIR", help="Photographs for int8 and fp8.")
@_OUT
def precisions(
    model: str,
    data: str,
    size: str,
    chosen: tuple[Any, ...],
    calibrate: str | None,
    out: ReportPlace | None,
) -> None:
    """Agreement, quality, size and build time of every precision on every engine."""
    from srtrt.benchmarks.precisions import measure_precisions
    from srtrt.runtime.engines.key import InputSize

    width, height = _size(size)
    result = measure_precisions(
        model,
        Path(data),
        size=InputSize(width=width, height=height),
        precisions=chosen,
        calibrate=None if calibrate is None else Path(calibrate),
        on_row=_progress,
    )
    _show("precisions", result, out)


@benchmark.command()
@_MODEL
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda:N.")
@click.option(
    "--precision", default="fp32", show_default=True, type=OneOf(["fp32", "fp16", "bf16"])
)
@click.option("--size", "sizes", multiple=True, default=("480x270",), show_default=True)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    help="May be repeated; by default all. A name, or options of torch: streams=3,slots=6.",
)
@click.option(
    "--seconds",
    type=Number(0.0),
    default=2.0,
    show_default=True,
    help="How long each is measured.",
)
@_FORM
@_OUT
def throughput(
    model: str,
    device: str,
    precision: Any,
    sizes: tuple[str, ...],
    variants: tuple[str, ...],
    seconds: float,
    form: Any,
    out: ReportPlace | None,
) -> None:
    """Frames per second of PyTorch with frames in flight, against matrix product and copies."""
    from srtrt.benchmarks.throughput import VARIANTS, measure_throughput

    result = measure_throughput(
        model,
        device=device,
        precision=precision,
        form=form,
        sizes=[_size(size) for size in sizes],
        variants=variants or tuple(VARIANTS),
        seconds=seconds,
        on_done=_progress,
    )
    _show("throughput", result, out)


def _engines(
    context: click.Context, engines: tuple[str, ...], model: str
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The engines to measure, and for the report why some of the default ones are left out."""
    from srtrt.benchmarks.engines import offered

    if context.get_parameter_source("engines") is not ParameterSource.DEFAULT:
        return engines, {}
    chosen, left_out = offered(engines, model)
    for engine, why in left_out.items():
        say(f"note: {engine} is left out: {why}.")
    return chosen, {"left_out": left_out} if left_out else {}


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", text)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(2 <= side <= _LARGEST_SIDE for side in sides):
        raise UsageError(
            f"--size {text!r}: expected WIDTHxHEIGHT, such as 160x90, of 2 to {_LARGEST_SIDE} each."
        )
    return sides[0] // 2 * 2, sides[1] // 2 * 2


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        say(text)


def _show(name: str, result: dict[str, Any], out: ReportPlace | None) -> None:
    _write(json.dumps(result, indent=2) + "\n", name, result, out)


def _write(shown: str, name: str, result: dict[str, Any], out: ReportPlace | None) -> None:
    """Prints a result, unless its report goes to stdout; then writes that."""
    from srtrt.benchmarks.report import full_report

    if out is None or out.path is not None:
        put_text(shown)
    if out is not None:
        out.write(full_report(name, result))
