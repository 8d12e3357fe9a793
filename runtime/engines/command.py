"""The ``srtrt engines`` commands: what is in the engine cache, and what may go."""

from __future__ import annotations

import time
from calendar import timegm
from collections.abc import Sequence
from pathlib import Path

import click

from srtrt.errors import InputError, SrtrtError
from srtrt.runtime.command_options import Whole
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.flavour import flavour_of
from srtrt.runtime.engines.gpu import GpuFacts, all_gpus
from srtrt.runtime.engines.identity import (
    BUILD_PARTS,
    FORMAT,
    RECIPE_PARTS,
    differences,
    environment_parts,
    place_problem,
)
from srtrt.runtime.engines.record import TIME_FORMAT, EngineEntry, EngineRecord
from srtrt.terminal import put, put_table

_DAY_SECONDS = 86400

_folder = click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    metavar="DIR",
    help="Folder of the engines; by default the user's engine cache.",
)


@click.group()
def engines() -> None:
    """Look at the engine cache, clear it, and say why an engine is not used."""


@engines.command("list")
@_folder
def list_(folder: Path | None) -> None:
    """List the engines with their size, parity, speed and state."""
    cache, gpus = EngineCache(folder), all_gpus()
    found = cache.entries()
    if not found:
        put(f"{cache.folder}: no engines.")
        return
    put_table(
        ("engine", "size", "parity", "speed", "built", "state"), [_row(e, gpus) for e in found]
    )


def _row(entry: EngineEntry, gpus: Sequence[GpuFacts]) -> list[str]:
    record = entry.record
    return [
        entry.path.stem,
        f"{entry.path.stat().st_size / 1e6:.1f} MB",
        _parity(record) if record else "",
        _speed(record) if record else "",
        record.created[:10] if record else "",
        unusable_because(entry, gpus) or f"usable{_where(entry, gpus)}",
    ]


@engines.command()
@click.argument("engine")
@_folder
def explain(engine: str, folder: Path | None) -> None:
    """Print all that is known of ENGINE (a name or the start of one) and whether it is usable."""
    entry = _find(EngineCache(folder), engine)
    put(str(entry.path))
    gpus = all_gpus()
    reason = unusable_because(entry, gpus)
    usable = f"Usable{_where(entry, gpus) or ' on this machine'}."
    put(f"Not usable here: {reason}." if reason else usable)
    record = entry.record
    if record is None:
        return
    put(f"Parity with PyTorch float32: {_parity(record)}.")
    if record.verified_on is not None:
        put(f"Measured on: {', '.join(f'{k} {v}' for k, v in record.verified_on.items())}.")
    if record.frames_per_second is not None:
        put(f"Speed with the usual frames in flight: {_speed(record)}.")
    if len(record.attempts) > 1:
        put("Tried until it was taken:")
        for attempt in record.attempts:
            put(f"  {attempt}")
    key = record.key
    asked = {name: key[name] for name in BUILD_PARTS if name in key}
    recipe = {name: key[name] for name in RECIPE_PARTS if name in key}
    must_match = {k: v for k, v in key.items() if k not in asked and k not in recipe}
    for title, values in (
        ("Must match to be used", must_match),
        ("How it was built: asked for", asked),
        ("How it was built: done", {k: v for k, v in record.built.items() if k != "attempts"}),
        ("What the graph was made from", recipe),
    ):
        put(f"{title}:")
        for name, value in values.items():
            put(f"  {name}: {'-' if value is None else value}")
    put(f"Engine: {record.engine_bytes} bytes, SHA-256 {record.engine_sha256}")


