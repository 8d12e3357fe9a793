"""Reduced precisions are verified once on the machine that runs them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from support import REPOSITORY

import srtrt
from srtrt.cli import main
from srtrt.errors import BackendError, DeviceLostError, ParityError
from srtrt.processor import Processor
from srtrt.runtime import select, verified
from srtrt.runtime.backends import BACKENDS, backend_class
from srtrt.runtime.backends.base import Capability
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend
from srtrt.runtime.engines.stored import read_record, write_record
from srtrt.runtime.models import Model, find_model, weights_folder
from srtrt.runtime.parity import Parity, read_originals, read_pictures
from srtrt.runtime.session import Session, open_session
from srtrt.spec import Form, Precision

PICTURE = read_pictures()[0][:24, :32]


class Standin(OnnxRuntimeBackend):
    """Computes float32 whatever it is asked for, and adds an error in some precisions."""

    name = "standin"
    errors: Mapping[str, int] = {}

    def __init__(
        self,
        model: Model,
        *,
        form: Form,
        device: str,
        precision: Precision,
        options: Any | None = None,
    ) -> None:
        super().__init__(model, form=form, device=device, precision="fp32", options=options)
        self.precision = precision

    @classmethod
    def capabilities(cls, gpu: str = "cuda:0") -> Sequence[Capability]:
        return [
            Capability(device="cpu", precisions=("bf16", "fp32", "int8"), reason="for the tests")
        ]

    def _infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        error = self.errors.get(self.precision, 0)
        if error < 0:
            raise RuntimeError("object is not initialized")
        outputs = super()._infer(inputs)
        return {
            name: np.minimum(plane, 255 - error) + np.uint8(error)
            for name, plane in outputs.items()
        }


Opened = Callable[..., tuple[Session, list[str]]]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Opens the stand-in with a cache of the test's own; the second result is what it said."""
    monkeypatch.setitem(BACKENDS, "standin", f"{__name__}:Standin")
    monkeypatch.setattr(backend_class("standin"), "errors", {})
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path / "cache"))

    few = [picture[:64, :96] for picture in read_originals()]
    monkeypatch.setattr(verified, "read_originals", lambda: few)
    verified._originals.cache_clear()

    def open_(precision: str = "auto", **options: Any) -> tuple[Session, list[str]]:
        told: list[str] = []
        chosen = {"model": "fast", "form": "rgb8", "backend": "standin"} | options
        return open_session(precision=precision, on_note=told.append, **chosen), told

    return open_


def wrong(monkeypatch: pytest.MonkeyPatch, **errors: int) -> None:
    monkeypatch.setattr(backend_class("standin"), "errors", errors)


def records(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "verified").glob("*.json"))


def test_it_is_verified_once_and_said_before(opened: Opened, tmp_path: Path) -> None:
    session, told = opened("int8")
    session.close()
    assert told == ["verifying int8 on this machine (once)"]
    (record,) = records(tmp_path)
    assert record.stat().st_mode & 0o077 == 0
    facts = json.loads(record.read_text())
    assert facts["parity"]["pictures"] == len(read_originals())
    again, told = opened("int8")
    again.close()
    assert told == []
    assert again.notes == []


