"""Plots of a training log as PNG files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import MissingPackageError
from srtrt.files import replace_when_complete
from srtrt.train.run_log import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by people with any kind of colour vision (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
GREY = "#666666"
POSITION = ("step", "epoch")
"""Keys of a line that say where the run stood; everything else is a curve."""
TOTAL = "loss/generator"
"""Key of the weighted sum of the generator's other losses."""
SMOOTHED_FROM = 24
"""Fewer points than this are drawn as they are."""
LOG_SCALE_FROM = 5.0
"""Ratio of the largest to the smallest loss from which a logarithmic axis shows more."""

Line = dict[str, float]
Points = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the figure of one group of curves looks."""

    title: str
    axis: str
    """Label of the vertical axis, with its unit."""
    unit: str = ""
    digits: str = ".3g"
    """Format of quoted values."""
    loss: bool = False
    """Losses may have a logarithmic axis, and always have a legend."""
    smooth: bool = True
    best: bool = False
    """Marks the highest value."""


@dataclass(frozen=True, kw_only=True)
class Pen:
    """How one curve is drawn."""

    colour: str
    label: str
    total: bool
    """The sum of the other curves: dashed, above them."""

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of matplotlib's ``plot``."""
        look = {"linestyle": (0, (3, 2)), "zorder": 3} if self.total else {}
        return {"color": self.colour, "label": self.label, **look}


LOOKS = {
    "generator_loss": Look(title="Generator losses", axis="loss", loss=True),
    "discriminator_loss": Look(title="Discriminator losses", axis="loss", loss=True),
    "psnr": Look(
        title="Quality on the validation pictures",
        axis="PSNR (dB)",
        unit=" dB",
        digits=".2f",
        best=True,
    ),
    "perceptual": Look(
        title="Perceptual distance of the validation pictures", axis="distance", digits=".4f"
    ),
    "near_nyquist": Look(
        title="Finest detail of the validation pictures", axis="energy near Nyquist"
    ),
    "near_nyquist_excess": Look(
        title="Mesh on the validation pictures", axis="energy near Nyquist above the original's"
    ),
    "learning_rate": Look(title="Learning rate", axis="learning rate", smooth=False),
    "steps_per_second": Look(title="Training speed", axis="speed (steps/s)", unit=" steps/s"),
    "seconds_per_step": Look(title="Time of an update", axis="time (s/step)", unit=" s/step"),
}


