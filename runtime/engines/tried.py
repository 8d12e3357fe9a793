"""What was tried for an engine, kept beside it so that no other process tries it again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from srtrt.errors import OutputError
from srtrt.plain_data import DataError, shown
from srtrt.runtime.engines.key import USUAL_LEVEL, EngineOptions
from srtrt.runtime.engines.stored import UnusableError, read_record, write_record

Outcome = Literal["passes", "fails", "breaks", "not built"]

_OUTCOMES = ("passes", "fails", "breaks", "not built")

_BREAKS = 2
"""How often an engine may break, which other programs on the GPU can cause as well, before it is
not tried again."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One way of building an engine, and what came of it."""

    level: int
    tactics: str
    fusion: bool
    outcome: Outcome
    """``passes`` or ``fails`` its gate, ``breaks`` when it runs, or could not be built."""
    problem: str | None = None
    """What was wrong, as a sentence."""
    psnr_db: float | None = None
    """Of an engine that passes, against PyTorch float32; None also if it is identical."""
    max_abs: int | None = None
    """Largest difference of an engine that passes, 0..255."""
    frames_per_second: float | None = None
    """None if it was not measured."""

    @property
    def how(self) -> str:
        """The way of building, in a few words."""
        left_out = ["generated kernels"] * (self.tactics == "plain")
        left_out += ["fused additions"] * (not self.fusion)
        without = f" without {' and '.join(left_out)}" if left_out else ""
        return f"level {self.level}{without}"

    def __str__(self) -> str:
        if self.outcome != "passes":
            verb = {"fails": "fails its gate", "breaks": "breaks", "not built": "cannot be built"}
            return f"{self.how} {verb[self.outcome]}: {(self.problem or 'no reason').rstrip('.')}"
        parity = "" if self.max_abs is None else "identical"
        if self.psnr_db is not None:
            parity = f"{self.psnr_db} dB, max {self.max_abs}"
        speed = self.frames_per_second
        figures = [*filter(None, [parity]), *([] if speed is None else [f"{speed:.1f} frames/s"])]
        return f"{self.how} passes" + (f": {', '.join(figures)}" if figures else "")


def way(options: EngineOptions) -> dict[str, Any]:
    """The fields of :class:`Attempt` that say how an engine is built."""
    return {
        "level": USUAL_LEVEL if options.level is None else options.level,
        "tactics": options.tactics or "all",
        "fusion": options.fusion is not False,
    }


def read_attempts(values: object) -> list[Attempt]:
    """Attempts as they are stored.

    Raises:
        DataError: if there are other fields, or values of another kind.
    """
    if not isinstance(values, list):
        raise DataError(f"attempts is {shown(values)}")
    return [_attempt(each) for each in values]


_KINDS: Mapping[str, tuple[type, ...]] = {
    "level": (int,),
    "tactics": (str,),
    "fusion": (bool,),
    "outcome": (str,),
    "problem": (str, NoneType),
    "psnr_db": (int, float, NoneType),
    "max_abs": (int, NoneType),
    "frames_per_second": (int, float, NoneType),
}


def _attempt(values: object) -> Attempt:
    if not isinstance(values, dict) or values.keys() != _KINDS.keys():
        raise DataError(f"an attempt is {shown(values)}")
    for name, kinds in _KINDS.items():
        value = values[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds != (bool,)):
            raise DataError(f"{name} of an attempt is {shown(value)}")
    if values["outcome"] not in _OUTCOMES:
        raise DataError(f"outcome of an attempt is {shown(values['outcome'])}")
    require_speed(values["frames_per_second"])
    return Attempt(**values)


def require_speed(value: float | None) -> None:
    """Refuses a speed that none can have.

    Raises:
        DataError: if it is not finite and positive.
    """
    if value is not None and not (math.isfinite(value) and value > 0):
        raise DataError(f"frames_per_second is {shown(value)}")


class Tried:
    """The attempts at one engine on one GPU with one driver.

    Args:
        path: the file; None remembers nothing.
        key_sha256: of the engine, however it is built.
        place: GPU and driver; None remembers nothing.
        tell: told in a sentence if the file cannot be used.
    """

    def __init__(
        self,
        path: Path | None,
        key_sha256: str,
        place: Mapping[str, str] | None,
        tell: Callable[[str], None],
    ) -> None:
        self._path = path if place else None
        self._key_sha256, self._place, self._tell = key_sha256, dict(place or {}), tell
        self._entries = self._read()

    @property
    def attempts(self) -> Sequence[Attempt]:
        """Those made here, the oldest first."""
        return [attempt for attempt, place in self._entries if place == self._place]

    def refusal(self, options: EngineOptions) -> Attempt | None:
        """The attempt for which a way of building is not tried again here, None if it may be."""
        found = [each for each in self.attempts if _is_way(each, options)]
        wrong = [each for each in found if each.outcome == "fails"]
        broken = [each for each in found if each.outcome == "breaks"]
        return wrong[-1] if wrong else broken[-1] if len(broken) >= _BREAKS else None

    def passed(self, options: EngineOptions) -> Attempt | None:
        """The attempt with which a way of building last passed here."""
        found = [a for a in self.attempts if a.outcome == "passes" and _is_way(a, options)]
        return found[-1] if found else None

    def add(self, attempt: Attempt) -> None:
        """Remembers an attempt, in place of the one that passed the same way before."""
        if self._path is None:
            return
        self._entries = [
            (old, place)
            for old, place in self._entries
            if place != self._place or old.outcome == "breaks" or old.how != attempt.how
        ]
        self._entries.append((attempt, self._place))
        values = [{"on": place, **asdict(each)} for each, place in self._entries]
        try:
            write_record(self._path, {"key_sha256": self._key_sha256, "attempts": values})
        except OutputError as error:  # the engine itself is good
            self._tell(f"What was tried is not kept: {error}")

    def _read(self) -> list[tuple[Attempt, dict[str, str]]]:
        if self._path is None or not self._path.exists():
            return []
        try:
            stored = read_record(self._path)
            if stored.get("key_sha256") != self._key_sha256:
                raise DataError("it is of another engine")
            values, places = stored.get("attempts"), list[Any]()
            for each in values if isinstance(values, list) else []:
                places.append(each.pop("on", None) if isinstance(each, dict) else None)
            if not all(isinstance(place, dict) for place in places):
                raise DataError("an attempt has no place")
            return list(zip(read_attempts(values), places, strict=True))
        except (UnusableError, DataError) as error:
            self._tell(f"What was tried before is forgotten: {self._path.name}: {error}.")
            return []


def _is_way(attempt: Attempt, options: EngineOptions) -> bool:
    return all(getattr(attempt, name) == value for name, value in way(options).items())
