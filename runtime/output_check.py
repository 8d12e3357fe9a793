"""Is a result a picture, or what numbers that overflowed leave of one?

An overflow ends as NaN or infinity, which an engine clamps to samples of 0 or 255. Whether it
happens depends on the picture, so an engine that was compared with PyTorch before can still fail on
this one. Ordinary pictures clip, too: print, stars, noise, test cards. So a refusal needs proof.

Suspicion: float32 is trusted. In every other precision each channel of each frame is looked at,
at one sample per source pixel. Suspicious is an area in which all samples are 0, or all are 255,
while the mean of the source there is far from it; the larger the area, the less far it must be
(:data:`_LEVELS`). A network that enlarges keeps local means, so this is rare.

Proof: the most suspicious part of an area is computed again in float32 on the CPU, with the margin
that the network sees. The frame is refused if float32 comes nearer to the source than to what is
there. Where nothing can compute it again, a note says so, and nothing is refused.

Cost: a picture of its own is proven whenever it is suspicious. In a sequence a network that really
draws black on grey would be proven on every frame; after a proof that found nothing wrong, a frame
is proven if an area is more than twice as large as any found innocent before, or if so many
suspicious frames went by since the last proof: 1, 2, 4, up to :data:`_LONGEST_WAIT`. So n frames
take some log(n) + n / 256 proofs, and an overflow that stays is found late at worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from srtrt.errors import MissingPackageError, OutputCheckError, SrtrtError
from srtrt.graph import stamp
from srtrt.runtime.backends import backend_class
from srtrt.runtime.backends.base import Backend, gpu_of
from srtrt.runtime.layouts import IMAGE_AXES, input_size
from srtrt.runtime.models import Model
from srtrt.runtime.tiling import Window, cut_inputs, kept_outputs
from srtrt.spec import Form
from srtrt.twin import in_float32

Arrays = Mapping[str, NDArray[Any]]

_LEVELS = ((3, 48), (9, 12))
"""Side of a window in samples, and how far the mean of the source must be from 0 or 255 if all
samples in the window are. On hard-edged pictures in float32 the mean was at most 12 and 0.5 away.
"""
_CORE = 32
"""Side, in LR pixels, of what is computed again, without the margin."""
_PROOFS = 4
"""Areas of a frame that are computed again at most, the largest first."""
_LONGEST_WAIT = 256


@dataclass(frozen=True, kw_only=True)
class _Area:
    """A connected suspicious area of one plane."""

    plane: int
    """Index in :func:`_planes`."""
    pixels: int
    """Its size in LR pixels."""
    row: int
    """LR row of the sample that is farthest from its source."""
    column: int


class OutputCheck:
    """Refuses what an engine computed if it is proven to be no picture.

    Attributes:
        frames: how many frames were given to it.
        suspected: how many of them looked like an overflow.
        proofs: how many areas were computed again.
    """

    def __init__(self, backend: Backend, *, margin: int, scale: int, notes: list[str]) -> None:
        """Opens nothing yet.

        Args:
            backend: whose results are checked; it is neither used nor closed.
            margin: LR pixels around a pixel that its result depends on.
            scale: enlargement in each direction.
            notes: takes a sentence if a suspicion cannot be proven.
        """
        self._backend, self._margin, self._scale = backend, margin, scale
        self._notes = notes
        self._exact: Backend | None = None
        self._told = False
        self._innocent, self._wait, self._next_wait = 0, 0, 1
        self.frames = self.suspected = self.proofs = 0

    def require_plausible(self, inputs: Arrays, outputs: Arrays, *, sequence: bool) -> None:
        """Refuses results that float32 shows to be wrong.

        Args:
            inputs: the inputs of a form, see :mod:`srtrt.forms`.
            outputs: what was computed from them.
            sequence: whether they follow on those of the last call, as in a video.

        Raises:
            OutputCheckError: with the frame, its share that is wrong, and what to do.
        """
        batch = input_size(inputs).batch
        for index in range(batch):
            self.frames += 1
            if self._backend.precision == "fp32":
                continue
            found = _Suspicion(self._backend.form, inputs, outputs, index, self._scale)
            if not found.areas:
                continue
            self.suspected += 1
            if not sequence:
                name = "the picture" if batch == 1 else f"picture {index + 1} of {batch}"
                self._prove(found, inputs, name)
                self._told = False
            elif self._is_due(found.areas[0].pixels):
                self._prove(found, inputs, f"frame {self.frames}")
                self._innocent = max(self._innocent, found.areas[0].pixels)
                self._wait, self._next_wait = self._next_wait, 2 * self._next_wait

    def _is_due(self, pixels: int) -> bool:
        """Whether a suspicious frame of a sequence is proven; its largest area is given."""
        self._wait = min(self._wait, _LONGEST_WAIT) - 1
        return pixels > 2 * self._innocent or self._wait < 0

    def _prove(self, found: _Suspicion, inputs: Arrays, name: str) -> None:
        """Computes the largest areas of a frame again, and refuses it if one is wrong."""
        seen: list[tuple[Window, Window]] = []
        for area in found.areas:
            if any(_holds(r, area.row) and _holds(c, area.column) for r, c in seen):
                continue
            if len(seen) == _PROOFS:
                return
            seen.append(self._window(area, inputs))
            try:
                exact = self._compute(inputs, found.index, *seen[-1])
            except SrtrtError as error:
                if self._told:
                    return
                self._told = True
                self._notes.append(
                    f"{name[0].upper()}{name[1:]} came out {found.describe(area)}, which is how an "
                    f"overflow looks. It could not be computed again in fp32 ({error}), so look "
                    "at the result."
                )
                return
            self.proofs += 1
            if found.contradicted_by(exact, *seen[-1]):
                precision = self._backend.precision
                raise OutputCheckError(
                    f"{self._backend.model.name} on {self._backend.description}: {name} came out "
                    f"{found.describe(area)}, where fp32 computes a picture, so numbers left the "
                    f"range of {precision}. It was not kept. {_advice(self._backend)}"
                )

    def _window(self, area: _Area, inputs: Arrays) -> tuple[Window, Window]:
        """Rows and columns of what is computed again around the worst sample of an area."""
        size = input_size(inputs)
        return self._around(area.row, size.height), self._around(area.column, size.width)

    def _around(self, centre: int, length: int) -> Window:
        # Multiples of 2, as planes of 4:2:0 need; only the end of an axis of RGB may be odd.
        first = max(0, min(centre - _CORE // 2, length - _CORE)) // 2 * 2
        last = first + _CORE if first + _CORE + 1 < length else length
        margin = -(-self._margin // 2) * 2
        return Window(max(0, first - margin), min(length, last + margin), first, last)

    def _compute(self, inputs: Arrays, index: int, row: Window, column: Window) -> Arrays:
        """The kept part of a window in float32, as the outputs of a form with one frame."""
        form = self._backend.form
        if self._exact is None:
            self._exact = open_exact(self._backend.model, form)
        frame = {name: inputs[name][index : index + 1] for name in IMAGE_AXES[form]}
        outputs = self._exact.infer(cut_inputs({**inputs, **frame}, form, row, column))
        return kept_outputs(outputs, form, row, column, self._scale)

    def close(self) -> None:
        """Closes the engine of the proofs; harmless when repeated."""
        if self._exact is not None:
            self._exact.close()


class _Suspicion:
    """What looks wrong in one frame: areas, the largest first."""

    def __init__(self, form: Form, inputs: Arrays, outputs: Arrays, index: int, scale: int) -> None:
        self.index, self._scale = index, scale
        self._sources = _planes({name: inputs[name] for name in IMAGE_AXES[form]}, index)
        results = _planes({n: outputs[f"{n}_x4"] for n in IMAGE_AXES[form]}, index)
        self._samples = [_sampled(each, scale) for each in results]
        self._masks = [
            _suspicious(source, samples)
            for source, samples in zip(self._sources, self._samples, strict=True)
        ]
        areas = (area for k in range(len(self._masks)) for area in self._areas(k))
        self.areas = sorted(areas, key=lambda area: -area.pixels)

    def _part(self, plane: int) -> int:
        """LR luma pixels per sample of a plane in each direction."""
        return len(self._sources[0]) // len(self._sources[plane])

    def _areas(self, plane: int) -> Iterator[_Area]:
        wrong = self._masks[plane]
        if wrong is None:
            return
        distance = np.where(wrong, cv2.absdiff(self._sources[plane], self._samples[plane]), 0)
        shape = (*wrong.shape[:2], -1)
        mask, distance = wrong.reshape(shape).any(axis=2), distance.reshape(shape).max(axis=2)
        part = self._part(plane)
        count, labels, facts, _ = cv2.connectedComponentsWithStats(np.asarray(mask, np.uint8))
        for label in range(1, count):
            left, top, width, height, pixels = facts[label]
            box = (slice(top, top + height), slice(left, left + width))
            row, column = np.unravel_index(
                int(np.where(labels[box] == label, distance[box], -1.0).argmax()), (height, width)
            )
            yield _Area(
                plane=plane,
                pixels=int(pixels) * part * part,
                row=(top + int(row)) * part,
                column=(left + int(column)) * part,
            )

    def describe(self, area: _Area) -> str:
        """Colour, place and share of what is wrong, such as ``black in 12.5 % (near x 4, y 8)``."""
        part = self._part(area.plane)
        at = (area.row // part, area.column // part)
        mask, samples = self._masks[area.plane], self._samples[area.plane]
        assert mask is not None
        wrong, values = np.atleast_1d(mask[at]), np.atleast_1d(samples[at])
        share = 100 * float(np.mean(mask.reshape(*mask.shape[:2], -1).any(axis=2)))
        word = "black" if values[wrong].max() == 0 else "white"
        if len(self._masks) == 1:
            channels = [c for c, bad in zip(("red", "green", "blue"), wrong, strict=True) if bad]
            where = "" if len(channels) == 3 else f" in {' and '.join(channels)}"
        else:
            word = word if area.plane == 0 else f"at {values[wrong].max()}"
            where = (" in luma", " in U", " in V")[area.plane]
        return f"{word}{where} in {share:.3g} % of its area (near x {area.column}, y {area.row})"

    def contradicted_by(self, exact: Arrays, row: Window, column: Window) -> bool:
        """Whether float32, in a window, is nearer to the source than to the result.

        Asked of every channel by itself, on average over its suspicious samples.
        """
        planes = _planes({name.removesuffix("_x4"): array for name, array in exact.items()}, 0)
        for k, plane in enumerate(planes):
            mask, part = self._masks[k], self._part(k)
            if mask is None:
                continue
            core = tuple(slice(w.first // part, w.last // part) for w in (row, column))
            wrong = mask[core]
            result = self._samples[k][core].astype(np.int16)
            from_exact = np.abs(result - _sampled(plane, self._scale))
            from_source = np.abs(result - self._sources[k][core])
            for channel in np.ndindex(wrong.shape[2:]):
                bad = wrong[(..., *channel)]
                if not bad.any():
                    continue
                moved = float(from_exact[(..., *channel)][bad].mean())
                if moved > float(from_source[(..., *channel)][bad].mean()) / 2:
                    return True
        return False


def _planes(images: Arrays, index: int) -> list[NDArray[np.uint8]]:
    """The planes of a frame: one of RGB ``[H,W,3]``, or Y, U and V ``[H,W]``."""
    if "rgb" in images:
        return [images["rgb"][index]]
    return [images["y"][index, 0], *images["uv"][index]]


def _sampled(plane: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """One sample of a result per sample of its source, near the middle."""
    height, width = plane.shape[0] // scale, plane.shape[1] // scale
    size = (width, height)
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _suspicious(source: NDArray[np.uint8], samples: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Where samples are 0 or 255 all around and the source is not; None if nowhere."""
    found: NDArray[np.bool_] | None = None
    for extreme in (0, 255):
        clipped = (samples == extreme).view(np.uint8)
        for side, bound in _LEVELS:
            solid = cv2.erode(clipped, np.ones((side, side), np.uint8))
            if not solid.any():
                break
            mean = cv2.blur(source, (side, side), borderType=cv2.BORDER_REPLICATE)
            far = mean > bound if extreme == 0 else mean < 255 - bound
            wrong = far & (solid > 0)
            if wrong.any():
                found = wrong if found is None else found | wrong
    return found


