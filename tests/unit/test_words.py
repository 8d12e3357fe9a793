from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtrt.runtime.words import byte_size, counted, duration

UNITS = {"s": 1, "min": 60, "h": 3600, "day": 86400, "days": 86400}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.00 s"),
        (0.04, "0.04 s"),
        (1.5, "1.5 s"),
        (9.99, "10 s"),
        (59.7, "1 min"),
        (70, "1 min 10 s"),
        (1500, "25 min"),
        (3599.9, "1 h"),
        (12_000, "3 h 20 min"),
        (86_390, "1 day"),
        (180_000, "2 days 2 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_numbers_of_things() -> None:
    assert [counted(n, "frame") for n in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]


@given(st.floats(min_value=0.1, max_value=1e8))
def test_durations_say_about_what_they_are(seconds: float) -> None:
    words = duration(seconds).split()
    said = sum(float(n) * UNITS[unit] for n, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(said - seconds) <= 0.06 * seconds


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 kB"),
        (850_000, "850 kB"),
        (999_900, "1.0 MB"),
        (12_340_000, "12.3 MB"),
        (4.56e9, "4.56 GB"),
    ],
)
def test_sizes(count: float, words: str) -> None:
    assert byte_size(count) == words
