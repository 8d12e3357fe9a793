"""Names that lead nowhere are refused before the work, each with one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from srtrt.errors import InputError, OutputError, UsageError
from srtrt.paths import (
    local_path,
    require_file,
    require_folder_writable,
    require_writable,
)
from srtrt.reports import ReportPlace
from srtrt.runtime.image_files import find_images


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "the name of an input is empty"),
        ("-", "stdin is not read"),
        ("https://example.org/a.mp4", "only local files are read; download it first"),
        (Path("https://example.org/a.mp4"), "only local files are read; download it first"),
        ("rtsp://camera/1", "only local files are read"),
        ("file:///tmp/a.mp4", "give the path of the file alone"),
        ("x" * 300, "File name too long"),
        ("a/" * 4000, "File name too long"),
    ],
)
def test_inputs_that_are_no_local_files(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        local_path(name)
    assert len(str(caught.value)) < 500


def test_what_exists_is_a_local_file_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").touch()
    (tmp_path / "http:").mkdir()
    (tmp_path / "http:" / "a.mp4").touch()
    assert local_path("-") == Path("-")
    assert local_path("http://a.mp4") == Path("http:/a.mp4")
    assert local_path("absent.mp4") == Path("absent.mp4")


def test_a_link_to_itself_is_no_input(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"loop/a: cannot be read \(Too many levels"):
        local_path(tmp_path / "loop" / "a")


def bad_places(folder: Path) -> list[tuple[Path, str]]:
    (folder / "file").touch()
    (folder / "loop").symlink_to("loop")
    return [
        (folder, "is a folder; give the name of a file"),
        (folder / "no" / "r.json", "does not exist; create it first"),
        (folder / "file" / "r.json", "Not a directory"),
        (folder / "loop", "Too many levels of symbolic links"),
        (folder / ("x" * 300), "File name too long"),
        (Path("/proc/r.json"), "cannot be written"),
    ]


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    for path, words in bad_places(tmp_path):
        with pytest.raises(OutputError, match=words):
            require_writable(path)
        with pytest.raises(OutputError, match=f"^--json .*{words}"):
            ReportPlace("--json", str(path)).require()
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]  # noqa: PTH208


def test_files_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("new.json", "old.json", "dangling", "x" * 250, "b\udcff"):
        require_writable(tmp_path / name)
    require_writable(Path(os.devnull))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "old.json"]
    assert (tmp_path / "old.json").read_text() == "{}"


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for folder, words in (
        (tmp_path / "file", "it is a file; a folder is needed there"),
        (tmp_path / "file" / "run", "Not a directory"),
        (tmp_path / "loop" / "run", "Too many levels"),
        (tmp_path / ("x" * 300) / "run", "File name too long"),
    ):
        with pytest.raises(OutputError, match=f"^--out .*{words}"):
            require_folder_writable(folder, option="--out")
    require_folder_writable(tmp_path / "a" / "b" / "c")
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_folders_of_others(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir(mode=0o700)
    (tmp_path / "hidden" / "in.png").touch()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(tmp_path)
            os.setuid(65534)
            status = 0
            for refuse in (
                lambda: require_folder_writable(Path("hidden/new")),
                lambda: require_writable(Path("hidden/new.json")),
                lambda: require_folder_writable(Path("hidden")),
                lambda: local_path("hidden/in.png"),
                lambda: find_images(["hidden"]),
                lambda: find_images(["hidden/*.png"]),
                lambda: require_file("hidden/c.yaml", option="--config", expected="YAML"),
            ):
                try:
                    refuse()
                    status = 1
                except (InputError, OutputError) as error:
                    status |= "ermission" not in str(error)
        except BaseException:
            status = 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_report_needs_a_name() -> None:
    with pytest.raises(UsageError, match="--json: the name is empty"):
        ReportPlace("--json", "")
