"""Upscaling pictures, and files of pictures, through an opened model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from srtrt.errors import (
    BackendError,
    DeviceMemoryError,
    InputError,
    OutputCheckError,
    OutputError,
    SrtrtError,
    UsageError,
)
from srtrt.image_writing import FORMAT_OF_SUFFIX, check_output, format_of, write_image
from srtrt.images import Picture, read_image
from srtrt.locks import output_claimed
from srtrt.resample import resize_bicubic, resize_bicubic_rows
from srtrt.runtime import session as sessions
from srtrt.runtime.backends.options import BackendOptions
from srtrt.runtime.batch_engine import BatchEngine
from srtrt.runtime.image_files import find_images, identity, plan_targets
from srtrt.weights import DEFAULT_MODEL

_STRIP_SAMPLES = 1 << 22
_STEP = 257
"""16-bit steps per 8-bit step: 65535 / 255."""


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What became of one file."""

    source: Path
    """The picture that was read."""
    target: Path
    """The picture that was written; it was not if ``error`` is set."""
    input_size: tuple[int, int] | None = None
    """Width and height in pixels; None if the source could not be read."""
    output_size: tuple[int, int] | None = None
    """Width and height in pixels; None if nothing was written."""
    seconds: float = 0.0
    """Time for reading, computing and writing."""
    notes: tuple[str, ...] = ()
    """Sentences about what was left out."""
    error: SrtrtError | None = None
    """Why it failed."""


class ImageWatcher:
    """Told about the progress of :func:`upscale_images`; the methods do nothing by default."""

    def planned(self, targets: Sequence[Path]) -> None:
        """These files will be written, one for each input; what it raises ends the run."""

    def opened(self, session: sessions.Session) -> None:
        """The model is ready."""

    def prepared(self, session: sessions.Session) -> None:
        """What comes before a picture, such as building an engine, is done."""

    def started(self, source: Path) -> None:
        """A file is next."""

    def noted(self, note: str) -> None:
        """A sentence before something that takes a second or two."""

    def building(self, share: float, phase: str) -> None:
        """An engine is being built; ``share`` of it, 0..1, is done."""

    def finished(self, result: ImageResult) -> None:
        """A file is done or has failed."""


def upscale_picture(picture: Picture, session: sessions.Session) -> Picture:
    """Enlarges a picture; its depth, grayscale, alpha and metadata stay what they are.

    Grayscale goes through the network as three equal channels, whose mean is kept. Colours under
    fully transparent pixels are first replaced by the nearest visible ones, so that no hidden
    colour bleeds into an edge. Alpha goes through the network like a grayscale picture, and is then
    limited to the range of the 3x3 source pixels around, so that what is fully opaque or fully
    transparent stays exactly that. For 16 bits see :func:`_enlarge_16_bit`.

    Args:
        picture: what to enlarge.
        session: an opened model of the form ``rgb8``.

    Raises:
        BackendError: if the engine fails.
    """
    rgb = _enlarge(_without_hidden_colours(picture), session)
    if picture.gray:
        rgb = _as_gray(rgb)
    alpha = None if picture.alpha is None else _enlarge_alpha(picture.alpha, session)
    return replace(picture, rgb=rgb, alpha=alpha)


def _enlarge(rgb: NDArray[Any], session: sessions.Session) -> NDArray[Any]:
    if rgb.dtype == np.uint16:
        return _enlarge_16_bit(rgb, session)
    enlarged: NDArray[Any] = session.infer({"rgb": np.ascontiguousarray(rgb[None])})["rgb_x4"][0]
    return enlarged


