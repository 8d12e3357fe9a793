"""``srtrt benchmark`` commands that measure engines: their speed and what they compute."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from srtrt.benchmarks.command_parts import (
    Measurement,
    form_option,
    frame_size,
    model_option,
    out_option,
    progress,
    show,
)
from srtrt.benchmarks.engines import ALL, DEFAULT_ENGINES
from srtrt.errors import BackendError
from srtrt.reports import ReportPlace
from srtrt.runtime.command_options import Number, OneOf, Whole
from srtrt.spec import PRECISIONS
from srtrt.terminal import put_text, say

_engines_option = click.option(
    "--engine",
    "engines",
    multiple=True,
    metavar="NAME",
    help="May be repeated; options of the backend follow a colon: openvino-fp32:threads=1. `all` "
    "is every one that can run here, see `srtrt benchmark engines`. By default the usual ones of "
    "the CPU and all of the GPU.",
)
_device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu or cuda:N for the engines of one device alone; auto is the CPU and the first GPU.",
)
_torch_device_option = click.option(
    "--device", default="cpu", show_default=True, help="cpu or cuda:N."
)
_torch_precision_option = click.option(
    "--precision", default="fp32", show_default=True, type=OneOf(["fp32", "fp16", "bf16"])
)


@click.command()
@model_option
@_device_option
def engines(model: str, device: str) -> None:
    """List every engine, whether it can compute a model here, and why not; as JSON."""
    from srtrt.benchmarks.engines import survey_engines

    offers = [asdict(offer) for offer in survey_engines(model, device)]
    put_text(json.dumps(offers, indent=2) + "\n")


@click.command(cls=Measurement)
@model_option
@_engines_option
@_device_option
@click.option("--size", default="160x90", show_default=True, metavar="WxH", help="LR frame size.")
@click.option("--rounds", default=10, show_default=True, type=Whole(1))
@click.option(
    "--seconds",
    type=Number(0.0),
    default=1.0,
    show_default=True,
    help="How long frames in flight are measured, where an engine can have them.",
)
@click.option(
    "--reference",
    default=None,
    help="Engine to compare the speed with; by default PyTorch, for a graph onnxruntime-fp32.",
)
@form_option
@out_option
def latency(
    model: str,
    engines: tuple[str, ...],
    device: str,
    size: str,
    form: Any,
    out: ReportPlace | None,
    **options: Any,
) -> None:
    """Seconds per frame of several engines, interleaved in one run, beside what they compute.

    Of engines with frames in flight also the network alone and the copies, as the device times
    them. Parity is with PyTorch float32, on a part of the frame.
    """
    from srtrt.benchmarks.latency import LatencySettings, measure_latency

    width, height = frame_size(size)
    chosen, left_out = _chosen(engines, model, device)
    settings = LatencySettings(
        width=width,
        height=height,
        form=form,
        device=device,
        keep_going=ALL in engines or not engines,
        **options,
    )
    result = measure_latency(model, chosen, settings, progress)
    _show_engines("latency", result | left_out, out)


@click.command(cls=Measurement)
@model_option
@click.option("--data", required=True, metavar="DIR", help="HR pictures; LR is made from them.")
@_engines_option
@_device_option
@form_option
@out_option
def parity(
    model: str,
    data: str,
    engines: tuple[str, ...],
    device: str,
    form: Any,
    out: ReportPlace | None,
) -> None:
    """Agreement with PyTorch float32 on real pictures."""
    from srtrt.benchmarks.parity import USUAL_ENGINES, measure_parity_of

    chosen, left_out = _chosen(engines, model, device, USUAL_ENGINES)
    result = measure_parity_of(
        model,
        chosen,
        Path(data),
        form=form,
        device=device,
        keep_going=ALL in engines or not engines,
        on_engine=progress,
    )
    _show_engines("parity", result | left_out, out)


@click.command(cls=Measurement)
@click.option("--model", "models", multiple=True, help="Bundled; by default all with int8.")
@click.option(
    "--data", multiple=True, required=True, metavar="DIR", help="HR pictures; a set each."
)
@click.option(
    "--size", "sizes", multiple=True, default=("160x90", "480x270"), show_default=True
)  # fmt: skip
@click.option("--rounds", default=10, show_default=True, type=Whole(1))
@out_option
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
        sizes=[frame_size(text) for text in sizes],
        rounds=rounds,
        on_step=progress,
    )
    show("int8", result, out)


@click.command(cls=Measurement)
@click.option("--preset", default="psnr", show_default=True, help="Settings of the update.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting.")
@click.option("--data", multiple=True, required=True, metavar="DIR", help="Training pictures.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--steps", default=10, show_default=True, type=Whole(1), help="In a round.")
@click.option("--rounds", default=3, show_default=True, type=Whole(1))
@out_option
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
        on_round=lambda done: progress(f"round {done}/{rounds}"),
    )
    show("training", {"preset": preset, **result}, out)


@click.command(cls=Measurement)
@model_option
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
@out_option
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

    width, height = frame_size(size)
    result = measure_precisions(
        model,
        Path(data),
        size=InputSize(width=width, height=height),
        precisions=chosen,
        calibrate=None if calibrate is None else Path(calibrate),
        on_row=progress,
    )
    show("precisions", result, out)


@click.command(cls=Measurement)
@model_option
@_torch_device_option
@_torch_precision_option
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
@form_option
@out_option
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
        sizes=[frame_size(size) for size in sizes],
        variants=variants or tuple(VARIANTS),
        seconds=seconds,
        on_done=progress,
    )
    show("throughput", result, out)


@click.command(cls=Measurement)
@model_option
@_torch_device_option
@_torch_precision_option
@click.option("--size", default="480x270", show_default=True, metavar="WxH", help="LR frame size.")
@click.option("--rounds", default=10, show_default=True, type=Whole(1))
@click.option("--variant", "variants", multiple=True, help="May be repeated; by default all.")
@out_option
def profile(
    model: str,
    device: str,
    precision: Any,
    size: str,
    rounds: int,
    variants: tuple[str, ...],
    out: ReportPlace | None,
) -> None:
    """Where PyTorch's time of one frame goes, and what other ways to compute it would save."""
    from srtrt.benchmarks.frame_profile import VARIANTS, profile_frame
    from srtrt.runtime.engines.key import InputSize

    width, height = frame_size(size)
    result = profile_frame(
        model,
        InputSize(width=width, height=height),
        device=device,
        precision=precision,
        rounds=rounds,
        variants=variants or tuple(VARIANTS),
        on_done=progress,
    )
    show("profile", result, out)


def _chosen(
    asked: tuple[str, ...], model: str, device: str, usual: Sequence[str] = DEFAULT_ENGINES
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The engines to measure, and for the report why others are left out."""
    from srtrt.benchmarks.engines import choose_engines
    from srtrt.runtime.select import require_device

    require_device(device)
    chosen, left_out = choose_engines(asked, model, device, usual)
    for why in dict.fromkeys(left_out.values()):
        names = [name for name, reason in left_out.items() if reason == why]
        say(f"note: {', '.join(names)} {'is' if len(names) == 1 else 'are'} left out: {why}.")
    return chosen, {"left_out": left_out} if left_out else {}


def _show_engines(name: str, result: dict[str, Any], out: ReportPlace | None) -> None:
    """Shows a result with one row for each engine, also as a table.

    Raises:
        BackendError: if an engine failed while the others went on.
    """
    from srtrt.benchmarks.tables import table

    show(name, result, out)
    for line in table({"benchmark": name, **result}).splitlines():
        say(line)
    problems = result.get("problems", {})
    if problems:
        told = "; ".join(f"{each}: {why.rstrip('.')}" for each, why in problems.items())
        raise BackendError(f"of {len(problems) + len(result['engines'])} engines failed {told}.")
