"""Where engines are kept, each with a sidecar that says what it is.

An engine is ``<stem>.engine`` and ``<stem>.engine.json`` with its key, its model, its parity
figures and the SHA-256 of its bytes. ``<stem>.lock`` keeps two processes from building it at once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from srtrt import __version__
from srtrt.errors import BackendError, ModelError, ParityError
from srtrt.files import cache_folder, stale_parts
from srtrt.locks import locked
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.key import EngineKey, Scalar, differences, parts_sha256
from srtrt.runtime.engines.stored import (
    UnusableError,
    discard,
    make_folder,
    read_own,
    write_own,
)
from srtrt.spec import ModelSpec

SUFFIX = ".engine"
TIMING_SUFFIX = ".timing"
RUNTIME_SUFFIX = ".runtime"
TUNE_SUFFIX = ".tune.json"

Note = Callable[[str], None]
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
    """Every part of the engine's key."""
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
        return _read(path, trust_engine)
    except UnusableError as error:
        raise BackendError(
            f"{path}: cannot be used: {error}. Expected an engine and its sidecar written by "
            "srtrt for you; if you trust whoever made it, say so with trust_engine."
        ) from error


def sidecar_path(path: Path) -> Path:
    """The ``.engine.json`` beside an engine."""
    return path.with_name(f"{path.name}.json")


