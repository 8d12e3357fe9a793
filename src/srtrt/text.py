"""Texts that others decide, as names of files and streams, metadata, and foreign errors."""

from __future__ import annotations

import re

_LONGEST_FOREIGN = 200

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # controls: C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029"  # ends of lines and paragraphs
    "\ud800-\udfff]"  # bytes of names that are not UTF-8 (PEP 383)
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """A text with control characters, line ends and bytes that are no characters as escapes.

    They could move the cursor, recolour the screen, hide words, or look like another sentence.
    """
    return _UNPRINTABLE.sub(_escape, text)


def foreign(text: str) -> str:
    """A text for a message: printable, and not long."""
    shown = printable(text[: _LONGEST_FOREIGN + 1])
    return shown if len(shown) <= _LONGEST_FOREIGN else f"{shown[:_LONGEST_FOREIGN]}..."


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
