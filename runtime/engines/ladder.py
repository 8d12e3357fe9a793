"""What is tried in turn where an engine is wrong, or slower than the one before it.

A builder may compile a network wrongly without a word, and another version of it may choose slower
kernels. Other levels choose other kernels; fewer of them, or no fusion, give it less to do wrong.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from srtrt.errors import (
    BackendError,
    DeviceLostError,
    DeviceMemoryError,
    EngineLoadError,
    ParityError,
    install_hint,
)
from srtrt.packages import installed
from srtrt.runtime.engines.flavour import FLAVOURS, Flavour
from srtrt.runtime.engines.key import EngineOptions
from srtrt.runtime.engines.record import BuiltEngine, Figures, Verify
from srtrt.runtime.engines.tried import Attempt, Outcome, Tried, way

Build = Callable[[EngineOptions], BuiltEngine]

Measure = Callable[[BuiltEngine], float]
"""Frames per second of an engine."""

SLOWER = 0.9
"""Share of the last engine's speed under which a faster one is looked for."""

MOST_BUILDS_FOR_SPEED = 4
"""Most engines that are built where one passes but is slow."""

LONGEST_FOR_SPEED = 1800.0
"""Seconds after which no further engine is built for speed."""

_STEPS: Mapping[bool, Sequence[Mapping[str, Any]]] = {
    True: (
        {},
        {"level": 5},
        {"level": 2},
        {"tactics": "plain"},
        {"fusion": False},
        {"level": 0, "tactics": "plain", "fusion": False},
    ),
    False: ({}, {"fusion": False}),
}
"""What is tried in turn, by whether level and tactics change anything. The last of each is the
slowest and leaves least to the builder."""

_SOUND, _DOUBTFUL = "10.13", (10, 14)
"""Versions of TensorRT: one of which neither wrong nor slower engines are reported, and the first
of which they are."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The ways to build an engine, and what to do when they are used up."""

    rungs: tuple[EngineOptions, ...] = ()
    """In the order in which they are tried; empty for what was asked for, alone."""
    measure: Measure | None = None
    """Measures an engine that passes its gate; None where it cannot run."""
    advice: str = ""
    """A sentence for when none passes."""


def ladder_for(
    asked: EngineOptions, flavour: Flavour, version: str, measure: Measure | None = None
) -> Ladder:
    """The ways to build an engine of a product.

    Args:
        asked: what the user asked for; where that says how to build, nothing else is tried.
        flavour: the product.
        version: of its package.
        measure: see :class:`Ladder`.
    """
    if chosen := says_how(asked):
        advice = f"To have other ways of building tried, leave out {' and '.join(chosen)}."
        return Ladder(rungs=(asked,), measure=measure, advice=advice)
    rungs = tuple(replace(asked, **step) for step in _STEPS[flavour.levels])
    return Ladder(rungs=rungs, measure=measure, advice=_advice(flavour, version))


def says_how(asked: EngineOptions) -> list[str]:
    """What a user asked for that says how to build, as ``NAME=VALUE``."""
    return [
        f"{name}={str(value).lower()}"
        for name in way(asked)
        if (value := getattr(asked, name)) is not None
    ]


def _advice(flavour: Flavour, version: str) -> str:
    """What else may give a good engine, if anything."""
    found = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if flavour.name == "tensorrt" and found >= _DOUBTFUL:
        newer = ".".join(map(str, _DOUBTFUL))
        another = f"pip install '{flavour.name}>={_SOUND},<{newer}'"
        return f"Another version may build a right one: {another}."
    other = next(each for each in FLAVOURS.values() if each is not flavour)
    if installed(other.name):
        return ""
    return f"{other.label} may build a right one: {install_hint(other.extra)}."


@dataclass(frozen=True, kw_only=True)
class Last:
    """The engine whose speed is expected."""

    frames_per_second: float
    name: str
    """What it is, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine that passes its gate, or that cannot be judged here."""

    options: EngineOptions
    built: BuiltEngine
    parity: Figures | None = None
    frames_per_second: float | None = None


