"""Shows all that is to be shown on an NVIDIA GPU, and leaves one file that says what came of it.

::

    python -m srtrt.benchmarks.on_gpu [--device cuda:N|all] [-o FOLDER] [--clone FOLDER]

Each part (:mod:`srtrt.benchmarks.on_gpu_parts`) is a process with a limit of time; whatever becomes
of it, the next one runs. What the machine lacks is skipped with the reason. The summary,
``on-gpu.json``, is written anew after every part, so it is there however this ends. Nothing of the
GPU's settings is changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click

from srtrt.benchmarks.on_gpu_needs import CPU, Setting, is_clone
from srtrt.benchmarks.on_gpu_parts import PARTS, Part
from srtrt.benchmarks.report import gpus, machine_facts
from srtrt.errors import SrtrtError, UsageError
from srtrt.files import write_text
from srtrt.nearest import did_you_mean
from srtrt.runtime.command_options import Number
from srtrt.runtime.select import require_device
from srtrt.terminal import say

SUMMARY = "on-gpu.json"
_LIMIT_SECONDS = 120.0
_GRACE_SECONDS = 10.0
"""For a part that is interrupted at its limit, until it is killed."""
_LAST_LINES = 30


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one part on one device."""

    part: str
    shows: str
    device: str
    state: Literal["ran", "skipped", "failed"]
    seconds: float = 0.0
    reason: str | None = None
    """Why it was skipped, or how it failed; a clause."""
    output: tuple[str, ...] = ()
    """Its last lines, if it failed or they are all that it has to show."""
    result: Mapping[str, Any] | None = None
    """What it measured."""


def run_part(part: Part, setting: Setting, limit_seconds: float = _LIMIT_SECONDS) -> Outcome:
    """Runs one part in a process of its own, which is ended with all it started at the limit.

    Args:
        part: what to run.
        setting: where and how much; its folder must exist.
        limit_seconds: how long it may take.
    """
    known = Outcome(part=part.name, shows=part.shows, device=setting.device, state="skipped")
    problem = part.lacks(setting)
    if problem is not None:
        return replace(known, reason=problem)
    log = setting.out / f"{part.name}.txt"
    setting.result(part.name).unlink(missing_ok=True)
    started = time.monotonic()
    try:
        if part.prepare is not None:
            part.prepare(setting)
        status = _run(part, setting, log, limit_seconds)
    except (OSError, ValueError, SrtrtError) as error:
        return replace(known, state="failed", reason=f"it cannot start ({error})")
    seconds = round(time.monotonic() - started, 1)
    result = _result(setting.result(part.name))
    reason = _failure(part, status, limit_seconds, result)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    return replace(
        known,
        state="ran" if reason is None else "failed",
        seconds=seconds,
        reason=reason,
        output=tuple(lines) if reason is not None or result is None else (),
        result=result,
    )


