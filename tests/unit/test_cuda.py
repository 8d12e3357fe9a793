"""The device layer on cuda-python and on PyCUDA, over CUDA in host memory, and what it tells."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_standin import CudaRuntime, PyCudaDriver

from srtrt.errors import BackendError, DeviceMemoryError, MissingPackageError, UsageError
from srtrt.runtime import cuda
from srtrt.runtime.cuda.cuda_python import CudaPythonDevice
from srtrt.runtime.cuda.device import Device, HostMemory, Stream
from srtrt.runtime.cuda.pycuda import PyCudaDevice
from srtrt.runtime.layouts import TensorLayout
from srtrt.runtime.ring import FrameRing, RingOptions

LAYOUTS = [
    TensorLayout(name=name, dtype=np.dtype(np.uint8), shape=(1, 300), is_input=given, is_image=True)
    for name, given in (("rgb", True), ("rgb_x4", False))
]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> CudaRuntime:
    standin = CudaRuntime()
    monkeypatch.setattr("cuda.bindings.runtime", standin)
    return standin


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> PyCudaDriver:
    standin = PyCudaDriver()
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=standin))
    monkeypatch.setitem(sys.modules, "pycuda.driver", standin)
    return standin


class Echo:
    """Gives back what it gets, as kernels of a device would."""

    capturable = True

    def __init__(self, device: Device, stream: Stream) -> None:
        self.device, self.stream = device, stream
        self.between: list[HostMemory] = []

    def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        between = self.device.host_memory(300)
        self.between.append(between)

        def compute() -> None:
            self.device.copy_out(between.array, addresses["rgb"], self.stream)
            self.device.copy_in(addresses["rgb_x4"], between.array, self.stream)

        return compute

    def close(self) -> None:
        for memory in self.between:
            memory.close()


def echoes(device: Device, options: RingOptions) -> bool:
    """Whether frames come back through a ring on a device; True if it recorded graphs."""
    random = np.random.default_rng(0)
    with FrameRing(device, LAYOUTS, lambda stream: Echo(device, stream), options) as ring:
        for _ in range(3):
            sent = [random.integers(0, 256, (1, 300), np.uint8) for _ in range(ring.capacity)]
            pending = [ring.submit({"rgb": each}) for each in sent]
            for one, each in zip(sent, pending, strict=True):
                np.testing.assert_array_equal(each()["rgb_x4"], one)
        if options.trace:
            assert all(t.compute[0] < t.compute[1] < t.copy_out[1] for t in ring.times())
        return ring.uses_graphs


@pytest.mark.parametrize("trace", [False, True])
def test_cuda_python_carries_frames(runtime: CudaRuntime, trace: bool) -> None:
    with CudaPythonDevice(0) as device:
        graphs = echoes(device, RingOptions(streams=2, slots=2, trace=trace))
    assert graphs == (not trace)
    assert ("cudaGraphLaunch" in runtime.calls) == (not trace)
    assert runtime.alive == {}


def test_pycuda_carries_frames(driver: PyCudaDriver) -> None:
    with PyCudaDevice(0) as device:
        assert not echoes(device, RingOptions(streams=2, slots=2))
        assert not echoes(device, RingOptions(streams=2, slots=2, trace=True))
        assert driver.alive == set()
    assert (driver.depth, driver.attached) == (0, 0)


def test_cuda_python_without_memory_gives_everything_back(runtime: CudaRuntime) -> None:
    runtime.memory_left = 1500
    with (
        CudaPythonDevice(0) as device,
        pytest.raises(DeviceMemoryError, match=r"memory ran out \(cuda(Malloc|HostAlloc): cudaErr"),
    ):
        echoes(device, RingOptions())
    assert runtime.alive == {}


def test_pycuda_without_memory_gives_everything_back(driver: PyCudaDriver) -> None:
    driver.memory_left = 1500
    with PyCudaDevice(0) as device, pytest.raises(DeviceMemoryError, match="memory ran out"):
        echoes(device, RingOptions())
    assert driver.alive == set()
    assert (driver.depth, driver.attached) == (0, 0)


def test_a_capture_that_fails_is_ended(runtime: CudaRuntime) -> None:
    def fail() -> None:
        raise BackendError("in the middle")

    with CudaPythonDevice(0) as device, device.current():
        stream = device.stream()
        with pytest.raises(BackendError, match="in the middle"):
            device.capture(stream, fail)
        assert runtime.recording is None
        stream.close()
        stream.close()


@pytest.mark.parametrize("layer", ["cuda-python", "pycuda"])
def test_a_gpu_that_is_not_there(layer: Any, runtime: CudaRuntime, driver: PyCudaDriver) -> None:
    with pytest.raises(BackendError, match="CUDA failed"):
        cuda.open_device("cuda:3", layer)


def test_pycuda_is_taken_where_it_is_installed(
    runtime: CudaRuntime, driver: PyCudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "find_spec", lambda name: name != "pycuda")
    with cuda.open_device("cuda") as device:
        assert device.label == "cuda-python"
    monkeypatch.setattr(cuda, "find_spec", lambda name: name)
    with cuda.open_device("cuda:0") as device:
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
