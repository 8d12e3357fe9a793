"""A generator as an ONNX graph, through torch.export."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import onnx
import torch
from onnx import ModelProto

from srtrt.canonical import without_metadata
from srtrt.errors import ModelError, first_line
from srtrt.forms import LR, OPSET, SR
from srtrt.networks.generator import Generator
from srtrt.networks.rewrites import InferenceGenerator


def network_graph(net: Generator) -> ModelProto:
    """The rewritten generator from tensor ``lr`` to tensor ``sr``, float32, N, H, W dynamic.

    BatchNorm and tail are folded (:mod:`srtrt.networks.rewrites`). It has neither form nor spec
    yet: :func:`srtrt.graph.dress` adds them.

    Raises:
        ModelError: if the exporter or the checker refuses the network.
    """
    network = InferenceGenerator(net.eval()).eval()
    sizes = {0: torch.export.Dim("N"), 2: torch.export.Dim("H"), 3: torch.export.Dim("W")}
    example = torch.rand(2, 3, 16, 20)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[LR],
                output_names=[SR],
                dynamic_shapes=(sizes,),
                verbose=False,
            )
    except Exception as error:  # the exporter raises many unrelated types
        first = first_line(error) or "no message"
        raise ModelError(f"PyTorch's ONNX exporter refused the network: {first}") from error
    assert program is not None
    model = without_metadata(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    return model
