"""The driver library that tests compile in the place of NVIDIA's; see libcuda_standin.c."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("libcuda_standin.c")


def compiled_driver(folder: Path) -> Path:
    """Compiles ``libcuda.so.1`` and, to link with, ``libcuda.so``; skips without a compiler.

    Args:
        folder: where they go.

    Returns:
        The folder.
    """
    if not shutil.which("gcc"):
        pytest.skip("needs gcc to compile a stand-in for libcuda.so.1")
    library = folder / "libcuda.so.1"
    options = ["-shared", "-fPIC", "-O1", "-pthread", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["gcc", *options, "-o", str(library), str(SOURCE)], check=True)
    (folder / "libcuda.so").symlink_to(library.name)
    return folder
