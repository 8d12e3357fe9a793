"""Files that appear under their final name only when complete, and where caches are kept.

While it is written, ``NAME`` is ``.NAME.<process>-<random>.part`` in the same folder. Nobody can
know that name beforehand, the file is made anew or not at all, and its writer holds a lock on it,
which the system frees when the process dies: so what a killed run left can be told from what is
being written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from srtrt.errors import OutputError

_PART_END = r"\.\d+-[0-9a-f]{16}\.part"
_HIDDEN_BYTES = len("..4194304-0123456789abcdef.part")
_NAME_BYTES = 255
_DIGEST_DIGITS = 16


class PartFile:
    """A new file beside its final name, which it gets once it is complete.

    Attributes:
        path: the hidden name, to be opened for writing; the file exists and is empty.
        final: the name it is to get.
    """

    def __init__(self, final: Path, *, private: bool = False) -> None:
        """Makes the file.

        Args:
            final: the name it is to get.
            private: give it mode 0600; else the usual one, by the umask.

        Raises:
            OutputError: if the folder is missing, a folder, pipe or device has the name, or the
                file cannot be made.
        """
        if not final.parent.is_dir():
            raise OutputError(
                f"{final}: the folder {final.parent} does not exist; create it first."
            )
        if _is_special(final):
            raise OutputError(f"{final}: is not a plain file; choose another name.")
        self.final = final
        self._mode = 0o600 if private else 0o666
        try:
            while not self._make():
                pass
        except OSError as error:
            raise _cannot(final, error) from error

    def _make(self) -> bool:
        """False if the name was taken, or the file was swept away before it was locked."""
        random = f"{os.getpid()}-{secrets.token_hex(8)}"
        self.path = self.final.with_name(f"{_hidden(self.final)}.{random}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self.path, flags, self._mode)
        except FileExistsError:
            return False
        with contextlib.suppress(OSError):  # a file system without locks
            if not lock_descriptor(self._descriptor, blocking=False) or not self._is_ours():
                os.close(self._descriptor)
                return False
        return True

    def _is_ours(self) -> bool:
        """Whether the hidden name still leads to the file that was made."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.lstat())
        except FileNotFoundError:
            return False

    def publish(self, *, replace: bool) -> None:
        """Flushes the file to the disk and gives it its final name in one step.

        Args:
            replace: whether a file of that name may be replaced.

        Raises:
            OutputError: if the system refuses. Where a file of that name may not be replaced and
                has appeared meanwhile, the new one is kept under a name that the message tells.
        """
        try:
            os.fsync(self._descriptor)
            if not self._is_ours():
                raise OutputError(
                    f"{self.final}: cannot be written: another program removed or exchanged the "
                    f"unfinished file {self.path}. Choose a folder that it leaves alone."
                )
            if replace:
                self.path.replace(self.final)
            else:
                self._rename_to_free_name()
        except OSError as error:
            raise _cannot(self.final, error) from error
        finally:
            self.discard()
        _flush_folder(self.final.parent)

    def _rename_to_free_name(self) -> None:
        if _renamed(self.path, self.final):
            return
        number = 1
        while not _renamed(self.path, kept := _numbered(self.final, number)):
            number += 1
        _flush_folder(kept.parent)
        raise OutputError(
            f"{self.final}: another program made this file meanwhile, so it was not replaced. "
            f"The complete result was kept as {kept}."
        )

    def discard(self) -> None:
        """Removes the file if it still has its hidden name; harmless when repeated."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if self._is_ours():
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1


@contextmanager
def replace_when_complete(
    path: Path, *, replace: bool = True, private: bool = False
) -> Iterator[Path]:
    """Gives a temporary name beside ``path``; renames it at a good end, else deletes it.

    The file exists and is empty; it is to be opened, not made anew. The data is flushed to disk
    before the rename, so a crash leaves the old file or the new one.

    Args:
        path: final name of the file.
        replace: whether a file of that name may be replaced; see :meth:`PartFile.publish`.
        private: let this user alone read and write it.

    Raises:
        OutputError: if the folder is missing or the file cannot be put in place.
    """
    part = PartFile(path, private=private)
    try:
        yield part.path
        part.publish(replace=replace)
    except OSError as error:
        raise _cannot(path, error) from error
    finally:
        part.discard()


def write_text(path: Path, text: str) -> None:
    """Writes a report: a whole file in one step, or into the pipe or device that has the name.

    Args:
        path: where to; a file is replaced.
        text: in UTF-8.

    Raises:
        OutputError: if it cannot be written.
    """
    if _is_special(path) and not path.is_dir():  # such as /dev/stdout
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise _cannot(path, error) from error
        return
    with replace_when_complete(path) as part:
        part.write_text(text, encoding="utf-8")


def stale_parts(path: Path, *, remove: bool = False) -> list[Path]:
    """Unfinished files that killed writers of ``path`` left behind.

    What somebody is still writing is left out, and so is everything where the file system has no
    locks to tell.

    Args:
        path: final name of a file, or a folder: then those of all files directly in it.
        remove: also removes them.
    """
    whole = path.is_dir()
    folder, start = (path, r"\..+") if whole else (path.parent, re.escape(_hidden(path)))
    pattern = re.compile(start + _PART_END, re.DOTALL)
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if pattern.fullmatch(entry.name))
    except OSError:
        return []
    return [folder / name for name in names if _is_stale(folder / name, remove)]


def _is_stale(path: Path, remove: bool) -> bool:
    """Whether no process writes a file; removes it before another can find it."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
    except OSError:
        return False
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not is_file or not lock_descriptor(descriptor, blocking=False):
            return False
        if remove:
            path.unlink()
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_special(path: Path) -> bool:
    # Not Path.exists: it raises for a name that is too long.
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113


