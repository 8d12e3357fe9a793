"""Training pictures decoded once and kept as uint8 in one memory-mapped file.

A cache is three files: ``<key>.u8`` holds the pixels, ``<key>.json`` says what is in it and of
which files it was made, ``<key>.lock`` keeps two processes from building it at once.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from srtrt.datasets import read_rgb8, squeeze
from srtrt.errors import InputError, OutputError, TrainingError, UsageError
from srtrt.files import cache_folder, file_sha256, replace_when_complete, stale_parts
from srtrt.images import ERROR_STREAM, MAX_PIXELS, READABLE
from srtrt.locks import locked
from srtrt.plain_data import DataError, read_json_object, shown
from srtrt.reading import read_plain

FORMAT = 1
"""Version of the index. A cache of another version is rebuilt."""

_HINT = "Free some space, or set SRTRT_CACHE to a folder on another disk."
_LOCAL = "Set SRTRT_CACHE to a folder on a local disk that can be written."
_MAX_INDEX_BYTES = 1 << 30
_Progress = Callable[[int, int], None]
_Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureCache:
    """Pictures as uint8 RGB, one after another in a memory-mapped file.

    Picture ``i`` is ``pixels[offsets[i] : offsets[i] + 3 * heights[i] * widths[i]]``, to be viewed
    as ``[heights[i], widths[i], 3]``. All tensors are on the CPU.

    Attributes:
        pixels: uint8 ``[bytes]``, RGB interleaved, 0..255. The mapping is read-only: the system
            kills a process that writes to it.
        offsets: int64 ``[N]``, where each picture starts in ``pixels``.
        heights: int64 ``[N]``, in pixels.
        widths: int64 ``[N]``, in pixels.
        files: the N files in use, in the order they were given.
        skipped: files left out, with the reason.
        sha256: of ``pixels``, in hexadecimal.
        rebuilt_because: why the file was made anew, ``None`` if the existing one was used.
    """

    pixels: Tensor
    offsets: Tensor
    heights: Tensor
    widths: Tensor
    files: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...]
    sha256: str
    rebuilt_because: str | None


def open_cache(
    files: Sequence[Path],
    *,
    least: int,
    resize: int | None = None,
    folder: Path | None = None,
    on_progress: _Progress | None = None,
) -> PictureCache:
    """Maps the pictures of ``files`` into memory, decoding them if that was not done before.

    An existing cache is used if size and time stamp of every source are as they were and the
    checksum of its pixels is right; else it is rebuilt. A second process that asks for the same
    cache waits for the first one's. Cut short, a build leaves what was there before.

    Args:
        files: pictures; those that cannot be read are skipped.
        least: pictures whose shorter side is below this many pixels are skipped.
        resize: resizes every picture to ``resize`` x ``resize`` before it is stored, and ignores
            ``least``. This is the way of the original SRGAN report's training script: OpenCV's
            ``INTER_CUBIC``, which is not antialiased and aliases when it shrinks, without regard
            to the aspect ratio.
        folder: where the cache lies; :func:`cache_folder` of ``pictures`` by default.
        on_progress: called with (pictures done, pictures in all) while a cache is built.

    Raises:
        TrainingError: if no picture can be used, or the file cannot be mapped.
        OutputError: if the folder cannot be written or its disk is too full.
        UsageError: if ``resize`` is not positive.
    """
    if resize is not None and resize < 1:
        raise UsageError(f"resize is {resize}; expected a side of at least 1 pixel.")
    job = _Job(tuple(files), 0 if resize else least, resize, folder or cache_folder("pictures"))
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"the folder for the picture cache cannot be made ({error.strerror or error})"
        raise OutputError(f"{job.folder}: {reason}. {_LOCAL}") from error
    with locked(job.beside("lock")):
        found = _existing(job)
        if isinstance(found, _Index):
            return _mapped(job, found, None)
        for suffix in ("u8", "json"):
            stale_parts(job.beside(suffix), remove=True)
        return _mapped(job, _build(job, on_progress), found)


@dataclass(frozen=True)
class _Entry:
    """What the index says of one source; a skipped one has a reason and no place."""

    path: str
    bytes: int
    mtime_ns: int
    offset: int = 0
    height: int = 0
    width: int = 0
    skipped: str = ""


@dataclass(frozen=True)
class _Index:
    entries: tuple[_Entry, ...]
    sha256: str

    def require_whole(self) -> None:
        """Refuses an index whose pictures do not lie one after another, each with a pixel.

        Raises:
            DataError: if they do not, or there is none.
        """
        offset = 0
        for each in self.entries:
            fields = (each.bytes, each.mtime_ns, each.offset, each.height, each.width)
            if any(type(value) is not int for value in fields) or type(each.skipped) is not str:
                raise DataError(f"it holds {shown(each)}")
            if each.skipped:
                continue
            if each.offset != offset or min(each.height, each.width) < 1:
                raise DataError(f"it holds {shown(each)}")
            offset += 3 * each.height * each.width
        if not offset:
            raise DataError("it holds no picture")


@dataclass(frozen=True)
class _Job:
    """One cache: what it is made of, how, and where it lies."""

    files: tuple[Path, ...]
    least: int
    resize: int | None
    folder: Path

    def beside(self, suffix: str) -> Path:
        paths = b"\0".join(os.fsencode(path.absolute()) for path in self.files)
        how = f"\0least {self.least} resize {self.resize}".encode()
        return self.folder / f"{hashlib.sha256(paths + how).hexdigest()[:16]}.{suffix}"

    def announced(self, path: Path) -> int:
        """Bytes the picture will take according to its head; 0 if it will be skipped."""
        try:
            with Image.open(path, formats=READABLE) as image:
                width, height = image.size
        except Exception:  # any bytes may be in the file; decoding it will tell the reason
            return 0
        if width * height > MAX_PIXELS or min(width, height) < self.least:
            return 0
        return 3 * (self.resize**2 if self.resize else width * height)

    def decode(self, path: Path) -> tuple[_Entry, _Pixels | None]:
        """The picture as it is stored, or the reason why it is skipped."""
        entry = _Entry(str(path.absolute()), *_facts(path))  # before it is read, lest it change
        try:
            rgb = read_rgb8(path)
        except InputError as error:
            return replace(entry, skipped=str(error).removeprefix(f"{path}: ")), None
        height, width = rgb.shape[:2]
        if min(height, width) < self.least:
            reason = f"{width}x{height} is below {self.least}x{self.least}"
            return replace(entry, skipped=reason), None
        if self.resize:
            height = width = self.resize
            rgb = squeeze(rgb, self.resize)
        return replace(entry, height=height, width=width), np.ascontiguousarray(rgb, np.uint8)


def _facts(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns; (-1, -1) for a missing file."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _existing(job: _Job) -> _Index | str:
    """The index of an intact cache made of the files as they are, or why there is none."""
    try:
        if not os.path.lexists(job.beside("json")):
            return "built because there was none yet"
        text = read_plain(job.beside("json"), "the index of a picture cache", most=_MAX_INDEX_BYTES)
        body = read_json_object(text, most=_MAX_INDEX_BYTES)
        if body.get("format") != FORMAT:
            other = shown(body.get("format"))
            return f"rebuilt because its index is of format {other} instead of {FORMAT}"
        if body.pop("check", None) != _digest(body):
            raise DataError("its checksum is wrong")
        index = _Index(tuple(_Entry(**entry) for entry in body["files"]), body["sha256"])
        index.require_whole()
        pairs = list(zip(job.files, index.entries, strict=True))
    except (InputError, ValueError, KeyError, TypeError):
        return "rebuilt because its index is damaged"
    changed = [path for path, entry in pairs if _facts(path) != (entry.bytes, entry.mtime_ns)]
    if changed:
        count = f"{len(changed)} of {len(pairs)} pictures"
        return f"rebuilt because {count} changed, e.g. {changed[0].name}"
    size = sum(3 * entry.height * entry.width for entry in index.entries if not entry.skipped)
    try:
        found = job.beside("u8").stat().st_size
        if found != size:
            return f"rebuilt because its data file has {found} bytes instead of {size}"
        if file_sha256(job.beside("u8")) != index.sha256:
            return "rebuilt because the checksum of its data file is wrong"
    except OSError as error:
        return f"rebuilt because its data file cannot be read ({error.strerror or error})"
    return index


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _mapped(job: _Job, index: _Index, why: str | None) -> PictureCache:
    try:
        # Not torch.from_file: its private mapping is writable, which Linux counts as memory and
        # refuses for files larger than that.
        with job.beside("u8").open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{job.beside('u8')}: cannot be mapped ({error}). {_LOCAL}") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        pixels = torch.frombuffer(view, dtype=torch.uint8)
    pairs = list(zip(job.files, index.entries, strict=True))
    used = [(e.offset, e.height, e.width) for e in index.entries if not e.skipped]
    offsets, heights, widths = (torch.tensor(column) for column in zip(*used, strict=True))
    return PictureCache(
        pixels=pixels,
        offsets=offsets,
        heights=heights,
        widths=widths,
        files=tuple(path for path, entry in pairs if not entry.skipped),
        skipped=tuple((path, entry.skipped) for path, entry in pairs if entry.skipped),
        sha256=index.sha256,
        rebuilt_because=why,
    )


def _build(job: _Job, on_progress: _Progress | None) -> _Index:
    """Writes the data file and its index."""
    with _threads_may_decode():
        needed = sum(job.announced(path) for path in job.files)
        _check_space(job.folder, needed, needed)
        with _written(job.beside("u8"), needed) as part:
            index = _write_pixels(job, part, needed, on_progress)
    body: dict[str, Any] = {"format": FORMAT, "least": job.least, "resize": job.resize}
    body |= {"sha256": index.sha256, "files": [asdict(entry) for entry in index.entries]}
    text = json.dumps({**body, "check": _digest(body)})
    with _written(job.beside("json"), len(text)) as part:
        part.write_text(text)
    return index


def _write_pixels(job: _Job, part: Path, needed: int, on_progress: _Progress | None) -> _Index:
    """Decodes in threads and writes in order; few pictures are in memory at a time."""
    entries: list[_Entry] = []
    digest, offset, total = hashlib.sha256(), 0, len(job.files)
    workers = min(8, os.cpu_count() or 1)
    with part.open("wb") as file, ThreadPoolExecutor(workers) as pool:
        for entry, rgb in _in_order(pool, job, ahead=2 * workers):
            if rgb is not None:
                _check_space(job.folder, max(rgb.size, needed - offset), needed)
                line = rgb.reshape(-1).data
                file.write(line)
                digest.update(line)
                entry = replace(entry, offset=offset)
                offset += rgb.size
            entries.append(entry)
            if on_progress:
                with ERROR_STREAM:  # else what is said might not reach the terminal
                    on_progress(len(entries), total)
    if not offset:
        first = f" The first: {job.files[0]}: {entries[0].skipped.rstrip('.')}." if entries else ""
        raise TrainingError(f"none of {total} images can be used for training.{first}")
    return _Index(tuple(entries), digest.hexdigest())


def _in_order(
    pool: ThreadPoolExecutor, job: _Job, *, ahead: int
) -> Iterator[tuple[_Entry, _Pixels | None]]:
    """Decoded pictures in order, with at most ``ahead`` waiting to be taken."""
    waiting: deque[Future[tuple[_Entry, _Pixels | None]]] = deque()
    for path in job.files:
        waiting.append(pool.submit(job.decode, path))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _threads_may_decode() -> Iterator[None]:
    """Holds the settings that :func:`read_rgb8` changes for the whole process.

    Each call changes and restores them; of two at once, one would restore what the other set.
    While they have these values throughout, restoring them changes nothing.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        cv2.utils.logging.setLogLevel(level)
        Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _written(path: Path, needed: int) -> Iterator[Path]:
    """:func:`replace_when_complete`, with the space needed in its errors."""
    try:
        with replace_when_complete(path) as part:
            yield part
    except OutputError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise OutputError(f"{error} The picture cache needs {_size(needed)}. {_HINT}") from error


def _check_space(folder: Path, missing: int, needed: int) -> None:
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < missing:  # some network file systems report nothing at all
        raise OutputError(
            f"{folder}: the picture cache needs {_size(needed)}, of which {_size(missing)} are not "
            f"yet written, and the disk has {_size(usage.free)} left. {_HINT}"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
