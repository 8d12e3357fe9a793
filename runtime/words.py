"""Durations, sizes and numbers in words."""

from __future__ import annotations

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def counted(number: int, what: str) -> str:
    """Such as ``1 frame`` or ``24 frames``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """Such as ``0.04 s``, ``12 s``, ``5 min 10 s``, ``25 min``, ``3 h 20 min``, ``2 days 3 h``."""
    if seconds < 9.95:
        digits = 1 if seconds >= 1 else 2
        return f"{seconds:.{digits}f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < 10 * _MINUTE:
        return _two(whole, _MINUTE, "min", 1, "s")
    minutes = round(seconds / _MINUTE) * _MINUTE
    if minutes < _HOUR:
        return f"{minutes // _MINUTE} min"
    if minutes < _DAY:
        return _two(minutes, _HOUR, "h", _MINUTE, "min")
    hours = round(seconds / _HOUR) * _HOUR
    return _two(hours, _DAY, "day" if hours < 2 * _DAY else "days", _HOUR, "h")


def _two(value: int, large: int, large_name: str, small: int, small_name: str) -> str:
    first, rest = divmod(value, large)
    words = f"{first} {large_name}"
    return f"{words} {rest // small} {small_name}" if rest // small else words


def byte_size(count: float) -> str:
    """Such as ``850 kB``, ``12.3 MB`` or ``4.56 GB``, in powers of 1000."""
    for factor, unit, digits in ((1e9, "GB", 2), (1e6, "MB", 1)):
        if count >= 0.9995 * factor:
            return f"{count / factor:.{digits}f} {unit}"
    return f"{count / 1e3:.0f} kB"
