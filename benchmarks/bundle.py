"""Makes a trained generator a bundled model: measures it, stamps its spec, exports its graph.

For maintainers::

    python -m srtrt.benchmarks.bundle run/generator.safetensors srgan --data Set5 --data Set14 \
        --machine "2 cores of ..." --into src/srtrt/weights --results benchmarks/results

After a change of the rewrites or of an exporter, :mod:`srtrt.benchmarks.rebundle` makes the graph
again. The card beside the graph is written by hand; its table is that of the result file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from srtrt.benchmarks.quality import measure_quality
from srtrt.benchmarks.report import full_report
from srtrt.benchmarks.tables import table
from srtrt.export.api import export_model
from srtrt.graph import load_graph, save_graph
from srtrt.networks.checkpoint import (
    generator_state,
    load_checkpoint,
    round_to_half,
    save_checkpoint,
    weights_sha256,
)
from srtrt.networks.generator import Generator
from srtrt.networks.rewrites import batchnorm_gain
from srtrt.reports import ReportPlace
from srtrt.runtime.parity import Parity
from srtrt.spec import SPEC_KEY, ModelSpec
from srtrt.terminal import put, put_text
from srtrt.widen import narrow


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--data", multiple=True, required=True, type=click.Path(path_type=Path))
@click.option("--machine", required=True, help="What it was trained on, in words.")
@click.option("--note", default="", help="Further facts about the training.")
@click.option("--into", required=True, type=click.Path(path_type=Path), help="Weights folder.")
@click.option("--results", required=True, type=click.Path(path_type=Path), help="JSON folder.")
def bundle(
    checkpoint: Path,
    name: str,
    data: tuple[Path, ...],
    machine: str,
    note: str,
    into: Path,
    results: Path,
) -> None:
    """Writes NAME.safetensors and NAME.onnx, and the result file quality-NAME.json."""
    net, spec = load_checkpoint(checkpoint)
    report = measured_as(name, checkpoint, data)
    training = {
        **spec.training,
        "machine": machine,
        "date": today(),
        **({"note": note} if note else {}),
    }
    parity = write_model(
        into / f"{name}.safetensors",
        net,
        spec.with_(name=name, training=training, quality=quality_facts(report, name)),
        extra=extra_metadata(checkpoint),
    )
    place = ReportPlace("results", str(results / f"quality-{name}.json"))
    place.write(full_report("quality", report))
    put(f"parity with PyTorch: {parity}")
    put_text(table({"benchmark": "quality", **report}) + "\n")


def measured_as(
    name: str, checkpoint: Path, folders: Sequence[Path], *, perceptual: bool = True
) -> dict[str, Any]:
    """Quality of a checkpoint on sets, with the model under its bundled name.

    See :func:`srtrt.benchmarks.quality.measure_quality` for the arguments and errors.
    """
    report = measure_quality([str(checkpoint)], folders, perceptual=perceptual)
    sets = {
        key: {name if k == report["model"] else k: v for k, v in figures.items()}
        for key, figures in report["sets"].items()
    }
    return {**report, "model": name, "sets": sets}


def quality_facts(report: dict[str, Any], name: str) -> dict[str, Any]:
    """What the spec of a model says of its quality."""
    figures = {key: values[name] for key, values in report["sets"].items()}
    facts = {
        "psnr_y_db": {key: value["psnr_db"] for key, value in figures.items()},
        "ssim_y": {key: value["ssim"] for key, value in figures.items()},
    }
    # Through JSON, as numpy's numbers are not among its own.
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def today() -> str:
    """The date, as specs have it."""
    return datetime.now(timezone.utc).date().isoformat()


def extra_metadata(checkpoint: Path) -> dict[str, str]:
    """What a checkpoint's header says besides its spec: the manifest of its pictures."""
    with safe_open(checkpoint, framework="pt") as file:
        return {k: v for k, v in (file.metadata() or {}).items() if k != SPEC_KEY}


def write_model(
    target: Path, net: Generator, spec: ModelSpec, *, extra: Mapping[str, str]
) -> Parity:
    """Writes a checkpoint in float16 and its verified graph beside it.

    Raises:
        ParityError: if the graph misses its gate.
    """
    state = round_to_half(generator_state(net))
    save_checkpoint(target, state, spec.with_(weights_sha256=weights_sha256(state)), extra=extra)
    return bundle_graph(target)


def bundle_graph(checkpoint: Path) -> Parity:
    """Writes the verified float32 graph of a bundled checkpoint beside it, stored narrow.

    Raises:
        ParityError: if it misses its gate.
    """
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        (graph,) = export_model(str(checkpoint), Path(folder), forms=["rgb8"], precisions=["fp32"])
        save_narrow(checkpoint.with_suffix(".onnx"), graph.path, checkpoint)
    return graph.parity


def save_narrow(path: Path, graph: Path, checkpoint: Path) -> None:
    """Writes a float32 graph with the float16 weights of its checkpoint, see :mod:`srtrt.widen`."""
    model, _ = load_graph(graph)
    net, _ = load_checkpoint(checkpoint)
    save_graph(path, narrow(model, _factors(net)))


def _factors(net: Generator) -> dict[str, tuple[NDArray[np.float16], NDArray[np.float64]]]:
    """The weights that BatchNorm is folded into, and its gains."""
    modules = dict(net.named_modules())
    factors = {}
    for name, module in modules.items():
        norm = modules.get(name.replace("conv", "bn"))
        if not (isinstance(module, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d)):
            continue
        half = module.weight.detach().half()
        factors[f"{name}.weight"] = (half.numpy(), batchnorm_gain(norm))
    return factors


if __name__ == "__main__":
    bundle()
