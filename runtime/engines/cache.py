"""Where engines are kept, each with a sidecar that says what it is.

An engine is ``<stem>.engine`` and ``<stem>.engine.json`` with its key, its model, its parity
figures and the SHA-256 of its bytes. ``<stem>.lock`` keeps two processes from building it at once.
Any engine that suits is used, however it was built; see
:meth:`srtrt.runtime.engines.identity.EngineKey.suits`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from srtrt import __version__
from srtrt.errors import InputError, ParityError, UsageError, system_reason
from srtrt.files import cache_folder, stale_parts
from srtrt.locks import locked
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.identity import BUILD_PARTS, EngineKey, differences
from srtrt.runtime.engines.record import (
    TIME_FORMAT,
    BuiltEngine,
    CachedEngine,
    EngineEntry,
    EngineRecord,
    Verify,
    read_intact,
    sidecar_path,
)
from srtrt.runtime.engines.stored import UnusableError, discard, make_folder, write_own

SUFFIX = ".engine"
TIMING_SUFFIX = ".timing"
RUNTIME_SUFFIX = ".runtime"
TUNE_SUFFIX = ".tune.json"

Note = Callable[[str], None]


class EngineCache:
    """A folder of engines that several processes may use at once.

    Args:
        folder: by default ``engines`` in the user's cache folder, see
            :func:`srtrt.files.cache_folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder("engines")

    def path(self, key: EngineKey) -> Path:
        """Where the engine of a key would be built."""
        return self.folder / f"{key.stem}{SUFFIX}"

    def timing_cache_path(self, flavour: str, flavour_version: str, gpu: GpuFacts | None) -> Path:
        """The file of kernel timings, shared by all builds for one GPU and version."""
        name = gpu.name if gpu else "any"
        safe = "".join(c if c.isalnum() else "_" for c in name)
        return self.folder / f"{flavour}-{flavour_version}-{safe}{TIMING_SUFFIX}"

    def runtime_cache_path(self, engine: Path, gpu: GpuFacts) -> Path:
        """The file of kernels that TensorRT-RTX compiled for an engine on a GPU."""
        facts = hashlib.sha256(json.dumps(asdict(gpu), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{engine.stem}-{facts[:8]}{RUNTIME_SUFFIX}"

    def find(self, key: EngineKey, *, trust_engine: bool = False) -> CachedEngine | None:
        """The best engine that suits a key, if one is there, intact and to be trusted."""
        try:
            return self._usable(key, trust_engine)
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
        stem = key.stem
        if because is None:
            with suppress(UnusableError):
                found = self._usable(key, trust_engine)
                stem = found.path.stem
                if verify is None or self._is_verified(found.record, key):
                    return self._told(found, key, tell)
        make_folder(self.folder)

        def waiting() -> None:
            tell(f"Another process is building {stem}; waiting for it.")

        with locked(self.folder / f"{stem}.lock", on_wait=waiting):
            try:
                if because is not None:
                    raise UnusableError(because)
                found = self._verified(self._usable(key, trust_engine), key, verify)
            except UnusableError as reason:
                return self._build(key, build, verify, self._why(key, str(reason)), tell)
            return self._told(found, key, tell)

    def entries(self, *, trust_engine: bool = False) -> list[EngineEntry]:
        """All engines of the folder, by name; each is read and checked."""
        found = []
        for path in self._files(f"*{SUFFIX}"):
            record, problem = None, None
            try:
                record = EngineRecord.read(path, trust=trust_engine)
                read_intact(path, trust_engine)
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
                *self._files(f"{stem}-*{RUNTIME_SUFFIX}"),
                *self._files(f"{stem}-*{RUNTIME_SUFFIX}.lock"),
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
        for lock in self._files("*.lock"):
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

    def _files(self, pattern: str) -> list[Path]:
        """The files of the folder whose names fit, sorted; none where there is no folder.

        Raises:
            InputError: if it cannot be read.
        """
        try:
            names = os.listdir(self.folder)  # noqa: PTH208 - iterdir is lazy before Python 3.13
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.folder}: cannot be read ({system_reason(error)}); expected a folder of "
                "engines."
            ) from error
        return [self.folder / name for name in sorted(fnmatch.filter(names, pattern))]

    def _usable(self, key: EngineKey, trust: bool) -> CachedEngine:
        """The best intact engine that suits: made for the size, at the highest level, the newest.

        Raises:
            UnusableError: if there is none, with what is wrong with the one that should be it.
        """
        problems = []
        for path in self._suitable(key, trust):
            try:
                return read_intact(path, trust)
            except UnusableError as error:
                problems.append(str(error))
        if not problems:
            found = read_intact(self.path(key), trust)
            changed = differences(found.record.key, key.parts())
            problems.append("; ".join(changed) or "its key is another")
        raise UnusableError(problems[0])

    def _suitable(self, key: EngineKey, trust: bool) -> list[Path]:
        """Engines whose sidecars say that they suit, the best first."""
        found = []
        for path, record in self._records(trust):
            with suppress(UsageError):
                takes = record.takes
                if key.suits(record.key, takes):
                    level = int(record.built.get("level") or 0)
                    rank = (takes.covers(key.shape), takes == key.shape, level, record.created)
                    found.append((rank, path))
        return [path for _, path in sorted(found, reverse=True)]

    def _records(self, trust: bool) -> Iterator[tuple[Path, EngineRecord]]:
        """Every engine with a sidecar that can be read."""
        for path in self._files(f"*{SUFFIX}"):
            with suppress(UnusableError):
                yield path, EngineRecord.read(path, trust=trust)

    def _told(self, found: CachedEngine, key: EngineKey, tell: Note) -> CachedEngine:
        """The engine; says which, if it is not the one that would be built."""
        if found.path != self.path(key):
            parts = found.record.key
            how = [f"{name.removesuffix('_bytes')} {parts.get(name)}" for name in BUILD_PARTS
                   if parts.get(name) is not None]  # fmt: skip
            tell(f"Using {found.path.name}: it takes {found.record.takes}, {', '.join(how)}.")
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
            created=time.strftime(TIME_FORMAT, time.gmtime()),
            srtrt=__version__,
            verified_on=_place(key) if verify else None,
        )
        path = self.path(key)
        for each in (path, sidecar_path(path)):
            stale_parts(each, remove=True)
        # A crash between the two leaves a checksum that does not fit, so the engine is rebuilt.
        write_own(path, built.plan)
        record.write(path)
        return CachedEngine(path=path, plan=built.plan, record=record, note=note)

    def _is_verified(self, record: EngineRecord, key: EngineKey) -> bool:
        """Whether it was compared with PyTorch on this GPU with this driver."""
        return record.parity is not None and record.verified_on == _place(key)

    def _verified(self, found: CachedEngine, key: EngineKey, verify: Verify | None) -> CachedEngine:
        """The engine with parity figures of this machine; one that fails is removed.

        Raises:
            ParityError: if it fails and never passed anywhere.
            UnusableError: if it passed elsewhere: it is worth building here.
        """
        if verify is None or self._is_verified(found.record, key):
            return found
        try:
            built = BuiltEngine(plan=found.plan, spec=found.record.spec, facts=found.record.built)
            parity = dict(verify(built))
        except ParityError as error:
            discard(sidecar_path(found.path))
            discard(found.path)
            if found.record.parity is None:
                raise
            raise UnusableError(f"it passed elsewhere and fails here ({error})") from error
        record = replace(found.record, parity=parity, verified_on=_place(key))
        record.write(found.path)
        return replace(found, record=record)

    def _why(self, key: EngineKey, reason: str) -> str:
        """One sentence on why a build is needed."""
        path = self.path(key)
        if path.exists():
            return f"Rebuilding {path.name}: {reason}."
        if not reason.startswith(path.name):  # of another engine, that would have served
            return f"Building {path.name}: {reason}."
        nearest = self._nearest(key)
        if nearest is None:
            return f"Building {path.name}: there is none yet."
        changed = "; ".join(differences(nearest.key, key.parts()))
        return f"Building {path.name}: compared with the engine of {nearest.created}, {changed}."

    def _nearest(self, key: EngineKey) -> EngineRecord | None:
        """The most similar engine of the same model, form, precision and kind."""
        parts, found = key.parts(), []
        for _, record in self._records(trust=False):
            same = ("model", "form", "precision", "flavour")
            if all(record.key.get(name) == parts[name] for name in same):
                found.append((-len(differences(record.key, parts)), record.created, record))
        return max(found, key=lambda each: each[:2])[2] if found else None


def _place(key: EngineKey) -> dict[str, str] | None:
    """The GPU and driver on which an engine is verified."""
    here = key.here
    if here is None:
        return None
    return {"gpu": here.name, "driver": here.driver, "driver_cuda": here.driver_cuda}
