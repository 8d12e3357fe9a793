"""Wrong values of options: one clear sentence each, before the work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from video_clips import NearestSession, make_clip

import srtrt.runtime.session
from srtrt.cli import main
from srtrt.runtime.models import weights_folder
from srtrt.runtime.video import encoders


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def sentence(done: Result, *, status: int) -> str:
    """The last line, which is the only one that is no usage."""
    assert done.exit_code == status, done.output
    assert "Traceback" not in done.output
    assert done.stdout == ""
    return done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "in.mp4", pts=(0, 3000))


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that must not be opened."""

    def fail(**_: object) -> None:
        raise AssertionError("the network was opened")

    monkeypatch.setattr(srtrt.runtime.session, "open_session", fail)


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--crf", "99"], "--crf 99: libx264 takes 0 (best, largest) to 51."),
        (["--crf", "-5"], "--crf -5: libx264 takes 0 (best, largest) to 51."),
        (["--crf", "52", "--codec", "hevc"], "--crf 52: libx265 takes 0"),
        (["--crf", "64", "--codec", "av1"], "--crf 64: libsvtav1 takes 0 (best, largest) to 63."),
        (["--crf", "64", "--encoder", "libvpx-vp9"], "--crf 64: libvpx-vp9 takes 0"),
        (["--preset", "warp"], "--preset 'warp': libx264 takes one of ultrafast, superfast,"),
        (["--preset", "slowr"], "placebo. Did you mean 'slower'?"),
        (["--preset", "8"], "(That is a preset of --codec av1.)"),
        (["--preset", "fast", "--codec", "av1"], "libsvtav1 takes a number from -1 (slow) to 13"),
        (["--preset", "14", "--codec", "av1"], "libsvtav1 takes a number from -1 (slow) to 13"),
        (["--preset", "slow", "--encoder", "libvpx-vp9"], "has no meaning for libvpx-vp9"),
        (["--crf", "9", "--encoder", "ffv1"], "no meaning for ffv1, it is lossless; leave it out"),
        (["--encoder", "libx246"], "no such encoder (examples: libx264, libx265, libsvtav1"),
        (["--encoder", "libx246"], "Did you mean 'libx264'?"),
        (["--codec", "h265"], "Did you mean 'hevc'?"),
        (["--backend", "opnvino"], "Did you mean 'openvino'?"),
        (["--precision", "half"], "Did you mean 'fp16'?"),
        (["--backend-optoin", "threads=4"], "No such option"),
        (["--crf", "a"], "'a': expected a whole number."),
        (["--max-frames", "0"], "'0': expected a whole number of at least 1."),
    ],
)
def test_wrong_values_of_upscale_video(
    clip: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    output = tmp_path / "out.mkv"
    assert words in sentence(run("upscale-video", clip, "-o", output, *options), status=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoder", sorted(encoders.ENCODERS))
def test_the_ends_of_each_range_are_what_the_encoder_takes(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    """As far as it can be opened here; nothing is refused that FFmpeg would take."""
    monkeypatch.setattr(srtrt.runtime.session, "open_session", NearestSession)
    limits = encoders.ENCODERS[encoder]
    qualities = [] if limits.crf is None else [limits.crf[0], limits.crf[-1]]
    presets = [] if limits.presets is None else [limits.presets[0], limits.presets[-1]]
    for option, value in [*(("--crf", q) for q in qualities), *(("--preset", p) for p in presets)]:
        extra = ["--preset", "ultrafast"] if (encoder, option) == ("libx265", "--crf") else []
        done = run(
            "upscale-video", clip, "-o", tmp_path / "out.mkv", "--overwrite",
            "--encoder", encoder, option, value, *extra,
        )  # fmt: skip
        if encoder.endswith("_nvenc") and done.exit_code:
            assert "needs an NVIDIA GPU" in done.stderr or "no such encoder" in done.stderr
            return
        assert done.exit_code == 0, done.output


@pytest.mark.usefixtures("never")
def test_an_encoder_of_hardware_that_is_not_there(clip: Path, tmp_path: Path) -> None:
    done = run("upscale-video", clip, "-o", tmp_path / "out.mp4", "--encoder", "h264_nvenc")
    if isinstance(done.exception, AssertionError) or "internal error" in done.stderr:
        pytest.skip("h264_nvenc can be opened here")
    words = sentence(done, status=done.exit_code)
    assert "it needs an NVIDIA GPU that encodes video" in words or "no such encoder" in words


@pytest.mark.parametrize("command", ["upscale-video", "upscale-image"])
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("https://example.org/a.mp4", "only local files are read; download it first"),
        ("-", "stdin is not read; save what comes from it to a file"),
        ("", "the name of an input is empty"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.usefixtures("never")
def test_inputs_that_are_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, source: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in sentence(run(command, source), status=1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("srresnet-int8", "give --model srresnet --precision int8."),
        ("srresent", "Did you mean 'srresnet'?"),
        ("net.pth", "srtrt export run/generator.safetensors"),
        ("net.onnx", "net.onnx: no such model file"),
    ],
)
def test_models_that_are_none(picture: Path, model: str, words: str) -> None:
    assert words in sentence(run("upscale-image", picture, "--model", model), status=1)


def test_a_precision_of_gpus_on_the_cpu(picture: Path) -> None:
    done = run("upscale-image", picture, "--device", "cpu", "--precision", "fp16")
    words = sentence(done, status=1)
    assert words.startswith("srtrt: precision fp16 cannot be computed here: openvino on cpu")
    assert "Leave --precision out" in words
    assert "is not the device" not in words


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize(
    ("options", "words", "status"),
    [
        (["-o", "-"], "pictures go to files, not to stdout; give a name such as out.png", 1),
        (["-o", "out.xyz"], "names no known format; use one of .png", 1),
        (["-o", "out"], "no ending names a known format; use one of .png", 1),
        (["--quality", "50"], "PNG has no quality setting; leave --quality out", 1),
        (["--quality", "101"], "'101': expected a whole number from 1 to 100.", 2),
        (["-o", "no/out.png"], "the folder no does not exist; create it first", 1),
        (["--json", "no/r.json"], "--json no/r.json: the folder no does not exist", 1),
        (["--json", "."], "--json .: is a folder; give the name of a file", 1),
        (["--json", ""], "--json: the name is empty", 2),
        (["--json", "x" * 300], "File name too long", 1),
        (["-o", "x" * 300 + ".png"], "File name too long", 1),
    ],
)
def test_wrong_outputs_of_upscale_image(
    picture: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str, status: int
) -> None:
    monkeypatch.chdir(picture.parent)
    assert words in sentence(run("upscale-image", picture, *options), status=status)
    assert [path.name for path in picture.parent.iterdir()] == ["in.png"]


@pytest.mark.usefixtures("never")
def test_what_is_wrong_with_the_last_picture_is_said_before_the_first(picture: Path) -> None:
    absent = picture.with_name("absent.png")
    done = run("upscale-image", picture, absent, "-o", picture.parent / "new", "--model", "fast")
    assert done.stderr.splitlines()[0].startswith(f"srtrt: {absent}: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", ".", "--out", "file"], "--out file: it is a file"),
        (["train", "--data", "absent", "--out", "run"], "absent: no such folder"),
        (["export", "fast", "-o", "file/graphs"], "--out file/graphs: cannot be made (Not a"),
        (["train", "--data", "x" * 300], "File name too long"),
        (["train", "--data", ".", "--init", "srresent"], "Did you mean 'srresnet'?"),
        (["train", "--data", ".", "--init", "x" * 300], "File name too long"),
        (["train", "--data", ".", "--vgg", "absent.pth"], "--vgg absent.pth: no such file"),
        (["train", "--data", ".", "--config", "."], "--config .: is a folder; expected settings"),
        (["export", "nosuch"], "neither a bundled model"),
        (["export", "fast", "--verify", "x" * 300], "File name too long"),
        (["benchmark", "latency", "--out", "no/r.json"], "--out no/r.json: the folder no does"),
        (["benchmark", "quality", "--data", ".", "--out", "."], "--out .: is a folder"),
    ],
)
def test_places_are_checked_before_pytorch_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("PyTorch was loaded")

    monkeypatch.setattr("srtrt.packages.load", fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert words in sentence(run(*arguments), status=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["", "x" * 101, "two\nlines", "\x1b[2J"])
def test_a_name_that_no_model_can_have(tmp_path: Path, name: str) -> None:
    done = run("train", "--data", tmp_path, "--out", tmp_path / "run", "--name", name)
    assert "expected 1 to 100 printable characters" in sentence(done, status=2)
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_preset_of_training(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = run("train", "--data", tmp_path, "--out", tmp_path / "run", "--preset", "pnsr")
    assert "Did you mean 'psnr'?" in sentence(done, status=2)


def test_a_mistyped_setting_of_training(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = run("train", "--data", tmp_path, "--out", tmp_path / "run", "--set", "data.bacth=4")
    assert "did you mean 'data.batch'?" in sentence(done, status=2)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A graph without the checkpoint that it came from."""
    return Path(shutil.copy(weights_folder() / "fast.onnx", tmp_path / "x.onnx"))


def test_a_graph_without_checkpoint_is_timed_against_a_graph(graph: Path) -> None:
    pytest.importorskip("torch")
    done = run(
        "benchmark", "latency", "--model", graph, "--size", "32x32", "--rounds", "1",
        "--engine", "onnxruntime-fp32", "--engine", "openvino-fp32",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert '"reference": "onnxruntime-fp32"' in done.stdout
    done = run("benchmark", "latency", "--model", graph, "--reference", "torch-eager-fp32")
    assert "x.onnx is a graph, and torch-eager-fp32 is computed from the checkpoint" in done.stderr


def test_parity_of_a_graph_without_checkpoint(graph: Path, picture_folder: Path) -> None:
    pytest.importorskip("torch")
    done = run("benchmark", "parity", "--model", graph, "--data", picture_folder)
    assert "is computed from the checkpoint that it was exported from" in done.stderr
    assert "None" not in done.stderr


@pytest.mark.parametrize("size", ["", "1x1", "99999x99999", "²x3", "160", "160x90x3", "-1x5"])
def test_sizes_that_are_none(size: str) -> None:
    pytest.importorskip("torch")
    done = run("benchmark", "latency", "--size", size, "--rounds", "1")
    assert "expected WIDTHxHEIGHT, such as 160x90, of 2 to 4096" in sentence(done, status=2)


def test_loading_is_said_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    from srtrt import packages

    said: list[str] = []
    monkeypatch.setattr(packages, "say", said.append)
    monkeypatch.delitem(packages.sys.modules, "torch", raising=False)
    monkeypatch.setattr(packages.importlib, "import_module", said.append)
    packages.load(["heavy"], extra="train", purpose="this")
    packages.load(["heavy"], extra="train", purpose="this", quiet=True)
    assert said == ["loading PyTorch ...", "heavy", "heavy"]
