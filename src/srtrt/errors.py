"""Every error srtrt raises on purpose.

::

    SrtrtError
    ├── UsageError              a wrong combination of options (exit status 2)
    ├── PackageError            a package that is needed cannot be used
    │   ├── MissingPackageError     it is optional and not installed; names the pip line
    │   └── BrokenPackageError      it is installed and does not do what srtrt needs of it
    ├── InputError              an input file is missing, not what it should be, or damaged
    │   └── TruncatedInputError     it broke in the middle; says how many frames were good
    ├── OutputError             an output cannot be written
    ├── ModelError              a checkpoint or graph is unusable, or disagrees with its spec
    ├── BackendError            an engine cannot be opened or fails while running
    │   ├── DeviceMemoryError       it ran out of memory; a smaller tile may help
    │   └── OutputCheckError        numbers overflowed in one picture; others may come out right
    ├── ParityError             an artifact computes something else than PyTorch did
    └── TrainingError           training cannot start or go on

A message says what was wrong (the value), what was expected, and what to do.
"""

from __future__ import annotations

import traceback

from srtrt.text import foreign


def install_hint(extra: str) -> str:
    """How to install srtrt with one of its extras; it is on no package index."""
    return (
        f"pip install '.[{extra}]' in a clone of srtrt, "
        f'or pip install "srtrt[{extra}] @ git+URL-OF-ITS-REPOSITORY"'
    )


def first_line(error: BaseException) -> str:
    """The first line of a foreign error that says something; empty if none does."""
    return foreign(next(filter(None, map(str.strip, str(error).splitlines())), ""))


def system_reason(error: Exception) -> str:
    """Why the system refused a file: its own words, without number and name where it has any."""
    return getattr(error, "strerror", None) or str(error)


class SrtrtError(Exception):
    """Base of all errors a user can cause or meet; ``str()`` is one message for people."""

    exit_code = 1


class UsageError(SrtrtError):
    """A wrong combination of options or arguments."""

    exit_code = 2


class PackageError(SrtrtError):
    """A package that srtrt needs cannot be used."""


class MissingPackageError(PackageError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str | None, purpose: str, *, command: str = "") -> None:
        """Names ``package``, what it is needed for, and how to install it.

        That is the pip line of ``extra``, or ``command`` where no extra installs the package.
        """
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: {command if extra is None else install_hint(extra)}."
        )


class BrokenPackageError(PackageError):
    """An installed package cannot be imported, or does not do what srtrt needs of it."""


class InputError(SrtrtError):
    """An input file is missing, of the wrong kind, or damaged."""


class TruncatedInputError(InputError):
    """A video broke in the middle.

    Attributes:
        good_frames: frames that were decoded before the damage.
    """

    def __init__(self, message: str, *, good_frames: int) -> None:
        super().__init__(message)
        self.good_frames = good_frames


class OutputError(SrtrtError):
    """An output cannot be written, or would overwrite something."""


class ModelError(SrtrtError):
    """A checkpoint or exported graph is unusable or disagrees with its spec."""


class BackendError(SrtrtError):
    """An inference engine cannot be opened or failed while running."""


class DeviceMemoryError(BackendError):
    """An inference engine ran out of memory."""


class DeviceLostError(BackendError):
    """A GPU failed so that this process may not be able to use it any more."""


class EngineLoadError(BackendError):
    """A serialized engine cannot be loaded here, though neither memory nor the GPU failed."""


class OutputCheckError(BackendError):
    """Numbers overflowed while one picture was computed, which was proven in float32."""


class ParityError(SrtrtError):
    """An exported artifact does not compute what PyTorch computes."""


class TrainingError(SrtrtError):
    """Training cannot start or cannot go on."""


def forget_frames(error: BaseException) -> None:
    """Frees what the frames an error went through still refer to.

    What an engine keeps must not wait there, as long as the error is told: its memory is needed
    for the next try, and it must be gone before its stream. TensorRT's objects must not wait for
    the garbage collector either: it may run inside one of TensorRT's own calls to its logger,
    where freeing a builder waits for that call to end.
    """
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
