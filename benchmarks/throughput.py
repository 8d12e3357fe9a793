"""Frames per second of PyTorch through the frame ring, against what the device could do.

The ceilings are measured in the same run: the matrix product of the same type bounds computing,
copies between page-locked memory and the device bound the way in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, numpy_helper

from srtrt.benchmarks.ceiling import matmul_flops
from srtrt.benchmarks.engines import require_torch
from srtrt.errors import UsageError
from srtrt.forms import LR
from srtrt.runtime.backends.options import choose_options
from srtrt.runtime.backends.torch import TorchBackend, TorchOptions
from srtrt.runtime.cuda import open_device
from srtrt.runtime.cuda.device import Device
from srtrt.runtime.cuda.plain import PlainDevice
from srtrt.runtime.engines.gate import mosaics
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.engines.tuning import frames_per_second
from srtrt.runtime.layouts import form_layouts
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import RingOptions, StageTimes, in_order
from srtrt.spec import Form, Precision

ONE_BY_ONE = RingOptions(streams=1, slots=1, graph=False)
VARIANTS: Mapping[str, TorchOptions] = {
    "as trained": TorchOptions(rewritten=False, ring=ONE_BY_ONE),
    "tail folded": TorchOptions(ring=ONE_BY_ONE),
    "with CUDA graph": TorchOptions(ring=replace(ONE_BY_ONE, graph=True)),
    "frames in flight": TorchOptions(ring=RingOptions()),
    "compiled": TorchOptions(compile=True, ring=RingOptions()),
}
"""What is compared, each adding to the one before."""


def measure_throughput(
    model: str,
    *,
    device: str,
    precision: Precision,
    form: Form,
    sizes: Sequence[tuple[int, int]],
    variants: Sequence[str] = tuple(VARIANTS),
    seconds: float = 2.0,
    on_done: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures every variant at every size.

    Args:
        model: name or checkpoint.
        device: ``cpu`` or ``cuda:N``; on the CPU, threads stand for streams.
        precision: fp32, fp16 or bf16.
        form: of the frames.
        sizes: width and height of LR frames.
        variants: names of :data:`VARIANTS`, or options of the backend with commas between, such as
            ``compile=true,streams=3,slots=6``.
        seconds: how long each is measured.
        on_done: told what was measured.

    Raises:
        UsageError: if a variant is neither a name nor options.
        BackendError: if PyTorch does not compute in this precision here.

    Returns:
        The ceilings, and for each size and variant frames per second, TFLOP/s and their share of
        the matrix product's, and how much of the copying ran beside computing.
    """
    chosen = {name: _options(name, device) for name in variants}
    found, tell = find_model(model), on_done or (lambda _: None)
    flops = 2 * macs_per_pixel(found.graph("rgb8", "fp32"))
    require_torch(device, precision)
    product = matmul_flops(torch.device(device), precision, seconds)
    tell("matrix product")
    rows: dict[str, Any] = {}
    for width, height in sizes:
        size = InputSize(width=width, height=height)
        (picture,) = mosaics(read_pictures()[:1], size)
        frame = form_inputs(picture, form)
        row: dict[str, Any] = {"copy_ms": copy_milliseconds(device, form, size)}
        row["matmul_bound_ms"] = round(1000 * flops * size.pixels / product, 4)
        for name in variants:
            with TorchBackend(
                found, form=form, device=device, precision=precision, options=chosen[name]
            ) as backend:
                backend.prepare(width, height)
                rate = frames_per_second(backend.submit, backend.in_flight, frame, seconds)
            row[name] = {
                "frames_per_second": round(rate, 2),
                "ms_per_frame": round(1000 / rate, 3),
                "tflops": round(rate * flops * size.pixels / 1e12, 6),
                "share_of_matmul": round(rate * flops * size.pixels / product, 3),
            }
            tell(f"{size} {name}")
        row["timeline"] = _timeline(found, device, precision, form, size, frame)
        rows[str(size)] = row
    return {
        "model": model,
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "precision": precision,
        "form": form,
        "gflop_per_megapixel": round(flops / 1e3, 1),
        "matmul_tflops": round(product / 1e12, 6),
        "sizes": rows,
    }


