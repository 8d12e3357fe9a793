"""The table of the original report, from finished training runs."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srtrt.errors import InputError, MissingPackageError
from srtrt.plain_data import DataError, read_json
from srtrt.reading import read_plain, require_folder
from srtrt.train.report_figures import METHODS, REPORTED

_MAX_BYTES = 1 << 30
_NEAR = 0.5
"""A validation this many epochs away from the one asked for still answers for it."""


@dataclass(frozen=True)
class RunRow:
    """One validated epoch of one run."""

    method: str
    data: str
    epoch: float
    psnr_db: float


def read_run(folder: Path, epochs: Sequence[float] = ()) -> list[RunRow]:
    """The validated epochs of a run.

    Args:
        folder: holds ``config.yaml``, ``manifest.json`` and ``log.jsonl`` as training writes them.
        epochs: the epochs wanted; the last validated one if empty.

    Raises:
        InputError: if the folder is no training run, or was not validated at an epoch.
        MissingPackageError: if PyYAML is not installed.
    """
    require_folder(folder, "the folder of a training run")
    method, data = _method(folder / "config.yaml"), _dataset(folder / "manifest.json")
    validated = _validated(folder / "log.jsonl")
    wanted = epochs or (max(epoch for epoch, _ in validated),)
    rows = []
    for target in wanted:
        epoch, psnr = min(validated, key=lambda point: abs(point[0] - target))
        if abs(epoch - target) > _NEAR:
            raise InputError(
                f"{folder}: was not validated at epoch {target:g}; the nearest is {epoch:g}, "
                f"of {len(validated)} validations up to epoch {max(e for e, _ in validated):g}."
            )
        rows.append(RunRow(method, data, epoch, psnr))
    return rows


def runs_report(folders: Sequence[Path], epochs: Sequence[float] = ()) -> dict[str, Any]:
    """The rows of several runs beside the report's own figures, as a result file has them.

    Raises:
        InputError, MissingPackageError: see :func:`read_run`.
    """
    rows = [row for folder in folders for row in read_run(folder, epochs)]
    reported = [
        asdict(RunRow(method, data, epoch, psnr))
        for epoch, methods in REPORTED.items()
        for method, figures in methods.items()
        for data, psnr in figures.items()
    ]
    return {"benchmark": "runs", "rows": [asdict(row) for row in rows], "reported": reported}


def _text(path: Path) -> str:
    expected = "it there, as a training run holds config.yaml, manifest.json and log.jsonl"
    try:
        return read_plain(path, expected, most=_MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error


def _method(path: Path) -> str:
    try:
        yaml_data: Any = importlib.import_module("srtrt.train.yaml_data")
    except ModuleNotFoundError as error:
        raise MissingPackageError("PyYAML", "train", "the table of training runs") from error
    try:
        config = yaml_data.read_yaml(_text(path))
    except DataError as error:
        raise InputError(f"{path}: not readable YAML: {error}.") from error
    generator = config.get("generator") if isinstance(config, dict) else None
    upsampler = generator.get("upsampler") if isinstance(generator, dict) else None
    if upsampler not in METHODS:
        raise InputError(
            f"{path}: generator.upsampler is {upsampler!r}; expected {', '.join(METHODS)}."
        )
    return METHODS[upsampler]


def _dataset(path: Path) -> str:
    try:
        manifest = read_json(_text(path))
    except DataError as error:
        raise InputError(f"{path}: not readable JSON: {error}.") from error
    name = manifest.get("dataset") if isinstance(manifest, dict) else None
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: 'dataset' is {name!r}; expected the name of the training data.")
    return name


def _validated(path: Path) -> list[tuple[float, float]]:
    """Epoch and PSNR in dB of every validation, in the order of the log.

    A run that was stopped may leave half a last line, and repeats some steps after it goes on:
    the half line is left out, and of the repeated steps the later counts.
    """
    lines = _text(path).split("\n")
    points: dict[int, tuple[float, float]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = read_json(line)
        except DataError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: not readable JSON: {error}.") from error
        if not isinstance(entry, dict):
            raise InputError(f"{path}, line {number}: expected a JSON object, such as {{}}.")
        if "psnr" in entry:
            step, epoch, psnr = (_number(entry, k, path, number) for k in ("step", "epoch", "psnr"))
            points[int(step)] = (epoch, psnr)
    if not points:
        raise InputError(f"{path}: holds no validation; expected lines with 'epoch' and 'psnr'.")
    return list(points.values())


def _number(entry: dict[str, Any], key: str, path: Path, number: int) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{path}, line {number}: {key!r} is {value!r}; expected a number.")
    return float(value)