def test_each_of_what_matters_is_verified_apart(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.onnx"
    shutil.copy(weights_folder() / "fast.onnx", copy)

    def verifies(**options: Any) -> bool:
        session, told = opened(**({"precision": "int8", "model": str(copy)} | options))
        session.close()
        return bool(told)

    assert verifies()
    assert not verifies()
    assert verifies(precision="bf16")
    assert verifies(form="yuv420p8")
    assert verifies(backend_options={"threads": 1})
    other = Processor(name="Another One", instruction_set="avx2")
    with monkeypatch.context() as patched:
        patched.setattr(verified, "this_processor", lambda: other)
        assert verifies()
        assert not verifies()
    with monkeypatch.context() as patched:
        patched.setattr(verified, "installed", lambda package: "99.0")
        assert verifies()
    assert not verifies()
    shutil.copy(weights_folder() / "video.onnx", copy)
    assert verifies()
    assert len(records(tmp_path)) == 7


def test_an_explicit_precision_that_fails_is_an_error_with_its_figures(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch, int8=40)
    pattern = (
        r"fast on standin int8 \(cpu\) does not compute what its graph in fp32 .* computes: "
        r"\d+\.\d dB, .* dB lost; expected at least 38 dB .* at most 0\.10 dB lost\. "
        r"Use --precision fp32 instead of int8"
    )
    for _ in range(2):  # the second time from what was kept
        with pytest.raises(ParityError, match=pattern):
            opened("int8")
    monkeypatch.setattr(verified, "_measure", lambda backend: pytest.fail("verified again"))
    with pytest.raises(ParityError, match="dB lost"):
        opened("int8")


def test_a_loss_against_the_originals_counts(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is kept are figures; whether they pass is decided anew each time."""
    opened("int8")[0].close()
    (record,) = records(tmp_path)
    facts = read_record(record)
    assert facts["parity"]["lost_db"] == 0.0
    facts["parity"] |= {"psnr_db": 45.0, "max_abs": 9, "lost_db": 0.123}
    write_record(record, facts)
    with pytest.raises(ParityError, match=r"45\.0 dB, .* 0\.12 dB lost; expected .* 0\.10 dB lost"):
        opened("int8")
    wrong(monkeypatch, bf16=2)  # 42 dB
    with pytest.raises(ParityError, match="expected at least 48 dB and a difference of at most"):
        opened("bf16")


def test_auto_takes_the_next_precision_and_says_so(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch, bf16=9)
    for _ in range(2):
        session, _ = opened()
        with session:
            assert session.description == "fast on standin fp32 (cpu)"
            assert "bf16 fails on this machine" in session.reason
            (note,) = session.notes
            assert note.startswith("Not used on this machine: fast on standin bf16 (cpu) does not")
            assert "expected at least 48 dB" in note
    wrong(monkeypatch)
    session, _ = opened(model="video")
    with session:
        assert "bf16" in session.description
        assert session.notes == []


def test_a_precision_that_cannot_be_computed_is_not_used(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong(monkeypatch, bf16=-1, int8=-1)
    session, _ = opened()
    with session:
        assert "fp32" in session.description
        assert "object is not initialized" in session.notes[0]
    with pytest.raises(BackendError, match="not initialized Use --precision fp32 instead of int8"):
        opened("int8")
    assert records(tmp_path) == []  # it may be able to next time
    wrong(monkeypatch)
    session, _ = opened("int8")
    session.close()


def test_float32_needs_no_proof(opened: Opened, tmp_path: Path) -> None:
    session, told = opened("fp32")
    session.close()
    assert told == []
    assert records(tmp_path) == []
    assert backend_class("tensorrt").gates_itself


JUNK: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[1]",
    b'{"subject": 3}',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"parity": {"psnr_db": 99}, "against": "x"}',
]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: repr(junk[:12]))
def test_a_damaged_record_is_verified_again(junk: bytes, opened: Opened, tmp_path: Path) -> None:
    opened("int8")[0].close()
    (record,) = records(tmp_path)
    good = record.read_bytes()
    record.write_bytes(junk)
    session, told = opened("int8")
    session.close()
    assert len(told) == 1
    assert record.read_bytes() == good


@pytest.mark.parametrize(
    "parity",
    [
        {"pictures": 3, "psnr_db": float("nan"), "max_abs": 1, "equal": 1.0},
        {"pictures": 0, "psnr_db": 60.0, "max_abs": 1, "equal": 1.0},
        {"pictures": 3, "psnr_db": "much", "max_abs": 1, "equal": 1.0},
        {"pictures": 3, "psnr_db": 60.0, "max_abs": float("inf"), "equal": 1.0},
        {"pictures": 3, "psnr_db": [60.0], "max_abs": 1, "equal": 1.0},
        {"pictures": 3, "psnr_db": 60.0, "max_abs": 1, "equal": 1.0, "lost_db": float("nan")},
        {"psnr_db": 60.0},
        7,
    ],
)
def test_figures_that_are_none_are_measured_again(
    parity: Any, opened: Opened, tmp_path: Path
) -> None:
    opened("int8")[0].close()
    (record,) = records(tmp_path)
    record.write_text(json.dumps({**json.loads(record.read_text()), "parity": parity}))
    session, told = opened("int8")
    session.close()
    assert len(told) == 1
    with pytest.raises(ValueError, match="figures of parity"):
        Parity.from_dict(parity)


def test_a_record_that_others_could_have_written_is_not_believed(
    opened: Opened, tmp_path: Path
) -> None:
    opened("int8")[0].close()
    (record,) = records(tmp_path)
    record.chmod(0o666)
    session, told = opened("int8")
    session.close()
    assert len(told) == 1


def test_without_a_cache_it_is_verified_each_time(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path / "file" / "below"))
    for _ in range(2):
        session, told = opened("int8")
        with session:
            assert len(told) == 1
            (note,) = session.notes
            assert note.startswith("int8 is verified each time, as the result cannot be kept: ")
            assert session.infer({"rgb": PICTURE[None]})["rgb_x4"].shape == (1, 96, 128, 3)


@pytest.mark.usefixtures("opened")
def test_upscaler_refuses_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong(monkeypatch, int8=40)
    with pytest.raises(ParityError, match="expected at least 38 dB"):
        srtrt.Upscaler("fast", backend="standin", precision="int8")
    with srtrt.Upscaler("fast", backend="standin") as upscale:
        assert "bf16" in upscale.description


@pytest.mark.usefixtures("opened")
def test_the_commands_say_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "in.png"
    cv2.imwrite(str(picture), PICTURE[..., ::-1])
    clip = str(REPOSITORY / "samples" / "rabbit.webm")
    options = ["--backend", "onnxruntime", "--model", "fast", "--precision"]
    commands = [
        ["upscale-image", str(picture), "-o", str(tmp_path / "out.png"), *options],
        ["upscale-video", clip, "-o", str(tmp_path / "out.mkv"), "--max-frames", "1", *options],
    ]
    monkeypatch.setitem(BACKENDS, "onnxruntime", BACKENDS["standin"])
    for command in commands:
        result = CliRunner().invoke(main, [*command, "bf16"])
        assert result.exit_code == 0, result.output
        line = "verifying bf16 on this machine (once)"
        assert line in result.stderr
        assert result.stderr.index(line) < result.stderr.index("engine: ")
        Path(command[3]).unlink()
    wrong(monkeypatch, int8=40)
    for command in commands:
        result = CliRunner().invoke(main, [*command, "int8"])
        assert result.exit_code == 1
        assert "expected at least 38 dB" in result.stderr
        assert "Use --precision fp32 instead of int8" in result.stderr
        assert not Path(command[3]).exists()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_graph_without_a_float32_one_is_verified_too(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path))
    model = str(find_model("srresnet").calibrated_paths["int8"])
    told: list[str] = []
    with open_session(model=model, form="rgb8", backend=backend, on_note=told.append) as session:
        assert "int8" in session.description
    assert len(told) == 1
    (record,) = (tmp_path / "verified").glob("*.json")
    assert json.loads(record.read_text())["parity"]["lost_db"] < 0.1


class LostGpu(Standin):
    """Breaks the GPU in some precisions, and would hide it in the others."""

    name = "lost"
    tried: ClassVar[list[str]] = []
    breaks = "infer"

    def __init__(self, model: Model, *, device: str, precision: Precision, **named: Any) -> None:
        self.tried.append(precision)
        if self.breaks == "open" and precision == "bf16":
            raise DeviceLostError("CUDA failed: an illegal memory access was encountered.")
        super().__init__(model, device="cpu", precision=precision, **named)
        self.device = device

    @classmethod
    def capabilities(cls, gpu: str = "cuda:0") -> Sequence[Capability]:
        return [Capability(device=gpu, precisions=("bf16", "fp32"), reason="for the tests")]

    def _infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self.precision == "bf16":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super()._infer(inputs)


@pytest.mark.parametrize("breaks", ["infer", "open"])
def test_no_precision_is_tried_on_a_gpu_that_was_lost(
    breaks: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = backend_class_of(monkeypatch, breaks)
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        opened(backend="lost")
    assert kind.tried == ["bf16"]
    kind.tried.clear()
    monkeypatch.setitem(BACKENDS, "second", BACKENDS["lost"])
    order = [("lost", "cuda"), ("second", "cuda"), ("standin", "cpu")]
    monkeypatch.setattr(select, "AUTO_ORDER", order)
    session, _ = opened(backend="auto")
    with session:
        assert session.description == "fast on standin bf16 (cpu)"
        assert any("lost on cuda:0 is not used: " in note for note in session.notes)
    assert kind.tried == ["bf16"]


def backend_class_of(monkeypatch: pytest.MonkeyPatch, breaks: str) -> type[LostGpu]:
    monkeypatch.setitem(BACKENDS, "lost", f"{__name__}:LostGpu")
    kind = backend_class("lost")
    assert issubclass(kind, LostGpu)  # the module may have been imported by another name
    monkeypatch.setattr(kind, "tried", [])
    monkeypatch.setattr(kind, "breaks", breaks)
    return kind
