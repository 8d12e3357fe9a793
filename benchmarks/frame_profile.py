"""Where PyTorch's time of one frame goes, and what other ways to compute its parts would save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from srtrt.benchmarks.ceiling import TYPES
from srtrt.benchmarks.device_time import milliseconds
from srtrt.benchmarks.engines import require_torch
from srtrt.errors import ModelError, UsageError
from srtrt.nearest import did_you_mean
from srtrt.networks.checkpoint import load_checkpoint
from srtrt.networks.generator import LEAK
from srtrt.networks.rewrites import InferenceGenerator
from srtrt.runtime.engines.gate import mosaics
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import read_pictures
from srtrt.spec import Precision

SHIPPED = "as it is"
"""The variant that others are compared with."""

_MOST_KERNELS = 15
_PADDED = 8
"""Channels of a padded picture: a multiple of what tensor cores take at once in fp16."""

Compute = Callable[[Tensor], Tensor]


def strided_tail(tail: nn.Conv2d) -> nn.Conv2d:
    """The folded tail as one convolution on the LR grid.

    A 5x5 convolution with padding 2 followed by PixelShuffle(2) equals a 6x6 convolution with
    stride 2 and padding 2 followed by PixelShuffle(4): of the four cells of the 2x grid that share
    an LR pixel, cell (a, b) sees the window that begins (a, b) further. It multiplies 1.44 times
    as much, with four times as many channels at once.

    Args:
        tail: 5x5, from C to 4*O channels.

    Returns:
        6x6, from C to 16*O channels, of the same type on the same device.
    """
    channels, outputs = tail.in_channels, tail.out_channels // 4
    phases = tail.weight.detach().reshape(outputs, 2, 2, channels, 5, 5)
    weight = phases.new_zeros(outputs, 2, 2, 2, 2, channels, 6, 6)
    for a in (0, 1):
        for b in (0, 1):
            weight[:, a, :, b, :, :, a : a + 5, b : b + 5] = phases
    strided = nn.Conv2d(channels, 16 * outputs, 6, stride=2, padding=2)
    strided = strided.to(phases.device, phases.dtype)
    assert tail.bias is not None
    strided.weight = nn.Parameter(weight.reshape(16 * outputs, channels, 6, 6), requires_grad=False)
    bias = tail.bias.detach().reshape(outputs, 1, 2, 1, 2).expand(outputs, 2, 2, 2, 2)
    strided.bias = nn.Parameter(bias.reshape(-1).clone(), requires_grad=False)
    return strided


class _StridedTail(nn.Module):
    """What closes the network, with its last convolution on the LR grid."""

    def __init__(self, folded: nn.Module) -> None:
        super().__init__()
        self.up1 = cast(nn.Module, folded.up1)
        self.up2_conv = cast(nn.Module, folded.up2_conv)
        self.tail = strided_tail(cast(nn.Conv2d, folded.tail))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.leaky_relu(self.up2_conv(self.up1(x)), LEAK)
        return functional.pixel_shuffle(self.tail(y), 4)


class _PaddedHead(nn.Module):
    """The first convolution with empty channels added to picture and weight."""

    def __init__(self, head: nn.Conv2d) -> None:
        super().__init__()
        side = head.kernel_size[0]
        self.conv = nn.Conv2d(_PADDED, head.out_channels, side, padding=side // 2)
        weight = head.weight.detach()
        empty = weight.new_zeros(len(weight), _PADDED - weight.shape[1], side, side)
        self.conv.weight = nn.Parameter(torch.cat([weight, empty], dim=1), requires_grad=False)
        self.conv.bias = head.bias

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (0, 0, 0, 0, 0, _PADDED - x.shape[1]))
        return cast(Tensor, self.conv(padded.contiguous(memory_format=torch.channels_last)))


@dataclass(frozen=True)
class _Variant:
    """One way to compute the network."""

    tail: bool = False
    head: bool = False
    search: bool = False
    """cuDNN measures its algorithms and takes the fastest."""
    compiled: bool = False


VARIANTS: Mapping[str, _Variant] = {
    SHIPPED: _Variant(),
    "6x6 tail of stride 2": _Variant(tail=True),
    "padded head": _Variant(head=True),
    "cudnn.benchmark": _Variant(search=True),
    "compiled": _Variant(compiled=True),
    "all of these": _Variant(tail=True, head=True, search=True, compiled=True),
}
"""What is compared, the first being what the torch backend computes."""


def profile_frame(
    model: str,
    size: InputSize,
    *,
    device: str,
    precision: Precision,
    rounds: int = 10,
    variants: Sequence[str] = tuple(VARIANTS),
    on_done: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Times the variants of a network on one frame, interleaved, and lists its kernels.

    Only the network is timed, on the device, between float pictures in its memory.

    Args:
        model: bundled name or checkpoint.
        size: of the LR frame.
        device: ``cpu`` or ``cuda:N``.
        precision: fp32, fp16 or bf16.
        rounds: how often each variant is timed.
        variants: names of :data:`VARIANTS`; those of a tail are left out where there is none.
        on_done: told what was measured.

    Returns:
        ``variants``: for each the median and quartiles of milliseconds, how many times faster than
        the first it is, and the largest difference of its output in 8-bit steps; or its
        ``problem``. ``tail_difference_float64``: the largest difference of the rewritten tail
        in float64; ``tail``: milliseconds of both forms alone. ``kernels``: what took longest.

    Raises:
        UsageError: if a variant is unknown.
        ModelError: if the model is a graph.
        BackendError: if PyTorch does not compute in this precision here.
    """
    tell = on_done or (lambda _: None)
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        hint = did_you_mean(unknown[0], VARIANTS)
        raise UsageError(f"variant {unknown[0]!r}: expected {', '.join(VARIANTS)}.{hint}")
    require_torch(device, precision)
    found = find_model(model)
    if found.checkpoint_path is None:
        raise ModelError(f"{model} is a graph; the profile is that of a checkpoint.")
    generator, _ = load_checkpoint(found.checkpoint_path)
    has_tail = generator.config.upsampler != "pixelshuffledirect"
    chosen = [name for name in variants if has_tail or not VARIANTS[name].tail]
    place = torch.device(device)

    def network(variant: _Variant) -> nn.Module:
        net = InferenceGenerator(load_checkpoint(found.checkpoint_path)[0])  # type: ignore[arg-type]
        return _rewritten(net.eval(), variant).to(place, TYPES[precision])

    (picture,) = mosaics(read_pictures()[:1], size)
    frame = torch.from_numpy(picture).to(place).permute(2, 0, 1)[None] / 255
    frame = frame.to(TYPES[precision]).contiguous(memory_format=torch.channels_last)
    plain = network(VARIANTS[SHIPPED])
    with torch.inference_mode():
        rows = _timed(dict.fromkeys([SHIPPED, *chosen]), network, frame, rounds, tell)
        report = {
            "model": model,
            "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
            "precision": precision,
            "frame": str(size),
            "rounds": rounds,
            "variants": rows,
            "kernels": _kernels(plain, frame),
        }
        if has_tail:
            report["tail_difference_float64"] = tail_difference(generator)
            report["tail"] = _tails(plain, frame, rounds)
    return report


