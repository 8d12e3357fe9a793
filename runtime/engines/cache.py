"""Where engines are kept, each with a sidecar that says what it is.

An engine is ``<stem>.engine`` and ``<stem>.engine.json`` with its key, its model, its parity
figures and the SHA-256 of its bytes. ``<stem>.lock`` keeps two processes from building it at once.
Any engine that suits is used, however it was built; see
:meth:`srtrt.runtime.engines.identity.EngineKey.suits`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srtrt import __version__
from srtrt.errors import (
    BackendError,
    DeviceMemoryError,
    EngineLoadError,
    ParityError,
    UsageError,
)
from srtrt.files import stale_parts
from srtrt.locks import locked
from srtrt.runtime.engines.folder import TRIED_SUFFIX, EngineFolder
from srtrt.runtime.engines.identity import BUILD_PARTS, RECIPE_PARTS, EngineKey, differences
from srtrt.runtime.engines.key import EngineOptions
from srtrt.runtime.engines.ladder import SLOWER, Build, Candidate, Climb, Ladder, Last
from srtrt.runtime.engines.record import (
    TIME_FORMAT,
    BuiltEngine,
    CachedEngine,
    EngineRecord,
    Verify,
    read_intact,
    sidecar_path,
)
from srtrt.runtime.engines.stored import UnusableError, make_folder, write_own
from srtrt.runtime.engines.tried import Attempt, Tried, way

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What is to be made."""

    key: EngineKey
    build: Build
    verify: Verify | None
    ladder: Ladder
    tell: Note