class EngineCache:
    """A folder of engines that several processes may use at once.

    Args:
        folder: by default ``engines`` in the user's cache folder, see
            :func:`srtrt.files.cache_folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder("engines")

    def path(self, key: EngineKey) -> Path:
        """Where the engine of a key lies or would lie."""
        return self.folder / f"{key.stem}{SUFFIX}"

    def timing_cache_path(self, flavour: str, flavour_version: str, gpu: GpuFacts | None) -> Path:
        """The file of kernel timings, shared by all builds for one GPU and version."""
        name = gpu.name if gpu else "any"
        safe = "".join(c if c.isalnum() else "_" for c in name)
        return self.folder / f"{flavour}-{flavour_version}-{safe}{TIMING_SUFFIX}"

    def runtime_cache_path(self, key: EngineKey, gpu: GpuFacts) -> Path:
        """The file of kernels that TensorRT-RTX compiled for an engine on a GPU."""
        facts = hashlib.sha256(json.dumps(asdict(gpu), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key.stem}-{facts[:8]}{RUNTIME_SUFFIX}"

    def find(self, key: EngineKey, *, trust_engine: bool = False) -> CachedEngine | None:
        """The engine of a key if it is there, intact and to be trusted."""
        try:
            return self._intact(key, trust_engine)
        except UnusableError:
            return None

    def get_or_build(
        self,
        key: EngineKey,
        build: Callable[[], BuiltEngine],
        verify: Verify | None = None,
        *,
        trust_engine: bool = False,
        because: str | None = None,
        on_note: Note | None = None,
    ) -> CachedEngine:
        """The engine of a key, built and verified first if there is none that can be used.

        Of several processes that need it, one builds and the others wait for it. Cut short, a
        build leaves what was there before.

        Args:
            key: what is needed.
            build: makes it.
            verify: judges it. None where the engine cannot run: it is kept without figures, and
                judged by the first call that can.
            trust_engine: use an engine that another user may have written.
            because: builds it anew even if it is intact, for this reason (a clause).
            on_note: is told in a sentence what is done and why.

        Raises:
            ParityError: if ``verify`` refuses the engine; it is not kept.
            OutputError: if the folder cannot be written.
            SrtrtError: whatever ``build`` raises.
        """
        tell = on_note or (lambda _: None)
        if because is None:
            with suppress(UnusableError):
                found = self._intact(key, trust_engine)
                if found.record.parity is not None or verify is None:
                    return found
        make_folder(self.folder)

        def waiting() -> None:
            tell(f"Another process is building {key.stem}; waiting for it.")

        with locked(self.folder / f"{key.stem}.lock", on_wait=waiting):
            try:
                if because is not None:
                    raise UnusableError(because)
                found = self._intact(key, trust_engine)
            except UnusableError as reason:
                return self._build(key, build, verify, self._why(key, str(reason)), tell)
            return self._verified(found, verify)

    def entries(self, *, trust_engine: bool = False) -> list[EngineEntry]:
        """All engines of the folder, by name; each is read and checked."""
        found = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            record, problem = None, None
            try:
                record = _read_record(path, trust_engine)
                _read(path, trust_engine)
            except UnusableError as error:
                problem = str(error)
            found.append(EngineEntry(path=path, record=record, problem=problem))
        return found

    def remove(self, path: Path) -> bool:
        """Removes an engine with all that belongs to it; False if it is in use or cannot be."""
        stem = path.name.removesuffix(SUFFIX)
        lock = self.folder / f"{stem}.lock"
        with locked(lock, wait=False) as free:
            if not free:
                return False
            others = [
                *self.folder.glob(f"{stem}-*{RUNTIME_SUFFIX}"),
                *self.folder.glob(f"{stem}-*{RUNTIME_SUFFIX}.lock"),
            ]
            choice = self.folder / f"{stem}{TUNE_SUFFIX}"
            gone = [discard(each) for each in (sidecar_path(path), path, choice, *others)]
            discard(lock)
        return all(gone)

    def leftovers(self, *, remove: bool = False) -> list[Path]:
        """Files of killed builds: unfinished ones, and sidecars and locks without an engine.

        What belongs to a build that is going on is left out.

        Args:
            remove: also removes them.
        """
        found = stale_parts(self.folder, remove=remove)
        for lock in sorted(self.folder.glob("*.lock")):
            stem = lock.with_suffix("")
            with locked(lock, wait=False) as free:
                if not free:
                    continue
                shared = stem.suffix in (TIMING_SUFFIX, RUNTIME_SUFFIX)
                path = stem if shared else stem.with_name(f"{stem.name}{SUFFIX}")
                if path.exists():
                    continue
                files = [each for each in (sidecar_path(path), lock) if each.exists()]
                found += [each for each in files if not remove or discard(each)]
        return found

    def _intact(self, key: EngineKey, trust: bool) -> CachedEngine:
        found = _read(self.path(key), trust)
        if found.record.key_sha256 != key.sha256:
            changed = differences(found.record.key, key.parts())
            raise UnusableError("; ".join(changed) or "its key is another")
        return found

    def _build(
        self,
        key: EngineKey,
        build: Callable[[], BuiltEngine],
        verify: Verify | None,
        note: str,
        tell: Note,
    ) -> CachedEngine:
        tell(note)
        built = build()
        record = EngineRecord(
            key=key.parts(),
            key_sha256=key.sha256,
            engine_sha256=hashlib.sha256(built.plan).hexdigest(),
            engine_bytes=len(built.plan),
            spec=built.spec,
            built=dict(built.facts),
            parity=dict(verify(built)) if verify else None,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            srtrt=__version__,
        )
        path = self.path(key)
        for each in (path, sidecar_path(path)):
            stale_parts(each, remove=True)
        # A crash between the two leaves a checksum that does not fit, so the engine is rebuilt.
        write_own(path, built.plan)
        write_own(sidecar_path(path), record.to_json().encode())
        return CachedEngine(path=path, plan=built.plan, record=record, note=note)

    def _verified(self, found: CachedEngine, verify: Verify | None) -> CachedEngine:
        """The engine with parity figures; one that fails is removed."""
        if found.record.parity is not None or verify is None:
            return found
        try:
            built = BuiltEngine(plan=found.plan, spec=found.record.spec, facts=found.record.built)
            record = replace(found.record, parity=dict(verify(built)))
        except ParityError:
            discard(sidecar_path(found.path))
            discard(found.path)
            raise
        write_own(sidecar_path(found.path), record.to_json().encode())
        return replace(found, record=record)

    def _why(self, key: EngineKey, reason: str) -> str:
        """One sentence on why a build is needed."""
        path = self.path(key)
        if path.exists():
            return f"Rebuilding {path.name}: {reason}."
        nearest = self._nearest(key)
        if nearest is None:
            return f"Building {path.name}: there is none yet."
        changed = "; ".join(differences(nearest.key, key.parts()))
        return f"Building {path.name}: compared with the engine of {nearest.created}, {changed}."

    def _nearest(self, key: EngineKey) -> EngineRecord | None:
        """The most similar engine of the same model, form, precision and kind."""
        parts, found = key.parts(), []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(UnusableError):
                record = _read_record(path, trust=False)
                same = ("model", "form", "precision", "flavour")
                if all(record.key.get(name) == parts[name] for name in same):
                    found.append((-len(differences(record.key, parts)), record.created, record))
        return max(found, key=lambda each: each[:2])[2] if found else None


def _read_record(path: Path, trust: bool) -> EngineRecord:
    sidecar = sidecar_path(path)
    return EngineRecord.from_json(read_own(sidecar, trust=trust), sidecar.name)


def _read(path: Path, trust: bool) -> CachedEngine:
    plan = read_own(path, trust=trust)
    record = _read_record(path, trust)
    if hashlib.sha256(plan).hexdigest() != record.engine_sha256:
        raise UnusableError(
            f"{path.name} is damaged: its {len(plan)} bytes are not the {record.engine_bytes} "
            "its sidecar describes"
        )
    return CachedEngine(path=path, plan=plan, record=record)
