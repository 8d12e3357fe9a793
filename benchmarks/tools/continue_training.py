"""Goes on with the training of bundled models and releases what has become better.

For maintainers, in a clone that srtrt is installed from with ``-e``, on a processor with AMX or on
a GPU, in the background for as long as there is time::

    python -m srtrt.benchmarks.tools.continue_training --model srresnet --model fast --until 18:30 \
        --data photographs --measure Set5 --measure Set14 --measure BSD100

Each model goes on from ``train/weights/NAME.safetensors`` at a constant rate; before its time is up
a decay branches off, whose weights are measured. They become the bundled ones only if photographs
that training never sees improved and no public set fell. Nothing is committed. Interrupted or
killed, the runs stay in ``runs/NAME`` and the same command goes on with them.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import torch

from srtrt import packages, signals
from srtrt.benchmarks.tools.candidate import Place, decide_and_release
from srtrt.benchmarks.tools.private_split import Split, is_private, split_pictures
from srtrt.benchmarks.tools.release import Repository, int8_set
from srtrt.benchmarks.tools.session import Job, Session, Times
from srtrt.benchmarks.tools.stored import read_stored
from srtrt.benchmarks.tools.yardsticks import FOOTAGE, LPIPS, PSNR, Sets, Yardstick, measure
from srtrt.errors import MissingPackageError, SrtrtError, TrainingError, UsageError
from srtrt.graph import load_graph
from srtrt.locks import output_claimed
from srtrt.paths import require_folder_writable
from srtrt.perceptual import INSTALL, missing_packages
from srtrt.processor import this_processor
from srtrt.reading import require_folder
from srtrt.terminal import say
from srtrt.train.command_parts import stop_request
from srtrt.train.config import preset
from srtrt.train.content import load_content, with_content
from srtrt.train.device import choose_device
from srtrt.train.layouts import find_pictures
from srtrt.train.pictures import Pictures
from srtrt.train.precision import bf16_on

PRESETS = {"srresnet": "psnr", "srgan": "gan", "fast": "fast", "video": "video"}
"""The preset under which each bundled model goes on."""

YARDSTICKS = {"srresnet": PSNR, "srgan": LPIPS, "fast": PSNR, "video": FOOTAGE}
"""By what each is judged."""

_INT8_TIMES = 1.5
"""Times that calibrating took when it was last done, kept for doing it again."""

_MEASURE_TIMES = 3.0
"""Times that measuring the present version takes, kept for correcting and measuring a new one."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """What was asked for."""

    models: tuple[str, ...]
    deadline: float
    updates: int | None
    data: tuple[Path, ...]
    measure: tuple[Path, ...]
    repository: Repository
    runs: Path
    settings: tuple[str, ...]
    vgg: str | None
    machine: str
    reserve_seconds: float


class _Command(click.Command):
    """Answers errors and interruptions as the srtrt command does."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with signals.handled_by(signals.interrupt):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted; the same command goes on with what was trained")
            return ctx.exit(signals.EXIT_STATUS)
        except SrtrtError as error:
            say(f"srtrt: {error}")
            return ctx.exit(error.exit_code)


