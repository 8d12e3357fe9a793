"""By what a new version of a model is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from srtrt.benchmarks.bundle import measured_as
from srtrt.benchmarks.compressed import measure_compressed
from srtrt.benchmarks.tools.private_split import link_folder

PRIVATE = "private"
"""Name of the set of photographs that training never sees."""

CRF = (23, 28)
"""Of x264, for models of real footage."""

_PICTURES, _FRAMES = 24, 4


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """The figure that decides for a model."""

    key: str
    """Its name in result files."""
    unit: str
    """How it is shown."""
    lower_is_better: bool = False
    compressed: bool = False
    """Whether the private pictures are judged as compressed video, too."""

    def gain(self, old: float, new: float) -> float:
        """By how much the new figure is better; below 0 where it is worse."""
        return old - new if self.lower_is_better else new - old


PSNR = Yardstick(key="psnr_db", unit="dB")
FOOTAGE = Yardstick(key="psnr_db", unit="dB", compressed=True)
LPIPS = Yardstick(key="lpips", unit="LPIPS", lower_is_better=True)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of one version of a model."""

    private: float
    """The figure that decides, on the private pictures."""
    public: dict[str, float]
    """The same figure by public set."""


def measure(
    name: str, checkpoint: Path, yardstick: Yardstick, sets: Sets, say: Callable[[str], None]
) -> Measured:
    """Measures what decides about a version of a model on every set.

    Raises:
        InputError: if a picture or the checkpoint cannot be read.
        MissingPackageError: if LPIPS decides and cannot be computed.
    """
    folder = link_folder(sets.private, sets.links / PRIVATE)
    perceptual = yardstick == LPIPS  # else minutes that decide nothing
    report = measured_as(name, checkpoint, [folder, *sets.public], perceptual=perceptual)
    figures = {key: float(row[name][yardstick.key]) for key, row in report["sets"].items()}
    private = figures.pop(PRIVATE)
    if yardstick.compressed:
        private = _compressed(checkpoint, folder)
    shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    say(f"{name}: private {private:.4f} {yardstick.unit}{'; ' if shown else ''}{shown}")
    return Measured(private=private, public=figures)


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What is measured on."""

    private: tuple[Path, ...]
    """Pictures that training never sees."""
    public: tuple[Path, ...]
    """Folders, each a set of HR pictures."""
    links: Path
    """A folder for links to the private pictures."""


def verdict(yardstick: Yardstick, old: Measured, new: Measured) -> tuple[bool, str]:
    """Whether a version is released, and why.

    It is if the private pictures improved and no public set fell, as far as result files tell.
    """
    gain = yardstick.gain(old.private, new.private)
    change = f"the private pictures went from {old.private:.4f} to {new.private:.4f}"
    fell = [
        f"{key} ({old.public[key]:.4f} to {value:.4f})"
        for key, value in new.public.items()
        if yardstick.gain(old.public[key], value) < 0
    ]
    if gain <= 0:
        return False, f"{change} {yardstick.unit}, which is no gain"
    if fell:
        return False, f"{change} {yardstick.unit}, but {' and '.join(fell)} fell"
    return True, f"{change} {yardstick.unit}, and no public set fell"


def _compressed(checkpoint: Path, folder: Path) -> float:
    """Mean PSNR in dB on pans over pictures that went through x264."""
    figures = []
    for crf in CRF:
        report = measure_compressed(
            [str(checkpoint)], pictures=folder, crf=crf, frames=_FRAMES, limit=_PICTURES
        )
        rows = report["sources"]["panned pictures"]["compressed"]
        figures += [row["psnr_db"] for key, row in rows.items() if key != "bicubic"]
    return float(sum(figures) / len(figures))