def open_exact(model: Model, form: Form) -> Backend:
    """The same model on an engine that cannot overflow where the network itself does not.

    That is float32 on the CPU: the model's own float32 graph, a reduced graph without its rounding
    (see :func:`srtrt.twin.in_float32`), or a checkpoint in PyTorch.

    Raises:
        SrtrtError: if there is no such engine here, or it cannot open the model.
    """
    if model.graph_path is None and model.loaded is None:
        return backend_class("torch")(model, form=form, device="cpu", precision="fp32")
    spec = model.spec
    graph = model.graph(form, spec.precision)
    if spec.precision != "fp32":
        graph = stamp(in_float32(graph), spec.with_(precision="fp32", form=form))
    exact = Model.from_graph(model.name, graph)
    try:
        # It takes any size without compiling again.
        return backend_class("onnxruntime")(exact, form=form, device="cpu", precision="fp32")
    except MissingPackageError:
        return backend_class("openvino")(exact, form=form, device="cpu", precision="fp32")


def _advice(backend: Backend) -> str:
    """What to do; never what is being done."""
    offered = {
        precision
        for capability in type(backend).capabilities(gpu_of(backend.device))
        if capability.device.partition(":")[0] == backend.device.partition(":")[0]
        for precision in capability.precisions
    }
    wider = [p for p in ("bf16", "fp32") if p != backend.precision and p in (*offered, "fp32")]
    if backend.spec.precision == "fp32":
        return f"Use --precision {' or '.join(wider)}."
    return (
        f"Export the model again with --precision {' or '.join(wider)}, or in the same precision "
        "with --verify on pictures like this one."
    )


def _holds(window: Window, position: int) -> bool:
    return window.first <= position < window.last
