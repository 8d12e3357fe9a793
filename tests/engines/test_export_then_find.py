"""What `srtrt export` builds is what `srtrt upscale-video` finds, or it is said beforehand why not.

Engines are really built with TensorRT-RTX, and computed by a stand-in runtime.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from engine_support import GPU
from PIL import Image
from tensorrt_standin import StandIn
from video_clips import make_clip

from srtrt.cli import main
from srtrt.export import engines as export_engines_module
from srtrt.export.api import ExportedGraph
from srtrt.runtime.backends.tensorrt import TensorRtBackend
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.identity import EngineKey, engine_key
from srtrt.runtime.engines.key import EngineOptions, EngineShape
from srtrt.runtime.engines.products import USUAL_PRECISION
from srtrt.runtime.models import bundled_models, find_model
from srtrt.runtime.parity import read_pictures

RTX = FLAVOURS["tensorrt-rtx"]


@pytest.fixture(autouse=True)
def cache(user_cache: EngineCache) -> EngineCache:
    return user_cache


@pytest.fixture(scope="module")
def one_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small picture to compare on, since verifying is tested elsewhere."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(read_pictures()[0][:24, :32]).save(folder / "small.png")
    return folder


@pytest.fixture(autouse=True)
def export_once(
    one_picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    made: dict[Any, list[ExportedGraph]],
) -> None:
    """Graphs of engines are exported for real, but only once for each model and precision."""

    def export_model(model: str, _folder: Path, **how: Any) -> list[ExportedGraph]:
        key = (model, *how["forms"], *how["precisions"])
        if key not in made:
            settings = {name: how[name] for name in ("forms", "precisions")}
            folder = tmp_path_factory.mktemp("graphs")
            # What 8 bits lose against an original takes more than a small picture to tell.
            pictures = None if "int8" in how["precisions"] else one_picture
            made[key] = real(model, folder, verify=pictures, **settings)
        for graph in made[key]:
            how["on_graph"](graph)
        return made[key]

    real = export_engines_module.export_model
    monkeypatch.setattr(export_engines_module, "export_model", export_model)


@pytest.fixture(scope="module")
def made() -> dict[Any, list[ExportedGraph]]:
    return {}


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def exported(*arguments: Any) -> Result:
    done = run("export", *arguments, "--format", "tensorrt-rtx")
    assert done.exit_code == 0, done.output
    return done


def video_key(name: str, size: str = "64x48", precision: str = "fp16") -> EngineKey:
    """What upscale-video asks for on the test's GPU unless told otherwise."""
    return engine_key(
        find_model(name).graph("yuv420p8", precision),  # type: ignore[arg-type]
        EngineShape.parse(size),
        EngineOptions(),
        flavour=RTX,
        gpu=GPU,
    )


MODELS = [
    "fast",
    *(pytest.param(m, marks=pytest.mark.slow) for m in bundled_models() if m != "fast"),
]