def require_matplotlib() -> None:
    """Says early that plots cannot be drawn.

    Raises:
        MissingPackageError: if matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("matplotlib", "train", "training") from error


def draw_plots(log: Path, folder: Path, weights: Mapping[str, float] | None = None) -> list[Path]:
    """Draws one PNG of 1200x675 pixels for each group of curves in a log.

    The losses of the generator and of the discriminator make a group each; any other key belongs
    to the group named by what is before its slash. Where there are enough points, a line lightly
    smoothed without delay is drawn over the faint raw one. Of the generator's losses the sum is
    dashed and on top, as its largest part may be all but equal to it.

    Args:
        log: a JSON object with ``step``, perhaps ``epoch``, and numbers by name on each line.
            Damaged lines are passed over, as a crash may leave one. Where the steps jump back, as
            after a resumed run, the later lines count.
        folder: existing folder of the PNG files.
        weights: of the parts of the generator's loss, by name, such as ``pixel``. Parts are drawn
            as they count in the sum; those of weight 0 are left out.

    Returns:
        The files, none if the log holds no numbers.

    Raises:
        MissingPackageError: if matplotlib is not installed.
        InputError: if the log cannot be read.
        OutputError: if a file cannot be written.
    """
    require_matplotlib()
    lines = _read_log(log)
    by_key = {f"loss/{name}": weight for name, weight in (weights or {}).items()}
    groups: dict[str, dict[str, Points]] = {name: {} for name in LOOKS}
    for key in sorted({key for line in lines for key in line}.difference(POSITION), key=_rank):
        weight = by_key.get(key, 1.0)
        if weight == 0:
            continue
        steps, values = _points(lines, key)
        name = key if weight == 1 else f"{weight:g} * {key.removeprefix('loss/')}"
        groups.setdefault(_group(key), {})[name] = steps, weight * values
    written = []
    for name, curves in groups.items():
        if not curves:
            continue
        figure = _draw(_look(name), curves, lines[-1])
        path = folder / f"{name}.png"
        with replace_when_complete(path) as part:
            figure.savefig(part, format="png")
        written.append(path)
    return written


def _read_log(log: Path) -> list[Line]:
    """The finite numbers of each line, in the order of the steps."""
    lines: list[Line] = []
    for row in read_log(log):
        line = _numbers(row.values)
        if "step" not in line:
            continue
        if lines and lines[-1]["step"] == line["step"]:  # one report on two lines
            line = lines.pop() | line
        while lines and lines[-1]["step"] >= line["step"]:
            lines.pop()
        lines.append(line)
    return lines


def _numbers(values: Mapping[str, Any]) -> Line:
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _rank(key: str) -> tuple[bool, str]:
    """Puts sums before their parts, so that they keep their colours when a part is added."""
    return key not in ("loss", "loss/generator", "loss/discriminator"), key


def _group(key: str) -> str:
    """The group of a key, fit to be the name of a file."""
    prefix, _, rest = key.partition("/")
    if prefix == "loss":
        return "discriminator_loss" if rest.startswith("discriminator") else "generator_loss"
    return re.sub(r"[^\w-]", "_", prefix) or "other"


def _look(name: str) -> Look:
    words = name.replace("_", " ").strip() or "other"
    return LOOKS.get(name) or Look(title=words.capitalize(), axis=words)


def _points(lines: list[Line], key: str) -> Points:
    found = [(line["step"], line[key]) for line in lines if key in line]
    return np.array([step for step, _ in found]), np.array([value for _, value in found])


def _where(last: Line) -> str:
    steps = f"{last['step']:,.0f} steps"
    return f"{steps} = {last['epoch']:,.1f} epochs" if "epoch" in last else steps


def _draw(look: Look, curves: Mapping[str, Points], last: Line) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)  # inches around everything
    figure = Figure(figsize=(8, 4.5), dpi=150, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    logarithmic = look.loss and _spans_decades(curves)
    if logarithmic:
        axes.set_yscale("log")
    smoothed = False
    for index, (key, points) in enumerate(curves.items()):
        label = f"{_label(key)}  {points[1][-1]:{look.digits}}{look.unit}"
        total = key == TOTAL and len(curves) > 1
        pen = Pen(colour=COLOURS[index % len(COLOURS)], label=label, total=total)
        smoothed |= _draw_curve(axes, points, pen, look.smooth, logarithmic)
    _dress(axes, look, last, logarithmic)
    if look.loss or len(curves) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9, title="latest")
    else:
        _quote(axes, look, next(iter(curves.values())))
    if smoothed:
        axes.annotate(
            "thin: as logged, thick: smoothed",
            (1, 0),
            xytext=(0, -24),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=GREY,
        )
    return figure


def _spans_decades(curves: Mapping[str, Points]) -> bool:
    values = np.concatenate([values for _, values in curves.values()])
    positive = values[values > 0]
    if positive.size == 0 or values.min() < 0:
        return False
    return bool(positive.max() / positive.min() >= LOG_SCALE_FROM)


def _label(key: str) -> str:
    # A legend would leave out names that start with an underscore and typeset dollars as formulas.
    name = key.partition("/")[2] or key
    return name.replace("_", " ").strip().replace("$", r"\$")


def _draw_curve(axes: Axes, points: Points, pen: Pen, smooth: bool, logarithmic: bool) -> bool:
    """Draws one curve; says whether a smoothed line was drawn over it."""
    steps, values = points
    if logarithmic:  # a loss that is switched off is logged as zero, which such an axis cannot hold
        steps, values = steps[values > 0], values[values > 0]
    marker = "o" if len(steps) < 40 and smooth else ""
    if not smooth or len(steps) < SMOOTHED_FROM:
        marker = "o" if len(steps) == 1 else marker
        axes.plot(steps, values, **pen.line, lw=1.6, marker=marker, ms=3.5)
        return False
    axes.plot(steps, values, color=pen.colour, lw=0.8, alpha=0.35, marker=marker, ms=3)
    line = np.exp(_smooth(np.log(values))) if logarithmic else _smooth(values)
    axes.plot(steps, line, **pen.line, lw=1.8)
    return True


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean weighted by a Gaussian over about a twentieth of the curve, cut off at its ends."""
    sigma = max(1.0, len(values) / 80)
    reach = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    total = np.convolve(values, weights, mode="same")
    return np.asarray(total / np.convolve(np.ones_like(values), weights, mode="same"))


def _dress(axes: Axes, look: Look, last: Line, logarithmic: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    axes.set_title(look.title, loc="left", fontsize=13, fontweight="bold")
    axes.set_xlabel(f"step ({_where(last)})", loc="left")
    axes.set_ylabel(look.axis)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if logarithmic:
        low, high = axes.get_ylim()
        subs = (1.0, 2.0, 5.0) if high / low < 3e3 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=30))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.ticklabel_format(
            axis="y", style="sci", scilimits=(-3, 5), useOffset=False, useMathText=True
        )
    axes.grid(True, which="major", color="#dddddd", lw=0.8)
    axes.set_axisbelow(True)
    end = max(last["step"], 1.0)
    axes.set_xlim(-0.02 * end, 1.02 * end)  # the same in all figures, so that they compare
    axes.spines[["top", "right"]].set_visible(False)


def _quote(axes: Axes, look: Look, points: Points) -> None:
    steps, values = points
    index = int(values.argmax()) if look.best else len(values) - 1
    quoted = f"{values[index]:{look.digits}}{look.unit}"
    if look.best:
        axes.plot(
            steps[index],
            values[index],
            "o",
            ms=9,
            mfc="none",
            mec=COLOURS[1],
            mew=1.6,
            clip_on=False,
        )
        quoted = f"best {quoted} at step {steps[index]:,.0f}"
    else:
        quoted = f"latest {quoted}"
    axes.set_title(quoted, loc="right", fontsize=10, color=GREY)
