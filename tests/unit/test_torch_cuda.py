"""PyTorch on NVIDIA GPUs: exact float32, recorded kernels, memory and streams given back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated_gpu
import torch
import torch_standin
from cuda_simulator import Gpu
from hypothesis import given
from hypothesis import strategies as st
from torch_standin import TorchGpu

from srtrt.errors import BackendError
from srtrt.runtime.backends.torch import TorchBackend, TorchOptions
from srtrt.runtime.backends.torch_streams import arithmetic
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import RingOptions
from srtrt.spec import Form, Precision

PICTURE = read_pictures()[0]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return simulated_gpu.install(monkeypatch)


@pytest.fixture
def machine(device: Gpu, monkeypatch: pytest.MonkeyPatch) -> TorchGpu:
    return torch_standin.install(monkeypatch, device)


def frames(form: Form, width: int = 32, height: int = 24, count: int = 3) -> list[Any]:
    return [
        form_inputs(np.ascontiguousarray(PICTURE[k : k + height, k : k + width]), form)
        for k in range(count)
    ]


@contextmanager
def opened(
    checkpoint: Path,
    form: Form = "rgb8",
    precision: Precision = "fp32",
    device: str = "cuda:0",
    **options: Any,
) -> Iterator[TorchBackend]:
    with TorchBackend(
        find_model(str(checkpoint)),
        form=form,
        device=device,
        precision=precision,
        options=TorchOptions(**options),
    ) as backend:
        yield backend


def expected(checkpoint: Path, form: Form, inputs: list[Any]) -> list[Any]:
    with opened(checkpoint, form, device="cpu") as backend:
        return [backend.infer(each) for each in inputs]


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    for one, other in zip(found, wanted, strict=True):
        for name, plane in other.items():
            np.testing.assert_array_equal(one[name], plane)


def in_flight(backend: TorchBackend, inputs: list[Any]) -> list[Any]:
    pending, results = [], []
    for each in inputs:
        if len(pending) == backend.in_flight:
            results.append(pending.pop(0)())
        pending.append(backend.submit(each))
    return results + [each() for each in pending]


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
@pytest.mark.parametrize("graph", [True, False])
def test_kernels_are_recorded_once_and_launched_for_each_frame(
    machine: TorchGpu, device: Gpu, tiny_checkpoint: Path, form: Form, graph: bool
) -> None:
    inputs = frames(form)
    wanted = expected(tiny_checkpoint, form, inputs)
    ring = RingOptions(streams=2, slots=4, graph=graph)
    with opened(tiny_checkpoint, form, ring=ring) as backend:
        backend.prepare(32, 24)
        assert_same(in_flight(backend, inputs), wanted)
        assert machine.modes == ["thread_local"] * (4 if graph else 0)
        # Graphs of one stream share a pool of memory, and no other stream has it.
        assert [len(pools) for pools in machine.pools.values()] == [1, 1] * graph
        assert len(set().union(*machine.pools.values())) == 2 * graph
        assert backend.notes == []
    # Each slot is launched once when the ring opens.
    assert device.counts["launch"] == (3 + 4 if graph else 0)
    device.check()


@pytest.mark.parametrize("when", ["begin", "work", "end", "instantiate"])
def test_without_recording_kernels_are_launched_one_by_one(
    machine: TorchGpu, device: Gpu, tiny_checkpoint: Path, when: str
) -> None:
    device.refuse_capture = when
    inputs = frames("yuv420p8")
    wanted = expected(tiny_checkpoint, "yuv420p8", inputs)
    with opened(tiny_checkpoint, "yuv420p8", ring=RingOptions()) as backend:
        backend.prepare(32, 24)
        assert torch_standin.current() is None  # the stream that was current is so again
        (note,) = backend.notes
        assert "cannot be recorded as a CUDA graph (CUDA error: cudaErr" in note
        assert "they are launched one by one" in note
        assert len(machine.ended) == 1
        assert_same(in_flight(backend, inputs), wanted)
    assert device.counts["launch"] == 0
    device.check()
    assert not machine.graphs


def test_a_device_that_is_lost_is_no_failed_recording(
    machine: TorchGpu, device: Gpu, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.refuse_capture = "end"

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *_: device.poison())
    with opened(tiny_checkpoint, ring=RingOptions()) as backend:
        with pytest.raises(BackendError, match="cudaErrorIllegalAddress"):
            backend.prepare(32, 24)
        assert backend.notes == []


def test_closing_and_another_size_give_memory_to_the_driver(
    machine: TorchGpu, device: Gpu, tiny_checkpoint: Path
) -> None:
    with opened(tiny_checkpoint, ring=RingOptions(streams=2, slots=2)) as backend:
        backend.prepare(32, 24)
        machine.events.clear()
        backend.prepare(20, 16)
        until = machine.events.index("kernel")  # of the new size
        assert machine.events[:until].count("graph freed") == 2
        assert freed_last(machine.events[:until])
        machine.events.clear()
    assert machine.events.count("graph freed") == 2
    assert freed_last(machine.events)
    assert not machine.graphs


def freed_last(events: list[str]) -> bool:
    """Whether the cache was emptied after the last graph was freed."""
    turned = events[::-1]
    return turned.index("empty_cache") < turned.index("graph freed")


def test_another_size_without_rings_empties_the_cache(
    machine: TorchGpu, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srtrt.runtime.rings.installed_binding", lambda: None)
    inputs = [*frames("rgb8", count=2), *frames("rgb8", 20, 16, count=1)]
    wanted = expected(tiny_checkpoint, "rgb8", inputs)
    machine.events.clear()
    with opened(tiny_checkpoint) as backend:
        found = []
        for each, emptied in zip(inputs, (0, 0, 1), strict=True):
            found.append(backend.infer(each))
            assert machine.events.count("empty_cache") == emptied
    assert_same(found, wanted)


def test_weights_are_there_before_the_first_stream_reads_them(
    machine: TorchGpu, tiny_checkpoint: Path
) -> None:
    with opened(tiny_checkpoint, precision="fp16", ring=RingOptions()):
        last_cast = len(machine.events) - machine.events[::-1].index("cast")
        assert "synchronize" in machine.events[last_cast:]
        assert "kernel" not in machine.events


@pytest.fixture
def settings() -> Iterator[None]:
    """Puts PyTorch's settings back."""
    kinds = float32_kinds()
    before = [each.fp32_precision for each in kinds]
    yield
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    for each, precision in zip(kinds, before, strict=True):
        each.fp32_precision = precision