BUILDS: dict[str, list[str]] = {
    "no option": [],
    "a level": ["--level", "5"],
    "a low level": ["--level", "0"],
    "a workspace": ["--workspace", "4096"],
    "one compute capability": ["--compute-capability", "8.9"],
    "two compute capabilities": ["--compute-capability", "12.0", "--compute-capability", "8.9"],
    "all of them": ["--level", "4", "--workspace", "4000", "--compute-capability", "8.9"],
    "options of the backend": [
        *("--backend-option", "aux_streams=2", "--backend-option", "tactics=plain"),
        *("--backend-option", "fusion=false", "--backend-option", "binding=cuda-python"),
    ],
    "a range": ["--shape", "32x32:64x64:128x96"],
}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    "name",
    [m if m == "fast" else pytest.param(m, marks=pytest.mark.slow) for m in bundled_models()],
)
def test_bundled_models_with_every_build_option_are_found(
    name: str, build: str, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built on a machine without a GPU, they are what one with a GPU looks for."""
    monkeypatch.setattr(export_engines_module, "gpu_facts", lambda *_: None)
    options = BUILDS[build] if "--shape" in BUILDS[build] else [*BUILDS[build], "--shape", "64x48"]
    exported(name, *options)
    (entry,) = cache.entries()
    assert entry.record is not None
    found = cache.find(video_key(name))
    assert found is not None
    assert found.path == entry.path


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_other_precisions_are_found_when_asked_for(
    precision: str, cache: EngineCache, standin: StandIn
) -> None:
    done = exported("srgan", "--precision", precision, "--shape", "64x48")
    assert f"to use the engines in {precision} tell it --precision {precision}." in done.stderr
    assert cache.find(video_key("srgan")) is None
    assert cache.find(video_key("srgan", precision=precision)) is not None


@pytest.mark.parametrize("build", ["no option", "a level", "all of them", "a range"])
def test_upscale_video_takes_the_exported_engine_and_says_which(
    build: str, standin: StandIn, cache: EngineCache, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    options = BUILDS[build] if "--shape" in BUILDS[build] else [*BUILDS[build], "--shape", "64x48"]
    exported("fast", *options)
    built = list(standin.builds)
    done = run("upscale-video", clip, "--model", "fast", "--backend", "tensorrt")
    assert done.exit_code == 0, done.output
    assert standin.builds == built
    (entry,) = cache.entries()
    said = f"Using {entry.path.name}: it takes " in done.stderr
    assert said == (build != "no option")


def test_what_changes_results_is_used_where_it_is_asked_for(
    standin: StandIn, cache: EngineCache, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    done = exported("fast", "--shape", "64x48", "--backend-option", "tf32=true")
    assert "to use these engines tell it --backend-option tf32=true." in done.stderr
    (entry,) = cache.entries()
    assert entry.record is not None
    assert entry.record.key["tf32"]
    assert cache.find(video_key("fast")) is None
    arguments = ["upscale-video", clip, "--model", "fast", "--backend", "tensorrt"]
    done = run(*arguments, "--backend-option", "tf32=true")
    assert done.exit_code == 0, done.output
    assert len(standin.builds) == 1


def test_an_explicit_wish_builds_another_with_the_reason(
    standin: StandIn, cache: EngineCache, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    exported("fast", "--shape", "64x48")
    arguments = ["upscale-video", clip, "--model", "fast", "--backend", "tensorrt", "--overwrite"]
    done = run(*arguments, "--backend-option", "level=5")
    assert done.exit_code == 0, done.output
    assert "the optimisation level is 5 and was 3" in done.stderr
    assert len(standin.builds) == 2
    # Both serve one who asks for nothing; the higher level is taken.
    done = run(*arguments)
    assert "level 5" in done.stderr
    assert len(standin.builds) == 2
    found = cache.find(video_key("fast"))
    assert found is not None
    assert found.record.built["level"] == 5


def test_an_engine_of_the_size_goes_before_a_range(standin: StandIn, cache: EngineCache) -> None:
    exported("fast", "--shape", "32x32:64x64:128x96", "--level", "5")
    exported("fast", "--shape", "64x48")
    found = cache.find(video_key("fast"))
    assert found is not None
    assert str(found.record.takes) == "64x48"
    assert cache.find(video_key("fast", "130x96")) is None


def test_without_a_shape_every_usual_size_is_found(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_engines_module, "gpu_facts", lambda *_: None)
    done = exported("fast")
    assert "no --shape was given" in done.stderr
    for size in ("64x64", "854x480", "1280x720", "1920x1080"):
        assert cache.find(video_key("fast", size)) is not None
    assert cache.find(video_key("fast", "1922x1080")) is None


SAID: dict[str, tuple[list[str], str]] = {
    "for another GPU": (
        ["--compute-capability", "8.6"],
        "it is for compute capability 8.6, and NVIDIA Test has 8.9",
    ),
    "the form of pictures": (["--io", "rgb8"], "upscale-image takes it"),
    "frames at once": (["--shape", "2x64x48"], "--backend-option batch=2"),
    "another folder": (["-o", "elsewhere"], "--backend-option cache_folder=elsewhere"),
}


@pytest.mark.parametrize("case", SAID)
def test_what_will_not_be_found_is_said_before_the_work(
    case: str,
    standin: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options, text = SAID[case]
    done = exported("fast", *options, *([] if "--shape" in options else ["--shape", "64x48"]))
    assert text in done.stderr
    assert done.stderr.index(text) < done.stderr.index("Building ")
    home = EngineCache().find(video_key("fast"))
    assert home is None


def test_without_a_gpu_it_is_said_where_engines_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_engines_module, "gpu_facts", lambda *_: None)
    done = exported("fast", "--shape", "64x48")
    assert "This machine cannot run these engines: TensorRT-RTX: no NVIDIA GPU" in done.stderr


def test_a_gpu_older_than_the_usual_targets_is_a_target(
    standin: StandIn, cache: EngineCache
) -> None:
    old = standin.gpus["cuda:0"] = replace(GPU, compute_capability="7.5", name="NVIDIA Older")
    done = exported("fast", "--shape", "64x48")
    assert "for compute capability 7.5, that of NVIDIA Older, which TensorRT-RTX" in done.stderr
    (entry,) = cache.entries()
    assert entry.record is not None
    assert entry.record.key["compute_capabilities"] == "7.5"
    assert cache.find(replace(video_key("fast"), here=old)) is not None
    assert cache.find(video_key("fast")) is None


def test_export_and_upscale_video_choose_the_same_precision(standin: StandIn) -> None:
    precisions = TensorRtBackend.capabilities()[1].precisions
    assert precisions[0] == USUAL_PRECISION == "fp16"
    done = exported("fast", "--shape", "64x48")
    assert re.search(r"engines of fast: yuv420p8 in fp16 for frames of 64x48", done.stderr)


@pytest.mark.parametrize("gpu", [GPU, None])
def test_bare_export_does_the_main_thing(
    gpu: GpuFacts | None,
    standin: StandIn,
    cache: EngineCache,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_engines_module, "gpu_facts", lambda *_: gpu)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "generator.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    done = run("export", "--shape", "64x48")
    assert done.exit_code == 0, done.output
    assert "Exporting run/generator.safetensors: " in done.stderr
    names = sorted(path.name for path in tmp_path.glob("*.onnx"))
    assert names == ["tiny-rgb8-fp32.onnx", "tiny-yuv420p8-fp32.onnx"]
    if gpu is None:
        assert "No engine was built: " in done.stderr
        assert "no NVIDIA GPU with a driver was found" in done.stderr
        return
    assert cache.find(video_key(str(tmp_path / "tiny-rgb8-fp32.onnx"))) is not None
    again = run("export", "--shape", "64x48")
    assert again.exit_code == 0, again.output
    assert again.stdout.count("there already, the same graph") == 2
    assert len(standin.builds) == 1
