"""Reduced precisions, verified once on the machine that runs them.

What bf16, fp16, int8 and fp8 cost was measured where a model was made. Another processor, GPU or
engine may round, saturate or overflow elsewhere. So before a reduced precision is used, it enlarges
pictures whose originals are known, beside float32 on the CPU; the figures are kept for that model,
engine, version and device, and what misses its gate (:data:`srtrt.runtime.parity.GATES`) is not
used. Engines of TensorRT have a gate of their own, in :mod:`srtrt.runtime.engines.gate`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from srtrt import __version__
from srtrt.errors import (
    BackendError,
    DeviceLostError,
    DeviceMemoryError,
    OutputError,
    ParityError,
)
from srtrt.files import cache_folder, file_sha256
from srtrt.packages import installed
from srtrt.processor import this_processor
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.engines.gpu import gpu_facts
from srtrt.runtime.engines.stored import UnusableError, make_folder, read_record, write_record
from srtrt.runtime.lost_quality import measure_on_originals
from srtrt.runtime.models import Model
from srtrt.runtime.output_check import open_exact
from srtrt.runtime.parity import Parity, read_originals, shortfall
from srtrt.runtime.select import Choice
from srtrt.spec import Precision

FOLDER = "verified"
"""Kind of the cache folder (:func:`srtrt.files.cache_folder`) that the figures are kept in."""

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a reduced precision was measured to do on this machine."""

    parity: Parity
    """Against float32, and the PSNR lost against the originals."""
    against: str
    """What computed float32."""
    problem: str | None
    """How it misses its gate, as a sentence; None if it meets it."""
    note: str | None = None
    """What the user should know besides."""


def open_verified(
    open_in: Callable[[Precision], Backend], choice: Choice, tell: Tell | None = None
) -> tuple[Backend, Choice]:
    """Opens a backend in the chosen precision, if that holds on this machine.

    Args:
        open_in: opens the chosen backend in a precision.
        choice: what was chosen; its further precisions are taken in turn where one fails.
        tell: told a sentence before what takes a second or two.

    Returns:
        The backend, with a note for each precision that was not used, and the choice that was
        made in the end.

    Raises:
        ParityError: if an explicit precision misses its gate here, with the figures.
        BackendError: if it cannot be computed here at all.
        DeviceMemoryError: if memory ran out.
        DeviceLostError: if the GPU failed, after which no further precision is tried on it.
    """
    notes: list[str] = []
    for position, precision in enumerate((choice.precision, *choice.otherwise)):
        problem: str | None
        opened = open_in(precision)
        try:
            verdict = verify(opened, tell) if needs_verification(opened) else None
        except (DeviceMemoryError, DeviceLostError):
            with suppress(BackendError):  # a device that failed refuses
                opened.close()
            raise
        except BackendError as error:
            opened.close()
            problem = str(error)
            if not choice.otherwise[position:]:
                raise BackendError(f"{problem} {_advice(precision)}") from error
        else:
            problem = verdict.problem if verdict else None
            if verdict is not None and verdict.note:
                notes.append(verdict.note)
            if problem is None:
                opened.notes[:0] = notes
                return opened, replace(choice, precision=precision) if position else choice
            opened.close()
            if not choice.otherwise[position:]:
                raise ParityError(f"{problem} {_advice(precision)}")
        notes.append(f"Not used on this machine: {problem}")
        choice = replace(choice, why=f"{precision} fails on this machine")
    raise AssertionError("the last precision either opens or raises")


def _advice(precision: Precision) -> str:
    return f"Use --precision fp32 instead of {precision}, or another --backend."


def needs_verification(backend: Backend) -> bool:
    """Whether what it computes must be verified on this machine."""
    return backend.precision != "fp32" and not backend.gates_itself


def verify(backend: Backend, tell: Tell | None = None) -> Verdict:
    """Verifies an opened backend, or recalls the figures of the last time.

    Args:
        backend: in a reduced precision.
        tell: told a sentence before it is measured, which takes a second or two.

    Raises:
        BackendError: if the engine fails.
        MissingPackageError: if nothing is installed that computes float32 on the CPU.
    """
    subject = _subject(backend)
    place = _place(subject)
    found = _recall(place, subject) if place is not None else None
    note = None
    if found is None:
        if tell is not None:
            tell(f"verifying {backend.precision} on this machine (once)")
        found = _measure(backend)
        note = _keep(place, subject, *found)
    parity, against = found
    what = f"{backend.model.name} on {backend.description}"
    problem = shortfall(parity, backend.precision, what, against)
    return Verdict(parity=parity, against=against, problem=problem, note=note)


def _measure(backend: Backend) -> tuple[Parity, str]:
    model = backend.model
    with open_exact(model, backend.form) as exact:
        parity = measure_on_originals(exact, backend, read_originals())
        of_graph = model.graph_path is not None or model.loaded is not None
        return parity, f"its {'graph' if of_graph else 'checkpoint'} in fp32 on {exact.name}"


def _subject(backend: Backend) -> dict[str, Any]:
    """Everything that the figures depend on, as JSON values."""
    return {
        "model": _files(backend.model),
        "form": backend.form,
        "precision": backend.precision,
        "backend": backend.name,
        "options": repr(backend.options),
        "packages": {"srtrt": __version__, **_versions(backend)},
        "device": _device(backend.device),
        "originals": _originals(),
    }


def _files(model: Model) -> list[str]:
    """SHA-256 of all files of a model, or of the graph in memory."""
    if model.loaded is not None:
        return [hashlib.sha256(model.loaded.SerializeToString(deterministic=True)).hexdigest()]
    paths = [model.graph_path, model.checkpoint_path, *model.calibrated_paths.values()]
    return [file_sha256(path) for path in paths if path is not None]


def _versions(backend: Backend) -> dict[str, str]:
    return {name: found for name in backend.packages if (found := installed(name))}


def _device(device: str) -> dict[str, Any]:
    gpu = gpu_facts(device) if device.startswith("cuda") else None
    return {"device": device} | (asdict(gpu) if gpu else {"processor": this_processor().id})


@functools.cache
def _originals() -> str:
    digest = hashlib.sha256()
    for picture in read_originals():
        digest.update(picture.tobytes())
    return digest.hexdigest()


def _place(subject: Mapping[str, Any]) -> Path | None:
    """The file that keeps the figures; None if there is no folder for caches."""
    digest = hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()
    try:
        folder = cache_folder(FOLDER)
    except OutputError:
        return None
    return folder / f"{subject['backend']}-{subject['precision']}-{digest[:32]}.json"


def _recall(path: Path, subject: Mapping[str, Any]) -> tuple[Parity, str] | None:
    """The figures kept for exactly this; None where a file is missing, damaged or foreign."""
    try:
        record = read_record(path)
        if record.get("subject") != subject:
            return None
        return Parity.from_dict(record["parity"]), str(record["against"])
    except (UnusableError, ValueError, TypeError, LookupError):
        return None


def _keep(
    path: Path | None, subject: Mapping[str, Any], parity: Parity, against: str
) -> str | None:
    """Keeps the figures; a sentence if that cannot be done."""
    record = {"subject": subject, "against": against, "parity": parity.to_dict()}
    try:
        if path is None:
            path = cache_folder(FOLDER)  # raises again, with the reason
        make_folder(path.parent)
        write_record(path, record)
    except OutputError as error:
        precision = subject["precision"]
        return f"{precision} is verified each time, as the result cannot be kept: {error}"
    return None