def float32_kinds() -> list[Any]:
    backends = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return []
    return [
        backends, backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul,
        backends.mkldnn.matmul,
    ]  # fmt: skip


def seen() -> list[Any]:
    """What the process finds set, older settings included."""

    def readable(read: Any) -> Any:
        try:
            return read()
        except RuntimeError:
            return "refused"

    return [
        *(each.fp32_precision for each in float32_kinds()),
        readable(lambda: torch.backends.cudnn.allow_tf32),
        readable(lambda: torch.backends.cuda.matmul.allow_tf32),
        readable(torch.get_float32_matmul_precision),
        torch.backends.cudnn.benchmark,
    ]


def with_older(products: str, convolutions: bool) -> Any:
    def change() -> None:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions

    return change


def with_newer(everywhere: str, products: str, convolutions: str) -> Any:
    def change() -> None:
        if not float32_kinds():
            pytest.skip("this PyTorch has the older settings alone")
        torch.backends.fp32_precision = everywhere
        torch.backends.cuda.matmul.fp32_precision = products
        torch.backends.cudnn.conv.fp32_precision = convolutions

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda: None,
        with_older("high", True),
        with_older("medium", False),
        with_newer("tf32", "none", "none"),
        with_newer("none", "tf32", "tf32"),
        with_newer("ieee", "tf32", "ieee"),
    ],
    ids=["usual", "high", "medium", "all", "each", "mixed"],
)
@pytest.mark.parametrize("ring", [None, RingOptions(streams=1, slots=1)])
def test_float32_is_exact_whatever_the_process_has_set(
    settings: None,
    machine: TorchGpu,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
    ring: RingOptions | None,
) -> None:
    if ring is None:
        monkeypatch.setattr("srtrt.runtime.rings.installed_binding", lambda: None)
        watch_products(monkeypatch)
    change()
    before = seen()
    for precision in ("fp32", "bf16"):
        with opened(tiny_checkpoint, "yuv420p8", precision, ring=ring) as backend:
            backend.infer(frames("yuv420p8")[0])
            assert seen() == before
    assert seen() == before
    tries = ring is not None  # where frames of one size are to come
    newer = ("ieee", "ieee") if float32_kinds() else ()
    assert set(machine.settings) == {(False, "highest", *newer, tries)}


