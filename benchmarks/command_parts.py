"""What the ``srtrt benchmark`` commands have in common: options, sizes, showing results."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

from srtrt import packages
from srtrt.errors import UsageError
from srtrt.reports import ReportPlace, place_of_option
from srtrt.runtime.command_options import OneOf
from srtrt.terminal import put_text, say
from srtrt.weights import DEFAULT_MODEL

model_option = click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="Name or file."
)
models_option = click.option(
    "--model",
    "models",
    multiple=True,
    default=(DEFAULT_MODEL,),
    show_default=True,
    help="Name, .onnx, .safetensors or third-party .pth; may be repeated.",
)
out_option = click.option(
    "--out",
    callback=place_of_option,
    metavar="FILE.json",
    help="Also write the result here, with the machine; - is stdout, in its place.",
)
form_option = click.option(
    "--io", "form", type=OneOf(["rgb8", "yuv420p8"]), default="rgb8", show_default=True
)
_LARGEST_SIDE = 4096
"""LR pixels; the result has 16 times as many."""


class Measurement(click.Command):
    """A command that needs PyTorch."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs it once PyTorch is loaded."""
        packages.load(["torch"], extra="export", purpose="`srtrt benchmark`")
        return super().invoke(ctx)


def frame_size(text: str) -> tuple[int, int]:
    """Width and height of ``WxH``, made even.

    Raises:
        UsageError: if it is none, or too small or large.
    """
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", text)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(2 <= side <= _LARGEST_SIDE for side in sides):
        raise UsageError(
            f"--size {text!r}: expected WIDTHxHEIGHT, such as 160x90, of 2 to {_LARGEST_SIDE} each."
        )
    return sides[0] // 2 * 2, sides[1] // 2 * 2


def progress(text: str) -> None:
    """Says how far the work is, where somebody watches."""
    if sys.stderr.isatty():
        say(text)


def show(name: str, result: dict[str, Any], out: ReportPlace | None) -> None:
    """Prints a result as JSON and writes its report."""
    write(json.dumps(result, indent=2) + "\n", name, result, out)


def write(shown: str, name: str, result: dict[str, Any], out: ReportPlace | None) -> None:
    """Prints a result, unless its report goes to stdout; then writes that."""
    from srtrt.benchmarks.report import full_report

    if out is None or out.path is not None:
        put_text(shown)
    if out is not None:
        out.write(full_report(name, result))
