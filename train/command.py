"""The ``srtrt train`` command."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from srtrt.errors import MissingPackageError, UsageError
from srtrt.train.config import PsnrConfig

if TYPE_CHECKING:
    import torch


@click.command()
@click.option("--data", multiple=True, required=True, help="Folder of HR images; may be repeated.")
@click.option("--val", multiple=True, help="Folder of HR images for validation PSNR.")
@click.option("--out", default="run", show_default=True, help="Run folder.")
@click.option("--name", default="generator", show_default=True, help="Name of the model.")
@click.option("--init", default=None, help="Checkpoint to start from.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--resume", is_flag=True, help="Continue the run in --out exactly.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting, e.g. batch=8."
)
def train(
    data: tuple[str, ...],
    val: tuple[str, ...],
    out: str,
    name: str,
    init: str | None,
    device: str,
    resume: bool,
    quiet: bool,
    settings: tuple[str, ...],
) -> None:
    """Train the generator alone against a pixel loss (PSNR-oriented stage).

    The run folder gets generator.safetensors (the averaged weights, ready for `srtrt export`),
    state.safetensors (to resume from), config.json and log.jsonl.
    """
    try:
        from srtrt.datasets import list_images
        from srtrt.train.loop import STATE, Progress, PsnrTrainer
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", "train", "`srtrt train`") from error

    folder = Path(out)
    if not resume and (folder / STATE).exists():
        raise UsageError(
            f"{folder} holds an earlier run; continue it with --resume or choose another --out."
        )
    config = PsnrConfig().with_settings(settings)
    trainer = PsnrTrainer(
        config,
        list_images([Path(d) for d in data]),
        folder,
        name=name,
        validation_files=list_images([Path(d) for d in val]) if val else (),
        device=_device(device),
        init=Path(init) if init else None,
    )
    console = Console(stderr=True)
    for path, reason in trainer.pool.skipped:
        console.print(f"skipped {path}: {reason}", highlight=False)
    if resume:
        trainer.resume()

    def show(progress: Progress) -> None:
        psnr = "" if progress.psnr is None else f"  PSNR {progress.psnr:.2f} dB"
        eta = timedelta(seconds=round(progress.eta_seconds))
        text = (
            f"step {progress.step}/{progress.steps}  loss {progress.loss:.5f}{psnr}  "
            f"{1 / progress.seconds_per_step:.2f} steps/s  ETA {eta}"
        )
        console.print(text, highlight=False)

    with _stop_request() as should_stop:
        result = trainer.run(on_progress=None if quiet else show, should_stop=should_stop)
        if result.steps < config.steps:
            console.print(f"stopped after step {result.steps}; continue with --resume")
            raise KeyboardInterrupt
    psnr = "" if result.psnr is None else f", PSNR {result.psnr:.2f} dB"
    click.echo(f"{result.checkpoint} ({result.steps} steps{psnr})", file=sys.stdout)


@contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into a wish that is met after the current update."""
    asked = threading.Event()
    earlier = {}

    def ask(number: int, frame: object) -> None:
        asked.set()
        signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        earlier[number] = signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _device(text: str) -> torch.device | None:
    import torch

    if text == "auto":
        return None
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise UsageError(f"--device {text!r}: expected auto, cpu or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {text}: PyTorch sees no CUDA device here; use --device cpu.")
    return device
