"""A model opened on a backend, fed with pictures of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import DeviceMemoryError, UsageError
from srtrt.runtime.backends import backend_class
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.backends.options import BackendOptions, choose_options
from srtrt.runtime.layouts import IMAGE_AXES, input_size
from srtrt.runtime.memory import MEMORY_VARIABLE, memory_limit
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.output_check import OutputCheck
from srtrt.runtime.ring import Pending, in_order
from srtrt.runtime.select import choose, with_int8_hint
from srtrt.runtime.tiling import (
    TilePlan,
    alignment,
    cut_inputs,
    kept_outputs,
    margin_for,
    plan_tiles,
    region,
)
from srtrt.runtime.verified import open_verified
from srtrt.spec import UNBOUNDED, Form, Precision
from srtrt.weights import DEFAULT_MODEL


class Session:
    """Computes whole pictures, in tiles where they do not fit into memory.

    Attributes:
        scale: enlargement in each direction.
        model: name of the model.
        description: model, engine, precision and device in a few words.
        reason: the engine and why it was chosen, in one short sentence.
        notes: sentences worth telling the user, such as why an engine was built again.
        backend_options: settings of the backend that were asked for, by name.
        output_check: looks at everything that is computed.
    """

    def __init__(self, backend: Backend, *, radius: int, scale: int, tile: str | int) -> None:
        """Wraps an opened backend, which is closed with the session.

        Args:
            backend: the opened network.
            radius: its receptive radius in LR pixels.
            scale: its enlargement.
            tile: ``auto``, ``none``, or the longest side of a tile in LR pixels.

        Raises:
            UsageError: if ``tile`` is none of these.
        """
        self._backend = backend
        self._align = alignment(backend.form)
        self._margin = margin_for(radius, backend.form)
        self._side = _parse_tile(tile)
        self._untiled = tile == "none"
        self._pixel_bytes = backend.frame_bytes_per_pixel
        self._memory_limit = memory_limit(backend.device)
        self._max_pixels = max(1, self._memory_limit // self._pixel_bytes)
        self.scale = scale
        self.model = backend.model.name
        self.description = f"{self.model} on {backend.description}"
        self.reason = f"{backend.description}."
        self.notes = backend.notes
        if radius == UNBOUNDED:
            self.notes.append(
                f"How far a pixel of {self.model} sees cannot be told from its graph, so pictures "
                "are computed whole, never in tiles."
            )
        self.backend_options: Mapping[str, Any] = {}
        self.output_check = OutputCheck(backend, margin=self._margin, scale=scale, notes=self.notes)

    @property
    def in_flight(self) -> int:
        """How many batches may be submitted before one must be collected."""
        return self._backend.in_flight

    @property
    def builds_engines(self) -> bool:
        """Whether :meth:`prepare` may build an engine, which takes minutes."""
        return self._backend.builds_engines

    def prepare(self, width: int, height: int) -> None:
        """Does what must be done before the first picture of a size, such as building an engine.

        Args:
            width: of the pictures, in LR pixels.
            height: likewise.

        Raises:
            DeviceMemoryError: if even the smallest tile does not fit.
            BackendError: if the engine fails.
        """
        while True:
            plan = self._plan(1, height, width)
            rows, columns = plan.tile_size
            try:
                self._backend.prepare(columns, rows)
                return
            except DeviceMemoryError:
                if not self._shrink(plan, 1, height, width):
                    raise

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Computes one batch of pictures; when memory runs out, again with smaller tiles.

        Args:
            inputs: the inputs of the session's form, see :mod:`srtrt.forms`.

        Returns:
            The outputs of the form, as new arrays.

        Raises:
            DeviceMemoryError: if even the smallest tile does not fit.
            OutputCheckError: if numbers overflowed, see :mod:`srtrt.runtime.output_check`.
            BackendError: if the engine fails.
        """
        return self._checked(inputs, self._infer(inputs), sequence=False)

    def submit(self, inputs: Mapping[str, NDArray[Any]]) -> Pending:
        """Starts one frame of a sequence; up to :attr:`in_flight` may be uncollected.

        Args:
            inputs: as for :meth:`infer`; not to be changed before the result is there.

        Returns:
            A function that waits for the outputs and returns them, with the same errors. Frames
            are collected in their order.
        """
        if self._backend.in_flight == 1 or self.plan(inputs).count > 1:
            outputs = self._infer(inputs)
            return lambda: self._checked(inputs, outputs, sequence=True)
        pending = self._backend.submit(inputs)
        return lambda: self._checked(inputs, pending(), sequence=True)

    def _checked(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: dict[str, NDArray[Any]],
        *,
        sequence: bool,
    ) -> dict[str, NDArray[Any]]:
        self.output_check.require_plausible(inputs, outputs, sequence=sequence)
        return outputs

    def _infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        while True:
            plan = self.plan(inputs)
            try:
                return self._infer_tiles(inputs, plan)
            except DeviceMemoryError:
                size = input_size(inputs)
                if not self._shrink(plan, size.batch, size.height, size.width):
                    raise

    def _shrink(self, plan: TilePlan, frames: int, height: int, width: int) -> bool:
        """Plans tiles of half the size, as memory ran out; False if there are none."""
        smaller = plan.tile_size[0] * plan.tile_size[1] * frames // 2
        self._side, self._untiled, self._max_pixels = None, False, smaller
        found = self._plan(frames, height, width).tile_size
        if found == plan.tile_size:
            return False
        self.notes.append(
            f"Memory ran out; went on with tiles of at most {found[1]}x{found[0]} pixels."
        )
        return True

    def plan(self, inputs: Mapping[str, NDArray[Any]]) -> TilePlan:
        """The tiles :meth:`infer` would use for these inputs."""
        size = input_size(inputs)
        return self._plan(size.batch, size.height, size.width)

    def _plan(self, frames: int, height: int, width: int) -> TilePlan:
        pixels = 1 << 62 if self._untiled else self._max_pixels // max(1, frames)
        plan = plan_tiles(
            height,
            width,
            margin=self._margin,
            align=self._align,
            max_pixels=pixels,
            side=self._side,
        )
        self._require_room(plan)
        return plan

    def _require_room(self, plan: TilePlan) -> None:
        """Refuses frames in flight that would take the host's memory, which cannot say no."""
        rows, columns = plan.tile_size
        needed, limit = rows * columns * self._pixel_bytes, self._memory_limit
        ring = getattr(self._backend.options, "ring", None)
        if ring is not None and self._backend.device == "cpu" and needed > limit:
            raise UsageError(
                f"{ring.slots} batches of {ring.batch} frames on {ring.streams} streams take about "
                f"{needed / 2**30:.1f} GiB with {columns}x{rows} pixels at once, and the network "
                f"may use {limit / 2**30:.1f} GiB; give a smaller batch, fewer slots or streams, "
                f"smaller tiles, or more memory with {MEMORY_VARIABLE} (in MiB)."
            )

    def _infer_tiles(
        self, inputs: Mapping[str, NDArray[Any]], plan: TilePlan
    ) -> dict[str, NDArray[Any]]:
        if plan.count == 1:
            return self._backend.infer(inputs)
        form, scale = self._backend.form, self.scale
        cuts = (cut_inputs(inputs, form, row, column) for row, column in plan)
        outputs: dict[str, NDArray[Any]] = {}
        results = in_order(self._backend.submit, lambda: self._backend.in_flight, cuts)
        for (row, column), result in zip(plan, results, strict=True):
            tile = kept_outputs(result, form, row, column, scale)
            for name, (axis, part) in IMAGE_AXES[form].items():
                key = f"{name}_x4"
                if key not in outputs:
                    shape = list(inputs[name].shape)
                    shape[axis] *= scale
                    shape[axis + 1] *= scale
                    outputs[key] = np.empty(shape, result[key].dtype)
                target = region(axis, part, row, column, scale, computed=False)
                outputs[key][target] = tile[key]
        return outputs

    def close(self) -> None:
        """Closes the backend; harmless when repeated."""
        self.output_check.close()
        self._backend.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _parse_tile(tile: str | int) -> int | None:
    if tile in ("auto", "none"):
        return None
    try:
        side = int(tile)
    except ValueError:
        side = 0
    if side < 1:
        raise UsageError(f"tile is {tile!r}: expected auto, none, or a side in pixels such as 256.")
    return side


