"""Backends in the order in which a session goes on with them, each opened when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

from srtrt.errors import BackendError, DeviceLostError, PackageError, SrtrtError
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.backends.options import ChosenOptions
from srtrt.runtime.select import Choice


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A backend that was opened for a session."""

    backend: Backend
    why: str = ""
    """Why this one, in few words for the user; empty where that is not to be said."""
    options: ChosenOptions | None = None
    """What was asked of it."""


Successors = Generator[Opened, SrtrtError | None, None]
"""Opens the next backend, sent the error of the last."""


def openable(open_choice: Callable[[Choice], Opened], offers: Iterator[Choice]) -> Successors:
    """Those of the offers that can be opened with the options that were given, in turn.

    What cannot is told by the next that can. After a GPU was lost, none is used.

    Raises:
        SrtrtError: if the first cannot be opened. Is it on a GPU, whose driver and libraries may
            be broken, only if no other can.
    """
    failure: SrtrtError | None = None
    unused, opened_any, lost = list[str](), False, False
    for position, choice in enumerate(offers):
        if lost and choice.device.startswith("cuda"):
            continue
        try:
            asked = choice if position == 0 else replace(choice, why="the next best here")
            opened = open_choice(asked)
        except SrtrtError as error:
            broken = choice.device.startswith("cuda") and isinstance(
                error, (BackendError, PackageError)
            )
            if position == 0 and not broken:
                raise
            failure, lost = failure or error, lost or isinstance(error, DeviceLostError)
            unused.append(f"{choice.backend} on {choice.device} is not used: {error}")
            continue
        opened.backend.notes[:0], unused = unused, []
        opened_any = True
        lost = isinstance((yield opened), DeviceLostError)
    if failure is not None and not opened_any:
        raise failure
