"""Graphs that overflow in float16 on bright pictures, and one that draws black on grey."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from srtrt.forms import Nodes
from srtrt.graph import stamp
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import graph_backend
from srtrt.runtime.session import Session
from srtrt.spec import Form, Precision

ONES = (1.0, 1.0, 1.0)


def overflowing(g: Nodes, sr: str, channels: tuple[float, ...] = ONES) -> str:
    """NaN in float16 where a sample of these channels is above 0.65; else it changes nothing."""
    gain = g.constant(1e5 * np.reshape(channels, (1, 3, 1, 1)), np.float32)
    rounded = g.cast(g.cast(g.add("Mul", sr, gain), TensorProto.FLOAT16))
    return g.add("Add", sr, g.add("Mul", rounded, g.constant(0.0, np.float32)))


def poster(g: Nodes, sr: str) -> str:
    """Far below black where a sample is under 0.5, far above white elsewhere, in any precision."""
    dark = g.add("Less", sr, g.constant(0.5, np.float32))
    return g.add("Where", dark, g.constant(-1.0, np.float32), g.constant(2.0, np.float32))


def with_end(
    form: Form, end: Callable[[Nodes, str], str], precision: Precision = "fp16"
) -> ModelProto:
    """The bundled model ``fast`` with more nodes at the end of its network."""
    found = find_model("fast")
    model = ModelProto.FromString(found.graph(form, "fp32").SerializeToString())
    g = Nodes("end")
    for node in model.graph.node:
        for k, name in enumerate(node.output):
            if name == "sr":
                node.output[k] = "sr.before"
    g.add("Identity", end(g, "sr.before"), name="sr")
    nodes = list(model.graph.node)
    at = next(k for k, node in enumerate(nodes) if "sr.before" in node.output) + 1
    copies = [
        type(n).FromString(n.SerializeToString()) for n in [*nodes[:at], *g.nodes, *nodes[at:]]
    ]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.initializer.extend(
        numpy_helper.from_array(numpy_helper.to_array(c), n) for n, c in g.constants.items()
    )
    return stamp(model, found.spec.with_(form=form, precision=precision))


def session_of(
    graph: ModelProto, form: Form, precision: Precision = "fp16", *, tile: str | int = "none"
) -> Session:
    """A session that computes a graph on the CPU with the rounding of its precision."""
    backend = graph_backend("made", graph, form, precision)
    return Session(backend, radius=backend.spec.receptive_radius, scale=4, tile=tile)
