"""The kinds of files that srtrt reads: which seed is damaged how, and which command reads it."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from fuzz.case import Case, Make
from fuzz.damage import damaged
from fuzz.graphs import changed_graph
from fuzz.trees import PROTOBUF, grammar_of, shaken
from fuzz.values import (
    changed_json,
    changed_safetensors,
    changed_tiff,
    changed_yaml,
    changed_zip,
)

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_VIDEOS = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".vob"),
    *(".flv", ".ogv", ".wmv", ".asf", ".mxf", ".ivf", ".nut", ".gif", ".3gp", ".h264", ".hevc"),
)


def _media(case: Case, data: bytes, others: list[bytes]) -> bytes:
    """Pictures and clips: half of the time by their structure."""
    rng = case.rng
    if case.spared():
        return data
    grammar = grammar_of(data)
    if rng.random() < 0.6:
        if grammar is not None:
            return shaken(rng, data, grammar, others)
        if data[:2] in (b"II", b"MM"):
            return changed_tiff(rng, data, others)
    return damaged(rng, data, others)


def image(case: Case) -> None:
    """Pictures through ``upscale-image``."""
    path, data, others = case.pick(case.corpus.files("image", *_IMAGES))
    name = case.write(f"in{path.suffix}", _media(case, data, others))
    ending = case.rng.choice((".png", ".png", ".tif", ".webp", ".jpg", ".bmp"))
    case.words = ["upscale-image", name, "-o", f"out{ending}"]
    if case.rng.random() < 0.2:
        case.words += ["--json", "report.json"]
    case.outputs = (f"out{ending}",)
    case.stand_ins = ("session",)


def picture(case: Case) -> None:
    """Pictures as training reads them, into its cache."""
    path, data, others = case.pick(case.corpus.files("image", *_IMAGES))
    case.write(f"photos/in{path.suffix}", _media(case, data, others))
    shutil.copytree(case.corpus.folder / "pictures", case.folder / "photos", dirs_exist_ok=True)
    _train(case, "photos", "--config", str(case.corpus.folder / "yaml" / "tiny.yaml"))
    if case.rng.random() < 0.3:
        mode = case.rng.choice(("data.mode=whole", "data.degradation=video"))
        case.words += ["--set", mode]


def video(case: Case) -> None:
    """Clips through ``upscale-video``."""
    rng = case.rng
    path, data, others = case.pick(case.corpus.files("video", *_VIDEOS))
    name = case.write(f"in{path.suffix}", _media(case, data, others))
    ending = rng.choice((".mkv", ".mp4", ".mp4", ".mov", ".webm"))
    codec = {".webm": "av1"}.get(ending, rng.choice(("h264", "h264", "h264", "hevc", "ffv1")))
    if (ending in (".mp4", ".mov") and codec == "ffv1") or (codec == "av1" and rng.random() < 0.7):
        ending, codec = ".mkv", "h264"
    case.words = ["upscale-video", name, "-o", f"out{ending}", "--codec", codec]
    if codec in ("h264", "hevc"):
        case.words += ["--preset", "ultrafast"]
    if rng.random() < 0.8:
        case.words += ["--max-frames", str(rng.choice((1, 2, 3, 4)))]
    if rng.random() < 0.3:
        case.words += ["--keep-going"]
    if rng.random() < 0.1:
        case.words += ["--json", "report.json"]
    case.outputs = (f"out{ending}",)
    case.stand_ins = ("session",)


def graph(case: Case) -> None:
    """ONNX graphs: fields of their messages, numbers in their nodes, facts in their spec."""
    _, data, others = case.pick(case.corpus.files("onnx", ".onnx"))
    rng = case.rng
    if not case.spared():
        way = rng.random()
        if way < 0.2:
            data = damaged(rng, data, others)
        elif way < 0.6:
            data = shaken(rng, data, PROTOBUF, others)
        else:
            data = changed_graph(rng, data)
    name = case.write("model.onnx", data)
    picture_file = case.write("in.png", (case.corpus.folder / "image" / "rgb.png").read_bytes())
    way = rng.randrange(10)
    case.outputs = ("out.png",)
    backend = rng.choice(("onnxruntime", "onnxruntime", "openvino"))
    case.words = ["upscale-image", picture_file, "-o", "out.png", "--model", name]
    case.words += ["--backend", backend, "--precision", "fp32"]
    if way == 0:
        case.words = ["export", name, "-o", "exported", "--precision", "fp32", "--io", "rgb8"]
        case.outputs, case.keeps = (), ("exported",)
    elif way == 1:
        case.words[-4:] = ["--backend", rng.choice(("auto", "torch"))]
    elif way < 4:
        clip = (case.corpus.folder / "video" / "plain.mp4").read_bytes()
        case.outputs = ("out.mp4",)
        case.words = ["upscale-video", case.write("in.mp4", clip), "-o", "out.mp4", "--model", name,
                      "--backend", backend, "--max-frames", "1"]  # fmt: skip


def checkpoint(case: Case) -> None:
    """Checkpoints as a model, to export, and to start training from."""
    _, data, others = case.pick(case.corpus.files("safetensors", ".safetensors"))
    if not case.spared():
        data = changed_safetensors(case.rng, data, others)
    name, way = case.write("model.safetensors", data), case.rng.randrange(6)
    if way < 3:
        picture_file = case.write("in.png", (case.corpus.folder / "image" / "rgb.png").read_bytes())
        case.words = ["upscale-image", picture_file, "-o", "out.png", "--model", name]
        case.words += ["--backend", "torch", "--precision", "fp32"]
        case.outputs = ("out.png",)
    elif way == 3:
        case.words = ["export", name, "-o", "exported", "--precision", "fp32", "--io", "rgb8"]
        case.keeps, case.stand_ins = ("exported",), ("exporter",)
    else:
        sizes = ["--set", "generator.blocks=2", "--init", name]
        _train(case, str(case.corpus.folder / "pictures"), "--config", _tiny(case), *sizes)


def pickle(case: Case) -> None:
    """What PyTorch saved, given as VGG19 or where another kind of file is expected."""
    path, data, others = case.pick(case.corpus.files("pth", ".pth", ".pt"))
    if not case.spared():
        data = damaged(case.rng, data, others) if path.stem == "old" else changed_zip(
            case.rng, data, others
        )  # fmt: skip
    name = case.write("weights.pth", data)
    if case.rng.random() < 0.1:
        case.words = ["export", name, "-o", "exported"]
        case.keeps = ("exported",)
        return
    content = ["--set", "loss.content_weight=1", "--set", "loss.content_layer=block1_conv2"]
    content += ["--init" if case.rng.random() < 0.1 else "--vgg", name]
    _train(case, str(case.corpus.folder / "pictures"), "--config", _tiny(case), *content)


def state(case: Case) -> None:
    """Files of a run folder, read when it is resumed, exported or put in a table."""
    run, rng = case.corpus.folder / "run", case.rng
    shutil.copytree(run, case.folder / "run")
    files = sorted(path for path in run.rglob("*") if path.is_file())
    states = [path for path in files if path.parent.name == "states"]
    path = rng.choice(states) if rng.random() < 0.5 else rng.choice(files)
    case.seed_file, data = path.name, path.read_bytes()
    if not case.spared():
        data = _of_run(rng, path, data)
    case.write(f"run/{path.relative_to(run)}", data)
    way = rng.randrange(10)
    case.keeps = ("run",)
    if way < 8:
        _train(case, str(case.corpus.folder / "pictures"), "--resume")
        shutil.copytree(case.corpus.folder / "cache", case.folder / "cache", dirs_exist_ok=True)
    elif way == 8:
        case.words = ["benchmark", "quality", "--runs", "run"]
    else:
        case.words = ["export", "run/generator.safetensors", "-o", "exported", "--io", "rgb8"]
        case.keeps, case.stand_ins = ("run", "exported"), ("exporter",)


def _of_run(rng: random.Random, path: Path, data: bytes) -> bytes:
    if path.suffix == ".safetensors":
        return changed_safetensors(rng, data)
    if path.suffix == ".yaml":
        return changed_yaml(rng, data)
    if path.suffix == ".jsonl":
        lines = data.splitlines(keepends=True)
        index = rng.randrange(len(lines))
        lines[index] = changed_json(rng, lines[index]) + b"\n"
        return b"".join(lines)
    return changed_json(rng, data)


def cache(case: Case) -> None:
    """The picture cache of training: its index and its pixels."""
    rng = case.rng
    shutil.copytree(case.corpus.folder / "cache", case.folder / "cache")
    files = sorted((case.corpus.folder / "cache" / "pictures").iterdir())
    path = rng.choice([each for each in files if each.stat().st_size])
    case.seed_file, data = path.name, path.read_bytes()
    if not case.spared():
        data = _resealed(rng, data) if path.suffix == ".json" else damaged(rng, data)
    case.write(f"cache/pictures/{path.name}", data)
    _train(case, str(case.corpus.folder / "pictures"), "--config", _tiny(case))


def _resealed(rng: random.Random, data: bytes) -> bytes:
    """An index that was changed, half of the time with the checksum of what it says now."""
    from srtrt.train.cache import _digest

    changed = changed_json(rng, data)
    if rng.random() < 0.5:
        return changed
    try:
        body = json.loads(changed)
        del body["check"]
        return json.dumps({**body, "check": _digest(body)}).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return changed


def engine(case: Case) -> None:
    """The engine cache: engines, sidecars, choices of ``srtrt tune``, timings."""
    rng, source = case.rng, case.corpus.folder / "engine"
    shutil.copytree(source, case.folder / "cache" / "engines")
    files = [path for path in sorted(source.iterdir()) if path.stat().st_size]
    sidecars = [path for path in files if path.name.endswith(".engine.json")]
    path = rng.choice(sidecars) if rng.random() < 0.7 else rng.choice(files)
    case.seed_file, data = path.name, path.read_bytes()
    if not case.spared():
        data = _resigned(rng, data) if path.suffix == ".json" else damaged(rng, data)
    case.write(f"cache/engines/{path.name}", data)
    case.keeps = ("cache",)
    way = rng.randrange(8)
    name = path.name.partition(".")[0]
    if way < 2:
        case.words = ["engines", "list", "--folder", "cache/engines"]
    elif way < 5:
        case.words = ["engines", "explain", name, "--folder", "cache/engines"]
    elif way < 7:
        case.words = ["engines", "prune", "--folder", "cache/engines"]
        case.words += rng.choice(([], ["--dry-run"], ["--older-than", "1"], ["--all"]))
    else:
        graph_file = case.corpus.folder / "onnx" / "tiny-rgb8-fp32.onnx"
        picture_file = case.write("in.png", (case.corpus.folder / "image" / "rgb.png").read_bytes())
        case.words = ["upscale-image", picture_file, "-o", "out.png", "--model", str(graph_file)]
        case.words += ["--backend", "tensorrt", "--precision", "fp32"]
        case.outputs, case.stand_ins = ("out.png",), ("tensorrt",)


def _resigned(rng: random.Random, data: bytes) -> bytes:
    """A sidecar that was changed, half of the time with the checksum of its key."""
    from srtrt.runtime.engines.identity import parts_sha256

    changed = changed_json(rng, data)
    if rng.random() < 0.5:
        return changed
    try:
        values = json.loads(changed)
        values["key_sha256"] = parts_sha256(values["key"])
        return json.dumps(values).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return changed


def verified(case: Case) -> None:
    """Records of reduced precisions that were verified on this machine."""
    rng, files = case.rng, case.corpus.files("verified")
    if files:
        path = rng.choice(files)
        case.seed_file = path.name
        data = path.read_bytes()
        data = data if case.spared() else changed_json(rng, data)
        case.write(f"cache/verified/{path.name}", data)
    graph_file = case.corpus.folder / "onnx" / "tiny-rgb8-fp32.onnx"
    picture_file = case.write("in.png", (case.corpus.folder / "image" / "rgb.png").read_bytes())
    case.words = ["upscale-image", picture_file, "-o", "out.png", "--model", str(graph_file)]
    case.words += ["--backend", "openvino", "--precision", "bf16"]
    case.outputs, case.stand_ins = ("out.png",), ("verdict",)


def settings(case: Case) -> None:
    """Settings of a run as YAML."""
    _, data, others = case.pick(case.corpus.files("yaml", ".yaml", ".yml"))
    if not case.spared():
        data = changed_yaml(case.rng, data, others)
    name = case.write("settings.yaml", data)
    _train(case, str(case.corpus.folder / "pictures"), "--config", name)


def report(case: Case) -> None:
    """What is under the name that ``--json`` is to get: it is replaced, never read."""
    rng = case.rng
    case.write("report.json", changed_json(rng, b'{"engine": null, "images": [1, {"a": 2}]}'))
    picture_file = case.write("in.png", (case.corpus.folder / "image" / "rgb.png").read_bytes())
    case.words = ["upscale-image", picture_file, "-o", "out.png", "--json", "report.json"]
    case.outputs, case.stand_ins = ("out.png",), ("session",)


def _tiny(case: Case) -> str:
    return str(case.corpus.folder / "yaml" / "tiny.yaml")


def _train(case: Case, data: str, *words: str) -> None:
    """A run whose steps are left out: what it reads, it reads before."""
    case.words = ["train", "--data", data, "--out", "run", *words]
    if "--vgg" not in words:  # else settings that ask for it would have it downloaded
        case.words += ["--vgg", str(case.corpus.folder / "pth" / "vgg.pth")]
    case.keeps = ("run", "cache")
    case.stand_ins = () if case.rng.random() < 0.03 and "--resume" in words else ("steps",)


KINDS: dict[str, tuple[Make, int]] = {
    "image": (image, 20),
    "picture": (picture, 6),
    "video": (video, 26),
    "onnx": (graph, 14),
    "safetensors": (checkpoint, 8),
    "pth": (pickle, 4),
    "state": (state, 6),
    "cache": (cache, 3),
    "engine": (engine, 5),
    "verified": (verified, 1),
    "yaml": (settings, 6),
    "report": (report, 1),
}
"""Kind to the function that makes a case of it, and its share of a mixed run in percent."""
