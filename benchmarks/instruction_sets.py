"""What int8 costs and gains on processors of other instruction sets, simulated on this one.

For maintainers; OpenVINO is limited by ONEDNN_MAX_CPU_ISA, in a process for each limit. ONNX
Runtime knows no such limit and runs once::

    python -m srtrt.benchmarks.instruction_sets srresnet fast --data Set5 --data Set14 -o FILE.json

Loss and parity are those against float32 on OpenVINO without a limit. Speed is compared by the time
that the processor spends, not by the clock: it does not depend on what else is running.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from srtrt.benchmarks.report import machine_facts
from srtrt.datasets import list_images, lr_hr_pair
from srtrt.metrics import mod_crop, psnr_y
from srtrt.processor import this_processor
from srtrt.runtime.backends import backend_class
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import compare_outputs, passes
from srtrt.spec import Precision

_LIMITS = ("AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
_ROUNDS = 7
_FRAME = (90, 160)

Pictures = list[NDArray[np.uint8]]


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--data", "folders", multiple=True, type=click.Path(path_type=Path))
@click.option(
    "--limit", "limits", multiple=True, type=click.Choice(_LIMITS), default=_LIMITS, help="Limits."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def instruction_sets(
    models: tuple[str, ...], folders: tuple[Path, ...], limits: tuple[str, ...], output: Path
) -> None:
    """Measures MODELS in int8 and writes a JSON file; what is in it already is kept."""
    report: dict[str, Any] = {"benchmark": "instruction-sets", "machine": machine_facts()}
    report["models"] = {}
    if output.is_file():
        report["models"] = json.loads(output.read_text(encoding="utf-8"))["models"]
    with TemporaryDirectory() as cache:
        for name in models:
            rows = report["models"].setdefault(name, {})
            for folder in folders:
                np.savez(Path(cache, "exact.npz"), *_outputs("openvino", name, "fp32", folder))
                runs = [*(("openvino", limit) for limit in limits), ("onnxruntime", "")]
                for engine, limit in runs:
                    measured = _limited(limit, engine, name, folder, cache)
                    row = rows.setdefault(f"{engine} {measured.pop('instruction_set')}", {})
                    row["times_fp32"] = measured.pop("times_fp32")
                    row.setdefault("sets", {})[folder.name] = measured
                    click.echo(f"{name} {limit} {engine} {folder.name}: {row}")
                    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _limited(limit: str, engine: str, name: str, folder: Path, cache: str) -> dict[str, Any]:
    environment = dict(os.environ)
    if limit:
        environment["ONEDNN_MAX_CPU_ISA"] = limit
    command = [sys.executable, "-m", __spec__.name, "--one", engine, name, str(folder), cache]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def _one(engine: str, name: str, folder: Path, cache: str) -> dict[str, Any]:
    """Parity and loss on one set, and the gain, within the limit of this process."""
    with np.load(Path(cache, "exact.npz")) as stored:
        exact = [stored[key] for key in stored.files]
    found = _outputs(engine, name, "int8", folder)
    parity = compare_outputs(({"rgb": a}, {"rgb": b}) for a, b in zip(exact, found, strict=True))
    truths = [truth for _, truth in _pairs(folder)]
    lost = [
        psnr_y(a, truth) - psnr_y(b, truth)
        for a, b, truth in zip(exact, found, truths, strict=True)
    ]
    frame = np.random.default_rng(0).integers(0, 256, (1, *_FRAME, 3)).astype(np.uint8)
    seconds = {}
    for precision in ("fp32", "int8"):
        with _opened(engine, name, precision) as backend:
            seconds[precision] = _seconds(backend, frame)
    return {
        "instruction_set": this_processor().instruction_set,
        "times_fp32": round(seconds["fp32"] / seconds["int8"], 2),
        "db_lost": round(float(np.mean(lost)), 4),
        "psnr_db": round(parity.psnr_db, 2),
        "max_abs": parity.max_abs,
        "passes_gate": passes(parity, "int8"),
    }


def _seconds(backend: Backend, frame: NDArray[np.uint8]) -> float:
    backend.infer({"rgb": frame})
    taken = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        backend.infer({"rgb": frame})
        taken.append(time.process_time() - start)
    return min(taken)


def _outputs(engine: str, name: str, precision: Precision, folder: Path) -> Pictures:
    with _opened(engine, name, precision) as backend:
        return [backend.infer({"rgb": lr[None]})["rgb_x4"][0] for lr, _ in _pairs(folder)]


def _opened(engine: str, name: str, precision: Precision) -> Backend:
    return backend_class(engine)(find_model(name), form="rgb8", device="cpu", precision=precision)


def _pairs(folder: Path) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    pairs = []
    for path in list_images([folder]):
        lr, hr = lr_hr_pair(path)
        lr = np.ascontiguousarray(mod_crop(lr, 2))
        pairs.append((lr, hr[: 4 * lr.shape[0], : 4 * lr.shape[1]]))
    return pairs


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(_one(sys.argv[2], sys.argv[3], Path(sys.argv[4]), sys.argv[5])))
    else:
        instruction_sets()
