"""Runs cases in forked children, each with limits of memory and time and a folder of its own.

The parent has imported everything heavy and runs no threads, so a fork costs milliseconds.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from fuzz import stand_ins
from fuzz.case import Case
from support import REPOSITORY

from srtrt import packages
from srtrt.errors import SrtrtError

MEMORY_BYTES = 6 << 30
WALL_SECONDS = 20.0
_MOST_OUTPUT = 1 << 20
_HEAVY = (
    *("av", "cv2", "onnx", "onnxruntime", "torch", "torch.onnx", "torch._dynamo", "yaml"),
    *("safetensors.torch", "matplotlib.pyplot", "PIL.Image", "torch.utils.tensorboard"),
    *("tensorboard.summary.writer.event_file_writer", "networks", "video_clips"),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended."""

    status: int | None
    """Exit status; None if a signal ended it."""
    signal: int | None
    stdout: str
    stderr: str
    seconds: float
    processor_seconds: float
    memory_bytes: int
    """Most memory that was resident."""
    late: bool
    """Whether it was killed because it took too long."""


def import_everything() -> None:
    """Imports what commands would import, so that children need not."""
    for name in _HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(SrtrtError):
        packages.import_openvino()
    for part in ("", "train", "export", "runtime"):
        folder = REPOSITORY / (part or "src/srtrt")
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder).with_suffix("").parts
            name = ".".join(("srtrt", *part.split(), *inside)).removesuffix(".__init__")
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    from PIL import Image

    Image.init()
    gc.collect()
    gc.freeze()  # so that children do not copy what they never touch
    if threading.active_count() > 1:
        print(f"note: these threads run before a fork: {threading.enumerate()}", file=sys.stderr)


@dataclass
class _Running:
    case: Case
    process: int
    started: float
    end: float
    after: Callable[[], None]


Traced = Callable[[int, Case], Callable[[], None]]
"""Begins to trace a stopped process; the result is called when it has ended."""


def run_all(
    cases: Iterable[Case], *, jobs: int, traced: Traced | None = None
) -> Iterator[tuple[Case, Outcome]]:
    """Runs cases, several at a time, and gives each with its outcome as it ends.

    Args:
        cases: their folders exist.
        jobs: how many run at once.
        traced: traces each process from its start.
    """
    waiting, running = iter(cases), dict[int, _Running]()
    more = True
    while more or running:
        while more and len(running) < jobs:
            case = next(waiting, None)
            if case is None:
                more = False
                break
            process = _fork(case, stopped=traced is not None)
            now, after = time.monotonic(), (lambda: None)
            if traced is not None:
                os.waitpid(process, os.WUNTRACED)
                after = traced(process, case)
                os.kill(process, signal.SIGCONT)
            limit = WALL_SECONDS * (5 if traced else 1)
            running[process] = _Running(case, process, now, now + limit, after)
        yield from _ended(running)


def _ended(running: dict[int, _Running]) -> Iterator[tuple[Case, Outcome]]:
    found = False
    for each in list(running.values()):
        late = time.monotonic() > each.end
        if late:
            _kill(each.process)
        process, status, usage = os.wait4(each.process, 0 if late else os.WNOHANG)
        if process == 0:
            continue
        found = True
        del running[each.process]
        seconds = time.monotonic() - each.started
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(each.process, signal.SIGKILL)  # what it started itself
        each.after()
        ended = os.waitstatus_to_exitcode(status)
        yield (
            each.case,
            Outcome(
                status=ended if ended >= 0 else None,
                signal=-ended if ended < 0 else None,
                stdout=_text(each.case, "stdout"),
                stderr=_text(each.case, "stderr"),
                seconds=seconds,
                processor_seconds=usage.ru_utime + usage.ru_stime,
                memory_bytes=usage.ru_maxrss << 10,
                late=late,
            ),
        )
    if not found and running:
        time.sleep(0.002)


def _kill(process: int) -> None:
    """Asks for the Python stack first, which tells where it hangs."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGABRT)
        time.sleep(0.3)
        os.kill(process, signal.SIGKILL)


def _said(case: Case, stream: str) -> Path:
    return case.folder.with_name(f"{case.folder.name}.{stream}")


def _text(case: Case, stream: str) -> str:
    path = _said(case, stream)
    with path.open("rb") as file:
        return file.read(_MOST_OUTPUT).decode(errors="replace")


def clear(case: Case) -> None:
    """Removes all that a case left."""
    shutil.rmtree(case.folder, ignore_errors=True)
    shutil.rmtree(case.folder.with_name(f"{case.folder.name}.home"), ignore_errors=True)
    for stream in ("stdout", "stderr"):
        _said(case, stream).unlink(missing_ok=True)


def _fork(case: Case, *, stopped: bool) -> int:
    home = case.folder.with_name(f"{case.folder.name}.home")
    home.mkdir(exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    try:
        _become_command(case, home)
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        run_here(case)
    except BaseException:
        traceback.print_exc()
        os._exit(99)
    os._exit(98)


def _become_command(case: Case, home: Path) -> None:
    """Standard streams, limits, folders and environment of a command of its own."""
    os.setpgid(0, 0)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(_said(case, stream), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, int(WALL_SECONDS) + 1),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 1 << 30),
    ):
        resource.setrlimit(limit, (value, value))
    os.environ.update(HOME=str(home), XDG_CACHE_HOME=str(home), TMPDIR=str(home))
    os.environ["SRTRT_CACHE"] = str(case.folder / "cache")
    os.chdir(case.folder)
    faulthandler.enable()


def run_here(case: Case) -> NoReturn:
    """Runs the command of a case in this process, in its folder, as the installed script does."""
    from srtrt.cli import main

    stand_ins.install(case.stand_ins, case)
    sys.argv = ["srtrt", *case.words]
    status = 0
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    for thread in threading.enumerate():  # as the interpreter does at its end
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
