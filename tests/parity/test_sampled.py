"""Large frames are compared in parts, which say what the whole frame would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from srtrt.errors import ParityError
from srtrt.runtime import parity
from srtrt.runtime.backends.base import Backend
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend
from srtrt.runtime.engines import gate
from srtrt.runtime.engines.gate import engine_gate, mosaics
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.engines.record import BuiltEngine
from srtrt.runtime.layouts import input_size
from srtrt.runtime.lost_quality import measure_on_originals
from srtrt.runtime.models import Model, find_model
from srtrt.runtime.parity import (
    compare_frames,
    compare_outputs,
    computed_samples,
    form_inputs,
    frame_windows,
    measure_parity,
    read_pictures,
)
from srtrt.runtime.tiling import sampled_windows, whole_outputs
from srtrt.spec import UNBOUNDED, Form

FORMS: tuple[Form, ...] = ("rgb8", "yuv420p8")
SIZE = InputSize(width=420, height=300)
ENOUGH = 36_000


@pytest.fixture
def enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small bound, so that frames that are computed in no time are large."""
    monkeypatch.setattr(parity, "ENOUGH_PIXELS", ENOUGH)
    monkeypatch.setattr(gate, "ENOUGH_PIXELS", ENOUGH)


@pytest.fixture
def opened(tiny_graphs: dict[str, Path]) -> Callable[[Form], Backend]:
    def open_form(form: Form) -> Backend:
        model = find_model(str(tiny_graphs[f"{form}-fp32"]))
        return OnnxRuntimeBackend(model, form=form, device="cpu", precision="fp32")

    return open_form


