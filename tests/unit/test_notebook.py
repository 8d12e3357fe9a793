"""The notebook for a rented or free GPU is valid, and its cells do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY

NOTEBOOK = REPOSITORY / "notebooks" / "on_a_gpu.ipynb"


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return found


def code_cells() -> dict[str, str]:
    return {
        cell["id"]: "".join(cell["source"])
        for cell in load()["cells"]
        if cell["cell_type"] == "code"
    }


def as_python(source: str) -> str:
    """A cell with its shell lines as calls, as IPython makes of them."""
    return re.sub(r"^( *)!(.+)$", lambda m: f"{m[1]}shell(f{m[2]!r})", source, flags=re.MULTILINE)


def test_it_is_a_notebook_without_results() -> None:
    """What nbformat 4.5 asks of every cell, and nothing of whoever ran it."""
    notebook = load()
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", cell["id"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        wanted = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            wanted |= {"execution_count", "outputs"}
            assert (cell["execution_count"], cell["outputs"]) == (None, [])
        assert cell.keys() == wanted
        assert cell["metadata"] == {}
    nbformat = pytest.importorskip("nbformat", reason="validates further where it is installed")
    nbformat.validate(nbformat.from_dict(notebook))


@pytest.mark.parametrize("name", code_cells())
def test_its_cells_compile(name: str) -> None:
    compile(as_python(code_cells()[name]), name, "exec")


def test_it_names_no_repository() -> None:
    settings: dict[str, Any] = {}
    exec(code_cells()["settings"], settings)
    assert (settings["REPOSITORY"], settings["EXTRAS"]) == ("", "")
    assert "://" not in NOTEBOOK.read_text()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Where cells run: git and pip are noted, all else is as it is."""
    programs = tmp_path / "programs"
    programs.mkdir()
    log = tmp_path / "log"
    git = f'#!/bin/sh\necho "git $*" >> {log}\nfor last; do :; done\nln -s "$7" "$last"\n'
    python = (
        f'#!/bin/sh\nif [ "$2" = pip ]; then echo "$*" >> {log}; exit 0; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    for name, text in (("git", git), ("python", python), ("nvidia-smi", "#!/bin/sh\nexit 9\n")):
        program(programs / name, text)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def shell(line: str) -> None:
        subprocess.run(["bash", "-c", line], check=False)

    return {"shell": shell, "__name__": "__main__", "programs": programs}


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run_cells(machine: dict[str, Any], **settings: str) -> None:
    for name, source in code_cells().items():
        exec(compile(as_python(source), name, "exec"), machine)
        if name == "settings":
            machine |= settings


def test_it_leaves_one_file_to_send_back(
    machine: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_cells(machine, REPOSITORY=str(REPOSITORY), OPTIONS="--device cpu --part doctor")
    output = capfd.readouterr().out
    assert "There is no NVIDIA GPU here" in output
    clone, install = (tmp_path / "log").read_text().splitlines()
    assert clone == f"git clone --quiet --depth 1 --branch main {REPOSITORY} srtrt-source"
    assert install == "-m pip install --quiet --editable ./srtrt-source[gpu-cu12,train,test]"
    report = json.loads(Path("on-gpu.json").read_text())
    assert [part["state"] for part in report["parts"]] == ["ran"]
    assert "doctor" in output
    assert f"Send this file back: {Path('on-gpu.json').resolve()}" in output


@pytest.mark.parametrize(
    ("driver", "pytorch", "extras"),
    [
        ("580.65.06", "13.0", "gpu,rtx,train,test"),
        ("595.10", "", "gpu,rtx,train,test"),
        ("580.65.06", "12.8", "gpu-cu12,train,test"),
        ("550.54.15", "", "gpu-cu12,train,test"),
    ],
)
def test_it_installs_what_fits_the_driver_and_pytorch(
    driver: str, pytorch: str, extras: str, machine: dict[str, Any]
) -> None:
    program(machine["programs"] / "nvidia-smi", f"#!/bin/sh\necho {driver}\necho {driver}\n")
    program(machine["programs"] / "python", f"#!/bin/sh\necho {pytorch}\n")
    for source in list(code_cells().values())[:2]:
        exec(as_python(source), machine)
        machine["REPOSITORY"] = "somewhere"
    assert machine["EXTRAS"] == extras
    known = (REPOSITORY / "pyproject.toml").read_text().split("optional-dependencies]")[1]
    assert all(re.search(rf"^{name} = \[", known, re.M) for name in extras.split(","))


def test_it_says_what_is_missing(machine: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="REPOSITORY is empty"):
        run_cells(machine)
    with pytest.raises(SystemExit, match="No result was written"):
        run_cells(machine, REPOSITORY=str(REPOSITORY), OPTIONS="--part none")