def open_session(
    *,
    model: str = DEFAULT_MODEL,
    form: Form,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: str | int = "auto",
    backend_options: BackendOptions = None,
    trust_engine: bool = False,
    on_build: Callable[[float, str], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Session:
    """Opens a model on a backend.

    Args:
        model: bundled name, ``.onnx`` graph or ``.safetensors`` checkpoint.
        form: what the pictures look like, see :mod:`srtrt.forms`.
        backend: a name of :data:`srtrt.runtime.backends.BACKENDS`, or ``auto``.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        precision: ``auto`` or a :data:`srtrt.spec.Precision`.
        tile: ``auto``, ``none``, or the longest side of a tile in LR pixels.
        backend_options: settings of the backend that is chosen: names and values (``srtrt doctor``
            lists them), ``NAME=VALUE`` texts, or its dataclass, such as ``OpenVinoOptions``.
        trust_engine: load engines that another user may have written. An engine is code.
        on_build: while an engine is built, told what share is done, 0..1, and what is going on.
        on_note: told a sentence before something that takes a second or two, such as verifying a
            reduced precision, see :mod:`srtrt.runtime.verified`.

    Raises:
        InputError: if there is no such model.
        ModelError: if the model is unusable, or not usable on this backend.
        BackendError: if an explicit wish cannot be met.
        ParityError: if an explicit precision misses its gate on this machine.
        UsageError: if a name is unknown, or the backend has no such option or value.
    """
    found = find_model(model)
    if backend == "auto" and found.graph_path is None:
        backend = "torch"
    choice = choose(backend, device, _stored_precision(found, precision))
    chosen = choose_options(choice.backend, choice.device, backend_options)
    kind = backend_class(choice.backend)

    def open_in(precision: Precision) -> Backend:
        opened = kind(
            found,
            form=form,
            device=choice.device,
            precision=precision,
            options=chosen.options,
        )
        opened.on_build, opened.trust_engine = on_build, trust_engine
        return opened

    opened, choice = open_verified(open_in, choice, on_note)
    if precision == "auto":
        choice = with_int8_hint(choice, found)
    spec = opened.spec
    session = Session(opened, radius=spec.receptive_radius, scale=spec.scale, tile=tile)
    asked = f" with {chosen}" if chosen.given else ""
    session.backend_options = chosen.given
    session.description += asked
    session.reason = f"{opened.description}{asked}: {choice.why}."
    return session


def _stored_precision(model: Model, precision: str) -> str:
    """A graph that was exported in a reduced precision runs in that one unless told otherwise."""
    if precision == "auto" and model.graph_path is not None and model.spec.precision != "fp32":
        return model.spec.precision
    return precision
