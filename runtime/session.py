"""A model opened on a backend, fed with pictures of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import (
    BackendError,
    DeviceMemoryError,
    ModelError,
    PackageError,
    ParityError,
    SrtrtError,
)
from srtrt.runtime.backends import backend_class
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.backends.options import BackendOptions, choose_options
from srtrt.runtime.layouts import IMAGE_AXES, input_size
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.openable import Opened, Successors, openable
from srtrt.runtime.output_check import OutputCheck
from srtrt.runtime.ring import Pending, in_order
from srtrt.runtime.select import Choice, choices, with_int8_hint
from srtrt.runtime.tile_planner import TilePlanner, TileWish
from srtrt.runtime.tiling import TilePlan, cut_inputs, kept_outputs, region
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

    def __init__(
        self,
        opened: Backend | Opened,
        *,
        radius: int,
        scale: int,
        tile: str | int,
        any_size: bool = False,
        successors: Successors | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        """Wraps an opened backend, which is closed with the session.

        Args:
            opened: the opened network.
            radius: its receptive radius in LR pixels.
            scale: its enlargement.
            tile: ``auto``, ``none``, or the longest side of a tile in LR pixels.
            any_size: whether pictures of many sizes will come, so that one engine of tiles, where
                engines are built, is better than one for each size.
            successors: opens, in turn, what takes the place of a backend that turns out to be
                unusable before the first picture; is sent why it is.
            on_note: told a sentence before an engine is built.

        Raises:
            UsageError: if ``tile`` is none of these.
        """
        self._radius, self._any_size = radius, any_size
        self._successors, self._tell = successors, on_note or (lambda _: None)
        self._asked = TileWish.parse(tile)
        self._started = False
        self.scale = scale
        self._take(opened if isinstance(opened, Opened) else Opened(backend=opened))

    def _take(self, opened: Opened) -> None:
        """Goes on with a backend, or starts with it."""
        backend = self._backend = opened.backend
        self._tiles = TilePlanner(
            backend, radius=self._radius, wish=self._asked, any_size=self._any_size
        )
        self.model = backend.model.name
        asked = f" with {opened.options}" if opened.options and opened.options.given else ""
        self.description = f"{self.model} on {backend.description}{asked}"
        self.reason = f"{backend.description}{asked}{opened.why and f': {opened.why}'}."
        self.backend_options: Mapping[str, Any] = opened.options.given if opened.options else {}
        self.notes = backend.notes
        if self._radius == UNBOUNDED:
            self.notes.append(
                f"How far a pixel of {self.model} sees cannot be told from its graph, so pictures "
                "are computed whole, never in tiles."
            )
        self.output_check = OutputCheck(
            backend, margin=self._tiles.margin, scale=self.scale, notes=self.notes
        )

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

        Before the very first one, a backend that was chosen by itself and turns out to be unusable
        is replaced by the next best, with a note.

        Args:
            width: of the pictures, in LR pixels.
            height: likewise.

        Raises:
            DeviceMemoryError: if even the smallest tile does not fit.
            BackendError: if the engine fails.
            ParityError: if it computes something else than PyTorch.
            UsageError: if tiles of the size that was asked for cannot be computed right.
        """
        while True:
            try:
                self._prepare(width, height)
                return
            except (BackendError, ParityError, ModelError, PackageError) as error:
                if not self._replace(error):
                    raise

    def _prepare(self, width: int, height: int) -> None:
        while True:
            plan = self._tiles.plan(1, height, width)
            rows, columns = plan.tile_size
            side = self._backend.engine_side
            if side is not None and self._backend.must_build(columns, rows):
                self._tell(f"One engine of {side}x{side} tiles serves pictures of every size.")
            try:
                self._backend.prepare(columns, rows)
                return
            except DeviceMemoryError:
                if not self._tiles.shrink(plan, 1, height, width):
                    raise

    def _replace(self, error: SrtrtError) -> bool:
        """Goes on with the next backend; False if there is none, or pictures were computed."""
        if self._started or self._successors is None:
            return False
        try:
            following = self._successors.send(error)
        except StopIteration:
            return False
        unused, notes = self._backend, self.notes
        self.output_check.close()
        with suppress(BackendError):
            unused.close()
        taken = following.backend
        told = f"{taken.description} computes instead of {unused.description}, which is not used:"
        taken.notes[:0] = [*notes, f"{told} {error}"]
        self._take(following)
        return True

    def _start(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Before the first picture: builds the engine, if that was not done."""
        if not self._started and self._backend.builds_engines:
            size = input_size(inputs)
            self.prepare(size.width, size.height)
        self._started = True

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
        self._start(inputs)
        return self._checked(inputs, self._infer(inputs), sequence=False)

    def submit(self, inputs: Mapping[str, NDArray[Any]]) -> Pending:
        """Starts one frame of a sequence; up to :attr:`in_flight` may be uncollected.

        Args:
            inputs: as for :meth:`infer`; not to be changed before the result is there.

        Returns:
            A function that waits for the outputs and returns them, with the same errors. Frames
            are collected in their order.
        """
        self._start(inputs)
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
                if not self._tiles.shrink(plan, size.batch, size.height, size.width):
                    raise

    def plan(self, inputs: Mapping[str, NDArray[Any]]) -> TilePlan:
        """The tiles :meth:`infer` would use for these inputs."""
        size = input_size(inputs)
        return self._tiles.plan(size.batch, size.height, size.width)

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
    any_size: bool = False,
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
        any_size: whether pictures of many sizes will come; where engines are built, one then
            computes tiles of all of them.
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
    wanted = _stored_precision(found, precision)

    def open_choice(choice: Choice) -> Opened:
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

        opened, used = open_verified(open_in, choice, on_note)
        if precision == "auto":
            used = with_int8_hint(used, found)
        return Opened(backend=opened, why=used.why, options=chosen)

    backends = openable(open_choice, choices(backend, device, wanted))
    first = next(backends)
    spec = first.backend.spec
    return Session(
        first,
        radius=spec.receptive_radius,
        scale=spec.scale,
        tile=tile,
        any_size=any_size,
        successors=backends,
        on_note=on_note,
    )


def _stored_precision(model: Model, precision: str) -> str:
    """A graph that was exported in a reduced precision runs in that one unless told otherwise."""
    if precision == "auto" and model.graph_path is not None and model.spec.precision != "fp32":
        return model.spec.precision
    return precision
