"""Typed networks of 8 bits: calibrated on pictures, with explicit Q/DQ pairs.

Weights are symmetric with a scale for each output channel, activations symmetric with one scale;
biases stay float. TensorRT takes nothing else, and OpenVINO and ONNX Runtime take the same graph
on the CPU.

Quality comes from three measurements on real pictures, layer after layer with all earlier ones
quantised: the range of each tensor, the rounding of the weights (:mod:`srtrt.export.rounding`) and
the mean error of each output, which is taken out of the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from math import isinf
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from srtrt.errors import ModelError
from srtrt.export.calibration import (
    Batch,
    NodeRunner,
    Tensors,
    best_scale,
    calibration_crops,
    fake_quantise,
    mean_difference,
    psnr_db,
    run_network,
    walk,
)
from srtrt.export.pairs import (
    QuantisedConv,
    constants_of,
    convolutions_of,
    prepared,
    with_pairs,
)
from srtrt.export.rounding import (
    GRIDS,
    Floats,
    Grid,
    covariance,
    round_weight,
    weight_scales,
    windows,
)
from srtrt.graph import layer_name
from srtrt.spec import Precision

Residual = Literal["both", "skip", "float"]
"""Which inputs of the sums of residual blocks are 8 bits: both, the one that skips the block, or
none. The more, the faster, and the more rounding adds up from block to block."""

TARGETS_DB: dict[Precision, float] = {"int8": 42.0, "fp8": 46.0}
"""Least PSNR of the quantised network against float32 on the calibration crops; that of fp8 is
higher because its errors grow with the contrast of a picture, and those of int8 do not."""

WAYS: dict[Precision, tuple[Residual, ...]] = {"int8": get_args(Residual), "fp8": ("float",)}
"""Ways to compute the sums that are tried, the fastest first. Numbers of 4 significant bits are too
coarse to be added up over many blocks."""

FIRST = "its input is the picture, whose 256 values do not fit a symmetric type of 8 bits"
ASKED = "asked for"
COSTLY = "with it the target was missed"
"""Reasons why a convolution is left in higher precision."""

_POSITIONS_PER_WEIGHT = 3
_FEWEST_POSITIONS = 8_000

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What quantising one convolution means."""

    name: str
    """Of its weight, without the ending ``.weight``."""
    quantised: bool
    """Whether it is computed in 8 bits."""
    reason: str | None = None
    """Why it is not."""
    input_range: float | None = None
    """Largest magnitude its input can have in 8 bits; larger values are clipped."""
    alone_db: float | None = None
    """PSNR against float32 with this convolution alone in 8 bits, on every fourth crop."""


