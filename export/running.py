"""Graphs without a form, computed by ONNX Runtime on the CPU to measure them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from srtrt.packages import unusable
from srtrt.runtime.threads import engine_threads


def run_graph(
    model: ModelProto, inputs: Sequence[NDArray[np.float32]], *, optimise: bool = True
) -> list[list[NDArray[Any]]]:
    """All outputs of a graph with one input, for each value of it.

    Args:
        model: a graph without form, or any other with a single input.
        inputs: its values.
        optimise: False runs the graph node by node as it is written.

    Raises:
        PackageError: if ONNX Runtime is not installed.
    """
    session = quiet_session(model, optimise=optimise)
    name = session.get_inputs()[0].name
    return [session.run(None, {name: value}) for value in inputs]


def quiet_session(model: ModelProto, *, optimise: bool = True) -> Any:
    """A session that neither logs warnings nor keeps threads busy when it has nothing to do.

    Raises:
        PackageError: if ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise unusable("onnxruntime", error, "cpu", "measuring a graph") from error
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = engine_threads(0)
    if not optimise:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Sessions of single nodes take turns: while one computes, threads of others must not spin.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
