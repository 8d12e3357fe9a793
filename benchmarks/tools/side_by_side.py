"""Trains variants of a recipe side by side and says what each gains.

Every variant starts from the same weights, sees batches of the same seeds, and is measured on the
same private pictures, so that differences are paired: much smaller ones show than the pictures
differ by. ``python -m srtrt.benchmarks.tools.side_by_side --help`` tells the rest.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from srtrt.benchmarks.report import full_report
from srtrt.benchmarks.tables import table
from srtrt.benchmarks.tools.private_split import split_pictures
from srtrt.errors import UsageError
from srtrt.files import write_text
from srtrt.terminal import put_text, say
from srtrt.train.config import TrainConfig, preset
from srtrt.weights import bundled_checkpoint

Scores = dict[str, list[float]]
"""Of each measure, a value for each picture."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: a variant with one seed."""

    name: str
    config: TrainConfig
    init: Path
    training: tuple[Path, ...]
    private: tuple[Path, ...]
    crfs: tuple[int, ...]
    perceptual: bool
    sharpen: float
    vgg: Path | None


@click.command()
@click.option("--preset", "name", default="psnr", show_default=True, help="What all start from.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="For all variants.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    required=True,
    metavar="NAME:KEY=VALUE;...",
    help="What is compared with the recipe as it is; repeatable.",
)
@click.option("--init", required=True, help="Checkpoint or bundled model to start from.")
@click.option("--data", multiple=True, required=True, help="Folder of training pictures.")
@click.option("--updates", default=300, show_default=True, type=click.IntRange(1))
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(1))
@click.option("--pictures", default=24, show_default=True, type=click.IntRange(2))
@click.option("--crf", "crfs", multiple=True, type=click.IntRange(0, 51), help="Also after x264.")
@click.option("--perceptual", is_flag=True, help="Also LPIPS and the energy near Nyquist.")
@click.option("--sharpen", default=0.0, show_default=True, help="Also sharpened so much after it.")
@click.option("--vgg", default=None, type=click.Path(path_type=Path), help="VGG19 weights.")
@click.option("--at-once", default=1, show_default=True, type=click.IntRange(1))
@click.option("--out", default=None, metavar="FILE.json", type=click.Path(path_type=Path))
def side_by_side(
    name: str,
    settings: tuple[str, ...],
    variants: tuple[str, ...],
    init: str,
    data: tuple[str, ...],
    updates: int,
    seeds: int,
    pictures: int,
    crfs: tuple[int, ...],
    perceptual: bool,
    sharpen: float,
    vgg: Path | None,
    at_once: int,
    out: Path | None,
) -> None:
    """Trains variants from the same weights, on one thread each, and prints a table.

    One photograph in ten is private: nothing is trained on it, and everything is measured on it.
    """
    base = preset(name).with_settings([*settings, f"schedule.length={updates}"])
    recipes = {"as it is": base, **dict(_variant(base, text) for text in variants)}
    split = split_pictures([Path(folder) for folder in data])
    step = max(1, len(split.private) // pictures)
    private = split.private[::step][:pictures]
    jobs = [
        Job(
            name=variant,
            config=config.with_settings([f"run.seed={seed}"]),
            init=bundled_checkpoint(init) or Path(init),
            training=split.training,
            private=private,
            crfs=crfs,
            perceptual=perceptual,
            sharpen=sharpen,
            vgg=vgg,
        )
        for seed in range(seeds)
        for variant, config in recipes.items()
    ]
    found, before = _all_scores(jobs, at_once)
    result = {
        "preset": name,
        "init": init,
        "settings": list(settings),
        "variants": list(variants),
        "updates": updates,
        "seeds": seeds,
        "private_pictures": len(private),
        "before": {measure: statistics.fmean(values) for measure, values in before.items()},
        "rows": compared(found),
    }
    report = full_report("side-by-side", result)
    if out is not None:
        write_text(out, json.dumps(report, indent=1) + "\n")
    put_text(table(report) + "\n")


def _variant(base: TrainConfig, text: str) -> tuple[str, TrainConfig]:
    name, colon, settings = text.partition(":")
    if not colon or not settings:
        raise UsageError(f"--variant {text!r}: expected NAME:KEY=VALUE;KEY=VALUE.")
    return name.strip(), base.with_settings([part.strip() for part in settings.split(";")])


def _all_scores(jobs: Sequence[Job], at_once: int) -> tuple[dict[str, list[Scores]], Scores]:
    """The scores of each variant, one for each seed, and those of the weights all start from."""
    found: dict[str, list[Scores]] = {}
    context = multiprocessing.get_context("spawn")
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(at_once, mp_context=context) as pool:
        for number, (job, scores) in enumerate(zip(jobs, pool.map(run_job, jobs), strict=True), 1):
            found.setdefault(job.name, []).append(scores)
            means = ", ".join(f"{k} {statistics.fmean(v):.4f}" for k, v in scores.items())
            say(f"{number}/{len(jobs)} {job.name}, seed {job.config.run.seed}: {means}")
        before = pool.submit(measure_start, jobs[0]).result()
    return found, before


def measure_start(job: Job) -> Scores:
    """Measures the weights that a variant starts from."""
    from srtrt.benchmarks.tools.side_by_side_training import measured
    from srtrt.networks.checkpoint import load_checkpoint

    return measured(load_checkpoint(job.init)[0], job)


def run_job(job: Job) -> Scores:
    """Trains one variant in this process and measures its averaged weights."""
    from srtrt.benchmarks.tools.side_by_side_training import measured, trained

    return measured(trained(job), job)


def compared(found: dict[str, list[Scores]]) -> list[dict[str, Any]]:
    """A row for each variant and measure.

    The difference to the first variant is the mean over pictures and seeds; its standard error is
    that over pictures, of differences averaged over seeds. ``by_seed`` shows how much it depends on
    the seed instead.
    """
    names = list(found)
    rows: list[dict[str, Any]] = []
    for name in names:
        for measure in found[name][0]:
            ours, base = ([s[measure] for s in found[n]] for n in (name, names[0]))
            by_seed = [
                [a - b for a, b in zip(x, y, strict=True)] for x, y in zip(ours, base, strict=True)
            ]
            by_picture = [statistics.fmean(each) for each in zip(*by_seed, strict=True)]
            row = {
                "variant": name,
                "measure": measure,
                "mean": statistics.fmean(statistics.fmean(scores) for scores in ours),
            }
            if name != names[0]:
                row["difference"] = statistics.fmean(by_picture)
                row["standard_error"] = statistics.stdev(by_picture) / len(by_picture) ** 0.5
                row["by_seed"] = [statistics.fmean(each) for each in by_seed]
            rows.append(row)
    return rows


if __name__ == "__main__":
    side_by_side()
