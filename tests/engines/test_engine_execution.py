"""Loaded engines on streams: contexts, their memory, and what TensorRT says when it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorrt_api import INSTALLED, recorded

from srtrt.errors import BackendError, DeviceMemoryError
from srtrt.runtime.cuda.device import Device
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.execution import LoadedEngine, run_engine
from srtrt.runtime.engines.flavour import FLAVOURS, Flavour, is_out_of_memory, wants_less
from srtrt.runtime.engines.key import EngineShape
from srtrt.runtime.layouts import form_layouts
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import FrameRing, RingOptions

if TYPE_CHECKING:
    from tensorrt_standin import StandIn

SIZE = EngineShape.static(32, 24)
PRODUCTS = ["tensorrt 10.13", "tensorrt 11.4", INSTALLED]

both = pytest.mark.parametrize("standin", PRODUCTS, indirect=True)


def flavour_of(standin: StandIn) -> Flavour:
    return FLAVOURS["tensorrt-rtx" if "tensorrt_rtx" in standin.apis else "tensorrt"]


class Loaded:
    """A small engine, loaded on one device, and all its memory."""

    def __init__(self, standin: StandIn, graph: bytes) -> None:
        self.flavour = flavour_of(standin)
        self.built = build_engine(graph, SIZE, flavour=self.flavour)
        self.device: Device = standin.machine.open()
        self.notes: list[str] = []
        self.engine = LoadedEngine(
            self.built.plan,
            form=self.built.spec.form,
            size=SIZE.best,
            flavour=self.flavour,
            device=self.device,
            on_note=self.notes.append,
        )
        self.layouts = form_layouts(self.built.spec.form, SIZE.best)

    def addresses(self) -> dict[str, int]:
        self.memories = {each.name: self.device.device_memory(each.nbytes) for each in self.layouts}
        return {name: memory.address for name, memory in self.memories.items()}

    def ring(self, **options: Any) -> FrameRing:
        return FrameRing(self.device, self.layouts, self.engine.executor, RingOptions(**options))


@pytest.fixture
def loaded(standin: StandIn, graph: Path) -> Iterator[Loaded]:
    made = Loaded(standin, graph.read_bytes())
    yield made
    made.engine.close()


def frame() -> Mapping[str, NDArray[Any]]:
    return form_inputs(np.ascontiguousarray(read_pictures()[0][:24, :32]), "rgb8")


@both
def test_each_slot_has_its_own_context_and_each_stream_one_piece_of_memory(
    loaded: Loaded, standin: StandIn
) -> None:
    pieces: list[int] = []
    allocate = loaded.device.device_memory
    loaded.device.device_memory = lambda n: pieces.append(n) or allocate(n)  # type: ignore[method-assign, func-returns-value]
    with loaded.ring(streams=2, slots=6) as ring:
        assert standin.contexts == 6
        tensors = 6 * len(loaded.layouts)
        assert len(pieces) == tensors + 2
        first = [ring.submit(frame()) for _ in range(6)]
        results = [each()["rgb_x4"] for each in first]
    assert all(np.array_equal(each, results[0]) for each in results)
    assert loaded.device.open_resources == 0  # type: ignore[attr-defined]


@both
def test_an_engine_without_working_memory_gets_a_valid_address(
    loaded: Loaded, standin: StandIn
) -> None:
    standin.working_memory = False
    with loaded.ring(streams=1, slots=1) as ring:
        assert ring.submit(frame())()["rgb_x4"].shape == (1, 96, 128, 3)


@both
def test_a_problem_is_reported_with_its_own_words_only(loaded: Loaded, standin: StandIn) -> None:
    stream = loaded.device.stream()
    executor = loaded.engine.executor(stream)
    compute = executor.bind(loaded.addresses())
    standin.failure = "Error Code 2: OutOfMemory (Requested size was 123 bytes.)"
    with pytest.raises(DeviceMemoryError, match="OutOfMemory"):
        compute()
    standin.failure = "Error Code 1: Cuda Runtime (misaligned address)"
    with pytest.raises(BackendError, match=r"cannot compute: [^/]*misaligned[^/]*$") as caught:
        compute()
    assert not isinstance(caught.value, DeviceMemoryError)
    executor.close()
    for memory in (*loaded.memories.values(), stream):
        memory.close()


@both
def test_no_memory_for_a_context_is_a_lack_of_memory(loaded: Loaded, standin: StandIn) -> None:
    standin.contexts_for = 3
    with pytest.raises(DeviceMemoryError, match=r"cannot open the engine: .*OutOfMemory"):
        loaded.ring(streams=2, slots=4)
    assert loaded.device.open_resources == 0  # type: ignore[attr-defined]
    standin.contexts_for = 4
    loaded.ring(streams=2, slots=4).close()


def test_work_that_must_not_be_recorded_is_said_once(loaded: Loaded, standin: StandIn) -> None:
    standin.capturable = False
    with loaded.ring(streams=2, slots=4) as ring:
        assert not ring.uses_graphs
        ring.submit(frame())()
    (note,) = loaded.notes
    assert note.startswith("TensorRT-RTX does not let the work of this engine be recorded")


def test_engines_can_be_recorded(loaded: Loaded, standin: StandIn) -> None:
    """TensorRT-RTX records only engines that allocate nothing by themselves."""
    (plan,) = standin.graphs.values()
    assert not plan.own_memory
    with loaded.ring(streams=1, slots=2) as ring:
        assert ring.uses_graphs
    assert loaded.notes == []


@both
def test_a_product_that_cannot_start_is_a_sentence(
    standin: StandIn, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the driver is older than CUDA: the constructors return nothing."""
    flavour = flavour_of(standin)
    built = build_engine(graph.read_bytes(), SIZE, flavour=flavour)
    standin.unusable = "CUDA initialization failure with error: 35"
    with pytest.raises(BackendError, match="cannot start building: CUDA initialization failure"):
        build_engine(graph.read_bytes(), SIZE, flavour=flavour)
    with pytest.raises(BackendError, match="cannot start: CUDA initialization failure"):
        run_engine(built, [frame()], flavour=flavour, device=standin.machine.open())


