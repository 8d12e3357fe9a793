"""All that srtrt prints: results on stdout, everything else on stderr.

Names of files and streams, metadata and the texts of foreign errors come from anybody. So control
characters are shown, not sent: a name can neither move the cursor nor look like another sentence.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import click

from srtrt.errors import OutputError
from srtrt.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TextColumn

_PLAIN_WIDTH = 250
"""Columns of a table where stdout is no terminal."""

_LONGEST = 3000
"""Characters of a sentence; what was given can be of any length."""


def say(sentence: str) -> None:
    """Prints one line on stderr. Where nobody can read it, it is lost and the work goes on."""
    if len(sentence) > _LONGEST:
        sentence = f"{sentence[: _LONGEST // 2]} [...] {sentence[-_LONGEST // 2 :]}"
    with contextlib.suppress(OSError, ValueError):
        click.echo(printable(sentence), err=True)


def put(line: str) -> None:
    """Prints one line of a result on stdout.

    Raises:
        OutputError: if it cannot be written.
        BrokenPipeError: if the reader of a pipe has gone.
    """
    put_text(f"{printable(line)}\n")


def put_text(text: str) -> None:
    """Prints a text of srtrt's own on stdout as it is; the errors are those of :func:`put`."""
    with _stdout():
        click.echo(text, nl=False)


def put_path(path: str | os.PathLike[str]) -> None:
    """Prints a path on stdout, for programs byte for byte; the errors are those of :func:`put`."""
    if sys.stdout.isatty():
        put(os.fspath(path))
        return
    with _stdout():
        click.echo(os.fsencode(path))


def put_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table on stdout; the errors are those of :func:`put`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    on_terminal = sys.stdout.isatty()
    text = io.StringIO()
    console = Console(
        file=text,
        force_terminal=on_terminal,
        width=None if on_terminal else _PLAIN_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(table)
    put_text(text.getvalue())


@contextlib.contextmanager
def _stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"stdout: cannot be written ({error.strerror}). Send it somewhere else."
        ) from error


def console() -> Console:
    """A console on stderr, for what moves; names are printed as they are."""
    from rich.console import Console

    file: Any = _Lenient(sys.stderr)
    return Console(file=file, markup=False, emoji=False, highlight=False)


def bar(*columns: ProgressColumn, quiet: bool = False, redirect: bool = True) -> Progress:
    """Bars of progress on stderr that are gone at the end; none where it is no terminal.

    Args:
        columns: what a bar consists of.
        quiet: show none.
        redirect: let lines that are printed meanwhile appear above, broken at the terminal's width.
    """
    from rich.progress import Progress

    return Progress(
        *columns,
        console=console(),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
        # What goes to a pipe or file must go there.
        redirect_stdout=redirect and sys.stdout.isatty(),
        redirect_stderr=redirect,
    )


def text_column(template: str) -> TextColumn:
    """A column of :func:`bar` with text as it is, such as ``{task.description}``."""
    from rich.progress import TextColumn

    return TextColumn(template, markup=False)


class _Lenient:
    """A stream that loses what it cannot write, as after the terminal was closed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_closed_streams() -> None:
    """Leads stdin, stdout and stderr nowhere where they are closed.

    Otherwise the next file that is opened would be taken for one of them.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, so this one
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def write_anything() -> None:
    """Lets characters that the encoding of stdout lacks be escaped instead of an error."""
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def finish() -> OSError | None:
    """Writes out what is left in the streams.

    Returns:
        Why stdout could not take it, or None. A stream that took it not leads nowhere from now on,
        as Python would otherwise complain at its end.
    """
    problem = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            if stream is sys.stdout:
                problem = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    return problem
