"""The ``srtrt train`` command."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from srtrt import packages
from srtrt.errors import UsageError
from srtrt.nearest import did_you_mean
from srtrt.paths import require_file, require_folder_writable
from srtrt.terminal import put, say
from srtrt.train.command_parts import claimed, introduce, nothing, progress_line, stop_request

if TYPE_CHECKING:
    from srtrt.train.config import TrainConfig
    from srtrt.train.loop import Trainer

_LONGEST_NAME = 100
"""Characters of a model's name, of which exported files are called."""

_MODULES = ("srtrt.train.loop", "srtrt.train.pictures", "srtrt.train.distributed")
"""What the command imports that takes seconds."""


@click.command()
@click.option(
    "--preset", default=None, metavar="NAME", help="psnr (default), gan, video, fast or report."
)
@click.option("--config", default=None, metavar="FILE", help="Settings as YAML, in place of one.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting: data.batch=8."
)
@click.option("--data", multiple=True, help="Folder of HR images, DIV2K, Flickr2K; repeatable.")
@click.option("--val", multiple=True, help="Folder of HR images for validation PSNR.")
@click.option("--out", default="run", show_default=True, help="Run folder.")
@click.option("--name", default="generator", show_default=True, help="Name of the model.")
@click.option("--init", default=None, help="Checkpoint or bundled model to start from.")
@click.option("--branch", default=None, metavar="RUN", help="Run folder to go on from, see below.")
@click.option("--vgg", default=None, metavar="FILE", help="VGG19 weights; default: download.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--quiet", is_flag=True, help="No progress.")
def train(
    preset: str | None,
    config: str | None,
    settings: tuple[str, ...],
    data: tuple[str, ...],
    val: tuple[str, ...],
    out: str,
    name: str,
    init: str | None,
    branch: str | None,
    vgg: str | None,
    device: str,
    resume: bool,
    quiet: bool,
) -> None:
    """Train a generator, alone or against a discriminator.

    The run folder gets generator.safetensors (the averaged weights, ready for `srtrt export`),
    best.safetensors, states to resume from, config.yaml, manifest.json, log.jsonl, plots, sample
    grids and TensorBoard files. Several processes: torchrun --nproc-per-node N -m srtrt.cli train.

    --branch goes on from the newest state of another run, which stays as it is, under the settings
    of that run and what --set changes: a long run at a constant rate is brought to an end so, and
    may then go on.
    """
    folder = Path(out)
    _check_start(init, branch, resume=resume)
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise UsageError(f"--name {name!r}: expected 1 to {_LONGEST_NAME} printable characters.")
    _check_places(folder, data, val)
    _check_files(config, init, vgg)
    if preset is not None and config is not None:
        raise UsageError("--preset and --config are two sources of settings; give one of them.")
    silent = quiet or os.environ.get("RANK", "0") != "0"
    packages.load(_MODULES, extra="train", purpose="`srtrt train`", quiet=silent)
    from srtrt.train.content import load_content, with_content, with_content_of
    from srtrt.train.determinism import resuming
    from srtrt.train.device import choose_device
    from srtrt.train.distributed import World
    from srtrt.train.loop import Trainer
    from srtrt.train.pictures import Pictures
    from srtrt.train.run_folder import RunFolder

    origin = Path(branch) if branch else folder
    chosen = _settings(folder, origin, (preset, config), settings, resume=resume)
    where = choose_device(device)
    world = World.join(where)
    tell = nothing if quiet or not world.first else say
    with ExitStack() as ending:
        ending.callback(world.leave)
        if world.first:
            ending.enter_context(claimed(folder))
        # Before pictures are cached, which may take long.
        content = load_content(chosen, None if vgg is None else Path(vgg))
        chosen = with_content(
            with_content_of(chosen, RunFolder(folder)) if resume else chosen, content
        )
        if chosen.data.rendered:
            tell(f"drawing {chosen.data.rendered_pictures} pictures, if no earlier run left them")
        pictures = Pictures.open([Path(d) for d in data], chosen)
        introduce(tell, pictures)
        if chosen.schedule.unit == "epochs":
            tell(f"an epoch is {chosen.schedule.epoch_in_words}")
        trainer = Trainer(
            chosen,
            pictures,
            folder,
            name=name,
            validation_files=_validation_files(val),
            device=where,
            init=_checkpoint(init),
            content=content,
            world=world,
        )
        for note in _restored(trainer, branch, resume=resume):
            tell(f"note: {note}")
        if resume and (known := resuming(where, chosen.run.deterministic)):
            tell(f"note: {known}")
        tell(str(trainer.arithmetic))
        with stop_request() as should_stop, progress_line(tell) as show:
            result = trainer.run(on_progress=show, should_stop=should_stop)
    if not result.finished:
        tell(f"stopped after step {result.steps}; continue with --resume")
        raise KeyboardInterrupt
    if world.first:
        psnr = "" if result.psnr is None else f", PSNR {result.psnr:.2f} dB"
        put(f"{result.checkpoint} ({result.steps} steps{psnr})")


