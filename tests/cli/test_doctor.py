"""The doctor, and first use, where an installed package does not work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
from click.testing import CliRunner

from srtrt import packages
from srtrt.cli import main
from srtrt.packages import broken_import, untried
from srtrt.runtime.package_checks import check_packages
from srtrt.runtime.video import pyav

LIBGL = "libGL.so.1: cannot open shared object file: No such file or directory"


def srtrt(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """The command line with a folder of other packages before the installed ones."""
    return subprocess.run(
        [sys.executable, "-m", "srtrt.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(path)},
        cwd=path,
    )


def fake_package(folder: Path, module: str, problem: str) -> None:
    (folder / f"{module}.py").write_text(f"raise ImportError({problem!r})\n")


def fake_distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def one_line(text: str) -> str:
    assert "Traceback" not in text
    return " ".join(text.split())


def test_every_installed_package_works() -> None:
    states = {state.name: state for state in check_packages()}
    assert not [str(state) for state in states.values() if state.problem]
    for name in ("av", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "openvino"):
        assert states[name].version is not None


@pytest.mark.parametrize("command", ["doctor", "upscale-image"])
def test_opencv_without_the_libraries_of_a_desktop(tmp_path: Path, command: str) -> None:
    fake_package(tmp_path, "cv2", LIBGL)
    fake_distribution(tmp_path, "opencv-python", "4.12.0.88")
    done = srtrt(command, *([] if command == "doctor" else ["a.png"]), path=tmp_path)
    assert done.returncode == 1
    said = one_line(done.stderr)
    assert LIBGL in said
    assert "opencv-python and opencv-python-headless all own the module cv2" in said
    assert "pip uninstall opencv-python opencv-python-headless, then pip install" in said


def test_the_python_api_names_a_package_that_does_not_work(tmp_path: Path) -> None:
    fake_package(tmp_path, "onnx", "undefined symbol: _ZN4onnx")
    code = (
        "import srtrt\n"
        "try:\n    srtrt.Upscaler\n"
        "except srtrt.errors.BrokenPackageError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import srtrt.errors\n{code}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "The package onnx" in done.stdout, done.stderr
    assert "does not work: undefined symbol" in done.stdout


def test_an_engine_that_cannot_be_imported_is_not_called_absent(tmp_path: Path) -> None:
    fake_package(tmp_path, "openvino", "libtbb.so.12: cannot open shared object file")
    done = srtrt("doctor", path=tmp_path)
    assert done.returncode == 1
    said = one_line(done.stdout + done.stderr)
    assert "does not work: libtbb.so.12: cannot open shared object file" in said
    assert "pip install --force-reinstall 'openvino" in said
    assert "What is installed does not all work (see above): openvino." in said
    assert "It takes onnxruntime on cpu" in said


def test_a_pyav_without_an_encoder_or_another_interface_fails_the_doctor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = pyav.write_and_read_a_clip

    def without_x264(encoder: str, options: dict[str, str]) -> None:
        if encoder == "libx264":
            raise ValueError("no codec 'libx264'")
        real(encoder, options)

    monkeypatch.setattr(pyav, "write_and_read_a_clip", without_x264)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1
    assert "libx264, the encoder of --codec h264: no codec" in one_line(done.output)
    monkeypatch.undo()

    def other(*_: object, **__: object) -> None:
        raise TypeError("open() got an unexpected keyword argument")

    monkeypatch.setattr(av, "open", other)
    pyav.require.cache_clear()
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1
    assert f"av {av.__version__} does not work: open() got an unexpected" in one_line(done.output)


def test_two_owners_of_cv2_that_work_are_noted(tmp_path: Path) -> None:
    fake_distribution(tmp_path, "opencv-contrib-python", "4.12.0.88")
    done = srtrt("doctor", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "opencv-python-headless and opencv-contrib-python all own the module cv2" in one_line(
        done.stdout
    )


@pytest.mark.parametrize(
    ("version", "bounds", "tried"),
    [
        ("19.0.2", ">=17,<20", True),
        ("17.0.0", ">=17,<20", True),
        ("20.0.0rc1", ">=17,<20", False),
        ("16.9", ">=17,<20", False),
        ("2.13.0+cu130", ">=2.6,<3", True),
        ("4.11.0.86", ">=4.11,<6", True),
        ("1.3", "", True),
    ],
)
def test_versions_are_compared_with_what_was_tried(
    monkeypatch: pytest.MonkeyPatch, version: str, bounds: str, tried: bool
) -> None:
    monkeypatch.setattr(packages, "requirements", lambda: {"some-package": bounds})
    monkeypatch.setattr(packages, "installed", lambda _name: version)
    note = untried("Some_Package")
    assert (note is None) == tried
    if note:
        assert f"{version} has not been tried with srtrt (expected {bounds})" in note
        assert f"pip install --force-reinstall 'Some_Package{bounds}'" in note


def test_an_unexpected_error_is_shown_with_the_versions_that_were_never_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "all_untried", lambda: ["numpy 9 has not been tried with srtrt"])
    monkeypatch.setattr("srtrt.runtime.info_command.bundled_models", lambda: 1 / 0)
    done = CliRunner().invoke(main, ["models"])
    assert done.exit_code == 70
    assert "numpy 9 has not been tried" in done.output


def test_a_fault_of_srtrt_is_not_blamed_on_a_package() -> None:
    with pytest.raises(ImportError, match="nothing") as caught:
        from srtrt.spec import nothing  # type: ignore[attr-defined]  # noqa: F401
    assert broken_import(caught.value) is None
