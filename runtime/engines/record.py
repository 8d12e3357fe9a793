"""Engines as files: the serialized engine, and a sidecar that says what it is."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from srtrt.errors import BackendError, ModelError
from srtrt.plain_data import DataError, shown
from srtrt.runtime.engines.identity import Scalar, parts_sha256
from srtrt.runtime.engines.key import EngineShape
from srtrt.runtime.engines.stored import UnusableError, read_own, read_record, write_record
from srtrt.runtime.engines.tried import Attempt, read_attempts, require_speed
from srtrt.spec import ModelSpec

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
"""How a sidecar writes when an engine was built, for :func:`time.strftime`."""

Figures = Mapping[str, Any]
"""Parity figures as JSON values: ``psnr_db``, ``max_abs``, ``equal``, ``pictures``."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """What a builder returns."""

    plan: bytes
    """The serialized engine."""
    spec: ModelSpec
    """Facts about the model in it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was built, as JSON values; ``shape`` is the shape it really takes."""


Verify = Callable[[BuiltEngine], Figures]
"""Runs an engine and returns its figures, or raises ParityError."""


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """The contents of a sidecar."""

    key: Mapping[str, Scalar]
    """Every part of the engine's key; see :class:`srtrt.runtime.engines.identity.EngineKey`."""
    key_sha256: str
    engine_sha256: str
    """Of the bytes of the engine."""
    engine_bytes: int
    spec: ModelSpec
    built: Mapping[str, Any]
    """How it was built; see :attr:`BuiltEngine.facts`."""
    parity: Figures | None
    """Agreement with PyTorch float32; None until it first runs on a GPU."""
    created: str
    """UTC, such as ``2026-11-23T19:25:00Z``."""
    srtrt: str
    """Version of srtrt that built it."""
    verified_on: Mapping[str, str] | None = None
    """GPU and driver on which the parity was measured."""
    frames_per_second: float | None = None
    """Measured there; None if it was not."""

    @property
    def attempts(self) -> Sequence[Attempt]:
        """What was tried until this engine was taken, itself included."""
        return read_attempts(self.built.get("attempts", []))

    @property
    def takes(self) -> EngineShape:
        """The sizes that the engine takes.

        Raises:
            UsageError: if the sidecar names none.
        """
        return EngineShape.parse(str(self.built.get("shape") or self.key.get("shape")))

    def write(self, path: Path) -> None:
        """Writes it as the sidecar of an engine.

        Raises:
            OutputError: if it cannot be written.
        """
        values = {f: getattr(self, f) for f in self.__dataclass_fields__}
        write_record(sidecar_path(path), {**values, "spec": asdict(self.spec)})

    @classmethod
    def read(cls, path: Path, *, trust: bool) -> EngineRecord:
        """Reads the sidecar of an engine.

        Args:
            path: of the engine.
            trust: read it whoever wrote it.

        Raises:
            UnusableError: if it is missing, damaged or not to be trusted.
        """
        values, source = read_record(sidecar_path(path), trust=trust), sidecar_path(path).name
        try:
            _require_fields(values)
            record = cls(**{**values, "spec": ModelSpec.from_values(values["spec"])})
        except (DataError, ModelError) as error:
            raise UnusableError(f"{source} is damaged: {str(error).rstrip('.')}") from error
        if parts_sha256(record.key) != record.key_sha256:
            raise UnusableError(f"{source} is damaged: its key does not match its checksum")
        return record


_KINDS: Mapping[str, tuple[type, ...]] = {
    "key": (dict,),
    "engine_bytes": (int,),
    "spec": (dict,),
    "built": (dict,),
    "parity": (dict, NoneType),
    "verified_on": (dict, NoneType),
    "frames_per_second": (int, float, NoneType),
}
"""What the fields of a sidecar are, where they are not text."""


def _require_fields(values: Mapping[str, Any]) -> None:
    """Refuses a sidecar with other fields, or fields of another kind.

    Raises:
        DataError: with the first that is wrong.
    """
    wanted = list(EngineRecord.__dataclass_fields__)
    for name in [*wanted, *values]:
        if (name in wanted) != (name in values):
            raise DataError(f"the field {shown(name)} is {'missing' if name in wanted else 'new'}")
        value = values[name]
        if not isinstance(value, _KINDS.get(name, (str,))) or isinstance(value, bool):
            raise DataError(f"{name} is {shown(value)}")
    for name in ("key", "verified_on"):
        for part, value in (values[name] or {}).items():
            if not isinstance(value, (str, int, NoneType)):
                raise DataError(f"{part} in {name} is {shown(value)}")
    for name, kind in (("level", int), ("shape", str)):
        if not isinstance(values["built"].get(name), (kind, NoneType)):
            raise DataError(f"{name} in built is {shown(values['built'][name])}")
    read_attempts(values["built"].get("attempts", []))
    require_speed(values["frames_per_second"])
    try:
        time.strptime(values["created"], TIME_FORMAT)
    except ValueError as error:
        raise DataError(f"created is {shown(values['created'])}") from error


@dataclass(frozen=True, kw_only=True)
class CachedEngine:
    """An engine that may be deserialized."""

    path: Path
    plan: bytes
    """Its bytes, with the checksum of its record."""
    record: EngineRecord
    note: str | None = None
    """Why it was built just now, in a sentence; None if it was there."""


@dataclass(frozen=True, kw_only=True)
class EngineEntry:
    """An engine as it lies in a folder, usable or not."""

    path: Path
    record: EngineRecord | None
    """None if its sidecar is missing or damaged."""
    problem: str | None
    """Why it cannot be used, None if it is intact."""


def read_engine(path: Path, *, trust_engine: bool = False) -> CachedEngine:
    """Reads an engine and its sidecar, and checks both before anything may run them.

    Args:
        path: the ``.engine`` file.
        trust_engine: read it even if another user may have written it.

    Raises:
        BackendError: if it is missing, damaged or not to be trusted.
    """
    try:
        return read_intact(path, trust_engine)
    except UnusableError as error:
        raise BackendError(
            f"{path}: cannot be used: {error}. Expected an engine and its sidecar written by "
            "srtrt for you; if you trust whoever made it, say so with trust_engine."
        ) from error


def sidecar_path(path: Path) -> Path:
    """The ``.engine.json`` beside an engine."""
    return path.with_name(f"{path.name}.json")


def read_intact(path: Path, trust: bool) -> CachedEngine:
    """An engine with its sidecar, checked.

    Raises:
        UnusableError: if either is missing, damaged or not to be trusted.
    """
    plan = read_own(path, trust=trust)
    record = EngineRecord.read(path, trust=trust)
    if hashlib.sha256(plan).hexdigest() != record.engine_sha256:
        raise UnusableError(
            f"{path.name} is damaged: its {len(plan)} bytes are not the {record.engine_bytes} "
            "its sidecar describes"
        )
    return CachedEngine(path=path, plan=plan, record=record)
