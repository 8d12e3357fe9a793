"""Makes the float32 graphs of bundled models again from their checkpoints, without measuring them.

For maintainers, after a change of the rewrites, of the form ``rgb8`` or of PyTorch's exporter::

    python -m srtrt.benchmarks.rebundle srresnet srgan fast video

The graphs of int8 are calibrated on the old ones: see :mod:`srtrt.benchmarks.bundle_int8`.
"""

from __future__ import annotations

from pathlib import Path

import click

from srtrt.benchmarks.bundle import bundle_graph
from srtrt.canonical import graph_sha256
from srtrt.graph import load_graph
from srtrt.runtime.models import weights_folder


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--into", default=weights_folder(), type=click.Path(path_type=Path))
def rebundle(names: tuple[str, ...], into: Path) -> None:
    """Writes NAME.onnx from NAME.safetensors, and says whether it computes the same as before.

    Raises:
        ParityError: if a graph misses its gate.
    """
    for name in names:
        path = into / f"{name}.onnx"
        before = graph_sha256(load_graph(path)[0]) if path.exists() else None
        parity = bundle_graph(into / f"{name}.safetensors")
        same = graph_sha256(load_graph(path)[0]) == before
        click.echo(f"{path}: {parity}; {'the same graph' if same else 'another graph'}")


if __name__ == "__main__":
    rebundle()
