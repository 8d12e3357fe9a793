"""What becomes of errors that nobody foresaw, and of wrong usage."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from srtrt.cli import COMMANDS, main


def models(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(params=[ZeroDivisionError("division by zero"), MemoryError(), RecursionError()])
def defect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Exception:
    error: Exception = request.param

    def fail() -> None:
        raise error

    monkeypatch.setattr("srtrt.runtime.info_command.bundled_models", fail)
    return error


def test_what_nobody_foresaw_is_an_internal_error(defect: Exception) -> None:
    done = models("models")
    assert done.exit_code == 70
    (line,) = (line for line in done.stderr.splitlines() if "internal error" in line)
    assert line.startswith(f"srtrt: internal error ({type(defect).__name__}")
    assert "`srtrt --debug ...`" in line
    assert "`srtrt doctor`" in line
    assert "Traceback" not in done.output


@pytest.mark.parametrize("arguments", [("--debug", "models"), ("models", "--debug")])
def test_debug_shows_where_it_was(defect: Exception, arguments: tuple[str, ...]) -> None:
    done = models(*arguments)
    assert done.exit_code == 70
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert "info_command.py" in done.stderr
    assert type(defect).__name__ in done.stderr.splitlines()[-1]
    assert "Traceback" not in models("models").stderr


def test_every_command_takes_debug() -> None:
    for name in COMMANDS:
        done = models(name, "--debug", "--help")
        assert done.exit_code == 0, done.output
        assert "--debug" not in done.stdout
    done = models("engines", "list", "--debug", "--nosuch")
    assert "No such option" in done.stderr


def test_control_characters_in_what_was_given_are_shown() -> None:
    for arguments in (
        ["\x1b[2Jclear"],
        ["models", "\x1b[2J"],
        ["models", "\x9b2J\u202etxt"],
        ["upscale-video", "in.mp4", "--codec", "\x1b]0;x\x07"],
        ["upscale-video", "in.mp4", "--nosuch\x1b[31m"],
        ["engines", "list", "--folder", "\x1b[2J"],
        ["benchmark", "\x1b[2J"],
    ):
        done = models(*arguments)
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(done.output), arguments


def test_a_mistyped_command_is_recognised() -> None:
    done = models("upscale-vidoe")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].endswith("Did you mean 'upscale-video'?")
