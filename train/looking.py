"""What lets people look at a training run: TensorBoard event files, plots, grids of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from srtrt.errors import MissingPackageError, OutputError
from srtrt.files import replace_when_complete, stale_parts
from srtrt.train.plots import draw_plots, require_matplotlib

SCALE = 4
PANEL = 224
"""Longest side of a panel in HR pixels; larger pictures are cropped around their centre."""
ROWS = 8
"""Most pictures in one grid."""
GAP = 4
HEADER = 28
NARROWEST = 40  # a column that is narrower cannot hold its heading
PAPER = 255
INK = (40, 40, 40)
HEADINGS = ("LR", "SR", "HR")

Pixels = NDArray[np.uint8]
Triple = tuple[Pixels, Pixels, Pixels]


class RunView:
    """TensorBoard event files, PNG plots and grids of samples of one run folder.

    They go to the folders ``tensorboard``, ``plots`` and ``samples`` inside it; look at the first
    with ``tensorboard --logdir RUN``.
    """

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        """Makes the folders and starts an event file.

        Args:
            folder: the run folder; created if missing.
            first_step: the step a resumed run continues from. TensorBoard then forgets what an
                earlier event file says about later steps.

        Raises:
            MissingPackageError: if tensorboard or matplotlib is not installed.
            OutputError: if the folders or the event file cannot be written.
        """
        require_matplotlib()
        if not _is_utf8(folder.absolute()):
            raise OutputError(
                f"{folder}: its name is not UTF-8, and TensorBoard writes into no such folder; "
                "choose another name."
            )
        self._samples, self._plots = folder / "samples", folder / "plots"
        self._events = folder / "tensorboard"
        with _writing(folder):
            for each in (self._samples, self._plots, self._events):
                each.mkdir(parents=True, exist_ok=True)
                stale_parts(each, remove=True)  # of runs that were killed
            self._writer = _event_writer(self._events, purge_step=first_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to each named curve; they can be seen at once.

        Args:
            step: updates done so far.
            values: numbers by name, such as ``loss/pixel``; TensorBoard groups names by what is
                before the slash.

        Raises:
            OutputError: if the event file cannot be written.
        """
        with _writing(self._events):
            for name, value in values.items():
                self._writer.add_scalar(name, float(value), step)
            self._writer.flush()

    def samples(self, kind: str, place: str, step: int, pictures: Sequence[Triple]) -> Path:
        """Writes a grid of pictures to ``samples/KIND-PLACE.png`` and to TensorBoard.

        Args:
            kind: which pictures these are, such as ``validation``.
            place: where the run stands, such as ``epoch-00100``.
            step: updates done so far.
            pictures: see :func:`sample_grid`.

        Returns:
            The PNG file.

        Raises:
            ValueError: see :func:`sample_grid`.
            OutputError: if a file cannot be written.
        """
        grid = sample_grid(pictures)
        _, png = cv2.imencode(".png", cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))
        path = self._samples / f"{kind}-{place}.png"
        with replace_when_complete(path) as part:
            part.write_bytes(png.tobytes())
        with _writing(self._events):
            self._writer.add_image(f"samples/{kind}", grid, step, dataformats="HWC")
            self._writer.flush()
        return path

    def plots(self, log: Path, weights: Mapping[str, float] | None = None) -> list[Path]:
        """Draws ``plots/*.png`` again from the run's log; see :func:`srtrt.train.plots.draw_plots`.

        Returns:
            The files, none if the log holds no numbers yet.

        Raises:
            InputError: if the log cannot be read.
            OutputError: if a file cannot be written.
        """
        return draw_plots(log, self._plots, weights)

    def close(self) -> None:
        """Completes the event file; nothing may be added after it.

        Raises:
            OutputError: if the event file cannot be written.
        """
        with _writing(self._events):
            self._writer.close()


def sample_grid(pictures: Sequence[Triple]) -> Pixels:
    """LR (enlarged without smoothing), SR and HR side by side under a heading, a picture a row.

    Pictures larger than 224x224 HR pixels are cropped around their centre, the same part of all
    three; smaller ones stay as they are. Pictures after the eighth are left out.

    Args:
        pictures: LR ``[h, w, 3]``, SR ``[4h, 4w, 3]`` and HR ``[4h, 4w, 3]`` each, uint8 RGB.

    Returns:
        uint8 RGB ``[H, W, 3]``.

    Raises:
        ValueError: if there is no picture, or types or shapes do not fit.
    """
    if not pictures:
        raise ValueError("there is no picture to show; expected at least one.")
    rows = [_panels(*triple) for triple in pictures[:ROWS]]
    column = max(NARROWEST, *(panels[0].shape[1] for panels in rows))
    width = GAP + 3 * (column + GAP)
    height = HEADER + sum(panels[0].shape[0] + GAP for panels in rows)
    sheet = Image.new("RGB", (width, height), (PAPER, PAPER, PAPER))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    lefts = [GAP + index * (column + GAP) for index in range(3)]
    for left, heading in zip(lefts, HEADINGS, strict=True):
        middle = (left + column // 2, HEADER // 2)
        draw.text(middle, heading, fill=INK, font=font, anchor="mm")
    grid = np.array(sheet)
    top = HEADER
    for panels in rows:
        high, wide = panels[0].shape[:2]
        for left, panel in zip(lefts, panels, strict=True):
            inset = left + (column - wide) // 2
            grid[top : top + high, inset : inset + wide] = panel
        top += high + GAP
    return grid


def _panels(lr: Pixels, sr: Pixels, hr: Pixels) -> Triple:
    """The panels of one row, all of the same size."""
    for name, picture in zip(HEADINGS, (lr, sr, hr), strict=True):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"{name} is {picture.dtype} {picture.shape}; expected uint8 [h, w, 3]."
            )
    height, width = lr.shape[:2]
    wanted = (height * SCALE, width * SCALE, 3)
    if 0 in wanted or sr.shape != wanted or hr.shape != wanted:
        raise ValueError(
            f"LR is {lr.shape}, SR {sr.shape}, HR {hr.shape}; "
            f"expected SR and HR {SCALE} times as large as LR."
        )
    high, wide = min(height, PANEL // SCALE), min(width, PANEL // SCALE)
    top, left = (height - high) // 2, (width - wide) // 2
    rows, columns = slice(top, top + high), slice(left, left + wide)
    big = tuple(slice(part.start * SCALE, part.stop * SCALE) for part in (rows, columns))
    return lr[rows, columns].repeat(SCALE, axis=0).repeat(SCALE, axis=1), sr[big], hr[big]


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error}).") from error


def _event_writer(folder: Path, *, purge_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingPackageError("tensorboard", "train", "training") from error
    return SummaryWriter(str(folder), purge_step=purge_step)
