"""Every option with every kind of wrong value: one sentence and status 1 or 2, or it is right."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from video_clips import NearestSession, make_clip

import srtrt.runtime.session
from srtrt.cli import main

VALUES = (
    "", " ", "-", "--", ".", "~", "-1", "0", "1", "3.5", "1e99", "nan", "inf", "9" * 25,
    "a", "auto", "none", "None", "fp16", "int8", "cuda:99", "cuda:-1", "cpu:0", "8x6", "0x0",
    "99999x99999", "16x16:32x24:48x32", ":::", "a=b", "=", "threads=0", "threads=-1", "streams=99",
    "in.mp4", "in.png", "folder", "no/such", "missing.png", "missing.onnx", "x.pth", "in.png/a.png",
    "/dev/null", "/dev/full", "/proc/x", "x" * 300, "y/" * 3000, "z" * 9000, "é日本🙂",
    "[red]x[/red]", "\x1b[31mred", "\x9b2J", "two\nlines", "a\udcffb", "%s", "{}", "https://example.org/a.mp4",
)  # fmt: skip
COMMANDS: dict[str, list[str]] = {
    "upscale-video": ["in.mp4", "-o", "out.mkv", "--overwrite", "--max-frames", "1"],
    "upscale-image": ["in.png", "-o", "out.png", "--overwrite"],
    "models": ["--no-measure"],
    "engines list": [],
    "engines explain": ["abc"],
    "engines prune": ["--dry-run"],
    "tune": ["--shape", "32x32", "--seconds", "0"],
}


class Session(NearestSession):
    model = "nearest"

    def close(self) -> None:
        pass


def command(name: str) -> click.Command:
    found: Any = main
    for part in name.split():
        found = found.get_command(click.Context(found), part)
    return found  # type: ignore[no-any-return]


def options() -> Iterator[tuple[str, str]]:
    """Each command with each of its options, or its argument."""
    for name in COMMANDS:
        for option in command(name).params:
            if isinstance(option, click.Argument):
                yield name, ""
            elif isinstance(option, click.Option) and not option.is_flag:
                yield name, max(option.opts, key=len)


def arguments(name: str, option: str, value: str) -> list[str]:
    usual = [*COMMANDS[name]]
    if not option:
        has_argument = bool(usual) and not usual[0].startswith("-")
        return [*name.split(), value, *usual[has_argument:]]
    if option == "--output":
        usual[1:3] = []
    elif option in usual:
        usual[usual.index(option) : usual.index(option) + 2] = []
    return [*name.split(), *usual, option, value]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_clip(tmp_path / "in.mp4", pts=(0, 3000), size=(16, 16))
    Image.new("RGB", (3, 2)).save(tmp_path / "in.png")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(srtrt.runtime.session, "open_session", Session)
    return tmp_path


def check(place: Path, name: str, option: str, value: str) -> None:
    shutil.copy(place / "in.mp4", place.parent / "in.mp4")
    done = CliRunner().invoke(main, arguments(name, option, value))
    assert done.exit_code in (0, 1, 2), done.output
    assert "Traceback" not in done.output
    assert not {"\x1b", "\x9b", "\x07"} & set(done.stderr)
    if done.exit_code:
        last = done.stderr.splitlines()[-1]
        assert last.startswith(("srtrt: ", "Error: ")), done.stderr
        assert len(last) < 5000
        several = name == "upscale-image"  # a line for each picture
        assert several or done.stderr.count("srtrt: ") <= 1, done.stderr
    assert (place / "in.mp4").read_bytes() == (place.parent / "in.mp4").read_bytes()
    assert not list(place.glob(".*.part"))


@given(st.sampled_from(sorted(options())), st.sampled_from(VALUES))
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_option_with_any_value(place: Path, option: tuple[str, str], value: str) -> None:
    check(place, *option, value)


@pytest.mark.slow
@pytest.mark.parametrize("option", sorted(options()), ids=" ".join)
def test_every_option_with_every_value(place: Path, option: tuple[str, str]) -> None:
    for value in VALUES:
        check(place, *option, value)
