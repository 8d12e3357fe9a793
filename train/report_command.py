"""The ``srtrt train-report`` command."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from srtrt import packages
from srtrt.errors import UsageError
from srtrt.files import write_text
from srtrt.paths import require_file, require_folder_writable
from srtrt.terminal import put_text, say
from srtrt.train.command_parts import Tell, claimed, introduce, nothing, progress_line, stop_request

if TYPE_CHECKING:
    from srtrt.train.pictures import Pictures
    from srtrt.train.report import Experiment, ReportRun
    from srtrt.train.validate import Pair

_MODULES = ("srtrt.train.loop", "srtrt.train.pictures", "srtrt.train.distributed")
"""What the command imports that takes seconds."""


@click.command()
@click.argument("div2k", metavar="DIV2K")
@click.argument("flickr2k", metavar="FLICKR2K")
@click.option("--vgg", default=None, metavar="FILE", help="VGG19 weights; default: download.")
@click.option("--out", default="report", show_default=True, help="Folder of the six runs.")
@click.option("--val", multiple=True, help="HR images to measure on; default: those of DIV2K.")
@click.option(
    "--epoch",
    type=click.Choice(["batch", "pass"]),
    default="batch",
    show_default=True,
    help="What an epoch is: one batch, or a pass over all pictures.",
)
@click.option(
    "--epochs",
    multiple=True,
    type=click.IntRange(1, 99_999),
    default=(100, 500),
    show_default=True,
    help="When to measure; the largest ends the runs. Repeatable.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting: data.batch=8."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--dry-run", is_flag=True, help="Say what it would take, and train nothing.")
@click.option("--quiet", is_flag=True, help="No progress.")
def train_report(
    div2k: str,
    flickr2k: str,
    vgg: str | None,
    out: str,
    val: tuple[str, ...],
    epoch: Literal["batch", "pass"],
    epochs: tuple[int, ...],
    settings: tuple[str, ...],
    device: str,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Run the original report's experiment and print its tables.

    Both upsamplers are trained on DIV2K, Flickr2K and both together, and measured as the report
    did, beside its own figures and bicubic. The same command goes on where it was stopped. Each
    run has a folder in --out with checkpoints of the epochs measured, log, plots and grids.
    """
    folder = Path(out)
    _check(folder, (div2k, flickr2k, *val), vgg)
    packages.load(_MODULES, extra="train", purpose="`srtrt train-report`", quiet=quiet)
    from srtrt.train.content import load_content, with_content
    from srtrt.train.device import choose_device
    from srtrt.train.report import Experiment, report_settings
    from srtrt.train.report_data import find_report_data

    tell = nothing if quiet else say
    config = report_settings(epoch, epochs, settings)
    data = find_report_data(Path(div2k), Path(flickr2k), [Path(v) for v in val])
    where = choose_device(device)
    with ExitStack() as ending:
        ending.enter_context(claimed(folder))
        content = load_content(config, None if vgg is None else Path(vgg))
        config = with_content(config, content)
        experiment = Experiment(folder, config, data, content=content, device=where)
        for note in data.notes():
            tell(f"note: {note}")
        tell(f"an epoch is {config.schedule.epoch_in_words}")
        pairs = experiment.pairs()
        _say_plan(experiment, tell)
        if dry_run:
            return
        experiment.begin()
        _run_all(experiment, pairs, tell)
        put_text(_tables(experiment, pairs))


def _check(folder: Path, pictures: tuple[str, ...], vgg: str | None) -> None:
    """Says what is wrong with names before seconds go by."""
    from srtrt.train.layouts import check_folder

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("train-report runs in one process; start it without torchrun.")
    require_folder_writable(folder, option="--out")
    for each in pictures:
        check_folder(Path(each))
    if vgg is not None:
        require_file(vgg, option="--vgg", expected="VGG19 weights")


def _say_plan(experiment: Experiment, tell: Tell) -> None:
    from srtrt.train.report_plan import measure_cost, plan

    waiting = [run for run in experiment.runs if run.result() is None]
    if not waiting:
        return
    tell("timing a few updates")
    measured = {}
    for name, run in {run.upsampler: run for run in waiting}.items():
        cost = measured[name] = measure_cost(experiment, run)
        gc.collect()  # networks refer to themselves, and two may not fit into memory
        tell(f"{name}: {cost.seconds:.2f} s an update, a state of {cost.state_bytes / 1e6:,.0f} MB")
    ahead = plan(experiment, measured)
    tell(f"{len(waiting)} of {len(experiment.runs)} runs to go: {ahead}")
    ahead.require_room(experiment.folder)


def _run_all(experiment: Experiment, pairs: list[Pair], tell: Tell) -> None:
    """Runs what is not over, one after the other; the tables grow with each."""
    from srtrt.train.pictures import Pictures
    from srtrt.train.report import TABLES

    for name, runs in groupby(experiment.unfinished(), key=lambda run: run.data):
        dataset = experiment.data.training[name]
        pictures = Pictures.of(dataset, experiment.config, on_progress=_every_tenth(tell))
        introduce(tell, pictures)
        for run in runs:
            tell(f"{run.name}: {experiment.updates(run):,} updates, in {run.folder}")
            _run(experiment, run, pictures, tell)
            for row in experiment.measure(run, pairs):
                tell(f"{run.name} at epoch {row.epoch}: {row.psnr_db:.2f} dB")
            write_text(experiment.folder / TABLES, _tables(experiment, pairs))


def _run(experiment: Experiment, run: ReportRun, pictures: Pictures, tell: Tell) -> None:
    with stop_request() as should_stop, progress_line(tell) as show:
        finished = experiment.train(
            run, pictures, tell=tell, on_progress=show, should_stop=should_stop
        )
    gc.collect()
    if not finished:
        tell("stopped; the same command goes on")
        raise KeyboardInterrupt


def _tables(experiment: Experiment, pairs: list[Pair]) -> str:
    from srtrt.train.report import bicubic_psnr
    from srtrt.train.report_figures import report_tables

    config, count = experiment.config, len(pairs)
    tables = report_tables(experiment.rows(), config.run.milestones, bicubic_psnr(pairs))
    return (
        f"PSNR of RGB on {count} pictures of {4 * config.data.patch}x{4 * config.data.patch}; an "
        f"epoch is {config.schedule.epoch_in_words}.\n\n{tables}\n"
    )


def _every_tenth(tell: Tell) -> Callable[[int, int], None]:
    """Tells of pictures that are being cached, ten times at most."""

    def show(done: int, count: int) -> None:
        if done == count or done % -(-count // 10) == 0:
            tell(f"cached {done} of {count} pictures")

    return show
