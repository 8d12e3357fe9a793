"""The ``srtrt models`` and ``srtrt doctor`` commands."""

from __future__ import annotations

import platform

import click
import psutil

from srtrt.errors import BrokenPackageError, SrtrtError
from srtrt.processor import this_processor
from srtrt.runtime.backends.options import option_lines
from srtrt.runtime.cost import Cost, measure_cost
from srtrt.runtime.gpu_report import gpu_lines
from srtrt.runtime.memory import MEMORY_VARIABLE, memory_limit
from srtrt.runtime.models import bundled_models, find_model, weights_folder
from srtrt.runtime.package_checks import check_packages
from srtrt.runtime.select import AUTO_ORDER, choose, survey
from srtrt.runtime.threads import usable_processors
from srtrt.terminal import put, put_table, put_text
from srtrt.weights import DEFAULT_MODEL, PURPOSES

_FRAME = "480x270 here"
"""Heading of what one frame of this size takes."""


@click.command()
@click.argument("name", required=False)
@click.option(
    "--measure/--no-measure",
    default=True,
    show_default=True,
    help="Time every model on this machine, a second each.",
)
def models(name: str | None, measure: bool) -> None:
    """List the bundled models and what each costs here; with a NAME, print its card."""
    if name is not None:
        find_model(name)
        card = weights_folder() / f"{name}.md"
        if not card.is_file():
            raise click.UsageError(f"{name} is not a bundled model, so it has no card.")
        put_text(card.read_text(encoding="utf-8"))
        return
    costs = {model: measure_cost(model) for model in bundled_models()} if measure else {}
    headings = ["name", "network", "size", "quality", "for"]
    rows = [_row(model) for model in bundled_models()]
    if measure:
        headings.append(_FRAME)
        rows = [[*row, _seconds(cost)] for row, cost in zip(rows, costs.values(), strict=True)]
    put_table(headings, rows)
    for engine in sorted({cost.engine for cost in costs.values()}):
        names = [name for name, cost in costs.items() if cost.engine == engine]
        put(f"{', '.join(names)}: {engine}")


def _row(name: str) -> list[str]:
    model = find_model(name)
    spec = model.spec
    assert model.graph_path is not None
    return [
        name + (" (default for images)" if name == DEFAULT_MODEL else ""),
        f"{spec.config.get('blocks')} blocks x {spec.config.get('features')}",
        f"{model.graph_path.stat().st_size / 1e6:.1f} MB",
        _quality(spec.quality.get("psnr_y_db")),
        PURPOSES[name],
    ]


def _seconds(cost: Cost) -> str:
    if cost.seconds_per_pixel is None:
        return "-"
    return f"{cost.seconds_per_pixel * 480 * 270:.2f} s"


def _quality(figures: object) -> str:
    if not isinstance(figures, dict):
        return "not measured"
    return ", ".join(f"{name} {value:.2f} dB" for name, value in figures.items())


@click.command()
def doctor() -> None:
    """Say what this machine can run, and why not the rest."""
    put(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    put(f"Processor: {this_processor()}")
    memory = psutil.virtual_memory()
    put(
        f"{psutil.cpu_count(logical=False)} cores (this process may keep {usable_processors()} "
        f"processors busy), {memory.total / 2**30:.1f} GiB memory; "
        f"the network may use {memory_limit('cpu') / 2**30:.1f} GiB "
        f"(change with {MEMORY_VARIABLE}, in MiB)"
    )
    for line in gpu_lines():
        put(line)
    broken = []
    for package in check_packages():
        put(f"  {package}")
        broken += [package.name] if package.problem else []
    put("Backends:")
    for name, capability in survey():
        mark = "yes" if capability.usable else "no "
        precisions = f" [{', '.join(capability.precisions)}]" if capability.usable else ""
        put(f"  {mark} {name} on {capability.device}{precisions}: {capability.reason}")
    put("Options of backends (--backend-option NAME=VALUE):")
    for line in option_lines():
        put(f"  {line}")
    order = ", ".join(f"{name} on {device}" for name, device in AUTO_ORDER)
    put(f"--backend auto tries {order}.")
    try:
        put(f"It takes {choose().reasoning}")
    except SrtrtError as error:
        put(f"It finds nothing: {error}")
        raise
    if broken:
        raise BrokenPackageError(
            f"What is installed does not all work (see above): {', '.join(broken)}."
        )