def large_frame(form: Form) -> dict[str, NDArray[Any]]:
    (mosaic,) = mosaics(read_pictures()[:1], SIZE)
    return form_inputs(mosaic, form)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    margin=st.integers(0, 60),
    align=st.sampled_from([1, 2]),
    most=st.integers(1 << 10, 1 << 18),
    at=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_windows_show_corners_borders_and_what_must_be_seen(
    height: int, width: int, margin: int, align: int, most: int, at: tuple[float, float]
) -> None:
    height, width, margin = height * align, width * align, margin * align
    point = (int(at[0] * height), int(at[1] * width))
    options = {"margin": margin, "align": align, "most": most}
    windows = sampled_windows(height, width, points=[point], **options)
    assert windows == sampled_windows(height, width, points=[point], **options)
    for row, column in windows:
        for window, length in ((row, height), (column, width)):
            assert 0 <= window.start <= window.first < window.last <= window.stop <= length
            assert window.start == 0 or window.first - window.start >= margin
            assert window.stop == length or window.stop - window.last >= margin
            assert {window.start % align, window.first % align, window.last % align} == {0}

    def seen(y: int, x: int) -> bool:
        return any(r.first <= y < r.last and c.first <= x < c.last for r, c in windows)

    assert all(seen(y, x) for y in (0, height - 1) for x in (0, width - 1))
    assert seen(*point)
    computed = sum((r.stop - r.start) * (c.stop - c.start) for r, c in windows)
    least = (2 * (16 + margin)) ** 2 + (2 * margin + 16 + align) ** 2
    if height * width > most:
        assert computed <= max(most, least)
        assert seen(0, width // 2) or computed + 9 * least > most
    else:
        assert all(seen(y, x) for y in range(0, height, 7) for x in range(0, width, 7))


@pytest.mark.parametrize("form", FORMS)
def test_parts_are_what_the_whole_frame_has_there(
    form: Form, opened: Callable[[Form], Backend], enough: None
) -> None:
    inputs = large_frame(form)
    with opened(form) as backend:
        whole = backend.infer(inputs)
        windows = frame_windows(inputs, form, backend.spec, most=ENOUGH)
        assert len(windows) == 9
        found = computed_samples(backend, inputs, windows)
    for name, samples in found.items():
        expected = np.concatenate(
            [whole_outputs(whole, form, *window, 4)[name].ravel() for window in windows]
        )
        difference = np.abs(expected.astype(int) - samples)
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= difference.size / 10_000


@pytest.mark.parametrize("form", FORMS)
def test_the_figures_of_parts_are_those_of_the_whole(
    form: Form, opened: Callable[[Form], Backend], enough: None, tiny_graphs: dict[str, Path]
) -> None:
    inputs = large_frame(form)
    half = find_model(str(tiny_graphs[f"{form}-fp16"]))
    with (
        opened(form) as reference,
        OnnxRuntimeBackend(half, form=form, device="cpu", precision="fp16") as candidate,
    ):
        expected, found = reference.infer(inputs), candidate.infer(inputs)
        whole = compare_outputs([(expected, found)])
        parts = compare_frames(reference, [inputs], [found])
    assert parts.pictures == 1
    assert parts.psnr_db == pytest.approx(whole.psnr_db, abs=2)


class Counted:
    """Counts what a backend computes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tiles: list[int] = []
        infer = OnnxRuntimeBackend._infer

        def counted(
            backend: OnnxRuntimeBackend, inputs: Mapping[str, NDArray[Any]]
        ) -> dict[str, NDArray[Any]]:
            self.tiles.append(input_size(inputs).pixels)
            return infer(backend, inputs)

        monkeypatch.setattr(OnnxRuntimeBackend, "_infer", counted)


@pytest.mark.parametrize("form", FORMS)
def test_no_more_is_computed_than_is_enough(
    form: Form, opened: Callable[[Form], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of an engine of full HD, nor of large pictures in an export."""
    counted = Counted(monkeypatch)
    monkeypatch.setattr(parity, "ENOUGH_PIXELS", ENOUGH)
    size = InputSize(width=1920, height=1080)
    (mosaic,) = mosaics(read_pictures()[:1], size)
    inputs = form_inputs(mosaic, form)
    blank = {
        name: np.zeros(shape, np.uint8)
        for name, shape in (
            {"rgb_x4": (1, 4320, 7680, 3)}
            if form == "rgb8"
            else {"y_x4": (1, 1, 4320, 7680), "uv_x4": (1, 2, 2160, 3840)}
        ).items()
    }
    with opened(form) as backend:
        compare_frames(backend, [inputs], [blank])
        assert 0 < sum(counted.tiles) <= ENOUGH
        counted.tiles.clear()
        assert measure_parity(backend, backend, [mosaic]).max_abs == 0
        assert 0 < sum(counted.tiles) <= 2 * ENOUGH
        counted.tiles.clear()
        large = np.tile(read_pictures()[0], (40, 30, 1))
        assert measure_on_originals(backend, backend, [large]).lost_db == 0
        assert counted.tiles == [256 * 256] * 2


def runner(model: Model, change: Callable[[dict[str, NDArray[Any]]], None]) -> gate.RunEngine:
    def run(
        built: BuiltEngine, frames: Sequence[Mapping[str, NDArray[Any]]]
    ) -> list[dict[str, Any]]:
        form = built.spec.form
        with OnnxRuntimeBackend(model, form=form, device="cpu", precision="fp32") as backend:
            outputs = [backend.infer(frame) for frame in frames]
        for each in outputs:
            change(each)
        return outputs

    return run


def damage(name: str, channel: int, rows: slice, columns: slice) -> Any:
    def change(outputs: dict[str, NDArray[Any]]) -> None:
        plane = outputs[name][0]
        part = plane[rows, columns, channel] if name == "rgb_x4" else plane[channel, rows, columns]
        part[...] = 255 - part

    return change


ALL = slice(None)
PLACES: dict[str, tuple[slice, slice]] = {
    "top border": (slice(0, 4), ALL),
    "bottom border": (slice(-4, None), ALL),
    "left border": (ALL, slice(0, 4)),
    "right border": (ALL, slice(-4, None)),
    "first corner": (slice(0, 8), slice(0, 8)),
    "last corner": (slice(-8, None), slice(-8, None)),
    "one channel": (ALL, ALL),
}


def cases() -> Iterator[Any]:
    for place, (rows, columns) in PLACES.items():
        for form, name, channel in (("rgb8", "rgb_x4", 1), ("yuv420p8", "uv_x4", 1)):
            yield pytest.param(form, damage(name, channel, rows, columns), id=f"{form} {place}")


@pytest.mark.parametrize(("form", "change"), list(cases()))
def test_a_wrong_part_of_a_large_engine_is_found(
    form: Form, change: Any, enough: None, tiny_graphs: dict[str, Path]
) -> None:
    model = find_model(str(tiny_graphs[f"{form}-fp32"]))
    built = BuiltEngine(plan=b"", spec=model.spec, facts={"shape": str(SIZE)})
    figures = engine_gate(model, runner(model, lambda _: None), read_pictures())(built)
    assert figures["max_abs"] <= 1
    with pytest.raises(ParityError, match="does not compute what"):
        engine_gate(model, runner(model, change), read_pictures())(built)


def test_a_wrong_middle_of_a_large_engine_is_found(
    enough: None, tiny_graphs: dict[str, Path]
) -> None:
    model = find_model(str(tiny_graphs["rgb8-fp32"]))
    built = BuiltEngine(plan=b"", spec=model.spec, facts={"shape": str(SIZE)})
    rows, columns = (slice(2 * side - 4, 2 * side + 4) for side in (SIZE.height, SIZE.width))
    change = damage("rgb_x4", 0, rows, columns)
    with pytest.raises(ParityError, match="does not compute what"):
        engine_gate(model, runner(model, change), read_pictures())(built)


def test_every_picture_is_compared(enough: None) -> None:
    """Also where a mosaic is large and holds many."""
    pictures = [
        np.full((96, 112, 3), value, np.uint8) for value in range(10, 250, 20)
    ]  # each of one colour, so that it is known by it
    size = InputSize(width=900, height=700)
    (mosaic,) = mosaics(pictures, size)[:1]
    points = gate._one_of_each(pictures, size)
    windows = sampled_windows(
        size.height, size.width, margin=6, align=1, most=ENOUGH, points=points
    )
    seen = {
        int(value)
        for row, column in windows
        for value in np.unique(mosaic[row.first : row.last, column.first : column.last])
    }
    assert seen == set(range(10, 250, 20))


def test_a_network_that_may_see_everything_is_computed_whole(
    opened: Callable[[Form], Backend],
) -> None:
    inputs = large_frame("rgb8")
    with opened("rgb8") as backend:
        spec = backend.spec.with_(receptive_radius=UNBOUNDED)
    ((row, column),) = frame_windows(inputs, "rgb8", spec, most=100)
    assert (row.stop, column.stop) == (SIZE.height, SIZE.width)
