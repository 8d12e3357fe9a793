"""Proof that an artifact computes what PyTorch computes, on real pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from srtrt.colour import YuvColour
from srtrt.datasets import list_images, read_rgb8
from srtrt.errors import InputError, ParityError
from srtrt.graph import REDUCED_TYPES
from srtrt.metrics import mod_crop
from srtrt.packages import require_onnxruntime
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeOptions
from srtrt.runtime.layouts import input_size
from srtrt.runtime.models import Model
from srtrt.runtime.tiling import (
    Cut,
    alignment,
    cut_inputs,
    kept_outputs,
    margin_for,
    plan_tiles,
    sampled_windows,
    whole_outputs,
)
from srtrt.spec import UNBOUNDED, Form, ModelSpec, Precision
from srtrt.twin import float32_twin

Picture = NDArray[np.uint8]
"""``[H, W, 3]`` RGB with even sides."""

Arrays = Mapping[str, NDArray[Any]]

ENOUGH_PIXELS = 1 << 17
"""LR pixels that a reference computes, which is on the CPU. The figures of these parts are those of
whole frames of full HD to about half a decibel."""


@dataclass(frozen=True)
class Gate:
    """Least agreement with PyTorch float32 that an artifact must show."""

    psnr_db: float
    """On uint8 output, of the worst picture."""
    max_abs: int
    """Largest difference of a sample, in 8-bit steps."""
    lost_db: float = math.inf
    """Most PSNR lost against ground truth, where that is measured."""


GATES: dict[Precision, Gate] = {
    "fp32": Gate(70.0, 1),
    "fp16": Gate(55.0, 255),
    "bf16": Gate(48.0, 255),
    "int8": Gate(38.0, 255, lost_db=0.10),
    "fp8": Gate(38.0, 255, lost_db=0.10),
}
"""Gate of each precision; only fp32 bounds the single sample."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Agreement of two backends over a set of pictures, on uint8 output."""

    pictures: int
    psnr_db: float
    """Of the worst plane of the worst picture; infinite if all samples are equal."""
    max_abs: int
    """Largest difference of a sample."""
    equal: float
    """Share of samples that are equal, 0..1."""
    lost_db: float | None = None
    """PSNR in dB lost against ground truth, see
    :func:`srtrt.runtime.lost_quality.measure_on_originals`; None if it was not
    measured."""

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values; an infinite PSNR becomes None."""
        values = asdict(self)
        values["psnr_db"] = None if math.isinf(self.psnr_db) else round(self.psnr_db, 2)
        values["equal"] = round(self.equal, 6)
        if self.lost_db is None:
            del values["lost_db"]
        else:
            values["lost_db"] = round(self.lost_db, 4)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Parity:
        """Reads what :meth:`to_dict` wrote; further entries do not matter.

        Raises:
            ValueError: if these are no such figures.
        """
        try:
            psnr_db, lost_db = values["psnr_db"], values.get("lost_db")
            found = cls(
                pictures=int(values["pictures"]),
                psnr_db=math.inf if psnr_db is None else float(psnr_db),
                max_abs=int(values["max_abs"]),
                equal=float(values["equal"]),
                lost_db=None if lost_db is None else float(lost_db),
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"no figures of parity: {values!r}") from error
        numbers = (found.psnr_db, found.equal, found.lost_db or 0.0)
        if found.pictures < 1 or any(math.isnan(number) for number in numbers):
            raise ValueError(f"no figures of parity: {values!r}")
        return found

    def __str__(self) -> str:
        psnr = "identical" if math.isinf(self.psnr_db) else f"{self.psnr_db:.1f} dB"
        text = f"{psnr}, max difference {self.max_abs}, {100 * self.equal:.3f} % equal"
        return text if self.lost_db is None else f"{text}, {self.lost_db:.2f} dB lost"


def read_pictures(folder: Path | None = None) -> list[Picture]:
    """LR pictures to compare on: all of a folder, or the few that come with srtrt.

    Raises:
        InputError: if the folder is missing, holds no picture, or one cannot be read.
    """
    return _read_all(folder or _shipped("pictures"))


def read_originals(folder: Path | None = None) -> list[Picture]:
    """Pictures that serve as ground truth: all of a folder, or the few that come with srtrt.

    Raises:
        InputError: if the folder is missing, holds no picture, or one cannot be read.
    """
    return _read_all(folder or _shipped("originals"))


def _shipped(folder: str) -> Path:
    return Path(str(files("srtrt.runtime"))) / folder


def _read_all(folder: Path) -> list[Picture]:
    pictures = []
    for path in list_images([folder]):
        image = read_rgb8(path)
        if min(image.shape[:2]) < 2:
            raise InputError(f"{path}: smaller than 2x2 pixels.")
        pictures.append(np.ascontiguousarray(mod_crop(image, 2)))
    return pictures


def form_inputs(picture: Picture, form: Form) -> dict[str, NDArray[Any]]:
    """One picture as the inputs of a form; YUV is BT.601, limited range, left siting."""
    if form == "rgb8":
        return {"rgb": picture[None]}
    colour = YuvColour(matrix="bt601")
    matrix = colour.rgb_to_yuv().astype(np.float64)
    yuv = picture / 255.0 @ matrix[:, :3].T + matrix[:, 3]
    height, width = picture.shape[:2]
    chroma = yuv[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    y = np.rint(yuv[..., 0]).astype(np.uint8)[None, None]
    uv = np.ascontiguousarray(np.rint(chroma).astype(np.uint8).transpose(2, 0, 1)[None])
    return {"y": y, "uv": uv, **colour.inputs()}


def reference_backend(model: Model, form: Form) -> Backend:
    """The generator exactly as trained, in PyTorch float32 on the CPU."""
    from srtrt.runtime.backends.torch import TorchBackend, TorchOptions

    options = TorchOptions(rewritten=False, channels_last=False)
    return TorchBackend(model, form=form, device="cpu", precision="fp32", options=options)


@contextmanager
def reference_for(model: Model, form: Form) -> Iterator[tuple[Backend, str]]:
    """What a model's artifacts are compared with here, and its name.

    That is the generator as trained, in PyTorch float32, if there is a checkpoint and PyTorch is
    installed; else the model's graph in ONNX Runtime on the CPU.

    Raises:
        PackageError: see :func:`require_reference`.
    """
    require_reference(model)
    if _has_pytorch(model):
        with reference_backend(model, form) as reference:
            yield reference, "PyTorch fp32"
        return
    precision = model.spec.precision
    with OnnxRuntimeBackend(model, form=form, device="cpu", precision=precision) as reference:
        yield reference, f"the {precision} graph in onnxruntime"


def require_reference(model: Model) -> None:
    """Makes sure, before an engine is built, that there is something to compare it with.

    Raises:
        PackageError: if there is neither PyTorch, or no checkpoint for it, nor ONNX Runtime, or
            if ONNX Runtime is there twice.
    """
    if not _has_pytorch(model):
        require_onnxruntime("comparing an engine with the graph it is built from")


def _has_pytorch(model: Model) -> bool:
    packages = ("torch", "safetensors")
    return model.checkpoint_path is not None and all(map(find_spec, packages))


def graph_backend(name: str, graph: ModelProto, form: Form, precision: Precision) -> Backend:
    """A graph in ONNX Runtime on the CPU, such that the rounding of its precision shows.

    The CPU computes in neither float16 nor bfloat16; see
    :func:`srtrt.twin.float32_twin`.
    """
    options = OnnxRuntimeOptions(optimise=precision not in REDUCED_TYPES)
    if precision in REDUCED_TYPES:
        graph = float32_twin(graph)
    model = Model.from_graph(name, graph)
    return OnnxRuntimeBackend(model, form=form, device="cpu", precision=precision, options=options)


def measure_parity(reference: Backend, candidate: Backend, pictures: Sequence[Picture]) -> Parity:
    """Runs both backends on every picture and compares their uint8 output.

    Of pictures of more than :data:`ENOUGH_PIXELS` only the parts that :func:`frame_windows` gives
    are computed, by both.

    Raises:
        BackendError: if one of them fails.
    """
    spec = reference.spec

    def pairs() -> Iterator[tuple[Arrays, Arrays]]:
        for picture in pictures:
            inputs = form_inputs(picture, reference.form)
            windows = frame_windows(inputs, reference.form, spec, most=ENOUGH_PIXELS)
            yield (
                computed_samples(reference, inputs, windows),
                computed_samples(candidate, inputs, windows),
            )

    return compare_outputs(pairs())


def compare_frames(
    reference: Backend,
    frames: Sequence[Arrays],
    found: Iterable[Arrays],
    points: Sequence[tuple[int, int]] = (),
) -> Parity:
    """Compares frames that an engine computed whole with what a reference computes of them.

    The reference computes exact tiles of at most :data:`ENOUGH_PIXELS` LR pixels in all frames, see
    :func:`frame_windows`; so large frames take it seconds, and no more memory than small ones.

    Args:
        reference: see :func:`reference_for`.
        frames: the inputs, all of one size, with one frame each.
        found: the outputs of each, in the same order.
        points: row and column, in LR pixels, of what must be compared in every frame.

    Raises:
        BackendError: if the reference fails.
    """
    form, scale = reference.form, reference.spec.scale
    share = ENOUGH_PIXELS // max(1, len(frames))

    def pairs() -> Iterator[tuple[Arrays, Arrays]]:
        for inputs, outputs in zip(frames, found, strict=True):
            windows = frame_windows(inputs, form, reference.spec, most=share, points=points)
            yield (
                computed_samples(reference, inputs, windows),
                joined_samples(whole_outputs(outputs, form, *window, scale) for window in windows),
            )

    return compare_outputs(pairs())


def frame_windows(
    inputs: Arrays,
    form: Form,
    spec: ModelSpec,
    *,
    most: int,
    points: Sequence[tuple[int, int]] = (),
) -> list[Cut]:
    """The parts of a frame on which it is compared; all of it where it is small.

    A network of which it cannot be told how far it sees needs the whole frame.

    Args:
        inputs: of one frame, or several of one size.
        form: their form.
        spec: of the network.
        most: LR pixels that are to be computed, margins included.
        points: row and column, in LR pixels, of what must be in one of the parts.
    """
    size = input_size(inputs)
    if spec.receptive_radius == UNBOUNDED:
        return list(plan_tiles(size.height, size.width, margin=0, align=1, max_pixels=size.pixels))
    return sampled_windows(
        size.height,
        size.width,
        margin=margin_for(spec.receptive_radius, form),
        align=alignment(form),
        most=most,
        points=points,
    )


def computed_samples(backend: Backend, inputs: Arrays, windows: Sequence[Cut]) -> Arrays:
    """All samples that a backend computes of some parts of a frame, in one row for each output.

    Raises:
        BackendError: if it fails.
    """
    form, scale = backend.form, backend.spec.scale
    return joined_samples(
        kept_outputs(backend.infer(cut_inputs(inputs, form, *window)), form, *window, scale)
        for window in windows
    )


def joined_samples(parts: Iterable[Arrays]) -> Arrays:
    """The samples of several parts of a frame, in one row for each output."""
    rows: dict[str, list[NDArray[Any]]] = {}
    for part in parts:
        for name, array in part.items():
            rows.setdefault(name, []).append(array.ravel())
    return {name: np.concatenate(found) for name, found in rows.items()}


def compare_outputs(
    pairs: Iterable[tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]],
) -> Parity:
    """Compares pairs of named uint8 outputs."""
    worst, largest, equal, samples, count = math.inf, 0, 0, 0, 0
    for expected, found in pairs:
        count += 1
        for name, plane in expected.items():
            difference = np.abs(plane.astype(np.int16) - found[name])
            error = float(np.mean(np.square(difference, dtype=np.float64)))
            psnr = math.inf if error == 0 else 10 * math.log10(255**2 / error)
            worst = min(worst, psnr)
            largest = max(largest, int(difference.max()))
            equal += int(np.count_nonzero(difference == 0))
            samples += difference.size
    return Parity(pictures=count, psnr_db=worst, max_abs=largest, equal=equal / max(1, samples))


def passes(parity: Parity, precision: Precision) -> bool:
    """Whether the figures meet the gate of a precision; a loss counts where it was measured."""
    gate = GATES[precision]
    lost = 0.0 if parity.lost_db is None else parity.lost_db
    return (
        parity.psnr_db >= gate.psnr_db and parity.max_abs <= gate.max_abs and lost <= gate.lost_db
    )


def shortfall(
    parity: Parity, precision: Precision, what: str, against: str = "PyTorch"
) -> str | None:
    """A sentence on how an artifact misses the gate of its precision; None if it meets it."""
    if passes(parity, precision):
        return None
    gate = GATES[precision]
    lost = "" if math.isinf(gate.lost_db) else f" and at most {gate.lost_db:.2f} dB lost"
    return (
        f"{what} does not compute what {against} computes: {parity}; expected at least "
        f"{gate.psnr_db:.0f} dB and a difference of at most {gate.max_abs}{lost}."
    )


def require_parity(parity: Parity, precision: Precision, what: str) -> None:
    """Refuses an artifact under its gate.

    Raises:
        ParityError: with the figures and the nearest precision that these figures would pass.
    """
    problem = shortfall(parity, precision, what)
    if problem is None:
        return
    nearest = next((p for p in GATES if passes(parity, p)), None)
    advice = (
        f"These figures would pass as {nearest}." if nearest else "No precision has so low a gate."
    )
    raise ParityError(f"{problem} {advice} It was not written.")
