"""The ``srtrt tune`` command."""

from __future__ import annotations

import click

from srtrt.errors import UsageError
from srtrt.runtime.command_options import Number, OneOf, backend_option
from srtrt.runtime.engines.key import EngineShape
from srtrt.spec import PRECISIONS, Form
from srtrt.terminal import put, say
from srtrt.weights import DEFAULT_MODEL


@click.command()
@click.argument("model", metavar="NAME|FILE", default=DEFAULT_MODEL)
@click.option("--shape", required=True, metavar="WxH", help="Size of the source frames.")
@click.option(
    "--precision",
    type=OneOf(["auto", *PRECISIONS]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network.",
)
@click.option(
    "--io",
    "form",
    type=OneOf(["yuv420p8", "rgb8"]),
    default="yuv420p8",
    show_default=True,
    help="Form of the frames: yuv420p8 for most video, rgb8 for pictures.",
)
@click.option("--device", default="auto", show_default=True, help="cuda:N.")
@backend_option
@click.option(
    "--seconds",
    type=Number(0.0),
    default=2.0,
    show_default=True,
    help="How long each setting is measured.",
)
def tune(
    model: str,
    shape: str,
    precision: str,
    form: Form,
    device: str,
    backend_options: tuple[str, ...],
    seconds: float,
) -> None:
    """Measure streams x batch x CUDA graph for frames of one size, and keep the fastest.

    Needs an NVIDIA GPU with TensorRT or TensorRT-RTX; builds the engines it needs. What is found
    is stored beside the engine, and used whenever frames of this size are upscaled with the same
    options of the build.
    """
    from srtrt.runtime.backends.options import choose_options
    from srtrt.runtime.backends.tensorrt import TensorRtBackend
    from srtrt.runtime.backends.tensorrt_tuning import tune_backend
    from srtrt.runtime.engines.tuning import Measured, ring_name
    from srtrt.runtime.models import find_model
    from srtrt.runtime.select import choose

    wanted = EngineShape.parse(shape)
    if not wanted.is_static or wanted.best.batch != 1:
        raise UsageError(
            f"shape {shape!r}: expected one size WxH; batches are tried by themselves."
        )
    wanted.require_form(form)
    choice = choose(TensorRtBackend.name, device, precision)
    chosen = choose_options(choice.backend, choice.device, backend_options)
    if chosen.options.ring is not None:
        raise UsageError(f"{chosen}: frames in flight are what is measured; leave them out.")
    say(choice.reason)

    def show(measured: Measured) -> None:
        speed = measured.frames_per_second
        found = measured.problem if speed is None else f"{speed:.2f} frames/s"
        put(f"  {ring_name(measured.ring)}: {found}")

    ring, path = tune_backend(
        find_model(model),
        wanted.best,
        form=form,
        device=choice.device,
        precision=choice.precision,
        seconds=seconds,
        options=chosen.options,
        on_measured=show,
        on_note=lambda text: say(f"note: {text}"),
    )
    put(f"fastest: {ring_name(ring)}; stored in {path}")
