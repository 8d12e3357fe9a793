"""The device layers on cuda-python and on PyCUDA, and the ring on them, over a simulated GPU."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pycuda_names
import pytest
from cuda_simulator import CudaFaultError, Gpu
from cuda_standin import CudaRuntime, PyCudaDriver
from kernel_standin import Kernel, computed

from srtrt.errors import BackendError, DeviceMemoryError, MissingPackageError, UsageError
from srtrt.runtime import cuda
from srtrt.runtime.cuda.cuda_python import CudaPythonDevice
from srtrt.runtime.cuda.device import Device, Stream
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.layouts import form_layouts
from srtrt.runtime.ring import FrameRing, RingOptions
from srtrt.runtime.rings import FrameRings

LAYERS = ["cuda-python", "pycuda"]
WIDTH, HEIGHT = 4, 2


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> CudaRuntime:
    standin = CudaRuntime(gpu)
    monkeypatch.setattr("cuda.bindings.runtime", standin)
    return standin


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> PyCudaDriver:
    standin = PyCudaDriver(gpu)
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=standin))
    monkeypatch.setitem(sys.modules, "pycuda.driver", standin)
    return standin


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Iterator[Callable[[], Device]]:
    """Opens a device of one of the layers; what it leaves open fails the test."""
    name = request.param
    standin: Any = request.getfixturevalue("runtime" if name == "cuda-python" else "driver")
    yield lambda: cuda.open_device("cuda:0", name)
    if name == "pycuda":
        assert (standin.depth, standin.retained) == (0, 0)


def frames(count: int, form: str = "rgb8") -> list[dict[str, Any]]:
    random = np.random.default_rng(count)
    layouts = form_layouts(form, InputSize(width=WIDTH, height=HEIGHT))  # type: ignore[arg-type]
    return [
        {
            each.name: random.integers(0, 256, each.nbytes, np.uint8)
            .view(each.dtype)
            .reshape(each.shape)
            for each in layouts
            if each.is_input
        }
        for _ in range(count)
    ]


@contextmanager
def opened(
    device: Device,
    gpu: Gpu,
    options: RingOptions,
    notes: list[str] | None = None,
    make: Callable[..., Kernel] = Kernel,
) -> Iterator[FrameRing]:
    layouts = form_layouts("rgb8", InputSize(width=WIDTH, height=HEIGHT, batch=options.batch))
    tell = notes.append if notes is not None else None
    with FrameRing(
        device, layouts, lambda stream: make(gpu, layouts, stream), options, tell
    ) as ring:
        yield ring


def echoes(ring: FrameRing) -> None:
    """Three rounds of frames come back right."""
    for _ in range(3):
        sent = frames(ring.capacity)
        pending = [ring.submit(each) for each in sent]
        for one, each in zip(sent, pending, strict=True):
            np.testing.assert_array_equal(each()["rgb_x4"], computed(one)["rgb_x4"])


@pytest.mark.parametrize("trace", [False, True])
def test_a_ring_carries_frames(layer: Callable[[], Device], gpu: Gpu, trace: bool) -> None:
    with layer() as device:
        with opened(device, gpu, RingOptions(streams=2, slots=2, trace=trace)) as ring:
            echoes(ring)
            assert ring.uses_graphs == (device.captures and not trace)
            if trace:
                assert all(t.compute[0] < t.compute[1] < t.copy_out[1] for t in ring.times())
        assert (gpu.counts["launch"] > 0) == (device.captures and not trace)
    gpu.check()


@pytest.mark.parametrize("left", range(12))
def test_running_out_of_memory_gives_everything_back(
    layer: Callable[[], Device], gpu: Gpu, left: int
) -> None:
    with layer() as device:
        gpu.allocations_left = left
        with (
            pytest.raises(DeviceMemoryError, match=r"GPU memory ran out .*memory"),
            opened(device, gpu, RingOptions(streams=2, slots=2)),
        ):
            pass
        gpu.check()


@pytest.mark.parametrize("stage", ["begin", "work", "end", "instantiate"])
@pytest.mark.parametrize("earlier", [0, 1])
def test_a_refused_capture_falls_back_to_plain_launches(
    runtime: CudaRuntime, gpu: Gpu, stage: str, earlier: int
) -> None:
    gpu.refuse_capture, gpu.captures_left = stage, earlier
    notes: list[str] = []
    with CudaPythonDevice(0) as device:
        with opened(device, gpu, RingOptions(streams=2, slots=3), notes) as ring:
            echoes(ring)
            assert not ring.uses_graphs
        assert gpu.counts["launch"] == 0
    (note,) = notes
    assert note.startswith("The GPU's work could not be recorded as a graph (CUDA failed (cuda")
    assert runtime.left_error() is None  # PyTorch would take it for its own
    gpu.check()


def test_what_waits_during_a_capture_costs_the_graph_alone(runtime: CudaRuntime, gpu: Gpu) -> None:
    class Waiting(Kernel):
        def bind(self, addresses: Any) -> Callable[[], None]:
            launch = super().bind(addresses)

            def launch_and_wait() -> None:
                launch()
                self.stream.synchronize()

            return launch_and_wait

    notes: list[str] = []
    with (
        CudaPythonDevice(0) as device,
        opened(device, gpu, RingOptions(), notes, Waiting) as ring,
    ):
        echoes(ring)
    assert len(notes) == 1
    gpu.check()


def test_each_slot_is_bound_once_to_its_own_memory(runtime: CudaRuntime, gpu: Gpu) -> None:
    made: list[Kernel] = []

    class Noted(Kernel):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    with (
        CudaPythonDevice(0) as device,
        opened(device, gpu, RingOptions(streams=2, slots=5), make=Noted) as ring,
    ):
        echoes(ring)
    assert [len(each.bound) for each in made] == [3, 2]
    addresses = [at for each in made for bound in each.bound for at in bound.values()]
    assert len(set(addresses)) == len(addresses) == 10
    # Warming up and recording; nothing is bound or launched by hand afterwards.
    assert [each.launched for each in made] == [6, 4]


def dead(error: str) -> Callable[[], None]:
    def work() -> None:
        raise CudaFaultError(error)

    return work


@pytest.mark.parametrize("error", ["cudaErrorIllegalAddress", "cudaErrorLaunchFailure"])
def test_a_dead_device_gives_the_first_error_and_all_back(
    layer: Callable[[], Device], gpu: Gpu, error: str
) -> None:
    made: list[Kernel] = []

    class Noted(Kernel):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    def run(device: Device) -> None:
        with opened(device, gpu, RingOptions(streams=2, slots=4), make=Noted) as ring:
            pending = [ring.submit(each) for each in frames(3)]
            gpu.enqueue(made[1].stream.handle, dead(error))
            pending.append(ring.submit(frames(1)[0]))
            for each in pending:
                each()

    with layer() as device:
        with pytest.raises(BackendError, match=r"CUDA failed \(cu.*(llegal|aunch)") as caught:
            run(device)
        assert not isinstance(caught.value, DeviceMemoryError)
        gpu.check()


def test_a_device_that_dies_while_it_opens(layer: Callable[[], Device], gpu: Gpu) -> None:
    class Deadly(Kernel):
        def bind(self, addresses: Any) -> Callable[[], None]:
            super().bind(addresses)
            return lambda: gpu.enqueue(self.stream.handle, dead("cudaErrorIllegalAddress"))

    with layer() as device:
        with (
            pytest.raises(BackendError, match=r"CUDA failed"),
            opened(device, gpu, RingOptions(), make=Deadly),
        ):
            pass
        gpu.check()


@pytest.mark.parametrize("kind", [BackendError, DeviceMemoryError])
def test_after_a_failure_every_frame_is_told_of_it(
    layer: Callable[[], Device], gpu: Gpu, kind: type[BackendError]
) -> None:
    class Failing(Kernel):
        def bind(self, addresses: Any) -> Callable[[], None]:
            launch = super().bind(addresses)

            def fail() -> None:
                launch()
                if self.launched > 4:
                    raise kind("the network failed")

            return fail

    with layer() as device:
        options = RingOptions(streams=1, slots=4, graph=False)
        with opened(device, gpu, options, make=Failing) as ring:
            (first,) = frames(1)
            with pytest.raises(kind, match="the network failed"):
                ring.submit(first)
            assert ring.uncollected == 0
            with pytest.raises(kind, match="the network failed"):
                ring.submit(first)
        gpu.check()


def test_a_ring_is_closed_once_and_refuses_frames_then(
    layer: Callable[[], Device], gpu: Gpu
) -> None:
    with layer() as device:
        with opened(device, gpu, RingOptions()) as ring:
            (frame,) = frames(1)
            early, late = ring.submit(frame), ring.submit(frame)
            result = early()["rgb_x4"]
            ring.close()
            gpu.check()
            ring.close()
            for each in (late, lambda: ring.submit(frame)):
                with pytest.raises(BackendError, match="the ring was closed"):
                    each()
        np.testing.assert_array_equal(result, computed(frame)["rgb_x4"])
    gpu.check()


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_waits_for_the_garbage_collector(
    layer: Callable[[], Device], gpu: Gpu, fails: bool
) -> None:
    sessions: list[weakref.ref[Any]] = []

    class Noted(Kernel):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            sessions.append(weakref.ref(self.session))
            if fails:
                self.fails_at, self.failure = 2, DeviceMemoryError

    gc.collect()
    gc.disable()
    try:
        with layer() as device:
            caught: Exception | None = None
            try:
                with opened(device, gpu, RingOptions(), make=Noted) as ring:
                    echoes(ring)
            except DeviceMemoryError as error:
                caught = error
            assert (caught is not None) == fails
            # While the error and the ring are still there:
            assert sessions
            assert [each() for each in sessions] == [None] * len(sessions)
            gpu.check()
    finally:
        gc.enable()


def test_a_ring_may_be_closed_by_another_thread(layer: Callable[[], Device], gpu: Gpu) -> None:
    device = layer()
    layouts = form_layouts("rgb8", InputSize(width=WIDTH, height=HEIGHT))
    ring = FrameRing(device, layouts, lambda s: Kernel(gpu, layouts, s), RingOptions())
    ring.submit(frames(1)[0])

    def close() -> None:
        ring.close()
        device.close()

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    gpu.check()


def test_memory_that_ran_out_is_free_before_the_next_try(
    layer: Callable[[], Device], gpu: Gpu
) -> None:
    class Network:
        alive = 0

        def __init__(self, size: InputSize) -> None:
            self.layouts = form_layouts("rgb8", size)
            Network.alive += 1

        def executor(self, stream: Stream) -> Kernel:
            return Kernel(gpu, self.layouts, stream)

        def close(self) -> None:
            Network.alive -= 1

    device = layer()
    rings = FrameRings(device, "rgb8", Network, lambda _: RingOptions(streams=1, slots=1))
    gpu.allocations_left = 3
    with pytest.raises(DeviceMemoryError):
        rings.prepare(WIDTH, HEIGHT)
    assert Network.alive == 0
    gpu.check()
    gpu.allocations_left = None
    rings.prepare(2, 2)
    rings.close()
    rings.close()
    assert Network.alive == 0
    gpu.check()


def test_a_failed_frame_does_not_stand_in_the_way_of_smaller_ones(
    runtime: CudaRuntime, gpu: Gpu
) -> None:
    class Hungry(Kernel):
        def bind(self, addresses: Any) -> Callable[[], None]:
            launch = super().bind(addresses)

            def compute() -> None:
                launch()
                if self.launched > 2 and self.layouts[0].shape[2] == WIDTH:
                    raise DeviceMemoryError("no room")

            return compute

    class Network:
        def __init__(self, size: InputSize) -> None:
            self.layouts = form_layouts("rgb8", size)

        def executor(self, stream: Stream) -> Kernel:
            return Hungry(gpu, self.layouts, stream)

        def close(self) -> None:
            pass

    options = RingOptions(streams=1, slots=2, graph=False)
    rings = FrameRings(CudaPythonDevice(0), "rgb8", Network, lambda _: options)
    (frame,) = frames(1)
    with pytest.raises(DeviceMemoryError, match="no room"):
        rings.submit(frame)
    small = {"rgb": np.ascontiguousarray(frame["rgb"][:, :, :2])}
    np.testing.assert_array_equal(rings.submit(small)()["rgb_x4"], computed(small)["rgb_x4"])
    rings.close()
    gpu.check()


def test_results_are_copied_where_memory_of_numpy_cannot_be_locked(
    runtime: CudaRuntime, gpu: Gpu
) -> None:
    gpu.refuse_register = True
    with (
        CudaPythonDevice(0) as device,
        opened(device, gpu, RingOptions(streams=2, slots=2)) as ring,
    ):
        echoes(ring)
        assert gpu.leaks().count("host") == 2 + 2  # what goes in, and what comes out
    assert runtime.left_error() is None
    gpu.check()


@pytest.mark.parametrize("graph", [True, False])
def test_what_a_frame_costs(runtime: CudaRuntime, gpu: Gpu, graph: bool) -> None:
    layouts = form_layouts("yuv420p8", InputSize(width=WIDTH, height=HEIGHT))
    sizes = {each.name: each.nbytes for each in layouts}
    options = RingOptions(streams=2, slots=4, graph=graph)
    with (
        CudaPythonDevice(0) as device,
        FrameRing(device, layouts, lambda stream: Kernel(gpu, layouts, stream), options) as ring,
    ):
        # The frames of a video have one set of tables; each slot gets it with its first frame.
        sent = frames(44, "yuv420p8")
        tables = {name: sent[0][name] for name in sent[0] if name not in ("y", "uv")}
        sent = [each | tables for each in sent]

        def run(some: list[dict[str, Any]]) -> None:
            for each in some:
                result = ring.submit(each)()
                np.testing.assert_array_equal(result["y_x4"], computed(each)["y_x4"])

        run(sent[:4])
        gpu.counts.clear()
        runtime.calls.clear()
        run(sent[4:])
        calls = Counter(runtime.calls)
        counts = dict(gpu.counts)
    per_frame = {name: number / 40 for name, number in counts.items()}
    assert per_frame == {
        "copy in": 2,
        "bytes in": sizes["y"] + sizes["uv"],
        **({"launch": 1} if graph else {"kernel": 1}),
        "copy out": 2,
        "bytes out": sizes["y_x4"] + sizes["uv_x4"],
    }
    assert {name: number / 40 for name, number in calls.items() if number >= 40} == {
        "cudaSetDevice": 2,
        **({"cudaGraphLaunch": 1} if graph else {}),
        "cudaMemcpyAsync": 2 if graph else 4,
        "cudaEventRecord": 1,
        "cudaEventSynchronize": 1,
    }


def test_tables_go_up_when_they_change(runtime: CudaRuntime, gpu: Gpu) -> None:
    layouts = form_layouts("yuv420p8", InputSize(width=WIDTH, height=HEIGHT))
    options = RingOptions(streams=1, slots=1)
    with (
        CudaPythonDevice(0) as device,
        FrameRing(device, layouts, lambda stream: Kernel(gpu, layouts, stream), options) as ring,
    ):
        first, second = frames(2, "yuv420p8")
        one = {**first, "yuv_to_rgb": second["yuv_to_rgb"]}
        for inputs, copies in [(first, 6), (first, 2), (one, 3), (one, 2), (second, 5), (one, 5)]:
            gpu.counts.clear()
            result = ring.submit(inputs)()
            np.testing.assert_array_equal(result["uv_x4"], computed(inputs)["uv_x4"])
            assert gpu.counts["copy in"] == copies
    gpu.check()


def test_a_capture_that_fails_leaves_its_stream_usable(runtime: CudaRuntime, gpu: Gpu) -> None:
    def fail() -> None:
        raise BackendError("in the middle")

    with CudaPythonDevice(0) as device, device.current():
        stream = device.stream()
        with pytest.raises(BackendError, match="in the middle"):
            device.capture(stream, fail)
        assert not gpu.is_capturing(stream.handle)
        stream.synchronize()
        device.capture(stream, lambda: None).close()
        stream.close()
        stream.close()
    gpu.check()


def test_a_gpu_that_is_not_there(runtime: CudaRuntime, driver: PyCudaDriver) -> None:
    for layer in ("cuda-python", "pycuda"):
        with pytest.raises(BackendError, match="CUDA failed"):
            cuda.open_device("cuda:3", layer)  # type: ignore[arg-type]


def test_cuda_python_is_taken_where_both_are_installed(
    runtime: CudaRuntime, driver: PyCudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "find_spec", lambda name: name)
    with cuda.open_device("cuda:0") as device:
        assert device.label == "cuda-python"
    monkeypatch.setattr(cuda, "find_spec", lambda name: name == "pycuda")
    with cuda.open_device("cuda") as device:
        assert device.label == "PyCUDA"
        with pytest.raises(BackendError, match="cannot record CUDA graphs; use cuda-python"):
            device.capture(SimpleNamespace(), lambda: None)  # type: ignore[arg-type]


def test_what_is_missing_or_unknown_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="device 'cpu': expected cuda or cuda:N"):
        cuda.open_device("cpu")
    with pytest.raises(UsageError, match="'cupy' is unknown; expected auto, pycuda or cuda-python"):
        cuda.open_device("cuda", "cupy")  # type: ignore[arg-type]
    with pytest.raises(MissingPackageError, match=r"pip install '\.\[pycuda\]'"):
        cuda.open_device("cuda", "pycuda")
    monkeypatch.setattr(cuda, "find_spec", lambda _name: None)
    with pytest.raises(MissingPackageError, match=r"'cuda-python'.*pip install '\.\[gpu\]'"):
        cuda.open_device("cuda")


def test_the_real_cuda_python_says_what_this_machine_lacks() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    error, devices = runtime.cudaGetDeviceCount()
    if not int(error) and devices:
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"CUDA failed \(cudaSetDevice: .*(driver|device)"):
        cuda.open_device("cuda:0", "cuda-python")


@pytest.mark.parametrize("value", ["1", b"1", 1.5, None, -1, 2**65, np.zeros(2, np.uint8)], ids=str)
def test_the_standin_refuses_what_cuda_python_refuses(runtime: CudaRuntime, value: Any) -> None:
    error, _ = runtime.real.cudaGetDeviceCount()
    if not int(error):
        pytest.skip("this machine has a GPU, which wrong handles would crash")
    kind = runtime.real.cudaMemcpyKind.cudaMemcpyHostToDevice
    refused = 0
    for name, arguments in {
        "cudaSetDevice": [0],
        "cudaMalloc": [64],
        "cudaHostAlloc": [64, 0],
        "cudaMemcpyAsync": [8, 8, 8, kind, 8],
        "cudaStreamCreateWithFlags": [1],
        "cudaStreamSynchronize": [8],
        "cudaEventRecord": [8, 8],
        "cudaEventElapsedTime": [8, 8],
        "cudaGraphLaunch": [8, 8],
    }.items():
        for place in range(len(arguments)):
            given = [*arguments[:place], value, *arguments[place + 1 :]]
            try:
                getattr(runtime.real, name)(*given)
            except (TypeError, OverflowError, ValueError):
                refused += 1
                with pytest.raises((TypeError, OverflowError, ValueError)):
                    getattr(runtime, name)(*given)
    assert refused or value == 1.5
    with pytest.raises(TypeError):
        runtime.cudaMalloc(64, 64)


def test_the_standin_of_pycuda_has_the_names_that_pycuda_has(driver: PyCudaDriver) -> None:
    own = {"gpu", "retained", "initialised", "stacks", "depth", "told"}
    names = {name for name in dir(driver) if not name.startswith("_")} - own
    assert names <= pycuda_names.NAMES
    for name, flags in pycuda_names.FLAGS.items():
        assert vars(getattr(driver, name, SimpleNamespace(**flags))) == flags
    for name in names & set(pycuda_names.FUNCTIONS):
        assert shown(getattr(driver, name)) == pycuda_names.FUNCTIONS[name]
    for name in names & set(pycuda_names.CLASSES):
        methods = pycuda_names.CLASSES[name]
        found = getattr(driver, name)
        if name in pycuda_names.CONSTRUCTORS:
            assert shown(found) == pycuda_names.CONSTRUCTORS[name]
        for each in (n for n in dir(found) if not n.startswith("_")):
            method = inspect.getattr_static(found, each)
            is_static = isinstance(method, staticmethod)
            assert is_static == ((name, each) in pycuda_names.STATIC)
            given = shown(getattr(found, each), skip=0 if is_static else 1)
            assert given == methods[each], (name, each)


def shown(function: Any, skip: int = 0) -> str:
    """Its parameters as the list of names gives them."""
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    return str(inspect.Signature(bare))


def test_the_list_of_names_is_that_of_pycuda() -> None:
    driver = pytest.importorskip("pycuda.driver", reason="needs PyCUDA", exc_type=ImportError)
    assert {name for name in pycuda_names.NAMES if not hasattr(driver, name)} == set()
    for name, methods in pycuda_names.CLASSES.items():
        assert {each for each in methods if not hasattr(getattr(driver, name), each)} == set()
    for name, flags in pycuda_names.FLAGS.items():
        for flag, number in flags.items():
            assert int(getattr(getattr(driver, name), flag)) == number
    for name in pycuda_names.ERRORS:
        assert issubclass(getattr(driver, name), driver.Error)