def _renamed(path: Path, final: Path) -> bool:
    """Gives a file another name unless that is taken; False if it is."""
    try:
        final.hardlink_to(path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: take the name, then replace what took it
        try:
            os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        path.replace(final)
        return True
    path.unlink()
    return True


def _numbered(path: Path, number: int) -> Path:
    """``clip-1.mkv`` for ``clip.mkv``."""
    end = f"-{number}{path.suffix}"
    return path.with_name(_shortened(path.with_name(path.stem), len(os.fsencode(end))) + end)


def _hidden(path: Path) -> str:
    """How the hidden names of a file start."""
    return f".{_shortened(path, _HIDDEN_BYTES)}"


def _shortened(path: Path, more: int) -> str:
    """A name, cut where the file system would not take it with ``more`` bytes added.

    What is cut off is replaced by a digest, so that different names stay different.
    """
    try:
        limit = os.pathconf(path.parent, "PC_NAME_MAX")
    except (OSError, ValueError):
        limit = _NAME_BYTES
    name = os.fsencode(path.name)
    if len(name) + more <= limit:
        return path.name
    digest = hashlib.sha256(name).hexdigest()[:_DIGEST_DIGITS]
    return f"{name[: limit - more - _DIGEST_DIGITS - 1].decode(errors='ignore')}~{digest}"


def _flush_folder(folder: Path) -> None:
    """Makes a rename last; some file systems cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _cannot(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error}).")


def cache_folder(kind: str) -> Path:
    """Where caches of a kind are kept.

    ``$SRTRT_CACHE/kind``, else ``$XDG_CACHE_HOME/srtrt/kind``, else ``~/.cache/srtrt/kind``.

    Raises:
        OutputError: if no home folder is known.
    """
    own, common = os.environ.get("SRTRT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser() / kind
        if common and Path(common).is_absolute():  # the XDG specification ignores relative ones
            return Path(common) / "srtrt" / kind
        return Path.home() / ".cache" / "srtrt" / kind
    except RuntimeError as error:
        raise OutputError(
            f"no folder for caches is known ({error}). "
            "Set SRTRT_CACHE to a folder on a local disk that can be written."
        ) from error


def make_own_folder(folder: Path) -> Path:
    """Makes a folder in which nobody else can plant a file, if it does not exist.

    Raises:
        OutputError: if it cannot be made, is a link, or others own it or can write into it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror or error}).") from error
    foreign = not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid()
    if foreign or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OutputError(
            f"{folder}: is not a folder that you alone can write "
            f"(owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}); remove it."
        )
    return folder


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