@dataclass(frozen=True, kw_only=True)
class QuantisationReport:
    """How a network was quantised and what it costs."""

    precision: Precision
    residual: Residual
    layers: tuple[LayerReport, ...]
    """Every convolution, in the order of the network."""
    psnr_db: float
    """PSNR against float32 on the calibration crops, clamped, unrounded; infinite if equal."""
    crops: int
    """How many crops it was calibrated on."""
    target_db: float
    """What ``psnr_db`` had to reach."""

    @property
    def kept(self) -> dict[str, str]:
        """The convolutions left in higher precision, each with the reason."""
        return {layer.name: str(layer.reason) for layer in self.layers if not layer.quantised}

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values; an infinite PSNR becomes None."""
        layers = {
            layer.name: {
                "input_range": round(layer.input_range, 4),
                "alone_db": None if layer.alone_db is None else round(layer.alone_db, 1),
            }
            for layer in self.layers
            if layer.input_range is not None
        }
        return {
            **asdict(self),
            "psnr_db": None if isinf(self.psnr_db) else round(self.psnr_db, 2),
            "kept": self.kept,
            "layers": layers,
        }


def quantise_network(
    network: ModelProto,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    precision: Precision = "int8",
    keep: Collection[str] = (),
    residual: Residual | None = None,
    target_db: float | None = None,
    correct_bias: bool = True,
    spread_errors: bool = True,
    on_progress: Tell | None = None,
) -> tuple[ModelProto, QuantisationReport]:
    """A float32 network as one of 8 bits.

    The first convolution always stays in higher precision, and so do the sum that closes the
    trunk and the shuffle to the picture. If the result is under ``target_db`` even with float
    sums, the convolutions that cost most when quantised alone are left out as well.

    Args:
        network: float32 from ``lr`` to ``sr``, see
            :func:`srtrt.export.onnx_graph.network_graph`.
        pictures: LR pictures to calibrate on, uint8 RGB ``[H, W, 3]``; some tens of different
            photographs are enough.
        precision: ``int8`` or ``fp8`` (E4M3).
        keep: names of further convolutions to leave in higher precision, as in the report.
        residual: how the sums of residual blocks are computed; by default the fastest way that
            reaches the target.
        target_db: PSNR against float32 to reach on crops of these pictures; by default that of
            :data:`TARGETS_DB`.
        correct_bias: take the mean error of each output out of its bias.
        spread_errors: make the error of each rounded weight good by the weights beside it.
        on_progress: told a few words before each convolution is quantised or measured.

    Returns:
        The network from ``lr`` to ``sr`` with Q/DQ pairs and weights of 8 bits, and the report.

    Raises:
        InputError: if there is no picture.
        ModelError: if the network is not of the expected kind, ``precision`` is another, ``keep``
            names none of its convolutions, or the target cannot be reached.
        PackageError: if ONNX Runtime is not installed.
    """
    if precision not in GRIDS:
        raise ModelError(f"precision {precision!r} needs no calibration; {' and '.join(GRIDS)} do.")
    target_db = TARGETS_DB[precision] if target_db is None else target_db
    names = list(convolutions_of(network))
    model = prepared(network)
    unknown = sorted(set(keep) - set(names))
    if unknown:
        raise ModelError(
            f"the network has no convolution {unknown[0]!r}; it has {', '.join(names)}."
        )
    crops = calibration_crops(pictures)
    tell = on_progress or (lambda _: None)
    kept = {names[0]: FIRST, **{name: ASKED for name in keep if name != names[0]}}
    run = NodeRunner(model)

    def calibrated(way: Residual) -> _Calibration:
        tell(f"quantising with {way} sums")
        return _Calibration(
            model, crops, run, GRIDS[precision], kept, way, correct_bias, spread_errors, tell
        )

    for way in WAYS[precision] if residual is None else (residual,):
        made = calibrated(way)
        if made.psnr_db >= target_db:
            break
    alone = made.measured_alone()
    while made.psnr_db < target_db:
        costly = _costly(alone, kept, made.psnr_db, target_db)
        kept |= dict.fromkeys(costly, COSTLY)
        if len(kept) == len(names):
            raise ModelError(
                f"the network cannot be computed in {precision} with {target_db:.1f} dB of PSNR "
                f"against float32; with the last convolution left it had {made.psnr_db:.1f} dB. "
                "Use fp16 or bf16."
            )
        made = calibrated(way)
    return made.network(), QuantisationReport(
        precision=precision,
        residual=way,
        layers=tuple(made.layer(name, alone.get(name)) for name in names),
        psnr_db=made.psnr_db,
        crops=len(crops),
        target_db=target_db,
    )


def _costly(
    alone: dict[str, float], kept: Collection[str], reached_db: float, target_db: float
) -> list[str]:
    """The convolutions to leave out next: at least one, the worst first.

    Their noises are taken to add up, scaled to what all together were measured to make.
    """
    noise = {name: 10 ** (-db / 10) for name, db in alone.items() if name not in kept}
    scale = 10 ** (-reached_db / 10) / sum(noise.values())
    chosen: list[str] = []
    for name in sorted(noise, key=noise.__getitem__, reverse=True):
        if chosen and scale * sum(noise.values()) <= 10 ** (-target_db / 10):
            break
        chosen.append(name)
        del noise[name]
    return chosen


class _Calibration:
    """A network quantised once, layer after layer."""

    def __init__(
        self,
        model: ModelProto,
        crops: Batch,
        run: NodeRunner,
        grid: Grid,
        kept: dict[str, str],
        residual: Residual,
        correct_bias: bool,
        spread_errors: bool,
        tell: Tell,
    ) -> None:
        self.model, self.crops, self.run, self.grid, self.tell = model, crops, run, grid, tell
        self.kept, self.residual = dict(kept), residual
        self.correct_bias, self.spread_errors = correct_bias, spread_errors
        self.constants = constants_of(model)
        self.convolutions: dict[str, QuantisedConv] = {}
        self.alone_bias: dict[str, Floats] = {}
        """Of each convolution, the bias that would be right were no other one quantised."""
        self.scales: dict[str, float] = {}
        self.readers = {
            node.input[0]: node for node in reversed(model.graph.node) if node.op_type == "Conv"
        }
        self.summands = {node.output[0] for node in model.graph.node if node.op_type == "Conv"}
        sums = [node.name for node in model.graph.node if node.op_type == "Add"]
        # The last sum closes the trunk: rounding it too would save little and is seen at once.
        self.sums = set(sums[:-1]) if residual != "float" else set()
        self.psnr_db = psnr_db(*walk(model, crops, self._visit))

    def network(self) -> ModelProto:
        """The quantised network."""
        return with_pairs(self.model, self.grid, self.convolutions, self.scales, self.sums)

    def layer(self, name: str, alone_db: float | None) -> LayerReport:
        """What became of one convolution."""
        if name in self.kept:
            return LayerReport(
                name=name, quantised=False, reason=self.kept[name], alone_db=alone_db
            )
        source = next(s for s, n in self.readers.items() if layer_name(n) == name)
        return LayerReport(
            name=name,
            quantised=True,
            input_range=self.scales[source] * self.grid.largest,
            alone_db=alone_db,
        )

    def measured_alone(self) -> dict[str, float]:
        """PSNR with each convolution alone in 8 bits, on every fourth crop."""
        some = self.crops[::4]
        expected = run_network(self.model, some)
        result = {}
        for name, conv in self.convolutions.items():
            self.tell(f"measuring {name}")
            single = {name: QuantisedConv(conv.weight, conv.scales, self.alone_bias[name])}
            network = with_pairs(self.model, self.grid, single, self.scales)
            result[name] = psnr_db(expected, run_network(network, some))
        return result

    def _visit(self, node: NodeProto, plain: Tensors, coarse: Tensors) -> tuple[Batch, Batch]:
        expected = self.run(node, plain)
        if node.op_type == "Conv" and layer_name(node) not in self.kept:
            return expected, self._convolved(node, plain, coarse, expected)
        if node.name in self.sums:
            rounded = {
                name: coarse[name]
                if self.residual == "skip" and name in self.summands
                else fake_quantise(coarse[name], self._scale(name, coarse[name]), self.grid)
                for name in node.input
            }
            return expected, self.run(node, rounded)
        same = all(coarse[name] is plain[name] for name in node.input if name in plain)
        return expected, expected if same else self.run(node, coarse)

    def _convolved(
        self, node: NodeProto, plain: Tensors, coarse: Tensors, expected: Batch
    ) -> Batch:
        """The convolution's output in 8 bits; stores its constants."""
        name, source = layer_name(node), node.input[0]
        self.tell(f"quantising {name}")
        scale = self._scale(source, coarse[source])
        rounded = fake_quantise(coarse[source], scale, self.grid)
        weight, bias = self.constants[node.input[1]], self.constants[node.input[2]]
        scales = weight_scales(weight, self.grid)
        steps = self._rounded(weight, scales, rounded)
        kernel = steps * scales[:, None, None, None]
        found = self.run.convolve(node, rounded, kernel)
        shift = alone_shift = np.zeros_like(bias)
        if self.correct_bias:
            shift = mean_difference(expected, found)
            alone = fake_quantise(plain[source], scale, self.grid)
            alone_shift = mean_difference(expected, self.run.convolve(node, alone, kernel))
        self.convolutions[name] = QuantisedConv(steps, scales, bias + shift)
        self.alone_bias[name] = bias + alone_shift
        return [y + shift[:, None, None] for y in found]

    def _scale(self, name: str, batch: Batch) -> float:
        if name not in self.scales:
            reader = self.readers.get(name)
            importance = np.ones(batch[0].shape[1])
            if reader is not None:
                weight = self.constants[reader.input[1]]
                importance = np.sum(np.square(weight, dtype=np.float64), axis=(0, 2, 3))
            self.scales[name] = best_scale(batch, importance, self.grid)
        return self.scales[name]

    def _rounded(self, weight: Floats, scales: Floats, batch: Batch) -> NDArray[np.float64]:
        """The weights as numbers of the grid, for the input that the convolution has."""
        if not self.spread_errors:
            exact = weight / scales[:, None, None, None].astype(np.float64)
            return self.grid.nearest(self.grid.within_pairs(exact))
        side, unknowns = weight.shape[-1], weight[0].size
        wanted = max(_FEWEST_POSITIONS, _POSITIONS_PER_WEIGHT * unknowns) / sum(
            x.shape[2] * x.shape[3] for x in batch
        )
        chance = np.random.default_rng(unknowns)
        samples = []
        for x in batch:
            pixels = x.shape[2] * x.shape[3]
            chosen = chance.permutation(pixels)[: max(1, round(wanted * pixels))]
            samples.append(windows(x, side, chosen))
        return round_weight(weight, scales, covariance(np.concatenate(samples)), self.grid)
