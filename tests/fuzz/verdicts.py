"""What is wrong with how a case ended."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from fuzz.case import Case
from fuzz.forks import Outcome

LONGEST_SENTENCE = 600
_KNOWN_STATUS = (0, 1, 2)
_INTERNAL = 70
_QUICK_PIXELS = 4_000_000
"""Encoding larger frames may take longer than a case is given, which is no hang."""
_NOISE = re.compile(
    r"^\[[\w, /]+ @ 0x[0-9a-f]+\]|^(libpng|lib\w+|Svt|x265|x264) ?(warning|error|\[)"
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong."""

    verdict: str
    """A word: traceback, internal, crash, hang, left, sentence, noise, opened, ..."""
    where: str
    """What tells faults of different causes apart."""


def faults(case: Case, outcome: Outcome) -> list[Fault]:
    """All that is wrong; nothing if it ended well, or in a clear sentence."""
    found = list(_of_ending(outcome))
    if not outcome.late:
        found += _of_words(outcome) if not found else []
        found += _of_files(case, outcome)
    return [Fault(verdict=verdict, where=where) for verdict, where in found]


def _of_ending(outcome: Outcome) -> Iterator[tuple[str, str]]:
    text = outcome.stderr
    if outcome.late:
        if _pixels(text) <= _QUICK_PIXELS:
            yield "hang", _innermost(text)
    elif outcome.signal is not None:
        yield f"signal {outcome.signal}", _innermost(text)
    elif "Traceback (most recent call last)" in text or "Traceback (most" in outcome.stdout:
        yield "traceback", f"{_innermost(text)}: {_last_line(text)[:200]}"
    elif outcome.status == _INTERNAL or "internal error" in text.lower():
        yield "internal", f"{_innermost(text)}: {_last_line(text)[:300]}"
    elif outcome.status not in _KNOWN_STATUS:
        yield f"status {outcome.status}", _last_line(text)[:200]


def _of_words(outcome: Outcome) -> Iterator[tuple[str, str]]:
    for line in outcome.stderr.splitlines():
        if _NOISE.match(line):
            yield "noise", re.sub(r"0x[0-9a-f]+|\d+", "N", line)[:100]
            break
    everything = outcome.stdout + outcome.stderr
    strange = {c for c in everything if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"}
    if strange:
        line = next(each for each in everything.split("\n") if strange & set(each))
        yield "sentence", f"control characters {sorted(strange)!r} in {line[:80]!r}"
    if "site-packages" in everything:
        yield "sentence", f"names a place in the installation: {_last_line(outcome.stderr)[:200]}"
    if outcome.status == 0:
        return
    last = _last_line(outcome.stderr)
    if not last.startswith(("srtrt: ", "Usage: ", "Error: ")):
        yield "sentence", f"the last line is {_shape(last)!r}"
    elif len(last) > LONGEST_SENTENCE:
        yield "sentence", f"too long: {_shape(last)}"
    elif re.search(r" object at 0x|\(\)\.$|\.py\b.*line \d|\bself\.", last):
        yield "sentence", f"not for people: {_shape(last)}"


def _of_files(case: Case, outcome: Outcome) -> Iterator[tuple[str, str]]:
    names = {str(path.relative_to(case.folder)) for path in case.folder.rglob("*")}
    parts = sorted(name for name in names if name.endswith(".part"))
    if parts and outcome.signal is None:
        yield "left", f"unfinished {re.sub(r'[0-9a-f-]{8,}', 'N', parts[0])}"
    there = [name for name in case.outputs if name in names]
    if outcome.status == 0 and len(there) < len(case.outputs):
        yield "missing", "status 0 without its output"
    if outcome.status != 0 and there:
        yield "left", f"{case.words[0]}: its output is there after status {outcome.status}"
    if "planted/ran" in names:
        yield "ran", "code in the file was run"


def _innermost(text: str) -> str:
    """The innermost lines of a stack that are ours, else the innermost of all."""
    frames = re.findall(r'File "([^"]+)", line (\d+)(?:,)? in (\w+)', text)
    ours = [f for f in frames if "site-packages" not in f[0] and "/tests/" not in f[0]]
    ours = [f for f in ours if "/lib/python" not in f[0]]
    if "most recent call first" in text:
        frames.reverse()
        ours.reverse()
    chosen = (ours or frames)[-1:]
    return " ".join(
        f"{'/'.join(path.split('/')[-3:])}:{line} {name}" for path, line, name in chosen
    )


def _pixels(text: str) -> int:
    """Pixels of a frame of the output, by what was announced before the work; 0 if nothing was."""
    sizes = re.findall(r"^output: .*?, (\d+)x(\d+), ", text, flags=re.MULTILINE)
    return max((int(width) * int(height) for width, height in sizes), default=0)


def _shape(sentence: str) -> str:
    """The sentence without what differs from file to file."""
    return re.sub(r"'[^']*'|\d+", "N", sentence)[:200]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
