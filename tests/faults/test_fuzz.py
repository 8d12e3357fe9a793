"""Damaged and hostile files of every kind that is read, through the commands, in children."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz import opened
from fuzz.case import Case, Corpus, seeded
from fuzz.kinds import KINDS
from fuzz.run import make_corpus
from support import REPOSITORY

pytest.importorskip("torch", reason="needs PyTorch, which makes some of the files")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_graphs: dict[str, Path]) -> Path:
    """A folder for the files, with the graphs, which take long to make."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "corpus" / "onnx").mkdir(parents=True)
    for path in tiny_graphs.values():
        shutil.copy(path, folder / "corpus" / "onnx")
    make_corpus(folder / "corpus")
    return folder


def fuzz(work: Path, *arguments: object) -> dict[str, Any]:
    """What a run of the script reports."""
    report = work / "report.json"
    script = [sys.executable, REPOSITORY / "tests" / "fuzz" / "run.py"]
    words = [*script, "--work", work, "--json", report, "--jobs", "2", *arguments]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    assert not found["faults"], done.stdout
    assert done.returncode == 0, done.stderr
    return found


def total(report: dict[str, Any]) -> int:
    return sum(kind["cases"] for kind in report["kinds"].values())


def test_damaged_files_end_in_a_sentence(work: Path) -> None:
    report = fuzz(work, "--count", 120, "--seed", 1)
    assert total(report) >= 120
    assert all(kind["cases"] > 0 for kind in report["kinds"].values())
    refused = sum(kind.get("refused", 0) for kind in report["kinds"].values())
    done = sum(kind.get("done", 0) for kind in report["kinds"].values())
    assert refused > 30, report
    assert done > 10, report


def test_a_case_is_decided_by_kind_seed_and_index(work: Path) -> None:
    def files(folder: Path, kind: str, index: int) -> dict[str, bytes]:
        case = Case(
            folder=folder, corpus=Corpus(folder=work / "corpus"), rng=seeded(kind, 1, index)
        )
        KINDS[kind][0](case)
        names = sorted(path for path in folder.rglob("*") if path.is_file())
        read = {str(path.relative_to(folder)): path.read_bytes() for path in names}
        shutil.rmtree(folder)
        return {**read, "words": " ".join(case.words).encode()}

    for kind in KINDS:
        for index in range(3):
            once, again, other = (files(work / "again" / kind, kind, i) for i in (index, index, 99))
            assert once == again, kind
            # Without a processor for bf16, there is no record of it to damage.
            whole = kind == "verified" and not any((work / "corpus" / kind).iterdir())
            assert whole or once != other, kind


def test_a_file_that_was_not_named_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    case = Case(folder=folder, corpus=Corpus(folder=tmp_path / "c"), rng=seeded("image", 1, 1))
    names = [folder / "in.png", "planted/secret", "/etc/hostname", "/usr/lib/x.so", tmp_path / "d"]
    lines = [f'7 openat(AT_FDCWD, "{name}", O_RDONLY) = 3\n' for name in names]
    lines.append("7 connect(5, {sa_family=AF_INET, sin_port=htons(80)}, 16) = 0\n")
    opened.log_path(case).write_text("".join(lines))
    found = [str(folder / "planted/secret"), "/etc/hostname", str(tmp_path / "d")]
    assert opened.strangers(case) == [*found, "a connection of AF_INET"]


@pytest.mark.slow
def test_no_file_is_opened_that_was_not_named(work: Path) -> None:
    if not opened.available():
        pytest.skip("needs strace, and the right to follow processes")
    fuzz(work, "--count", 0, "--strace", 40, "--seed", 3)


@pytest.mark.slow
def test_many_damaged_files(work: Path) -> None:
    report = fuzz(work, "--count", 2000, "--seed", int(os.environ.get("SRTRT_FUZZ_SEED", "2")))
    assert total(report) >= 2000
