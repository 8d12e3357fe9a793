"""Makes the int8 graph of a bundled model: calibrates it, judges it, stamps its spec.

For maintainers, after :mod:`srtrt.benchmarks.bundle`::

    python -m srtrt.benchmarks.bundle_int8 srresnet --calibrate photographs --data Set14

It is written beside the float32 graph only if it agrees with PyTorch as int8 must, and loses
little against ground truth.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
from onnx import ModelProto

from srtrt.datasets import list_images, lr_hr_pair
from srtrt.errors import ParityError
from srtrt.export.onnx_graph import network_graph
from srtrt.export.quantised import calibration_pictures, quantised_graph
from srtrt.graph import save_graph, stamp
from srtrt.metrics import psnr_y
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.networks.rewrites import REWRITES
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.models import Model, find_model, weights_folder
from srtrt.runtime.parity import (
    GATES,
    graph_backend,
    measure_parity,
    read_pictures,
    reference_backend,
    require_parity,
)


@click.command()
@click.argument("name")
@click.option("--calibrate", required=True, type=click.Path(path_type=Path), help="Photographs.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="HR pictures.")
@click.option("--into", default=weights_folder(), type=click.Path(path_type=Path))
def bundle_int8(name: str, calibrate: Path, data: Path, into: Path) -> None:
    """Writes NAME-int8.onnx.

    Raises:
        ParityError: if it is under the gate of int8, or loses more than 0.10 dB.
    """
    graph = int8_graph(find_model(name), calibrate, data)
    save_graph(into / f"{name}-int8.onnx", graph)


def int8_graph(model: Model, calibrate: Path, data: Path) -> ModelProto:
    """The verified int8 graph of a model that has a checkpoint.

    Args:
        model: what to quantise.
        calibrate: folder of photographs.
        data: folder of HR pictures on which the loss of PSNR is measured.

    Raises:
        ParityError: if it is under the gate of int8, or loses more than 0.10 dB.
    """
    assert model.checkpoint_path is not None
    name = model.name
    net, spec = load_checkpoint(model.checkpoint_path)
    start = time.perf_counter()
    graph, facts = quantised_graph(
        network_graph(net),
        spec.with_(rewrites=REWRITES),
        "rgb8",
        "int8",
        calibration_pictures(calibrate),
        on_progress=click.echo,
    )
    seconds = round(time.perf_counter() - start)
    with (
        reference_backend(model, "rgb8") as reference,
        graph_backend(name, graph, "rgb8", "int8") as candidate,
    ):
        parity = measure_parity(reference, candidate, read_pictures())
        lost = _db_lost(reference, candidate, data)
    click.echo(f"{name}: {parity}; {lost:.3f} dB lost on {data.name}; {seconds} s; {facts['kept']}")
    require_parity(parity, "int8", f"{name} as int8")
    most = GATES["int8"].lost_db
    if lost > most:
        raise ParityError(
            f"{name} as int8 loses {lost:.3f} dB on {data.name}; expected at most {most}. "
            "It was not written."
        )
    quality = {
        **spec.quality,
        "quantisation": {**facts, "seconds": seconds, "db_lost": {data.name: round(lost, 4)}},
        "parity": {"against": "PyTorch fp32", "engine": "onnxruntime", **parity.to_dict()},
    }
    return stamp(
        graph, spec.with_(form="rgb8", precision="int8", rewrites=REWRITES, quality=quality)
    )


def _db_lost(reference: Backend, candidate: Backend, folder: Path) -> float:
    """Mean loss of PSNR (Y) against ground truth."""
    losses = []
    for path in list_images([folder]):
        lr, hr = lr_hr_pair(path)
        inputs = {"rgb": np.ascontiguousarray(lr)[None]}
        expected, found = (b.infer(inputs)["rgb_x4"][0] for b in (reference, candidate))
        losses.append(psnr_y(expected, hr) - psnr_y(found, hr))
    return float(np.mean(losses))


if __name__ == "__main__":
    bundle_int8()