def _enlarge_16_bit(rgb: NDArray[np.uint16], session: sessions.Session) -> NDArray[np.uint16]:
    """16 bits through a network of 8.

    The network sees the picture rounded to 8 bits. What it adds to the bicubic enlargement of that
    same rounded picture is its detail, and this detail is added to the bicubic enlargement of the
    16-bit picture. Detail of up to one 8-bit step cannot be told from rounding and would cut
    smooth gradients into bands, so it is left out; greater detail d shrinks by 1/d of a step (the
    nonnegative garrote: L. Breiman, "Better subset regression using the nonnegative garrote",
    Technometrics, 1995).
    """
    rounded = ((rgb.astype(np.uint32) + _STEP // 2) // _STEP).astype(np.uint8)
    network = _enlarge(rounded, session)
    height, width = network.shape[:2]
    result = np.empty(network.shape, np.uint16)
    step = max(1, _STRIP_SAMPLES // network[0].size)
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        detail = network[rows] - resize_bicubic_rows(rounded, height, width, rows)
        detail *= 1.0 - 1.0 / np.maximum(detail * detail, 1.0)
        exact = resize_bicubic_rows(rgb, height, width, rows) + _STEP * detail
        result[rows] = np.clip(np.rint(exact), 0, 65535).astype(np.uint16)
    return result


def _as_gray(rgb: NDArray[Any]) -> NDArray[Any]:
    """Three channels that all hold the mean, rounded to nearest."""
    total = rgb.sum(axis=2, keepdims=True, dtype=np.uint32)
    return np.repeat(((total + 1) // 3).astype(rgb.dtype), 3, axis=2)


def _enlarge_alpha(alpha: NDArray[Any], session: sessions.Session) -> NDArray[Any]:
    height, width = (side * session.scale for side in alpha.shape)
    if alpha.min() == alpha.max():
        return resize_bicubic(alpha, height, width)
    enlarged = _as_gray(_enlarge(np.repeat(alpha[..., None], 3, axis=2), session))[..., 0]
    window = np.ones((3, 3), np.uint8)
    lowest, highest = (
        np.repeat(np.repeat(extreme(alpha, window), session.scale, axis=0), session.scale, axis=1)
        for extreme in (cv2.erode, cv2.dilate)
    )
    return np.asarray(np.clip(enlarged, lowest, highest))


def _without_hidden_colours(picture: Picture) -> NDArray[Any]:
    """The colours, those under fully transparent pixels replaced by the nearest visible ones."""
    if picture.alpha is None:
        return picture.rgb
    hidden = picture.alpha == 0
    if hidden.all() or not hidden.any():
        return picture.rgb
    _, labels = cv2.distanceTransformWithLabels(
        hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colour_of_label = np.zeros((int(labels.max()) + 1, 3), picture.rgb.dtype)
    colour_of_label[labels[~hidden]] = picture.rgb[~hidden]
    return np.where(hidden[..., None], colour_of_label[labels], picture.rgb)


def upscale_images(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    model: str = DEFAULT_MODEL,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: str | int = "auto",
    backend_options: BackendOptions = None,
    trust_engine: bool = False,
    quality: int | None = None,
    overwrite: bool = False,
    watcher: ImageWatcher | None = None,
) -> list[ImageResult]:
    """Enlarges picture files; one that fails does not stop the others.

    Args:
        inputs: files, folders and patterns, see :func:`find_images`.
        output: file or folder, see :func:`plan_targets`; its ending selects the format.
        model: see :func:`srtrt.runtime.session.open_session`, as the next six.
        backend: engine.
        device: where it runs.
        precision: its arithmetic.
        tile: how pictures are divided.
        backend_options: settings of the engine.
        trust_engine: whether engines of other users are loaded.
        quality: 1..100 for JPEG (95 by default) and WebP (lossless by default).
        overwrite: whether existing files may be replaced.
        watcher: told about the progress.

    Returns:
        One result per file, in order; ``error`` is set for those that failed.

    Raises:
        SrtrtError: if the command as a whole makes no sense, the model cannot be opened, or its
            engine fails on a picture and, opened again, on the next.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality is {quality}; expected 1 to 100.")
    watcher = watcher or ImageWatcher()
    sources, several = find_images(inputs)
    text = None if output is None else os.fspath(output)
    into_folder = text is not None and text.endswith(("/", os.sep))
    target = None if text is None else Path(text)
    targets = plan_targets(sources, target, several=several, into_folder=into_folder)
    watcher.planned(targets)
    work = _Work(
        occupied=frozenset(map(identity, sources)),
        may_create=several or into_folder,
        overwrite=overwrite,
        quality=quality,
        watcher=watcher,
    )

    def open_session() -> sessions.Session:
        session = sessions.open_session(
            model=model,
            form="rgb8",
            backend=backend,
            device=device,
            precision=precision,
            tile=tile,
            backend_options=backend_options,
            trust_engine=trust_engine,
            any_size=True,
            on_build=watcher.building,
            on_note=watcher.noted,
        )
        watcher.opened(session)
        return session

    with closing(BatchEngine(open_session)) as engine:
        refused = [_refused(*pair, work) for pair in zip(sources, targets, strict=True)]
        return [
            early or _attempt(source, target, engine, work)
            for source, target, early in zip(sources, targets, refused, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What all files of one call have in common."""

    occupied: frozenset[str]
    may_create: bool
    overwrite: bool
    quality: int | None
    watcher: ImageWatcher


def _refused(source: Path, target: Path, work: _Work) -> ImageResult | None:
    """Says of one file what can be known before anything is computed; None if nothing is wrong."""
    try:
        is_file = os.path.isfile(source)  # noqa: PTH113 - False for a name that is too long
        if not is_file or source.suffix.lower() not in FORMAT_OF_SUFFIX:
            read_image(source)  # says what is wrong with it
        _check_target(target, work)
    except (InputError, OutputError) as error:
        result = ImageResult(source=source, target=target, error=error)
        work.watcher.finished(result)
        return result
    return None


def _attempt(source: Path, target: Path, engine: BatchEngine, work: _Work) -> ImageResult:
    """Works on one file; what is wrong with this file alone becomes part of the result."""
    work.watcher.started(source)
    begin = time.perf_counter()
    result = ImageResult(source=source, target=target)
    try:
        _check_target(target, work)
        result = _upscale_file(result, engine.session, work)
        engine.worked()
    except (InputError, OutputError, DeviceMemoryError, OutputCheckError) as error:
        result = replace(result, error=error)
    except BackendError as error:
        if not engine.drop():
            raise
        result = replace(result, error=error)
    result = replace(result, seconds=time.perf_counter() - begin)
    work.watcher.finished(result)
    return result


def _check_target(target: Path, work: _Work) -> None:
    """Refuses, before anything is computed, a target that could not be written in the end."""
    format_of(target, quality=work.quality)
    if identity(target) in work.occupied:
        raise OutputError(f"{target}: the output is one of the inputs; choose another name.")
    try:
        target.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror}).") from error
    if os.path.isdir(target):  # noqa: PTH112
        raise OutputError(f"{target}: this is a folder; give the name of a file.")
    if os.path.lexists(target) and not work.overwrite:
        raise OutputError(f"{target}: already exists; use --overwrite to replace it.")
    folder = target.parent
    while work.may_create and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{target}: the folder {folder} does not exist; create it first.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{target}: no permission to write into the folder {folder}.")


def _upscale_file(
    result: ImageResult, opened: Callable[[], sessions.Session], work: _Work
) -> ImageResult:
    """Reads, enlarges and writes one file; the result completed."""
    picture = read_image(result.source)
    try:
        result.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{result.target}: cannot be written ({error.strerror}).") from error
    with output_claimed(result.target):
        _check_target(result.target, work)  # another run may have finished it meanwhile
        return _enlarge_into(result, picture, opened(), work)


def _enlarge_into(
    result: ImageResult, picture: Picture, session: sessions.Session, work: _Work
) -> ImageResult:
    kind = check_output(result.target, picture, scale=session.scale, quality=work.quality)
    notes = picture.notes
    if picture.exif is not None and kind == "BMP":
        notes += ("BMP has no place for EXIF, which is left out",)
    width, height = picture.width * session.scale, picture.height * session.scale
    try:
        session.prepare(picture.width, picture.height)
        work.watcher.prepared(session)
        enlarged = upscale_picture(picture, session)
        write_image(result.target, enlarged, quality=work.quality, replace=work.overwrite)
    except BackendError as error:
        raise type(error)(f"{result.source}: {error}") from error
    except MemoryError as error:
        raise DeviceMemoryError(
            f"{result.source}: not enough memory for a result of {width}x{height} pixels; "
            "cut the picture into parts first."
        ) from error
    return replace(
        result,
        input_size=(picture.width, picture.height),
        output_size=(width, height),
        notes=notes,
    )