def _check_places(folder: Path, data: tuple[str, ...], val: tuple[str, ...]) -> None:
    """Says what is wrong with folders before seconds go by."""
    from srtrt.train.layouts import check_folder

    if not data:
        raise UsageError("--data is missing: name the folder of HR images to train on.")
    require_folder_writable(folder, option="--out")
    for each in (*data, *val):
        check_folder(Path(each))


def _check_start(init: str | None, branch: str | None, *, resume: bool) -> None:
    """Refuses two starts at once."""
    other = "--init" if init is not None else "--resume" if resume else None
    if branch is not None and other is not None:
        raise UsageError(
            f"--branch and {other} both say where the run starts; give one of them. A branch that "
            "was begun is continued with --resume alone."
        )


def _restored(trainer: Trainer, branch: str | None, *, resume: bool) -> tuple[str, ...]:
    """Restores the state that a run goes on from; sentences on what was damaged."""
    if branch is not None:
        return trainer.branch(Path(branch))
    return trainer.resume() if resume else ()


def _check_files(config: str | None, init: str | None, vgg: str | None) -> None:
    """Likewise for files."""
    from srtrt.weights import PURPOSES, bundled_checkpoint

    if config is not None:
        require_file(config, option="--config", expected="settings as YAML")
    if vgg is not None:
        require_file(vgg, option="--vgg", expected="VGG19 weights")
    if init is not None and bundled_checkpoint(init) is None:
        expected = f"a .safetensors checkpoint, or one of {', '.join(PURPOSES)}"
        hint = did_you_mean(init, PURPOSES)
        require_file(init, option="--init", expected=expected, hint=hint)


def _settings(
    folder: Path,
    origin: Path,
    source: tuple[str | None, str | None],
    settings: tuple[str, ...],
    *,
    resume: bool,
) -> TrainConfig:
    """The settings of the run: when it is resumed or a branch, those of the run it goes on from.

    Args:
        folder: of the run.
        origin: of the run it goes on from; the same when it is resumed.
        source: the preset and the file that were asked for.
        settings: changes.
        resume: whether the run in the folder shall go on.
    """
    from srtrt.train import config as configs
    from srtrt.train.run_folder import CONFIG, RunFolder

    started = bool(RunFolder(folder).states())
    if started and not resume:
        raise UsageError(
            f"{folder} holds an earlier run; continue it with --resume or choose another --out."
        )
    going_on = bool(RunFolder(origin).states())
    if origin != folder and not going_on:
        raise UsageError(f"--branch {origin}: holds no saved state; expected the folder of a run.")
    preset, config = source
    if config is not None:
        chosen = configs.read_config(Path(config))
    elif preset is None and going_on:
        chosen = configs.read_config(origin / CONFIG)
    else:
        chosen = configs.preset(preset or "psnr")
    return chosen.with_settings(settings)


def _validation_files(folders: tuple[str, ...]) -> tuple[Path, ...]:
    from srtrt.train.layouts import find_pictures

    if not folders:
        return ()
    return find_pictures([Path(f) for f in folders], split="valid").files


def _checkpoint(init: str | None) -> Path | None:
    from srtrt.weights import bundled_checkpoint

    if init is None:
        return None
    return bundled_checkpoint(init) or Path(init)
