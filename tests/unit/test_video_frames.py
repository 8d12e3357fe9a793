"""From decoded frames to frames to encode: what is copied, who keeps the memory, equal results."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from kernel_standin import Kernel, computed

from srtrt.runtime.cuda.plain import PlainDevice
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import form_layouts
from srtrt.runtime.ring import FrameRing, RingOptions
from srtrt.runtime.video.colour_tags import ColourTags, resolve_colour
from srtrt.runtime.video.planes import PlanarConverter, make_frame, one_image, plane_view

WIDTH, HEIGHT = 24, 16


def converter(width: int = WIDTH, height: int = HEIGHT) -> PlanarConverter:
    colour = resolve_colour(
        ColourTags(), width=width, height=height, rate=Fraction(25), pix_fmt="yuv420p"
    )
    return PlanarConverter(width, height, colour)


def source(count: int, width: int = WIDTH, height: int = HEIGHT) -> list[av.VideoFrame]:
    random = np.random.default_rng(count)
    sizes = [(height, width)] + [((height + 1) // 2, (width + 1) // 2)] * 2
    return [
        padded(width, height, [random.integers(0, 256, size, np.uint8) for size in sizes])
        for _ in range(count)
    ]


def padded(width: int, height: int, data: list[Any]) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, "yuv420p")
    for index, each in enumerate(data):
        plane_view(frame, index)[...] = each
    return frame


@pytest.fixture
def ring() -> Iterator[FrameRing]:
    device = PlainDevice()
    layouts = form_layouts("yuv420p8", InputSize(width=WIDTH, height=HEIGHT))
    with FrameRing(
        device, layouts, lambda stream: Kernel(device, layouts, stream), RingOptions()
    ) as opened:
        yield opened
    assert device.open_resources == 0


@pytest.mark.parametrize(("width", "height"), [(24, 16), (23, 16), (24, 15), (1, 1), (2, 3)])
def test_planes_become_inputs_with_even_sides(width: int, height: int) -> None:
    (frame,) = source(1, width, height)
    inputs = converter(width, height).inputs(frame)
    y, u, v = (plane_view(frame, index) for index in range(3))
    edges = ((0, height % 2), (0, width % 2))
    np.testing.assert_array_equal(inputs["y"][0, 0], np.pad(y, edges, mode="edge"))
    np.testing.assert_array_equal(inputs["uv"][0], np.stack([u, v]))
    assert inputs["y"].flags.c_contiguous
    assert inputs["uv"].flags.c_contiguous


def test_a_view_keeps_the_memory_of_its_frame() -> None:
    (frame,) = source(1)
    view = plane_view(frame, 0)
    expected = view.copy()
    del frame
    gc.collect()
    _others = source(8)
    np.testing.assert_array_equal(view, expected)


def test_results_of_a_ring_become_frames_without_a_copy(ring: FrameRing) -> None:
    (frame,) = source(1)
    inputs = converter().inputs(frame)
    outputs = ring.submit(inputs)()
    made = converter().frame(outputs)
    y, uv = outputs["y_x4"][0, 0], outputs["uv_x4"][0]
    for index, plane in enumerate([y, uv[0], uv[1]]):
        view = plane_view(made, index)
        assert view.ctypes.data == plane.ctypes.data
        np.testing.assert_array_equal(view, plane)
    np.testing.assert_array_equal(y, computed(inputs)["y_x4"][0, 0])


def test_a_frame_keeps_its_result_and_then_gives_it_back(ring: FrameRing) -> None:
    (frame,) = source(1)
    outputs = ring.submit(converter().inputs(frame))()
    memory = weakref.ref(outputs["y_x4"].base)
    made = converter().frame(outputs)
    expected = plane_view(made, 0).copy()
    del outputs
    assert memory() is not None
    for each in source(20):  # which would take the memory if it were free
        ring.submit(converter().inputs(each))()
    np.testing.assert_array_equal(plane_view(made, 0), expected)
    del made
    assert memory() is None


@pytest.mark.parametrize(("width", "height"), [(23, 16), (24, 15), (23, 15)])
def test_odd_sizes_are_cropped(width: int, height: int) -> None:
    (frame,) = source(1, width, height)
    outputs = computed(converter(width, height).inputs(frame))
    made = converter(width, height).frame(outputs)
    assert (made.width, made.height) == (4 * width, 4 * height)
    np.testing.assert_array_equal(
        plane_view(made, 0), outputs["y_x4"][0, 0, : 4 * height, : 4 * width]
    )
    np.testing.assert_array_equal(
        plane_view(made, 2), outputs["uv_x4"][0, 1, : 2 * height, : 2 * width]
    )


def test_planes_that_lie_apart_are_no_image() -> None:
    memory = np.arange(240, dtype=np.uint8)
    y, uv = memory[:160].reshape(10, 16), memory[160:].reshape(2, 5, 8)
    whole = one_image(y, uv)
    assert whole is not None
    np.testing.assert_array_equal(whole.reshape(-1), memory)
    assert one_image(y.copy(), uv.copy()) is None
    assert one_image(y, memory.copy()[160:].reshape(2, 5, 8)) is None
    assert one_image(memory[80:].reshape(10, 16), memory[:80].reshape(2, 5, 8)) is None
    memory.flags.writeable = False
    assert one_image(memory[:160].reshape(10, 16), memory[160:].reshape(2, 5, 8)) is None


LOSSLESS = {"libx264": {"qp": "0"}, "libx265": {"x265-params": "lossless=1"}, "ffv1": {}}


@pytest.mark.parametrize("encoder", LOSSLESS)
def test_an_encoder_gets_each_picture_whenever_it_reads_it(ring: FrameRing, encoder: str) -> None:
    if encoder not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {encoder}")
    video, expected = io.BytesIO(), []
    with av.open(video, "w", format="matroska") as file:
        stream = file.add_stream(encoder, rate=25, options=LOSSLESS[encoder])
        stream.width, stream.height, stream.pix_fmt = 4 * WIDTH, 4 * HEIGHT, "yuv420p"
        for number, each in enumerate(source(40)):
            inputs = converter().inputs(each)
            expected.append(computed(inputs))
            # Nobody holds the frame after the encoder got it.
            frame = converter().frame(ring.submit(inputs)())
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    del frame, stream, file
    assert len(ring._memory._free) == 10  # all of it came back
    video.seek(0)
    with av.open(video) as file:
        found = [
            [plane_view(frame, index).copy() for index in range(3)]
            for frame in file.decode(video=0)
        ]
    assert len(found) == len(expected)
    for (y, u, v), outputs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(y, outputs["y_x4"][0, 0])
        np.testing.assert_array_equal(np.stack([u, v]), outputs["uv_x4"][0])


def test_copied_planes_are_those_given() -> None:
    y, u, v = (np.full(size, n, np.uint8) for n, size in enumerate([(8, 8), (4, 4), (4, 4)]))
    frame = make_frame(y, u, v)
    assert [int(plane_view(frame, index).max()) for index in range(3)] == [0, 1, 2]