def _rewritten(net: nn.Module, variant: _Variant) -> nn.Module:
    if variant.tail:
        net.enlarge = _StridedTail(cast(nn.Module, net.enlarge))
    if variant.head:
        net.head = _PaddedHead(cast(nn.Conv2d, net.head))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if variant.compiled:
        net.compile(dynamic=False)
    return net


def _timed(
    names: Mapping[str, None],
    network: Callable[[_Variant], nn.Module],
    frame: Tensor,
    rounds: int,
    tell: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    ready: dict[str, Compute] = {}
    times: dict[str, list[float]] = {}
    expected = None
    for name in names:
        net = network(VARIANTS[name])
        try:
            with _searching(VARIANTS[name].search):
                result = net(frame).float()
                net(frame)
        except RuntimeError as error:  # of memory, or of what compiling lacks
            rows[name] = {"problem": str(error).strip().partition("\n")[0]}
            continue
        expected = result if expected is None else expected
        difference = 255 * float((result - expected).abs().max())
        rows[name] = {"max_difference": round(difference, 4)}
        ready[name], times[name] = net, []
        tell(name)
    for _ in range(rounds):
        for name, compute in ready.items():
            with _searching(VARIANTS[name].search):
                times[name].append(milliseconds(compute, frame))
    for name, values in times.items():
        low, middle, high = np.percentile(values, [25, 50, 75])
        rows[name] |= {
            "ms": round(float(middle), 4),
            "quartiles_ms": [round(float(low), 4), round(float(high), 4)],
            "times_faster": round(float(np.median(np.array(times[SHIPPED]) / values)), 3),
        }
    return rows


@contextmanager
def _searching(search: bool) -> Iterator[None]:
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=search, allow_tf32=False)
    with flags:
        yield


def tail_difference(generator: nn.Module) -> float:
    """The largest difference between both forms of a generator's tail, in float64.

    Args:
        generator: one that has a tail on the 4x grid.
    """
    folded = InferenceGenerator(generator).enlarge  # type: ignore[arg-type]
    tail = cast(nn.Conv2d, folded.tail).double()
    strided = strided_tail(tail)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, tail.in_channels, 14, 18, dtype=torch.float64, generator=random)
    with torch.inference_mode():
        one = functional.pixel_shuffle(tail(x), 2)
        other = functional.pixel_shuffle(strided(x), 4)
        return float((one - other).abs().max())


def _tails(net: nn.Module, frame: Tensor, rounds: int) -> dict[str, float]:
    """Milliseconds of both forms of the tail alone, on what the network gives them."""
    folded = cast(nn.Module, net.enlarge)
    tail = cast(nn.Conv2d, folded.tail)
    strided = strided_tail(tail).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    height, width = frame.shape[2:]
    shape = (1, tail.in_channels, 2 * height, 2 * width)
    x = torch.rand(shape, device=frame.device).to(frame.dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    forms: dict[str, Compute] = {
        "5x5": lambda y: functional.pixel_shuffle(tail(y), 2),
        "6x6 of stride 2": lambda y: functional.pixel_shuffle(strided(y), 4),
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    for done in range(rounds + 2):
        for name, form in forms.items():
            taken = milliseconds(form, x)
            times[name] += [taken] if done > 1 else []
    return {f"{name}, ms": round(float(np.median(found)), 4) for name, found in times.items()}


def _kernels(net: nn.Module, frame: Tensor) -> list[dict[str, Any]]:
    """What took longest while one frame was computed: operators of a CPU, kernels of a GPU."""
    on_gpu = frame.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    net(frame)
    with profile(activities=activities) as found:
        net(frame)
        if on_gpu:
            torch.cuda.synchronize(frame.device)

    def microseconds(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    events = sorted(found.key_averages(), key=microseconds, reverse=True)[:_MOST_KERNELS]
    return [
        {"name": e.key, "calls": e.count, "ms": round(microseconds(e) / 1000, 4)}
        for e in events
        if microseconds(e) > 0
    ]
