"""What the int8 graphs of bundled models lose in quality and gain in speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from srtrt.benchmarks.latency import LatencySettings, measure_latency
from srtrt.benchmarks.parity import measure_parity_of
from srtrt.benchmarks.quality import measure_quality
from srtrt.errors import UsageError
from srtrt.graph import load_graph
from srtrt.runtime.backends import backend_class
from srtrt.runtime.models import bundled_models, find_model

_ENGINES = ("onnxruntime-fp32", "openvino-fp32", "openvino-bf16")
_INT8 = ("onnxruntime-int8", "openvino-int8")


def measure_int8(
    models: Sequence[str],
    folders: Sequence[Path],
    *,
    sizes: Sequence[tuple[int, int]],
    rounds: int,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compares every engine of the CPU in fp32, bf16 where the processor has it, and int8.

    Args:
        models: bundled names; none means all that have an int8 graph.
        folders: HR pictures; each folder is one set.
        sizes: LR width and height of the frames that are timed.
        rounds: how often each engine is timed, interleaved.
        on_step: told what is measured next.

    Returns:
        ``reference``, the engine that OpenVINO's speed is compared with (ONNX Runtime's is
        compared with its fp32), and for each of the ``models``: ``bytes`` of its graphs, how it
        was ``calibrated``, by set and engine ``psnr_db`` and parity with PyTorch float32, and by
        size and engine the ``speed``.

    Raises:
        UsageError: if a model is not bundled in int8.
        InputError: if a picture cannot be read.
    """
    known = [name for name in bundled_models() if "int8" in find_model(name).calibrated_paths]
    unknown = [name for name in models if name not in known]
    if unknown:
        raise UsageError(f"model {unknown[0]!r} has no int8 graph; bundled ones are {known}.")
    engines = [*_ENGINES, *_INT8] if _has_bf16() else [*_ENGINES[:-1], *_INT8]
    tell = on_step or (lambda _: None)
    result: dict[str, Any] = {}
    for name in models or known:
        model = find_model(name)
        path = model.calibrated_paths["int8"]
        assert model.graph_path is not None
        result[name] = {
            "bytes": {"fp32": model.graph_path.stat().st_size, "int8": path.stat().st_size},
            "calibrated": _calibration(path),
            "sets": {},
            "speed": {},
        }
        for folder in folders:
            tell(f"{name} on {folder.name}")
            result[name]["sets"][folder.name] = _on_set(name, folder, engines)
        for width, height in sizes:
            tell(f"{name} at {width}x{height}")
            result[name]["speed"][f"{width}x{height}"] = measure_speed(
                name, engines, width=width, height=height, rounds=rounds
            )
    return {"reference": _reference(), "rounds": rounds, "models": result}


def measure_speed(
    name: str, engines: Sequence[str], *, width: int, height: int, rounds: int
) -> dict[str, Any]:
    """Seconds per frame of the engines, those of each package side by side in a run of their own.

    The threads of ONNX Runtime spin on after its work, at the cost of whatever is timed next.
    """
    rows: dict[str, Any] = {}
    for package, reference in (("openvino", _reference()), ("onnxruntime", "onnxruntime-fp32")):
        timed = measure_latency(
            name,
            [engine for engine in engines if engine.startswith(package)],
            LatencySettings(
                width=width, height=height, rounds=rounds, reference=reference, parity=False
            ),
        )
        rows |= timed["engines"]
    return rows


def _reference() -> str:
    return "openvino-bf16" if _has_bf16() else "openvino-fp32"


def _has_bf16() -> bool:
    return any("bf16" in c.precisions for c in backend_class("openvino").capabilities())


def _calibration(path: Path) -> dict[str, Any]:
    facts = load_graph(path)[1].quality["quantisation"]
    wanted = ("seconds", "pictures", "crops", "residual", "kept", "psnr_db")
    return {key: facts[key] for key in wanted}


def _on_set(name: str, folder: Path, engines: Sequence[str]) -> dict[str, Any]:
    parity = measure_parity_of(name, engines, folder, form="rgb8")["engines"]
    rows = {}
    for engine in engines:
        quality = measure_quality([name], [folder], engine=engine, perceptual=False)
        psnr = quality["sets"][folder.name][name]["psnr_db"]
        agreement = {f"parity_{key}": parity[engine][key] for key in ("psnr_db", "max_abs")}
        rows[engine] = {"psnr_db": psnr, "db_lost": parity[engine]["db_lost"], **agreement}
    return rows
