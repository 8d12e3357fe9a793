"""Names of files that people give, refused before the work where they lead nowhere."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from srtrt.errors import InputError, OutputError, system_reason
from srtrt.files import PartFile

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local_path(name: str | os.PathLike[str]) -> Path:
    """The path of an input, which may not exist.

    Raises:
        InputError: for an address, the ``-`` that stands for stdin elsewhere, no text at all, what
            the system takes for no name, such as one that is too long, and what lies in a folder
            that may not be entered.
    """
    text = os.fspath(name)
    if not text:
        raise InputError("the name of an input is empty; expected a file.")
    path, address = Path(text), _ADDRESS.match(text)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise InputError(f"{_short(text)}: cannot be read ({system_reason(error)}).") from error
    else:
        return path
    if text == "-":
        raise InputError("-: stdin is not read; save what comes from it to a file, and name that.")
    if address and address[1].lower() == "file":
        raise InputError(f"{text}: is an address; give the path of the file alone.")
    if address:
        raise InputError(
            f"{text}: is an address, and only local files are read; download it first."
        )
    return path


def require_file(name: str, *, option: str, expected: str, hint: str = "") -> None:
    """Refuses an input that is no file or cannot be read.

    Args:
        name: what the user gave.
        option: what it was given with.
        expected: what it should be, such as ``a .safetensors checkpoint``.
        hint: what to add where there is no such file.

    Raises:
        InputError: with the reason.
    """
    try:
        path = local_path(name)
    except InputError as error:
        raise InputError(f"{option} {error}") from error
    if not path.is_file():
        there = "is a folder" if path.is_dir() else "is no file"
        what = there if os.path.lexists(path) else "no such file"
        raise InputError(f"{option} {path}: {what}; expected {expected}.{hint}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{option} {path}: cannot be read (no permission).")


def require_writable(path: Path, *, option: str = "") -> None:
    """Refuses a file that could not be written in the end, by trying whether it can be begun.

    Args:
        path: the file; one that exists can be replaced, and a pipe or device written to.
        option: what the user gave it with, for the message.

    Raises:
        OutputError: with the reason.
    """
    name = f"{option} {_short(str(path))}".strip()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        raise OutputError(f"{name}: cannot be written ({system_reason(error)}).") from error
    if stat.S_ISDIR(mode):
        raise OutputError(f"{name}: is a folder; give the name of a file.")
    if not stat.S_ISREG(mode):
        if not os.access(path, os.W_OK):
            raise OutputError(f"{name}: cannot be written (no permission).")
        return
    try:
        PartFile(path).discard()
    except OutputError as error:
        raise OutputError(f"{option} {error}".strip()) from error


def require_folder_writable(folder: Path, *, option: str = "") -> None:
    """Refuses a folder that could not be made or written into; makes nothing.

    Args:
        folder: the folder, whose parents may be missing as well.
        option: what the user gave it with, for the message.

    Raises:
        OutputError: with the reason.
    """
    name = f"{option} {_short(str(folder))}".strip()
    if not os.fspath(folder):
        raise OutputError(f"{name}: the name is empty; expected a folder.")
    place = folder.absolute()
    while True:
        try:
            mode = place.stat().st_mode
            break
        except FileNotFoundError:
            if os.path.islink(place) or place == place.parent:  # noqa: PTH114 - never raises
                raise OutputError(f"{name}: {place} leads nowhere.") from None
            place = place.parent
        except (OSError, ValueError) as error:
            raise OutputError(f"{name}: cannot be made ({system_reason(error)}).") from error
    if not stat.S_ISDIR(mode):
        what = "it" if place == folder.absolute() else place
        raise OutputError(f"{name}: {what} is a file; a folder is needed there.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"{name}: no permission to write into the folder {place}.")


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:100]}...{text[-100:]}"