class Climb:
    """One search for an engine."""

    def __init__(
        self,
        ladder: Ladder,
        build: Build,
        verify: Verify | None,
        tried: Tried,
        tell: Callable[[str], None],
    ) -> None:
        """Prepares it.

        Args:
            ladder: with at least one way.
            build: builds one way.
            verify: judges what was built. None where it cannot run: then the first is taken.
            tried: what was tried here before.
            tell: told in sentences what is tried and what came of it.
        """
        self._ladder, self._build, self._verify = ladder, build, verify
        self._tried, self._tell = tried, tell
        self._attempts: list[Attempt] = []
        self._errors: list[BackendError] = []
        self._wrong: dict[str, str] = {}
        self._builds, self._started, self._told_slower = 0, time.monotonic(), False

    def best(
        self,
        *,
        last: Last | None = None,
        incumbent: Candidate | None = None,
        postponed: Mapping[str, Any] | None = None,
    ) -> Candidate:
        """The first engine that passes and is not slower than the last, else the fastest.

        Args:
            last: what is expected to be reached; None if nothing is known.
            incumbent: an engine that passes, which others have to be faster than.
            postponed: the way, see :func:`way`, that is tried when the others are used up.

        Raises:
            ParityError: if none passes, with every attempt.
            EngineLoadError: if what was just built cannot be loaded.
            DeviceLostError: if one breaks while it runs.
            BackendError: if none can be built.
            DeviceMemoryError: if memory does not suffice for what was asked for.
        """
        if incumbent is not None:
            self._passed(incumbent)
        best, order = incumbent, self._order(postponed)
        if incumbent is None and self._tried.passed(order[0]):
            last = None  # they were compared when it was chosen
        for options in order:
            if best is not None and (_reaches(best, last) or not self._may_go_on(options)):
                continue
            refused = self._tried.refusal(options)
            if refused is not None and best is None:
                self._attempts.append(refused)
                self._tell(f"Not built again on this GPU with this driver: {refused}.")
            if refused is not None:
                continue
            if best is not None and last is not None:
                self._tell_slower(best, last)
            found = self._try(options)
            if found is not None and (best is None or _speed(found) > _speed(best)):
                best = found
        if best is None:
            raise self._refusal()
        self._tell_choice(best, last)
        if not self._attempts:  # it was not judged
            return best
        facts = {**best.built.facts, "attempts": [asdict(each) for each in self._attempts]}
        return replace(best, built=replace(best.built, facts=facts))

    def _order(self, postponed: Mapping[str, Any] | None) -> list[EngineOptions]:
        """All ways: the fastest of those that passed here before, then in turn."""
        rungs = list(self._ladder.rungs)
        known = [(known, each) for each in rungs if (known := self._tried.passed(each))]
        known = [(attempt, each) for attempt, each in known if way(each) != postponed]
        first = [max(known, key=lambda pair: pair[0].frames_per_second or 0.0)[1]] if known else []
        if first and first[0] != rungs[0]:
            self._tell(f"Beginning with what passed here before: {_how(first[0])}.")
        rest = [each for each in rungs if each not in first]
        return first + sorted(rest, key=lambda each: way(each) == postponed)

    def _may_go_on(self, options: EngineOptions) -> bool:
        """Whether another engine may be built though one passes."""
        return (
            options.fusion is not False
            and self._tried.passed(options) is None
            and self._builds < MOST_BUILDS_FOR_SPEED
            and time.monotonic() - self._started < LONGEST_FOR_SPEED
        )

    def _try(self, options: EngineOptions) -> Candidate | None:
        """Builds one way and judges it; None if it is no good."""
        if self._attempts:
            self._tell(f"Trying another way: {_how(options)}.")
        self._builds += 1
        try:
            built = self._build(options)
        except BackendError as error:
            self._not_built(options, error)
            return None
        if self._verify is None:
            return Candidate(options=options, built=built)
        digest = hashlib.sha256(built.plan).hexdigest()
        if digest in self._wrong:
            problem = f"it is the same engine as with {self._wrong[digest]}"
            self._ended(options, "fails", problem)
            return None
        try:
            parity = self._verify(built)
            speed = self._ladder.measure(built) if self._ladder.measure else None
        except ParityError as error:
            self._wrong[digest] = _how(options)
            self._ended(options, "fails", _first_sentence(str(error)))
            return None
        except DeviceMemoryError as error:
            self._not_built(options, error)
            return None
        except EngineLoadError:
            raise  # what builds and what loads do not fit together, however it is built
        except BackendError as error:
            self._ended(options, "breaks", str(error))
            raise DeviceLostError(
                f"{str(error).rstrip('.')}. The engine ({_how(options)}) broke when it was tried, "
                "after which this process may not be able to use the GPU any more. Run it again: "
                "a way of building that breaks twice is not taken any more."
            ) from error
        return self._passed(
            Candidate(options=options, built=built, parity=parity, frames_per_second=speed)
        )

    def _passed(self, candidate: Candidate) -> Candidate:
        parity = candidate.parity or {}
        attempt = Attempt(
            **way(candidate.options),
            outcome="passes",
            psnr_db=parity.get("psnr_db"),
            max_abs=parity.get("max_abs"),
            frames_per_second=candidate.frames_per_second,
        )
        self._keep(attempt)
        if len(self._attempts) > 1:
            self._tell(f"Tried: {attempt}.")
        return candidate

    def _not_built(self, options: EngineOptions, error: BackendError) -> None:
        if isinstance(error, DeviceMemoryError) and self._builds == 1:
            raise error  # less may be asked for
        self._errors.append(error)
        self._ended(options, "not built", str(error))

    def _ended(self, options: EngineOptions, outcome: Outcome, problem: str) -> None:
        attempt = Attempt(**way(options), outcome=outcome, problem=problem)
        self._keep(attempt)
        self._tell(f"Tried: {attempt}.")

    def _keep(self, attempt: Attempt) -> None:
        self._attempts.append(attempt)
        if attempt.outcome != "not built":  # want of memory, for one, may pass
            self._tried.add(attempt)

    def _tell_slower(self, best: Candidate, last: Last) -> None:
        if not self._told_slower:
            self._told_slower = True
            self._tell(
                f"This engine computes {_speed(best):.1f} frames/s and {last.name} "
                f"{last.frames_per_second:.1f}; looking for a faster one."
            )

    def _tell_choice(self, best: Candidate, last: Last | None) -> None:
        if last is not None and (self._told_slower or not _reaches(best, last)):
            self._tell(
                f"Took {_how(best.options)} with {_speed(best):.1f} frames/s; {last.name} "
                f"computed {last.frames_per_second:.1f}."
            )

    def _refusal(self) -> Exception:
        """The error for when no way gave a good engine."""
        short = [each for each in self._errors if isinstance(each, DeviceMemoryError)]
        if short or len(self._errors) == len(self._attempts):
            return [*short, *self._errors][0]
        count = len(self._attempts)
        ways = f"{count} ways of building it were tried" if count > 1 else "It was tried"
        listed = "; ".join(map(str, self._attempts))
        return ParityError(
            f"no engine is right here. {ways}: {listed}. {self._ladder.advice}"
            f"{' ' if self._ladder.advice else ''}To have them tried again: srtrt engines prune "
            "--all"
        )


def _reaches(best: Candidate, last: Last | None) -> bool:
    """Whether an engine is as fast as expected, as far as that is known."""
    if last is None or best.frames_per_second is None:
        return True
    return best.frames_per_second >= SLOWER * last.frames_per_second


def _speed(candidate: Candidate) -> float:
    return candidate.frames_per_second or 0.0


def _how(options: EngineOptions) -> str:
    return Attempt(**way(options), outcome="passes").how


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")
