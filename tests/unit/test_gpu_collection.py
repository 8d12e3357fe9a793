"""The tests that need a GPU are found on a machine that lacks much else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY

WITHOUT = """\
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {modules!r}
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path = [Without if each is PathFinder else each for each in sys.meta_path]
"""


def collected(folder: Path, modules: tuple[str, ...], *options: str) -> tuple[int, str]:
    """Collects the tests in a process that cannot import some modules."""
    (folder / "sitecustomize.py").write_text(WITHOUT.format(modules=modules))
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *options],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "modules",
    [("av",), pytest.param(("av", "onnxruntime", "openvino"), marks=pytest.mark.slow)],
    ids=" and ".join,
)
def test_what_is_missing_ends_no_collection(tmp_path: Path, modules: tuple[str, ...]) -> None:
    status, output = collected(tmp_path, modules, "-m", "gpu")
    assert status == 0, output
    assert "tests/parity/test_rings.py::test_device_layer_on_a_gpu" in output
    assert "tests/cli/test_benchmark_engines.py::test_engines_of_the_gpu" in output


@pytest.mark.slow
def test_without_pytorch_nothing_fails_either(tmp_path: Path) -> None:
    status, output = collected(tmp_path, ("torch",), "-m", "gpu")
    assert status in (0, pytest.ExitCode.NO_TESTS_COLLECTED), output
    assert "error" not in output.lower().replace("test_", "")


def test_elsewhere_a_missing_package_is_an_error(tmp_path: Path) -> None:
    """Or a broken environment would pass all tests by skipping them."""
    status, output = collected(tmp_path, ("av",), "tests/unit/test_video_colour.py")
    assert status not in (0, pytest.ExitCode.NO_TESTS_COLLECTED)
    assert "No module named 'av'" in output