def watch_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes the settings of convolutions on the default stream as well."""
    convolve = torch.nn.functional.conv2d

    def noted(*arguments: Any, **named: Any) -> Any:
        torch_standin.note_settings()
        return convolve(*arguments, **named)

    monkeypatch.setattr(torch.nn.functional, "conv2d", noted)


KINDS = st.sampled_from(["none", "ieee", "tf32"])


@pytest.mark.skipif(not float32_kinds(), reason="this PyTorch has the older settings alone")
@given(st.tuples(KINDS, KINDS, KINDS), st.sampled_from(["highest", "high"]), st.booleans())
def test_settings_of_any_kind_come_back(
    kinds: tuple[str, str, str], products: str, convolutions: bool
) -> None:
    everywhere, of_products, of_convolutions = kinds
    before = [each.fp32_precision for each in float32_kinds()]
    try:
        with_older(products, convolutions)()
        with_newer(everywhere, of_products, of_convolutions)()
        found = seen()
        with arithmetic(torch, "cuda:0", fixed_size=True):
            inside = seen()
            assert inside[1:] == ["ieee"] * 4 + [False, False, "highest", True]
        # The older setting of convolutions is only a guess where PyTorch refuses to tell it.
        assert seen() == found
    finally:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("highest")
        for each, precision in zip(float32_kinds(), before, strict=True):
            each.fp32_precision = precision


def test_a_driver_that_fails_is_told_and_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old\n(found 11040).",
            stacklevel=2,
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    gpu, cpu = TorchBackend.capabilities()
    assert (gpu.usable, cpu.usable) == (False, True)
    assert gpu.reason.endswith(
        "sees no CUDA device: CUDA initialization: The NVIDIA driver on your system is too old"
    )


@pytest.mark.parametrize(("capability", "bf16"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_is_offered_where_the_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], bf16: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "NVIDIA Test")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: capability)
    gpu = TorchBackend.capabilities()[0]
    assert gpu.precisions == (("fp16", "bf16", "fp32") if bf16 else ("fp16", "fp32"))
    assert gpu.reason.endswith("on NVIDIA Test")


def test_a_gpu_that_cannot_be_asked_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_index: int) -> str:
        raise RuntimeError("CUDA error: out of memory\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", fails)
    gpu = TorchBackend.capabilities()[0]
    assert not gpu.usable
    assert "CUDA error: out of memory" in gpu.reason


def test_each_size_is_compiled_whole_and_none_falls_back(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch gives up on a function after eight sizes, and says so in a log alone."""
    graphs: list[Any] = []

    def compiler(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr("srtrt.runtime.backends.torch._COMPILER", {"backend": compiler})
    sizes = [(8 + 2 * k, 8) for k in range(10)]
    inputs = [frames("yuv420p8", *size, count=1)[0] for size in sizes]
    wanted = expected(tiny_checkpoint, "yuv420p8", inputs)
    with opened(tiny_checkpoint, "yuv420p8", device="cpu", compile=True) as backend:
        found = [backend.infer(each) for each in inputs]
        assert len(graphs) == len(sizes)  # with nothing left outside of the graphs
        backend.infer(inputs[-1])
        assert len(graphs) == len(sizes)
    assert_same(found, wanted)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
def test_compiled_equals_eager_in_rings_as_well(tiny_checkpoint: Path, form: Form) -> None:
    inputs = frames(form, count=4)
    wanted = expected(tiny_checkpoint, form, inputs)
    for ring in (None, RingOptions(streams=2, slots=2)):
        with opened(tiny_checkpoint, form, device="cpu", compile=True, ring=ring) as backend:
            found = in_flight(backend, inputs)
        for one, other in zip(found, wanted, strict=True):
            for name, plane in other.items():
                assert np.abs(plane.astype(int) - one[name]).max() <= 1