MEMORY = [
    "Error Code 2: OutOfMemory (no further information)",
    "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (Requested size was "
    "2833252352 bytes.)",
    "[executionContext.cpp::initializeExecutionContext::625] Error Code 2: OutOfMemory (Requested "
    "size was 20132809216 bytes.)",
    "[defaultAllocator.cpp::allocate::19] Error Code 1: Cuda Runtime (out of memory)",
    "[resizingAllocator.cpp::allocate::78] Error Code 1: Cuda Driver (out of memory)",
    "Requested amount of GPU memory (17920000000 bytes) could not be allocated. There may not be "
    "enough free memory for allocation to succeed.",
    "Tactic Device request: 538MB Available: 166MB. Device memory is insufficient to use tactic.",
    "Skipping tactic 3 due to insuficient memory on requested size of 538 detected for tactic 4.",
    "Cannot reformat, possibly due to insufficient memory.",
    "AUTOTUNER ERROR: ran out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
]
LESS = [
    "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[a]}.)",
    "Error Code 4: Internal Error (Could not find any implementation for node /Conv due to "
    "insufficient workspace. See verbose log for requested sizes.)",
    "Error Code 1: Myelin (Tactic Selection: no tactics to implement the operation within workspace"
    " limit. Consider increase the allowed workspace size if applicable.)",
    "Compiling this graph requires workspace memory greater than 0. Please increase the workspace "
    "memory provided to the builder.",
    "Error Code 1: Myelin (No valid tactics found for 'conv')",
    "No conv tactic found",
]
OTHER = [
    "Error Code 1: Cuda Runtime (an illegal memory access was encountered)",
    "[checkMacros.cpp::catchCudaError::212] Error Code 1: Cuda Runtime (invalid device pointer)",
    "IExecutionContext::enqueueV3: Error Code 1: Cuda Driver (misaligned address)",
    "IExecutionContext::setDeviceMemoryV2: Error Code 3: API Usage Error (memory is not aligned)",
    "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not "
    "compatible with this version of TensorRT, expecting library version 10.13 got 10.9)",
    "[Runtime Cache]: Insufficient data for header deserialization.",
    "Error Code 2: Internal Error (Assertion workspace != nullptr failed.)",
    "Error Code 1: Cuda Runtime (unspecified launch failure)",
]


@pytest.mark.parametrize("message", MEMORY)
def test_a_lack_of_memory_is_known_by_its_words(message: str) -> None:
    assert is_out_of_memory(message)
    assert wants_less(message)


@pytest.mark.parametrize("message", LESS)
def test_a_lack_of_workspace_is_one_while_building_only(message: str) -> None:
    assert wants_less(message)
    assert not is_out_of_memory(message)


@pytest.mark.parametrize("message", OTHER)
def test_what_smaller_tiles_do_not_cure_is_no_lack_of_memory(message: str) -> None:
    assert not is_out_of_memory(message)
    assert not wants_less(message)


def test_only_tensorrt_rtx_can_be_asked_whether_work_can_be_recorded() -> None:
    for version, classes in recorded().items():
        asks = "is_stream_capturable" in classes["IExecutionContext"]
        flag = "REQUIRE_USER_ALLOCATION" in classes["BuilderFlag"]
        assert asks == flag == version.startswith("tensorrt_rtx"), version