def _run(part: Part, setting: Setting, log: Path, limit_seconds: float) -> int | None:
    """Exit status of a part; None if it ran past the limit."""
    environment = dict(os.environ)
    if part.is_test:
        environment["SRTRT_REQUIRE_GPU"] = "1"
        number = setting.device.partition(":")[2]
        if number not in ("", "0"):
            environment["CUDA_VISIBLE_DEVICES"] = _visible(int(number))
    with log.open("wb") as output:
        process = subprocess.Popen(
            part.command(setting),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=setting.repository,
            env=environment,
            start_new_session=True,
        )
        try:
            return process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _visible(number: int) -> str:
    """What makes a GPU the first one, among those that may be seen."""
    listed = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return listed[number] if number < len(listed) else str(number)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all it started; first as Ctrl-C would, so that it can clean up."""
    for sign in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    # What it started is in its group, and may be there after it.


def _failure(
    part: Part, status: int | None, limit_seconds: float, result: Mapping[str, Any] | None
) -> str | None:
    """How a part failed, or None."""
    if status is None:
        return f"it ran past {limit_seconds:g} s and was ended"
    if part.is_test and status == 5:
        return "no test was found"
    if status != 0:
        return f"it ended with status {status}"
    rows = (result or {}).get("engines", {})
    missed = [name for name, row in rows.items() if row.get("passes_gate") is False]
    return f"{' and '.join(missed)} missed the gate of its precision" if missed else None


def _result(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    found.pop("machine", None)  # the summary says it once
    return found


def run_all(
    settings: Sequence[Setting], parts: Sequence[Part], summary: Path, limit_seconds: float
) -> list[Outcome]:
    """Runs parts on every device, and writes the summary after each.

    Raises:
        OutputError: if a result cannot be written.
    """
    machine = machine_facts()
    outcomes: list[Outcome] = []
    for setting in settings:
        setting.out.mkdir(parents=True, exist_ok=True)
        for part in parts:
            say(f"{setting.device} {part.name}: {part.shows} ...")
            outcome = run_part(part, setting, limit_seconds)
            outcomes.append(outcome)
            told = f": {outcome.reason}" if outcome.reason else ""
            say(f"    {outcome.state} in {outcome.seconds:.1f} s{told}")
            rehearsal = {} if setting.on_gpu else {"rehearsal": True}
            report = {"benchmark": "on-gpu", "machine": machine, **rehearsal}
            report["parts"] = [asdict(each) for each in outcomes]
            write_text(summary, json.dumps(report, indent=1) + "\n")
    return outcomes


def _settings(devices: Sequence[str], out: Path, small: bool, clone: Path | None) -> list[Setting]:
    for device in devices:
        if device != "all":
            require_device(device)
    names = [f"cuda:{index}" for index in range(len(gpus()) or 1)] if "all" in devices else devices
    names = [each if ":" in each or each == CPU else "cuda:0" for each in dict.fromkeys(names)]
    settings = [
        Setting(device=name, out=out / name.replace(":", "-"), small=small or name == CPU)
        for name in names
    ]
    if clone is None:
        return settings
    if not is_clone(clone):
        raise UsageError(f"--clone {str(clone)!r}: expected a clone of srtrt, with its tests.")
    return [replace(each, repository=clone.resolve()) for each in settings]


def _parts(names: Sequence[str]) -> list[Part]:
    known = {part.name: part for part in PARTS}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(f"--part {name!r}: expected {', '.join(known)}.{hint}")
    return [part for part in PARTS if not names or part.name in names]


@click.command()
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=("cuda:0",),
    show_default=True,
    help="cuda:N, all GPUs, or cpu for a rehearsal of what needs none; may be repeated.",
)
@click.option("--part", "names", multiple=True, help="May be repeated; by default all.")
@click.option("--small", is_flag=True, help="Tiny frames, as in a rehearsal.")
@click.option(
    "--limit", type=Number(1.0), default=_LIMIT_SECONDS, show_default=True, help="Seconds a part."
)
@click.option(
    "-o",
    "--out",
    default="on-gpu-results",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the results.",
)
@click.option(
    "--clone",
    type=click.Path(path_type=Path, file_okay=False),
    help="Clone of srtrt whose tests and sample are used; by default the one it runs from.",
)
def on_gpu(
    devices: tuple[str, ...],
    names: tuple[str, ...],
    small: bool,
    limit: float,
    out: Path,
    clone: Path | None,
) -> None:
    """Shows what is to be shown on a GPU; the summary is on-gpu.json in the folder."""
    settings, parts = _settings(devices, out.resolve(), small, clone), _parts(names)
    summary = out.resolve() / SUMMARY
    summary.parent.mkdir(parents=True, exist_ok=True)
    outcomes = run_all(settings, parts, summary, limit)
    counts = dict.fromkeys(("ran", "skipped", "failed"), 0)
    for outcome in outcomes:
        counts[outcome.state] += 1
    say(f"{', '.join(f'{number} {state}' for state, number in counts.items())}: {summary}")
    sys.exit(1 if counts["failed"] else 0)


def main() -> None:
    """Runs the command; what goes wrong is one sentence."""
    try:
        on_gpu()
    except SrtrtError as error:
        say(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
