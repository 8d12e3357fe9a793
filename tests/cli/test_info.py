from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from srtrt.cli import COMMANDS, main
from srtrt.errors import BackendError
from srtrt.runtime import cost
from srtrt.runtime.models import bundled_models, weights_folder
from srtrt.weights import PURPOSES


def test_help_imports_no_engine() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from srtrt.cli import main;"
        "r = CliRunner().invoke(main, ['--help']); assert r.exit_code == 0, r.output;"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'av', 'cv2', 'onnx', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_upscaling_imports_no_torch() -> None:
    code = (
        "import sys, numpy; import srtrt;"
        "u = srtrt.Upscaler(backend='onnxruntime', device='cpu');"
        "u(numpy.zeros((4, 4, 3), 'uint8')); u.close();"
        "import srtrt.runtime.video.command, srtrt.runtime.image_command;"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


@pytest.mark.parametrize("command", ["upscale", "doctor"])
def test_openvino_reports_to_nobody(tmp_path: Path, command: str) -> None:
    """Its telemetry forks a process with threads, which can hang, and writes to the home folder."""
    code = {
        "upscale": "import srtrt, numpy; u = srtrt.Upscaler(backend='openvino', device='cpu');"
        "u(numpy.zeros((4, 4, 3), 'uint8')); u.close();",
        "doctor": "from click.testing import CliRunner; from srtrt.cli import main;"
        "assert not CliRunner().invoke(main, ['doctor']).exit_code;",
    }[command]
    code += "import sys; print('openvino' in sys.modules, 'openvino_telemetry' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert result.stdout.strip() == "True False", result.stderr
    assert not list(tmp_path.glob("intel*"))


def test_doctor_names_the_processor_and_what_limits_it(
    on_processor: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_processor("sapphire_rapids")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    text = CliRunner().invoke(main, ["doctor"]).output
    assert "Processor: Intel(R) Xeon(R) (avx2, limited by ONEDNN_MAX_CPU_ISA=AVX2)" in text
    assert "yes openvino on cpu [fp32, int8]" in text
    assert "this processor has no bfloat16" in text


def test_every_command_has_help() -> None:
    listing = CliRunner().invoke(main, ["--help"]).output
    for name in COMMANDS:
        assert name in listing
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert "Usage" in result.output
    assert CliRunner().invoke(main, ["frobnicate"]).exit_code == 2


def test_models_lists_every_bundled_model_with_a_card() -> None:
    listing = CliRunner().invoke(main, ["models", "--no-measure"])
    assert listing.exit_code == 0, listing.output
    assert "srresnet (default for images)" in listing.output
    assert "here" not in listing.output
    for name in bundled_models():
        assert name in listing.output
        assert PURPOSES[name] in listing.output
        card = CliRunner().invoke(main, ["models", name])
        assert card.output == (weights_folder() / f"{name}.md").read_text(encoding="utf-8")
    unknown = CliRunner().invoke(main, ["models", "nonsense"])
    assert unknown.exit_code == 1
    assert "neither a bundled model" in unknown.output


def test_models_says_what_each_costs_here() -> None:
    listing = CliRunner().invoke(main, ["models"])
    assert listing.exit_code == 0, listing.output
    lines = listing.output.splitlines()
    assert lines[0].split()[-2:] == ["480x270", "here"]
    seconds = {}
    for name in bundled_models():
        row = next(line for line in lines if line.startswith(f"{name} "))
        number, unit = row.split()[-2:]
        assert unit == "s"
        seconds[name] = float(number)
    assert all(seconds.values())
    assert any("the fastest here" in line for line in lines)


def test_models_are_listed_where_nothing_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise BackendError("nothing here offers backend auto.")

    monkeypatch.setattr(cost, "open_session", refuse)
    listing = CliRunner().invoke(main, ["models"])
    assert listing.exit_code == 0, listing.output
    assert f"{', '.join(bundled_models())}: not measured: nothing here offers" in listing.output


def test_doctor_names_every_backend_and_the_choice() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    for name in ("onnxruntime on cpu", "openvino on cpu", "torch on cpu"):
        assert name in result.output
    assert "It takes " in result.output
