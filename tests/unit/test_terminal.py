"""What is printed: no control characters, and all of it through one module."""

from __future__ import annotations

import ast
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import REPOSITORY

from srtrt.nearest import nearest
from srtrt.text import foreign, printable

FOR_MAINTAINERS = ("bundle_int8.py", "instruction_sets.py", "rebundle.py", "tables.py")
"""Run by hand with ``python -m``; they print figures."""


@given(st.text(st.characters()))
def test_printable_text_sends_nothing(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert not any(unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "PDF") for c in shown)


@given(st.binary().filter(lambda name: b"\0" not in name))
def test_names_of_any_bytes_are_printable(name: bytes) -> None:
    printable(os.fsdecode(name)).encode("utf-8")


@given(st.text(st.characters(categories=("L", "M", "N", "P", "S", "Zs"))))
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_escapes_tell_what_was_there() -> None:
    assert printable("a\x1b[31m\n\t\r\x9b\udcff\u202eb") == (
        "a\\x1b[31m\\n\\t\\r\\x9b\\xff\\u202eb"
    )


@given(st.text(st.sampled_from("a\x1b\u202e\udcff"), max_size=500))
def test_foreign_texts_are_short_as_they_are_shown(text: str) -> None:
    assert len(foreign(text)) <= 203
    assert printable(text).startswith(foreign(text).removesuffix("..."))


def calls(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            names.add(ast.unparse(node.func))
    return names


@pytest.mark.parametrize("folder", ["src/srtrt", "runtime", "export", "train", "benchmarks"])
def test_one_module_prints(folder: str) -> None:
    allowed = ("terminal.py", *FOR_MAINTAINERS)
    for path in (REPOSITORY / folder).rglob("*.py"):
        if path.name in allowed and path.parent.name != "video":
            continue
        printing = {"print", "click.echo", "click.secho", "Console", "TextColumn"}
        printing |= {"sys.stdout.write", "sys.stderr.write", "warnings.warn"}
        assert not calls(path) & printing, path


def test_the_nearest_name() -> None:
    names = ["libx264", "libx265", "libsvtav1"]
    assert nearest("libx246", names) == "libx264"
    assert nearest("LIBX265", names) == "libx265"
    assert nearest("libvstav1", names) == "libsvtav1"
    assert nearest("ffmpeg", names) is None
