"""Valid graphs, checkpoints, run folders, caches and engines of tiny networks, made here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import torch
from click.testing import CliRunner
from engine_support import GPU
from networks import lively_generator, small_vgg_state
from onnx import ModelProto, TensorProto

from srtrt.cli import main
from srtrt.export.api import export_model
from srtrt.graph import load_graph
from srtrt.networks.checkpoint import (
    generator_state,
    make_spec,
    round_to_half,
    save_checkpoint,
)
from srtrt.networks.generator import GeneratorConfig
from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.identity import EngineKey
from srtrt.runtime.engines.key import EngineOptions, EngineShape
from srtrt.runtime.engines.record import BuiltEngine
from srtrt.runtime.engines.stored import write_blob
from srtrt.runtime.engines.tuning import write_choice
from srtrt.runtime.parity import read_pictures
from srtrt.runtime.ring import RingOptions
from srtrt.train.config import preset, preset_names

TINY = """\
generator: {blocks: 1, features: 8, upsampler: pixelshuffle}
data: {batch: 2, patch: 8}
schedule: {unit: epochs, length: 4, warmup_steps: 0}
discriminator: {features: 4}
run: {log_every: 1, save_every: 2, validate_every: 1, sample_every: 0, keep: 4}
"""


def make_training_pictures(folder: Path) -> None:
    """Three small pictures that always have the same times."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, whole in enumerate(read_pictures()[:3]):
        cv2.imwrite(str(folder / f"{index}.png"), whole[:64, : 64 + 8 * index, ::-1])
        os.utime(folder / f"{index}.png", (1_700_000_000, 1_700_000_000))


def make_checkpoints(folder: Path) -> None:
    """Checkpoints of a tiny generator in both sizes of weights, and what PyTorch saves."""
    folder.mkdir(parents=True, exist_ok=True)
    net = lively_generator(GeneratorConfig(blocks=2, features=8))
    state = generator_state(net)
    save_checkpoint(folder / "tiny.safetensors", state, make_spec(state, net.config, "tiny"))
    half = round_to_half(state)
    save_checkpoint(folder / "half.safetensors", half, make_spec(half, net.config, "half"))


def make_pickles(folder: Path) -> None:
    """VGG19 up to its second convolution, and other things that PyTorch saves."""
    folder.mkdir(parents=True, exist_ok=True)
    state = small_vgg_state()
    torch.save(state, folder / "vgg.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3).to_sparse()}, folder / "sparse.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3, device="meta")}, folder / "meta.pth")
    torch.save([1, "x", {"a": (2.0, None)}], folder / "other.pth")


def make_graphs(folder: Path, checkpoint: Path) -> None:
    """The exported graphs of a checkpoint unless they are there, and such as name other files."""
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.iterdir()):
        export_model(str(checkpoint), folder, precisions=("fp32", "fp16"))
    for path in sorted(folder.glob("tiny-*.onnx")):
        model = ModelProto.FromString(path.read_bytes())
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="planted/secret")
        path.with_name(f"outside-{path.name}").write_bytes(model.SerializeToString())


def make_settings(folder: Path) -> None:
    """All presets and a tiny run's settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(TINY)
    for name in preset_names():
        (folder / f"{name}.yaml").write_text(preset(name).to_yaml())


def make_run(folder: Path, pictures: Path, settings: Path, cache: Path) -> None:
    """A run folder that stopped after half of its steps, and the picture cache it used."""
    os.environ["SRTRT_CACHE"] = str(cache)
    words = ["train", "--data", pictures, "--val", pictures, "--config", settings, "--out", folder]
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    for late in sorted((folder / "states").glob("*.safetensors"))[1:]:
        late.unlink()
    for drawn in ("tensorboard", "plots", "samples"):
        shutil.rmtree(folder / drawn, ignore_errors=True)
    shutil.rmtree(cache / "locks", ignore_errors=True)


def make_engines(folder: Path, graph: Path) -> None:
    """Engines with all that belongs to one; the code in them is none."""
    model, spec = load_graph(graph)
    cache = EngineCache(folder)
    for number, (gpu, side) in enumerate(((None, 32), (GPU, 64))):
        key = EngineKey(
            spec=spec,
            graph_sha256=hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
            shape=EngineShape.static(side, 24),
            options=EngineOptions(),
            flavour="tensorrt-rtx",
            flavour_version="1.4.0",
            cuda="13",
            gpu=gpu,
        )
        facts: dict[str, Any] = {"shape": str(key.shape), "level": 3, "seconds": 1.5}
        built = BuiltEngine(plan=bytes([number]) * 5000, spec=spec, facts=facts)
        cache.get_or_build(
            key, lambda _, built=built: built, lambda _: {"psnr_db": 71.5, "max_abs": 1}
        )
        write_choice(cache, key, RingOptions(), [])
        write_blob(cache.timing_cache_path("tensorrt-rtx", "1.4.0", gpu), b"timings")
        write_blob(cache.runtime_cache_path(cache.path(key), GPU), b"kernels")


def make_verified(folder: Path, graph: Path, picture: Path) -> None:
    """The record of a reduced precision that was verified."""
    cache = folder.parent / "verified-cache"
    os.environ["SRTRT_CACHE"] = str(cache)
    words = ["upscale-image", picture, "-o", cache / "x.png", "--model", graph,
             "--backend", "openvino", "--precision", "bf16"]  # fmt: skip
    cache.mkdir(parents=True, exist_ok=True)
    CliRunner().invoke(main, [str(word) for word in words])
    found = sorted((cache / "verified").glob("*.json")) if (cache / "verified").is_dir() else []
    folder.mkdir(parents=True, exist_ok=True)
    for path in found:
        shutil.copy(path, folder / path.name)
    shutil.rmtree(cache, ignore_errors=True)


def make_report(path: Path) -> None:
    """What an earlier ``--json`` wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"engine": None, "images": []}))
