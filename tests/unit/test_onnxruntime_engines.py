"""The engines that ONNX Runtime's TensorRT provider keeps: none that others could have written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from srtrt.runtime.backends.onnxruntime import OnnxRuntimeTensorRtBackend


class Standin(OnnxRuntimeTensorRtBackend):
    """Only asked for its options; nothing of it needs a GPU."""

    def __init__(self) -> None:
        self.notes = []
        self.precision = "fp16"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path))
    return tmp_path / "engines" / "onnxruntime"


def options() -> tuple[dict[str, str], list[str]]:
    backend = Standin()
    found = backend._more_options()
    assert backend._more_options() == found  # for every stream, and said once
    return found, backend.notes


def test_engines_are_kept_where_nobody_else_comes(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    (folder / "a.engine").touch()
    found, notes = options()
    assert found["trt_engine_cache_path"] == found["trt_timing_cache_path"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert notes == []


def loosen(folder: Path) -> None:
    folder.chmod(0o777)


def link(folder: Path) -> None:
    (folder / "b.engine").symlink_to("/dev/null")


def replace(folder: Path) -> None:
    folder.rename(folder.with_name("other"))
    folder.symlink_to(folder.with_name("other"))


def give_away(folder: Path) -> None:
    (folder / "a.engine").touch()
    try:
        os.chown(folder / "a.engine", 12345, 12345)
    except PermissionError:
        pytest.skip("only root can give a file away")


@pytest.mark.parametrize("act", [loosen, link, replace, give_away])
def test_what_others_could_have_written_is_not_used_and_said(folder: Path, act: object) -> None:
    assert callable(act)
    folder.mkdir(parents=True, mode=0o700)
    act(folder)
    found, notes = options()
    assert found == {"trt_fp16_enable": "1"}
    (note,) = notes
    assert "is built anew each time: " in note
    assert str(folder) in note
