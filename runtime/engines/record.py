"""Engines as files: the serialized engine, and a sidecar that says what it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srtrt.errors import BackendError, ModelError
from srtrt.runtime.engines.identity import Scalar, parts_sha256
from srtrt.runtime.engines.key import EngineShape
from srtrt.runtime.engines.stored import UnusableError, read_own
from srtrt.spec import ModelSpec

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

    @property
    def takes(self) -> EngineShape:
        """The sizes that the engine takes.

        Raises:
            UsageError: if the sidecar names none.
        """
        return EngineShape.parse(str(self.built.get("shape") or self.key.get("shape")))

    def to_json(self) -> str:
        """The record for people and programs."""
        values = {f: getattr(self, f) for f in self.__dataclass_fields__}
        values["spec"] = asdict(self.spec)
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: bytes, source: str) -> EngineRecord:
        """Reads what :meth:`to_json` wrote.

        Raises:
            UnusableError: if it is damaged.
        """
        try:
            values = json.loads(text)
            values["spec"] = ModelSpec.from_json(json.dumps(values["spec"]), source=source)
            record = cls(**values)
            if parts_sha256(record.key) != record.key_sha256:
                raise ValueError("its key does not match its checksum")
        except (ValueError, KeyError, TypeError, RecursionError, ModelError) as error:
            raise UnusableError(f"{source} is damaged") from error
        return record


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


def read_record(path: Path, trust: bool) -> EngineRecord:
    """The sidecar of an engine.

    Raises:
        UnusableError: if it is missing, damaged or not to be trusted.
    """
    sidecar = sidecar_path(path)
    return EngineRecord.from_json(read_own(sidecar, trust=trust), sidecar.name)


def read_intact(path: Path, trust: bool) -> CachedEngine:
    """An engine with its sidecar, checked.

    Raises:
        UnusableError: if either is missing, damaged or not to be trusted.
    """
    plan = read_own(path, trust=trust)
    record = read_record(path, trust)
    if hashlib.sha256(plan).hexdigest() != record.engine_sha256:
        raise UnusableError(
            f"{path.name} is damaged: its {len(plan)} bytes are not the {record.engine_bytes} "
            "its sidecar describes"
        )
    return CachedEngine(path=path, plan=plan, record=record)