class EngineCache(EngineFolder):
    """A folder of engines that several processes may use at once."""

    def find(self, key: EngineKey, *, trust_engine: bool = False) -> CachedEngine | None:
        """The best engine that suits a key, if one is there, intact and to be trusted."""
        try:
            return self._usable(key, trust_engine)
        except UnusableError:
            return None

    def get_or_build(
        self,
        key: EngineKey,
        build: Build,
        verify: Verify | None = None,
        *,
        ladder: Ladder | None = None,
        trust_engine: bool = False,
        because: str | None = None,
        instead_of: CachedEngine | None = None,
        on_note: Note | None = None,
    ) -> CachedEngine:
        """The engine of a key, built and verified first if there is none that can be used.

        Of several processes that need it, one builds and the others wait for it. Cut short, a
        build leaves what was there before.

        Args:
            key: what is needed.
            build: makes it, in the way it is told.
            verify: judges it. None where the engine cannot run: it is kept without figures, and
                judged by the first call that can.
            ladder: the ways to build it; by default that of the key, alone.
            trust_engine: use an engine that another user may have written.
            because: builds it anew even if it is intact, for this reason (a clause).
            instead_of: the engine that the reason is about, which is removed; None builds anew
                whatever is there.
            on_note: is told in a sentence what is done and why.

        Raises:
            ParityError: if ``verify`` refuses what every way gives; nothing of it is kept.
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

        ladder = ladder or Ladder()
        ladder = ladder if ladder.rungs else replace(ladder, rungs=(key.options,))
        order = _Order(key=key, build=build, verify=verify, ladder=ladder, tell=tell)
        with locked(self.folder / f"{stem}.lock", on_wait=waiting):
            try:
                if because is not None and self._removed(instead_of):
                    raise UnusableError(because)
                found = self._usable(key, trust_engine)
            except UnusableError as reason:
                return self._build(order, str(reason))
            return self._told(self._judged(found, order), key, tell)

    def _removed(self, engine: CachedEngine | None) -> bool:
        """Removes an engine; False if another process put another in its place."""
        if engine is None:
            return True
        with suppress(UnusableError):
            now = EngineRecord.read(engine.path, trust=True)
            if now.engine_sha256 != engine.record.engine_sha256:
                return False
        self.discard(engine.path)
        return True

    def _usable(self, key: EngineKey, trust: bool) -> CachedEngine:
        """The best intact engine that suits: made for the size, known to pass here, fastest,
        highest level, newest.

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
        for path, record in self.records(trust):
            with suppress(UsageError):
                if key.suits(record.key, takes := record.takes):
                    found.append((path, record, (takes.covers(key.shape), takes == key.shape)))
        speeds = {path: _speed_on_gpu(record, key) for path, record, _ in found}
        fast = SLOWER * max(speeds.values(), default=0.0)

        def rank(each: tuple[Path, EngineRecord, tuple[bool, bool]]) -> tuple[Any, ...]:
            path, record, fits = each
            passes, level = self._is_verified(record, key), int(record.built.get("level") or 0)
            return *fits, passes, speeds[path] >= fast, level, record.created

        return [path for path, _, _ in sorted(found, key=rank, reverse=True)]

    def _told(self, found: CachedEngine, key: EngineKey, tell: Note) -> CachedEngine:
        """The engine; says which, if it is not the one that would be built."""
        if found.path != self.path(key):
            parts = found.record.key
            how = [f"{name.removesuffix('_bytes')} {parts.get(name)}" for name in BUILD_PARTS
                   if parts.get(name) is not None]  # fmt: skip
            tell(f"Using {found.path.name}: it takes {found.record.takes}, {', '.join(how)}.")
        return found

    def _build(
        self, order: _Order, reason: str, postponed: Mapping[str, Any] | None = None
    ) -> CachedEngine:
        """Builds an engine in one way after the other, until one is good; stores it."""
        order.tell(note := self._why(order.key, reason))
        kept, last = None, self._last(order.key)
        try:
            best = self._climb(order).best(last=last, postponed=postponed)
            kept = best.options
        finally:
            self._forget_timings(order, kept)
        return self._stored(order, best, note)

    def _climb(self, order: _Order) -> Climb:
        return Climb(order.ladder, order.build, order.verify, self._tried(order), order.tell)

    def _tried(self, order: _Order) -> Tried:
        """What was tried for an engine here, in whatever way it is built."""
        key, plain = order.key, EngineOptions()
        ways = {name: getattr(plain, name) for name in way(plain)}
        key = replace(key, options=replace(key.options, **ways))
        path = self.folder / f"{key.stem}{TRIED_SUFFIX}"
        return Tried(path, key.sha256, _place(key), order.tell)

    def _stored(self, order: _Order, best: Candidate, note: str) -> CachedEngine:
        key, built = replace(order.key, options=best.options), best.built
        judged = best.parity is not None
        record = EngineRecord(
            key=key.parts(),
            key_sha256=key.sha256,
            engine_sha256=hashlib.sha256(built.plan).hexdigest(),
            engine_bytes=len(built.plan),
            spec=built.spec,
            built=dict(built.facts),
            parity=dict(best.parity) if best.parity is not None else None,
            created=time.strftime(TIME_FORMAT, time.gmtime()),
            srtrt=__version__,
            verified_on=_place(key) if judged else None,
            frames_per_second=best.frames_per_second,
        )
        path = self.path(key)
        for each in (path, sidecar_path(path)):
            stale_parts(each, remove=True)
        # A crash between the two leaves a checksum that does not fit, so the engine is rebuilt.
        write_own(path, built.plan)
        record.write(path)
        return CachedEngine(path=path, plan=built.plan, record=record, note=note)

    def _forget_timings(self, order: _Order, kept: EngineOptions | None) -> None:
        """Removes the timings of what was built in vain."""
        for options in order.ladder.rungs:
            key = replace(order.key, options=options)
            if options != kept and not self.path(key).exists():
                self.discard_timings(self.path(key))

    def _last(self, key: EngineKey) -> Last | None:
        """The newest engine for the same on this GPU whose speed was measured."""
        elsewhere = {*RECIPE_PARTS, *BUILD_PARTS, "flavour_version", "cuda"}
        same = {name: value for name, value in key.parts().items() if name not in elsewhere}
        found = [
            record
            for _, record in self.records(trust=False)
            if _speed_on_gpu(record, key)
            and all(record.key.get(name) == value for name, value in same.items())
        ]
        return _as_last(max(found, key=lambda each: each.created)) if found else None

    def _is_verified(self, record: EngineRecord, key: EngineKey) -> bool:
        """Whether it was compared with PyTorch on this GPU with this driver."""
        return record.parity is not None and record.verified_on == _place(key)

    def _judged(self, found: CachedEngine, order: _Order) -> CachedEngine:
        """The engine with figures of this machine; another where it fails or is slow here.

        Raises:
            ParityError: if it fails and so does every other.
            BackendError: if it breaks; when that happens again, it is removed.
        """
        key, old, tried = order.key, found.record, self._tried(order)
        if order.verify is None or self._is_verified(old, key):
            return found
        built = BuiltEngine(plan=found.plan, spec=old.spec, facts=old.built)
        ways = {name: old.key.get(name) for name in way(key.options)}
        options = replace(key.options, **ways)  # type: ignore[arg-type]
        try:
            parity = dict(order.verify(built))
            speed = order.ladder.measure(built) if order.ladder.measure else None
        except ParityError as error:
            self.discard(found.path)
            if old.parity is not None:
                reason = f"it passed elsewhere and fails here ({error})"
                return self._build(order, reason, postponed=ways)
            tried.add(Attempt(**way(options), outcome="fails", problem=str(error)))
            return self._build(order, f"the one that was there fails its gate ({error})")
        except DeviceMemoryError:
            raise
        except EngineLoadError as error:
            self.discard(found.path)
            return self._build(order, not_loaded(error))
        except BackendError as error:
            tried.add(Attempt(**way(options), outcome="breaks", problem=str(error)))
            if tried.refusal(options) is not None:
                self.discard(found.path)
            raise
        record = replace(old, parity=parity, verified_on=_place(key), frames_per_second=speed)
        record.write(found.path)
        found = replace(found, record=record)
        if old.frames_per_second is None:
            return found
        incumbent = Candidate(options=options, built=built, parity=parity, frames_per_second=speed)
        best = self._climb(order).best(last=_as_last(old), incumbent=incumbent)
        return found if best.options is options else self._stored(order, best, "")

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
        for _, record in self.records(trust=False):
            same = ("model", "form", "precision", "flavour")
            if all(record.key.get(name) == parts[name] for name in same):
                found.append((-len(differences(record.key, parts)), record.created, record))
        return max(found, key=lambda each: each[:2])[2] if found else None


def not_loaded(error: EngineLoadError) -> str:
    """Why an engine that is intact is built again, as a clause."""
    return f"the one that was there cannot be loaded here ({str(error).rstrip('.')})"


def _as_last(record: EngineRecord) -> Last | None:
    """What is expected of an engine that takes the place of another; None without a speed."""
    if record.frames_per_second is None:
        return None
    driver = (record.verified_on or {}).get("driver")
    made = f"{record.key.get('flavour')} {record.key.get('flavour_version')}, driver {driver}"
    return Last(frames_per_second=record.frames_per_second, name=f"the last one ({made})")


def _speed_on_gpu(record: EngineRecord, key: EngineKey) -> float:
    """Frames per second that were measured on this GPU, whatever the driver was; else 0."""
    here = key.here is not None and (record.verified_on or {}).get("gpu") == key.here.name
    return (record.frames_per_second or 0.0) if here else 0.0


def _place(key: EngineKey) -> dict[str, str] | None:
    """The GPU and driver on which an engine is verified."""
    here = key.here
    if here is None:
        return None
    return {"gpu": here.name, "driver": here.driver, "driver_cuda": here.driver_cuda}
