"""The ``srtrt`` command: a lazy group, so that ``srtrt --help`` imports no engine."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from srtrt import packages
from srtrt.errors import SrtrtError

COMMANDS: dict[str, tuple[str, str]] = {
    "upscale-video": ("srtrt.runtime.video.command", "Upscale a video 4x, frame by frame."),
    "upscale-image": ("srtrt.runtime.image_command", "Upscale image files 4x."),
    "train": ("srtrt.train.command", "Train a generator on a folder of images."),
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

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns one command; None if there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; an expected error becomes one sentence and an exit status."""
        try:
            return super().invoke(ctx)
        except SrtrtError as error:
            click.echo(f"srtrt: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("srtrt: interrupted.", err=True)
            ctx.exit(130)
        except ImportError as error:
            fault = packages.broken_import(error)
            if fault is None:
                raise
            click.echo(f"srtrt: {fault}", err=True)
            ctx.exit(fault.exit_code)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except Exception:
            for note in packages.all_untried():
                click.echo(f"srtrt: {note}", err=True)
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="srtrt")
def main() -> None:
    """Train an SRGAN generator, export it, and upscale images and video 4x."""


if __name__ == "__main__":
    sys.exit(main())
