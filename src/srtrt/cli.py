"""The ``srtrt`` command: a lazy group, so that ``srtrt --help`` imports no engine."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from srtrt import packages, signals, terminal
from srtrt.errors import SrtrtError, first_line
from srtrt.nearest import did_you_mean

INTERNAL_ERROR = 70
"""Exit status of a defect of srtrt (EX_SOFTWARE of sysexits.h)."""

INTERRUPTED = "srtrt: interrupted."

COMMANDS: dict[str, tuple[str, str]] = {
    "upscale-video": ("srtrt.runtime.video.command", "Upscale a video 4x, frame by frame."),
    "upscale-image": ("srtrt.runtime.image_command", "Upscale image files 4x."),
    "train": ("srtrt.train.command", "Train a generator on a folder of images."),
    "train-report": ("srtrt.train.report_command", "Run the original report's experiment."),
    "export": ("srtrt.export.command", "Turn a checkpoint into verified graphs or engines."),
    "engines": ("srtrt.runtime.engines.command", "List, explain and clear TensorRT engines."),
    "tune": ("srtrt.runtime.engines.tune_command", "Find the fastest use of a GPU and keep it."),
    "benchmark": ("srtrt.benchmarks.command", "Measure latency, quality and parity."),
    "models": ("srtrt.runtime.info_command", "List the bundled models."),
    "doctor": (
        "srtrt.runtime.info_command",
        "Say what this machine can run, and why not the rest.",
    ),
}
"""Command name: (module that defines it, one line of help)."""


class LazyGroup(click.Group):
    """Imports the module of a command only when that command runs."""

    debug = False
    """Whether tracebacks are printed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns one command; None if there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        with signals.handled_by(signals.end_at_once):
            module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        _take_debug(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds a command; where there is none of the name, the message names the nearest."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {name!r}.{did_you_mean(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the command line and exits; see :class:`click.Command` for the arguments."""
        run = functools.partial(
            super().main, args, prog_name, complete_var, standalone_mode=False, **extra
        )
        if not standalone_mode:
            return run()
        terminal.open_closed_streams()
        terminal.write_anything()
        LazyGroup.debug = False
        with signals.handled_by(signals.end_at_once):
            status = _status(run)
            problem = terminal.finish()
            if problem is not None and status == 0:
                status = _stdout_failed(problem)
        sys.exit(status)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command, which signals may end."""
        try:
            with signals.handled_by(signals.interrupt):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            terminal.say(INTERRUPTED)
            return ctx.exit(signals.EXIT_STATUS)


def _status(run: Callable[[], Any]) -> int:
    """Runs a command; whatever goes wrong becomes one sentence and an exit status."""
    try:
        result = run()
        return result if isinstance(result, int) else 0
    except click.Abort:
        return signals.EXIT_STATUS
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """Says what went wrong in one sentence; returns the exit status."""
    if _met_while_ending(error):
        terminal.say(INTERRUPTED)
        return signals.EXIT_STATUS
    if isinstance(error, click.ClickException):
        return _wrong_usage(error)
    if isinstance(error, SrtrtError):
        return _told(error)
    if isinstance(error, OSError) and _in_click(error):
        return _stdout_failed(error)
    fault = packages.broken_import(error) if isinstance(error, ImportError) else None
    return _internal(error) if fault is None else _told(fault)


def _met_while_ending(error: BaseException | None) -> bool:
    """Whether an error came of an interruption, as of what it stopped half way."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _in_click(error: OSError) -> bool:
    """Whether an error was met where click prints, which is to stdout if it is not suppressed."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "click.utils"


def _wrong_usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # its message is the help
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code
    if context is not None:
        for line in context.get_usage().splitlines():
            terminal.say(line)
        terminal.say(f"Try '{context.command_path} --help' for help.")
        terminal.say("")
    terminal.say(f"Error: {error.format_message()}")
    return error.exit_code


def _told(error: SrtrtError) -> int:
    _trace()
    terminal.say(f"srtrt: {error}")
    return error.exit_code


def _stdout_failed(error: OSError) -> int:
    """Says why results could not be printed; not where their reader has gone, as ``head`` does."""
    if not isinstance(error, BrokenPipeError):
        terminal.say(f"srtrt: stdout: cannot be written ({error.strerror or error}).")
    return 1


def _internal(error: Exception) -> int:
    """The last resort: what nobody foresaw is a defect of srtrt."""
    _trace()
    for note in packages.all_untried():
        terminal.say(f"srtrt: {note}")
    what = f"{type(error).__name__}: {first_line(error)}".rstrip(": ")
    todo = "send all" if LazyGroup.debug else "run it again as `srtrt --debug ...` and send all"
    terminal.say(
        f"srtrt: internal error ({what}). This is a defect of srtrt. Please report it: {todo} "
        "that this prints, and what `srtrt doctor` prints."
    )
    return INTERNAL_ERROR


def _trace() -> None:
    """Prints the traceback of the error at hand, if that was asked for."""
    if LazyGroup.debug:
        for line in traceback.format_exc().splitlines():
            terminal.say(line)


def _take_debug(command: click.Command) -> None:
    """Lets a command take ``--debug``, too, as people add it at the end."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _take_debug(each)
    if not any(option.name == "debug" for option in command.params):
        command.params.append(_debug_option(hidden=True))


def _debug_option(*, hidden: bool) -> click.Option:
    def debug(_context: click.Context, _option: click.Parameter, given: bool) -> None:
        LazyGroup.debug = LazyGroup.debug or given

    return click.Option(
        ["--debug"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        hidden=hidden,
        callback=debug,
        help="Print the traceback of an error.",
    )


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[_debug_option(hidden=False)],
)
@click.version_option(package_name="srtrt")
def main() -> None:
    """Train an SRGAN generator, export it, and upscale images and video 4x."""


if __name__ == "__main__":
    sys.exit(main())
