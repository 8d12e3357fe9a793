"""What somebody may have meant who mistyped a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like another one; None if none is."""
    by_lower = {each.lower(): each for each in known}
    letters = sorted(name.lower())
    swapped = [each for each in by_lower if sorted(each) == letters]
    near = swapped or difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'name'?`` to follow a sentence; empty if no known name is near."""
    near = nearest(name, known)
    return f" Did you mean {near!r}?" if near else ""
