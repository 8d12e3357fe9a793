"""What a builder can be told to leave out, where what it builds with it computes wrongly."""

from __future__ import annotations

from typing import Any

from srtrt.errors import BackendError


def exclude_tactics(trt: Any, config: Any) -> None:
    """Lets a builder use only kernels that come with it.

    Tactic sources are the further ones: convolutions generated while building, convolutions with
    edge masks, and in TensorRT 10 those of cuBLAS and cuDNN.

    Args:
        trt: module of the builder.
        config: its configuration.

    Raises:
        BackendError: if it refuses.
    """
    if not config.set_tactic_sources(0):
        raise BackendError(
            f"{trt.__name__} {trt.__version__} refuses to build without its tactic sources; "
            "leave out tactics=plain."
        )


def keep_additions_apart(trt: Any, network: Any) -> int:
    """Keeps a builder from fusing additions of two computed tensors into what computes them.

    A tensor that can be looked at while the engine runs is not fused away, and is not looked at
    unless a program asks for it.

    Args:
        trt: module of the builder.
        network: a parsed network.

    Returns:
        How many tensors are kept.
    """
    fixed: set[str] = set()
    kept = 0
    for layer in map(network.get_layer, range(network.num_layers)):
        inputs = [t for t in map(layer.get_input, range(layer.num_inputs)) if t is not None]
        if all(tensor.name in fixed for tensor in inputs):  # a constant, or computed from some
            fixed.update(layer.get_output(index).name for index in range(layer.num_outputs))
        elif layer.type == trt.LayerType.ELEMENTWISE and not fixed & {t.name for t in inputs}:
            kept += sum(not t.is_network_input and network.mark_debug(t) for t in inputs)
    return kept