@click.command(cls=_Command)
@click.option("--model", "models", multiple=True, required=True, help="Several share the time.")
@click.option("--until", default=None, metavar="HH:MM", help="When all shall be done.")
@click.option("--for", "minutes", default=None, type=float, metavar="MINUTES", help="Or how long.")
@click.option("--updates", default=None, type=int, help="Or how many at a constant rate, each.")
@click.option("--data", multiple=True, required=True, type=click.Path(path_type=Path))
@click.option("--measure", "sets", multiple=True, type=click.Path(path_type=Path), help="HR set.")
@click.option("--repository", default=".", type=click.Path(path_type=Path), show_default=True)
@click.option("--runs", default="runs", type=click.Path(path_type=Path), show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Over the presets.")
@click.option("--vgg", default=None, metavar="FILE", help="VGG19 weights, as for srtrt train.")
@click.option("--machine", default=None, help="What trains, in words; default: the processor.")
@click.option("--reserve", default=2.0, show_default=True, help="Minutes beside measuring.")
@click.option("--anyway", is_flag=True, help="Train where bfloat16 is slow, too.")
def continue_training(
    models: tuple[str, ...],
    until: str | None,
    minutes: float | None,
    updates: int | None,
    data: tuple[Path, ...],
    sets: tuple[Path, ...],
    anyway: bool,
    machine: str | None,
    reserve: float,
    **rest: Any,
) -> None:
    """Goes on with bundled models, and puts those in place that have become better."""
    call = Call(
        models=tuple(dict.fromkeys(models)),
        deadline=_deadline(until, minutes, updates),
        updates=updates,
        data=data,
        measure=sets,
        repository=Repository(rest["repository"]),
        runs=rest["runs"],
        settings=rest["settings"],
        vgg=rest["vgg"],
        machine=machine or f"{torch.get_num_threads()} threads of {this_processor().name}",
        reserve_seconds=60 * reserve,
    )
    packages.load(["torch"], extra="train", purpose="continue_training")
    device = choose_device("auto")
    split = _checked(call)
    _require_speed(device, anyway=anyway)
    _announce(call, split)
    with output_claimed(call.runs):
        for index, name in enumerate(call.models):
            left = call.deadline - time.time()
            if left <= 0:
                say(f"{name}: the time is up before its turn; nothing is done for it")
                continue
            end = time.time() + left / (len(call.models) - index)
            _turn(call, name, split, end, device)


def _deadline(until: str | None, minutes: float | None, updates: int | None) -> float:
    """When all shall be done, in seconds of :func:`time.time`."""
    if [until, minutes, updates].count(None) != 2:
        raise UsageError(
            "give one of: the end as --until HH:MM, the time as --for MINUTES, or --updates N."
        )
    if updates is not None:
        if updates < 1:
            raise UsageError(f"--updates {updates}: expected at least 1.")
        return math.inf
    if minutes is not None:
        if not 0 < minutes < 60 * 24 * 365:
            raise UsageError(f"--for {minutes}: expected minutes, more than 0.")
        return time.time() + 60 * minutes
    try:
        clock = datetime.strptime(str(until), "%H:%M").time()
    except ValueError as error:
        raise UsageError(f"--until {until!r}: expected a time of day such as 18:30.") from error
    now = datetime.now()
    end = datetime.combine(now.date(), clock)
    return (end if end > now else end + timedelta(days=1)).timestamp()


def _checked(call: Call) -> Split:
    """Refuses what cannot work before anything is trained; the two sides of the pictures."""
    for name in call.models:
        if name not in PRESETS:
            raise UsageError(f"--model {name!r}: expected one of {', '.join(PRESETS)}.")
        call.repository.require(name)
        if call.repository.int8(name).is_file() and int8_set(call.measure) is None:
            raise UsageError(
                f"{name} has an int8 graph, whose loss is measured on Set14; give --measure with a "
                "folder of that name."
            )
        preset(PRESETS[name]).with_settings(call.settings)
        read_stored(call.repository.stored(name))
        if YARDSTICKS[name] == LPIPS and missing_packages():
            raise MissingPackageError(
                missing_packages()[0], None, f"judging {name} by LPIPS", command=INSTALL
            )
    for folder in call.measure:
        require_folder(folder, "a folder of HR pictures")
    names = [folder.name for folder in call.measure]
    if len({*names}) < len(names):
        raise UsageError(f"--measure: two sets are called alike ({', '.join(names)}).")
    require_folder_writable(call.runs, option="--runs")
    return split_pictures(call.data)


def _require_speed(device: torch.device, *, anyway: bool) -> None:
    native, says = bf16_on(device)
    if not (native or anyway):
        raise TrainingError(
            f"nothing is trained: {says}, so it would take several times as long as on a processor "
            "with AMX or on a GPU. Give --anyway to train here nevertheless."
        )


def _announce(call: Call, split: Split) -> None:
    say(
        f"{len(split.training)} pictures to train on; {len(split.private)} private ones are kept "
        "from training and decide"
    )
    sets = ", ".join(folder.name for folder in call.measure) or "none given"
    say(f"public sets, which may stop a release but never choose one: {sets}")
    if call.updates is not None:
        say(f"{call.updates:,} updates of each model, then a decay; nothing is committed")
        return
    share = f", the time shared by {len(call.models)} models" if len(call.models) > 1 else ""
    say(f"everything is done by about {_clock(call.deadline)}{share}; nothing is committed")


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%H:%M:%S")


def _turn(
    call: Call,
    name: str,
    split: Split,
    end: float,
    device: torch.device,
) -> None:
    """One model's part of the time."""
    repository, yardstick = call.repository, YARDSTICKS[name]
    folder = call.runs / name
    session = Session(_job(call, name, device), say)
    sets = Sets(private=split.private, public=call.measure, links=folder / "links")
    say(f"{name}: measuring the bundled version")
    start = time.time()
    old = measure(name, repository.checkpoint(name), yardstick, sets, say)
    reserve = _MEASURE_TIMES * (time.time() - start) + _int8_seconds(call, name)
    reserve += call.reserve_seconds
    times = Times(end=end - reserve, latest=end - 0.75 * reserve, updates=call.updates)
    if times.end <= time.time():
        say(
            f"{name}: measuring and releasing take {reserve / 60:.0f} minutes, which leaves no "
            "time to train; nothing is done for it"
        )
        return
    _say_times(name, call, session, times, yardstick)
    with stop_request() as should_stop:
        trained = session.train(times, should_stop)
    place = Place(repository=repository, folder=folder, machine=call.machine, say=say)
    decide_and_release(place, session, trained, (yardstick, sets, old), split.training)


def _job(call: Call, name: str, device: torch.device) -> Job:
    config = preset(PRESETS[name]).with_settings(call.settings)
    content = load_content(config, None if call.vgg is None else Path(call.vgg))
    config = with_content(config, content)
    found = find_pictures(call.data)
    training = replace(found, files=tuple(path for path in found.files if not is_private(path)))
    return Job(
        name=name,
        config=config,
        pictures=Pictures.of(training, config),
        folder=call.runs / name,
        stored=call.repository.stored(name),
        content=content,
        device=device,
    )


def _int8_seconds(call: Call, name: str) -> float:
    """What making the int8 graph is expected to take."""
    path = call.repository.int8(name)
    if not path.is_file():
        return 0.0
    seconds = load_graph(path)[1].quality.get("quantisation", {}).get("seconds", 0)
    return _INT8_TIMES * float(seconds)


def _say_times(name: str, call: Call, session: Session, times: Times, yardstick: Yardstick) -> None:
    _, facts = read_stored(call.repository.stored(name))
    start = f"its run in {session.constant}, begun" if session.begun else "weights stored"
    rate = session.job.config.schedule.learning_rate
    ends = "" if call.updates is not None else f" that ends at about {_clock(times.end)}"
    say(
        f"{name}: goes on from {start} at {facts.updates:,} updates, with preset {PRESETS[name]} "
        f"at a constant {rate:g}; a decay branches off{ends}, then it is "
        "measured"
    )
    say(
        f"{name}: becomes the bundled model only if the private pictures improve in "
        f"{yardstick.unit} and no public set falls; else nothing in {call.repository.root} changes"
    )


if __name__ == "__main__":
    sys.exit(continue_training())
