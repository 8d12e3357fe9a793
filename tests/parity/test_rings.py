"""Backends that compute several frames at the same time give what they give one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtrt.runtime.backends.base import Backend
from srtrt.runtime.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeOptions
from srtrt.runtime.backends.torch import TorchBackend, TorchOptions
from srtrt.runtime.cuda import installed_binding, open_device
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import FrameRing, RingOptions
from srtrt.spec import Form

Open = Callable[[RingOptions | None], Backend]

BATCHED = RingOptions(streams=2, slots=2, batch=2)
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]


@pytest.fixture(params=["torch", "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opener(engine: str, device: str, tiny_checkpoint: Path, tiny_graphs: dict[str, Path]) -> Any:
    if device != "cpu":
        require_on_gpu(engine)

    def open_backend(form: Form, ring: RingOptions | None) -> Backend:
        if engine == "torch":
            return TorchBackend(
                find_model(str(tiny_checkpoint)),
                form=form,
                device=device,
                precision="fp32",
                options=TorchOptions(ring=ring),
            )
        return OnnxRuntimeBackend(
            find_model(str(tiny_graphs[f"{form}-fp32"])),
            form=form,
            device=device,
            precision="fp32",
            options=OnnxRuntimeOptions(ring=ring, threads=1),
        )

    return open_backend


def require_on_gpu(engine: str) -> None:
    """Skips what the packages that are installed cannot do on the GPU that is there."""
    if installed_binding() is None:
        pytest.skip("needs a package to call CUDA, such as cuda-python")
    kind = TorchBackend if engine == "torch" else OnnxRuntimeBackend
    gpu = kind.capabilities()[0]
    if not gpu.usable:
        pytest.skip(gpu.reason)


def frames(form: Form, count: int = 5) -> Iterator[Mapping[str, NDArray[Any]]]:
    picture = read_pictures()[0]
    for k in range(count):
        yield form_inputs(np.ascontiguousarray(picture[k : k + 24, 2 * k : 2 * k + 32]), form)


def in_flight(backend: Backend, inputs: list[Mapping[str, NDArray[Any]]]) -> list[Any]:
    pending, results = [], []
    for each in inputs:
        if len(pending) == backend.in_flight:
            results.append(pending.pop(0)())
        pending.append(backend.submit(each))
    return results + [each() for each in pending]


def assert_near(found: Any, expected: Any, exact: bool) -> None:
    for name, plane in expected.items():
        difference = np.abs(plane.astype(int) - found[name])
        # Other batches and convolution algorithms of a GPU may round a sample the other way.
        assert difference.max() <= (0 if exact else 1), name


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
@pytest.mark.parametrize("ring", [RingOptions(), BATCHED], ids=["frames", "batches"])
def test_frames_in_flight_equal_frames_one_by_one(
    opener: Any, device: str, form: Form, ring: RingOptions
) -> None:
    inputs = list(frames(form))
    direct = RingOptions(streams=1, slots=1, graph=False) if device != "cpu" else None
    with opener(form, direct) as backend:
        expected = [backend.infer(each) for each in inputs]
    with opener(form, ring) as backend:
        backend.prepare(32, 24)
        assert backend.in_flight == ring.slots * ring.batch
        found = in_flight(backend, inputs)
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, exact=ring.batch == 1)


def test_several_frames_at_once_and_another_size(opener: Any) -> None:
    inputs = [each["rgb"] for each in frames("rgb8")]
    with opener("rgb8", RingOptions()) as backend:
        whole = backend.infer({"rgb": np.concatenate(inputs)})["rgb_x4"]
        singles = [backend.infer({"rgb": each})["rgb_x4"] for each in inputs]
        np.testing.assert_array_equal(whole, np.concatenate(singles))
        small = np.ascontiguousarray(inputs[0][:, :16, :20])
        assert backend.infer({"rgb": small})["rgb_x4"].shape == (1, 64, 80, 3)


@pytest.mark.gpu
@pytest.mark.parametrize("binding", ["pycuda", "cuda-python"])
def test_device_layer_on_a_gpu(binding: Any) -> None:
    if binding == "pycuda":
        pytest.importorskip("pycuda")
    from srtrt.runtime.layouts import TensorLayout

    layouts = [
        TensorLayout(
            name=name, dtype=np.dtype(np.uint8), shape=(1, 512), is_input=given, is_image=True
        )
        for name, given in (("rgb", True), ("rgb_x4", False))
    ]

    class Copy:
        """Gives back what it gets, on the device."""

        capturable = True

        def __init__(self, handle: int) -> None:
            import torch

            self.stream = torch.cuda.ExternalStream(handle)

        def bind(self, addresses: Mapping[str, int]) -> Callable[[], None]:
            import torch

            from srtrt.runtime.backends.torch_streams import CudaArray

            source, target = (
                torch.as_tensor(CudaArray(addresses[each.name], each), device="cuda")
                for each in layouts
            )

            def compute() -> None:
                with torch.cuda.stream(self.stream):
                    target.copy_(source, non_blocking=True)

            return compute

        def close(self) -> None:
            pass

    random = np.random.default_rng(0)
    held = []
    with (
        open_device("cuda:0", binding) as gpu,
        FrameRing(gpu, layouts, lambda s: Copy(s.handle), RingOptions()) as ring,
    ):
        assert ring.uses_graphs == gpu.captures
        for _ in range(6):
            sent = [random.integers(0, 256, (1, 512), np.uint8) for _ in range(4)]
            pending = [ring.submit({"rgb": each}) for each in sent]
            held += [(one, each()["rgb_x4"]) for one, each in zip(sent, pending, strict=True)]
    # What was handed over is the caller's, after the ring and the device, too.
    for one, result in held:
        np.testing.assert_array_equal(result, one)
