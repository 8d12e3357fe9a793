"""What is shipped and what is exported says nothing about the machine that made it."""

from __future__ import annotations

import getpass
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY

from srtrt.runtime.models import weights_folder

_PATHS = re.compile(
    rb"/(?:home|root|usr|opt|tmp|mnt|work|Users|site-packages|dist-packages)/|[A-Za-z]:\\Users|"
    rb"\.py[\"', ]|stack_trace|Traceback"
)


def shipped() -> list[Path]:
    """Every file of the weights that git knows, or that is there where git is not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "src/srtrt/weights"],
        cwd=REPOSITORY, capture_output=True, check=False,
    )  # fmt: skip
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    found = [REPOSITORY / name for name in names if name]
    found = found or [path for path in weights_folder().iterdir() if path.is_file()]
    return [path for path in found if path.suffix != ".py"]


def private_words() -> list[bytes]:
    """What names this machine: its folders, and the user where that is no common word."""
    folders = [sys.prefix, str(Path.home()), str(REPOSITORY)]
    user = getpass.getuser()
    return [word.encode() for word in (*folders, user) if len(word) > 6]


def findings(data: bytes) -> list[bytes]:
    found = [match.group() for match in _PATHS.finditer(data)]
    return found + [word for word in private_words() if word in data]


def test_there_are_files_to_look_at() -> None:
    assert {path.suffix for path in shipped()} >= {".onnx", ".safetensors", ".md"}


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.name)
def test_no_shipped_file_holds_a_path(path: Path) -> None:
    assert findings(path.read_bytes()) == []


def test_no_exported_graph_holds_a_path(tiny_graphs: dict[str, Path]) -> None:
    for path in tiny_graphs.values():
        assert findings(path.read_bytes()) == []
    assert findings(b'File "/home/someone/net.py", line 3')
