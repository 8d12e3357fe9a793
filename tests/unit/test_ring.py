"""Frames in flight, on the plain device: order, batches, graphs, failures, and giving back."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtrt.errors import BackendError, DeviceMemoryError, UsageError
from srtrt.runtime.cuda.device import Stream
from srtrt.runtime.cuda.plain import PlainDevice
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import TensorLayout, form_layouts
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import FrameRing, RingOptions, in_order
from srtrt.runtime.rings import FrameRings

WIDTH, HEIGHT = 12, 8
RINGS = [
    RingOptions(streams=1, slots=1, graph=False),
    RingOptions(streams=1, slots=3),
    RingOptions(streams=2, slots=4),
    RingOptions(streams=3, slots=3, graph=False),
    RingOptions(streams=2, slots=2, batch=2),
    RingOptions(streams=2, slots=3, batch=3, graph=False),
]


class Repeater:
    """Enlarges by repeating pixels, on memory of a plain device, after a while."""

    capturable = True

    def __init__(
        self, device: PlainDevice, layouts: list[TensorLayout], seconds: float = 0.0
    ) -> None:
        self.device, self.layouts, self.seconds = device, layouts, seconds
        self.closed = False
        self.calls = 0
        self.meeting: threading.Barrier | None = None

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        views: dict[str, NDArray[Any]] = {}
        for each in self.layouts:
            flat = self.device.view(addresses[each.name], each.nbytes)
            views[each.name] = flat.view(each.dtype).reshape(each.shape)

        def compute() -> None:
            assert not self.closed
            self.calls += 1
            time.sleep(self.seconds)
            if self.meeting is not None:
                self.meeting.wait()
            if "rgb" in views:
                views["rgb_x4"][...] = enlarged(views["rgb"], 1)
            else:
                offset = int(views["yuv_to_rgb"][0, 0])
                views["y_x4"][...] = enlarged(views["y"], 2) + offset
                views["uv_x4"][...] = enlarged(views["uv"], 2)

        return compute

    def close(self) -> None:
        self.closed = True


def enlarged(x: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
    return x.repeat(4, axis).repeat(4, axis + 1)


def rgb(frames: int, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    random = np.random.default_rng(seed)
    shape = (1, HEIGHT, WIDTH, 3)
    return [{"rgb": random.integers(0, 256, shape, dtype=np.uint8)} for _ in range(frames)]


def rgb_ring(
    options: RingOptions, device: PlainDevice, seconds: float = 0.0
) -> tuple[FrameRing, list[Repeater]]:
    size = InputSize(width=WIDTH, height=HEIGHT, batch=options.batch)
    layouts = form_layouts("rgb8", size)
    made: list[Repeater] = []

    def executor(_stream: Stream) -> Repeater:
        made.append(Repeater(device, layouts, seconds))
        return made[-1]

    return FrameRing(device, layouts, executor, options), made


def test_layouts_follow_the_form() -> None:
    size = InputSize(width=6, height=4, batch=2)
    layouts = {each.name: each for each in form_layouts("yuv420p8", size)}
    shapes = {name: each.shape for name, each in layouts.items()}
    assert shapes["y"] == (2, 1, 4, 6)
    assert shapes["uv"] == (2, 2, 2, 3)
    assert shapes["yuv_to_rgb"] == (3, 4)
    assert shapes["y_x4"] == (2, 1, 16, 24)
    assert shapes["uv_x4"] == (2, 2, 8, 12)
    assert layouts["yuv_to_rgb"].nbytes == 48
    assert not layouts["yuv_to_rgb"].is_image
    assert [n for n, each in layouts.items() if not each.is_input] == ["y_x4", "uv_x4"]


@pytest.mark.parametrize("options", RINGS, ids=str)
def test_every_frame_comes_back_as_itself(options: RingOptions) -> None:
    frames, device = rgb(17), PlainDevice()
    ring, _ = rgb_ring(options, device, 0.001)
    assert ring.uses_graphs == options.graph
    with ring:
        assert ring.capacity == options.slots * options.batch
        pending, results = [], []
        for frame in frames:
            if len(pending) == ring.capacity:
                results.append(pending.pop(0)())
            pending.append(ring.submit(frame))
            frame["rgb"] = frame["rgb"] + 0  # what was submitted may be changed at once
        results += [each() for each in pending]
        assert ring.uncollected == 0
    for frame, result in zip(frames, results, strict=True):
        np.testing.assert_array_equal(result["rgb_x4"], enlarged(frame["rgb"], 1))
    assert device.open_resources == 0


def test_inputs_may_be_changed_after_submitting() -> None:
    ring, _ = rgb_ring(RingOptions(), PlainDevice(), 0.02)
    (frame,) = rgb(1)
    expected = enlarged(frame["rgb"], 1)
    with ring:
        pending = ring.submit(frame)
        frame["rgb"][...] = 0
        np.testing.assert_array_equal(pending()["rgb_x4"], expected)


def test_results_belong_to_the_caller() -> None:
    ring, _ = rgb_ring(RingOptions(streams=1, slots=1), PlainDevice())
    first, second = rgb(2)
    with ring:
        result = ring.submit(first)()["rgb_x4"]
        ring.submit(second)()
    np.testing.assert_array_equal(result, enlarged(first["rgb"], 1))


def test_results_stay_as_they_are_however_many_are_held() -> None:
    frames = rgb(80)
    for options in RINGS:
        ring, _ = rgb_ring(options, PlainDevice())
        with ring:
            held = [ring.submit(frame)()["rgb_x4"] for frame in frames[:40]]
            for frame in frames[40:]:
                ring.submit(frame)()
        for frame, result in zip(frames, held, strict=False):
            np.testing.assert_array_equal(result, enlarged(frame["rgb"], 1))


def test_results_may_be_dropped_in_other_threads() -> None:
    """As an encoder does, while the next frames are computed."""
    frames = rgb(200)
    ring, _ = rgb_ring(RingOptions(), PlainDevice())
    results: queue.Queue[tuple[int, NDArray[Any]] | None] = queue.Queue(maxsize=9)
    wrong: list[int] = []

    def consume() -> None:
        last = None
        while (item := results.get()) is not None:
            for number, result in filter(None, (last, item)):
                if not np.array_equal(result, enlarged(frames[number]["rgb"], 1)):
                    wrong.append(number)
            last = item

    consumers = [threading.Thread(target=consume) for _ in range(2)]
    for each in consumers:
        each.start()
    with ring:
        outputs = in_order(ring.submit, lambda: ring.capacity, frames)
        for number, output in enumerate(outputs):
            results.put((number, output["rgb_x4"]))
    for _ in consumers:
        results.put(None)
    for each in consumers:
        each.join()
    assert wrong == []


def test_streams_compute_at_the_same_time() -> None:
    ring, made = rgb_ring(RingOptions(streams=2, slots=2), PlainDevice())
    frames, meeting = rgb(2), threading.Barrier(2, timeout=10)
    for each in made:
        each.meeting = meeting
    with ring:
        pending = [ring.submit(frame) for frame in frames]
        # Each stream waits for the other: one after the other, they would wait for ever.
        for frame, each in zip(frames, pending, strict=True):
            np.testing.assert_array_equal(each()["rgb_x4"], enlarged(frame["rgb"], 1))


def test_an_incomplete_batch_is_computed_when_asked_for() -> None:
    ring, made = rgb_ring(RingOptions(streams=1, slots=2, batch=4, graph=False), PlainDevice())
    frames = rgb(6)
    with ring:
        warm = made[0].calls
        pending = [ring.submit(frame) for frame in frames]
        for frame, each in reversed(list(zip(frames, pending, strict=True))):
            np.testing.assert_array_equal(each()["rgb_x4"], enlarged(frame["rgb"], 1))
        assert made[0].calls - warm == 2


def test_frames_with_other_tables_are_not_computed_together() -> None:
    device = PlainDevice()
    options = RingOptions(streams=1, slots=3, batch=2)
    layouts = form_layouts("yuv420p8", InputSize(width=WIDTH, height=HEIGHT, batch=2))
    picture = read_pictures()[0][:HEIGHT, :WIDTH]
    frames = []
    for offset in (1, 1, 2, 3, 3):
        inputs = dict(form_inputs(picture, "yuv420p8"))
        inputs["yuv_to_rgb"] = np.full((3, 4), offset, np.float32)
        frames.append(inputs)
    with FrameRing(device, layouts, lambda _: Repeater(device, layouts), options) as ring:
        pending, results = [], []
        for frame in frames:
            if len(pending) == 3:
                results.append(pending.pop(0)())
            pending.append(ring.submit(frame))
        results += [each() for each in pending]
    for frame, result in zip(frames, results, strict=True):
        offset = np.uint8(frame["yuv_to_rgb"][0, 0])
        np.testing.assert_array_equal(result["y_x4"], enlarged(frame["y"], 2) + offset)


def test_a_full_ring_says_so() -> None:
    ring, _ = rgb_ring(RingOptions(streams=1, slots=2), PlainDevice())
    first, second, third = rgb(3)
    with ring:
        pending = ring.submit(first)
        ring.submit(second)
        with pytest.raises(BackendError, match="2 frames are in flight and none was collected"):
            ring.submit(third)
        pending()
        ring.submit(third)


def test_wrong_inputs_are_named() -> None:
    ring, _ = rgb_ring(RingOptions(), PlainDevice())
    with ring:
        with pytest.raises(UsageError, match=r"input rgb is missing; expected uint8 \[1, 8, 12, 3"):
            ring.submit({})
        with pytest.raises(UsageError, match=r"input rgb is float32 \[1, 8, 12, 3\]"):
            ring.submit({"rgb": np.zeros((1, HEIGHT, WIDTH, 3), np.float32)})


@pytest.mark.parametrize(("streams", "slots", "batch"), [(0, 1, 1), (2, 1, 1), (1, 1, 0)])
def test_impossible_rings_are_refused(streams: int, slots: int, batch: int) -> None:
    with pytest.raises(UsageError, match="expected positive numbers"):
        RingOptions(streams=streams, slots=slots, batch=batch)


class Failing(Repeater):
    """Fails from a certain call on."""

    after = 0

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        compute = super().bind(addresses)

        def fail() -> None:
            if self.calls >= self.after:
                raise DeviceMemoryError("no room")
            compute()

        return fail


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_failure_is_told_and_everything_is_given_back(after: int) -> None:
    device = PlainDevice()
    layouts = form_layouts("rgb8", InputSize(width=WIDTH, height=HEIGHT))

    def executor(_stream: Stream) -> Failing:
        made = Failing(device, layouts)
        made.after = after
        return made

    options = RingOptions(streams=1, slots=2, graph=False)

    def run() -> None:
        with FrameRing(device, layouts, executor, options) as ring:
            for frame in rgb(2):
                ring.submit(frame)()

    with pytest.raises(DeviceMemoryError, match="no room"):
        run()
    assert device.open_resources == 0


def test_times_show_copies_beside_computing() -> None:
    ring, _ = rgb_ring(RingOptions(trace=True), PlainDevice(), 0.01)
    with ring:
        pending = [ring.submit(frame) for frame in rgb(4)]
        for each in pending:
            each()
        times = ring.times()
    assert not ring.uses_graphs
    assert [each.stream for each in times] == [0, 1, 0, 1]
    for each in times:
        assert 0 <= each.copy_in[0] <= each.copy_in[1] <= each.compute[0] + 1e-9
        assert each.compute[1] - each.compute[0] >= 9
        assert each.copy_out[0] >= each.compute[1] - 1e-9
    assert times[1].compute[0] < times[0].compute[1]


def test_rings_follow_the_size_of_the_frames() -> None:
    device = PlainDevice()
    opened: list[InputSize] = []

    class Network:
        def __init__(self, size: InputSize) -> None:
            self.size, self.closed = size, False
            opened.append(size)

        def executor(self, _stream: Stream) -> Repeater:
            return Repeater(device, form_layouts("rgb8", self.size))

        def close(self) -> None:
            self.closed = True

    rings = FrameRings(device, "rgb8", Network, lambda _: RingOptions(streams=2, slots=2, batch=2))
    assert rings.capacity == 1
    many = np.concatenate([frame["rgb"] for frame in rgb(11)])
    np.testing.assert_array_equal(rings.submit({"rgb": many})()["rgb_x4"], enlarged(many, 1))
    assert rings.capacity == 4
    waiting = rings.submit({"rgb": many[:1]})
    small = many[:1, :4, :6]
    with pytest.raises(BackendError, match="1 frames of 12x8 are in flight"):
        rings.submit({"rgb": np.ascontiguousarray(small)})
    waiting()
    result = rings.submit({"rgb": np.ascontiguousarray(small)})()["rgb_x4"]
    np.testing.assert_array_equal(result, enlarged(small, 1))
    assert [str(size) for size in opened] == ["2x12x8", "2x6x4"]
    rings.close()
    assert device.open_resources == 0


def test_a_network_that_can_stays_open_for_other_sizes() -> None:
    """One that takes two of three sizes is opened twice, and never used before its ring is gone."""
    device = PlainDevice()
    log: list[str] = []

    class Network:
        def __init__(self, size: InputSize) -> None:
            self.size = size
            log.append(f"open {size}")

        def resize(self, size: InputSize) -> bool:
            if size.width > 8:
                return False
            assert device.open_resources == 0
            log.append(f"resize {size}")
            self.size = size
            return True

        def executor(self, _stream: Stream) -> Repeater:
            return Repeater(device, form_layouts("rgb8", self.size))

        def close(self) -> None:
            log.append("close")

    options = RingOptions(streams=2, slots=2)
    rings = FrameRings(device, "rgb8", Network, lambda _: options)
    (frame,) = rgb(1)
    for width, height in ((6, 4), (8, 8), (6, 4), (12, 8)):
        part = np.ascontiguousarray(frame["rgb"][:, :height, :width])
        np.testing.assert_array_equal(rings.submit({"rgb": part})()["rgb_x4"], enlarged(part, 1))
    rings.close()
    assert log == ["open 6x4", "resize 8x8", "resize 6x4", "close", "open 12x8", "close"]
    assert device.open_resources == 0