@engines.command()
@click.option("--all", "everything", is_flag=True, help="Remove usable engines, too.")
@click.option(
    "--older-than", type=Whole(0), default=None, metavar="DAYS",
    help="Also remove usable engines that were built longer ago.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@_folder
def prune(everything: bool, older_than: int | None, dry_run: bool, folder: Path | None) -> None:
    """Remove engines that this machine cannot use, and what killed builds left behind."""
    cache, gpus, freed = EngineCache(folder), all_gpus(), 0
    verb = "would remove" if dry_run else "removed"
    for entry in cache.entries():
        reason = unusable_because(entry, gpus) or _old(entry.record, older_than)
        if everything:
            reason = reason or "everything was asked to go"
        if reason is None:
            continue
        size = entry.path.stat().st_size
        if dry_run or cache.remove(entry.path):
            freed += size
            put(f"{verb} {entry.path.name}: {reason}")
        else:
            put(f"kept {entry.path.name}: it is in use or cannot be removed")
    for path in cache.forget(remove=not dry_run) if everything else ():
        put(f"{verb} {path.name}: it says what was tried")
    for path in cache.leftovers(remove=not dry_run):
        put(f"{verb} {path.name}: left by a build that was stopped")
    put(f"{verb} {freed / 1e6:.1f} MB of engines from {cache.folder}")


def unusable_because(entry: EngineEntry, gpus: Sequence[GpuFacts]) -> str | None:
    """Why an engine can be used on none of the GPUs of this machine, as a clause; None if it can.

    Args:
        entry: the engine.
        gpus: in CUDA's order; GPUs of one machine may differ.
    """
    reasons = [_unusable_on(entry, gpu) for gpu in gpus or (None,)]
    found = [reason for reason in reasons if reason is not None]
    return "; ".join(dict.fromkeys(found)) if len(found) == len(reasons) else None


def _where(entry: EngineEntry, gpus: Sequence[GpuFacts]) -> str:
    """On which GPUs an engine can be used, such as `` on cuda:1``; empty for all of them."""
    usable = [f"cuda:{i}" for i, gpu in enumerate(gpus) if _unusable_on(entry, gpu) is None]
    return "" if len(usable) == len(gpus) else f" on {' and '.join(usable)}"


def _unusable_on(entry: EngineEntry, gpu: GpuFacts | None) -> str | None:
    """Why an engine cannot be used on a GPU, or without one, as a clause; None if it can."""
    if entry.problem is not None or entry.record is None:
        return entry.problem or "its sidecar is missing"
    key = entry.record.key
    if key.get("format") != FORMAT:
        return f"its key has format {key.get('format')} and not {FORMAT}"
    try:
        flavour = flavour_of(str(key.get("flavour")))
        portable = key.get("gpu") is None
        now = environment_parts(
            flavour.name, flavour.version(), flavour.cuda(), None if portable else gpu
        )
    except SrtrtError as error:
        return str(error).rstrip(".")
    if gpu is None and not portable:
        return f"it is for {key.get('gpu')}, and this machine has no GPU"
    problem = "; ".join(differences({name: key.get(name) for name in now}, now))
    return problem or (place_problem(key, gpu) if gpu else None)


def _parity(record: EngineRecord) -> str:
    figures = record.parity
    if figures is None:
        return "not measured yet"
    psnr = figures.get("psnr_db")
    return "identical" if psnr is None else f"{psnr} dB, max {figures.get('max_abs')}"


def _speed(record: EngineRecord) -> str:
    speed = record.frames_per_second
    return "" if speed is None else f"{speed:.1f} frames/s"


def _old(record: EngineRecord | None, days: int | None) -> str | None:
    if record is None or days is None:
        return None
    age = time.time() - timegm(time.strptime(record.created, TIME_FORMAT))
    return f"it is {age / _DAY_SECONDS:.0f} days old" if age > days * _DAY_SECONDS else None


def _find(cache: EngineCache, name: str) -> EngineEntry:
    wanted = Path(name).name.removesuffix(".json").removesuffix(".engine")
    found = [entry for entry in cache.entries() if entry.path.stem.startswith(wanted)]
    exact = [entry for entry in found if entry.path.stem == wanted]
    if len(exact or found) != 1:
        several = f"fits {len(found)} engines" if found else "fits no engine"
        raise InputError(f"{name}: {several} in {cache.folder}; `srtrt engines list` names them.")
    return (exact or found)[0]