def _options(variant: str, device: str) -> TorchOptions:
    if variant in VARIANTS:
        return VARIANTS[variant]
    if "=" not in variant:
        raise UsageError(
            f"--variant {variant!r}: expected one of {', '.join(VARIANTS)}, or options of torch "
            "such as streams=3,slots=6."
        )
    options: TorchOptions = choose_options("torch", device, variant.split(",")).options
    return options


def macs_per_pixel(graph: ModelProto) -> int:
    """Multiply-accumulates of all convolutions for one LR pixel.

    Each pixel shuffle before a convolution multiplies the places where it is computed.
    """
    shapes = {i.name: numpy_helper.to_array(i).size for i in graph.graph.initializer}
    total, area = 0, 1
    for node in graph.graph.node:
        if node.op_type == "DepthToSpace":
            (block,) = (a.i for a in node.attribute if a.name == "blocksize")
            area *= block**2
        elif node.op_type == "Conv":
            total += area * shapes[node.input[1]]
        elif LR in node.output:
            area = 1  # before the network, chroma is shuffled, too
    return total


def copy_milliseconds(device: str, form: Form, size: InputSize) -> dict[str, float]:
    """Milliseconds for the bytes of one frame to the device and of its result back."""
    opened: Device = PlainDevice() if device == "cpu" else open_device(device)
    layouts = form_layouts(form, size)
    found = {}
    with opened, opened.current(), closing(opened.stream()) as stream:
        for name, inwards in (("in", True), ("out", False)):
            nbytes = sum(each.nbytes for each in layouts if each.is_input == inwards)
            with (
                closing(opened.host_memory(nbytes, write_combined=inwards)) as host,
                closing(opened.device_memory(nbytes)) as memory,
                closing(opened.event(timed=True)) as start,
                closing(opened.event(timed=True)) as end,
            ):
                times = []
                for _ in range(10):
                    start.record(stream)
                    if inwards:
                        opened.copy_in(memory.address, host.array, stream)
                    else:
                        opened.copy_out(host.array, memory.address, stream)
                    end.record(stream)
                    end.wait()
                    times.append(end.milliseconds_since(start))
            found[name] = round(float(np.median(times)), 4)
    return found


def _timeline(
    model: Any, device: str, precision: Precision, form: Form, size: InputSize, frame: Any
) -> dict[str, Any]:
    """When copies and computing of some frames ran, and how much of it overlapped."""
    options = TorchOptions(ring=RingOptions(trace=True))
    with TorchBackend(
        model, form=form, device=device, precision=precision, options=options
    ) as backend:
        backend.prepare(size.width, size.height)
        list(in_order(backend.submit, lambda: backend.in_flight, [frame] * 12))
        times = backend.times()
    shown = [
        {key: value if key == "stream" else [round(v, 3) for v in value] for key, value in t}
        for t in (asdict(each).items() for each in times[:6])
    ]
    return {"copies_beside_computing": round(overlap(times), 3), "milliseconds": shown}


def overlap(times: Sequence[StageTimes]) -> float:
    """Share of the time of all copies in which some other batch was computed, 0..1."""
    total = beside = 0.0
    for index, each in enumerate(times):
        others = [t.compute for k, t in enumerate(times) if k != index]
        for start, end in (each.copy_in, each.copy_out):
            total += end - start
            beside += _covered(start, end, others)
    return beside / total if total else 0.0


def _covered(start: float, end: float, spans: Sequence[tuple[float, float]]) -> float:
    """How much of a stretch at least one of the spans covers."""
    covered, reached = 0.0, start
    for low, high in sorted(spans):
        low, high = max(low, reached), min(high, end)
        if high > low:
            covered += high - low
            reached = high
    return covered
