"""ONNX Runtime on NVIDIA GPUs: providers that really start, or the reason; engines that fit."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import simulated_gpu
from cuda_simulator import Gpu
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnxruntime_standin import (
    CUDA,
    CUDNN,
    TENSORRT,
    OrtGpu,
    elf,
    install,
    parse_cuda,
    parse_tensorrt,
)

from srtrt.errors import BackendError, DeviceMemoryError
from srtrt.runtime.backends import onnxruntime_gpu
from srtrt.runtime.backends.onnxruntime import (
    OnnxRuntimeBackend,
    OnnxRuntimeOptions,
    OnnxRuntimeTensorRtBackend,
)
from srtrt.runtime.backends.onnxruntime_gpu import needed_libraries
from srtrt.runtime.engines.key import InputSize
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import RingOptions
from srtrt.runtime.select import choose
from srtrt.spec import Form

PICTURE = read_pictures()[0]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OrtGpu]:
    (tmp_path / "onnxruntime").mkdir()
    onnxruntime_gpu.preload.cache_clear()
    yield install(monkeypatch, tmp_path / "onnxruntime")
    onnxruntime_gpu.preload.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path))
    return tmp_path / "engines" / "onnxruntime"


@pytest.fixture
def without_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srtrt.runtime.rings.installed_binding", lambda: None)


@pytest.fixture
def device(machine: OrtGpu, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    machine.gpu = simulated_gpu.install(monkeypatch)
    return machine.gpu


def frames(form: Form, width: int = 32, height: int = 24, count: int = 3) -> list[Any]:
    return [
        form_inputs(np.ascontiguousarray(PICTURE[k : k + height, k : k + width]), form)
        for k in range(count)
    ]


@contextmanager
def opened(
    graph: Path,
    form: Form,
    kind: type[OnnxRuntimeBackend] = OnnxRuntimeBackend,
    options: OnnxRuntimeOptions | None = None,
) -> Iterator[OnnxRuntimeBackend]:
    precision = "fp16" if "fp16" in graph.name else "fp32"
    with kind(
        find_model(str(graph)), form=form, device="cuda:0", precision=precision, options=options
    ) as backend:
        yield backend


def on_cpu(graph: Path, form: Form, inputs: list[Any]) -> list[Mapping[str, NDArray[Any]]]:
    with OnnxRuntimeBackend(
        find_model(str(graph)), form=form, device="cpu", precision="fp32"
    ) as backend:
        return [backend.infer(each) for each in inputs]


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, plane in expected.items():
        assert np.abs(plane.astype(int) - found[name]).max() <= 1


KINDS = [OnnxRuntimeBackend, OnnxRuntimeTensorRtBackend]


@pytest.mark.parametrize("form", ["rgb8", "yuv420p8"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_on_its_provider_without_rings(
    machine: OrtGpu,
    without_rings: None,
    tiny_graphs: dict[str, Path],
    kind: type[OnnxRuntimeBackend],
    form: Form,
    capsys: pytest.CaptureFixture[str],
) -> None:
    graph = tiny_graphs[f"{form}-fp16"]
    inputs = frames(form)
    expected = on_cpu(tiny_graphs[f"{form}-fp32"], form, inputs)
    with opened(graph, form, kind) as backend:
        backend.prepare(32, 24)
        for one, other in zip(inputs, expected, strict=True):
            assert_same(backend.infer(one), other)
        assert len(machine.alive) == 1
        small = frames(form, 20, 16)[0]
        first = next(iter(backend.infer(small).values()))
        assert 80 in first.shape
        assert len(machine.alive) == 1
    assert not machine.alive
    asked = [TENSORRT, CUDA] if kind is OnnxRuntimeTensorRtBackend else [CUDA]
    assert [name for name, _ in machine.options] == 2 * asked
    assert capsys.readouterr() == ("", "")


def test_tables_go_up_once_without_rings(
    machine: OrtGpu, without_rings: None, tiny_graphs: dict[str, Path]
) -> None:
    inputs = frames("yuv420p8", count=4)
    images = sum(array.nbytes for array in inputs[0].values() if array.dtype == np.uint8)
    with opened(tiny_graphs["yuv420p8-fp16"], "yuv420p8") as backend:
        backend.infer(inputs[0])
        machine.uploads.clear()
        for each in inputs[1:]:
            backend.infer(each)
        assert sum(machine.uploads) == 3 * images
        machine.uploads.clear()
        table = {"yuv_to_rgb": inputs[0]["yuv_to_rgb"] * np.float32(0.5)}
        changed = backend.infer({**inputs[0], **table})
        assert sum(machine.uploads) == images + table["yuv_to_rgb"].nbytes
        usual = backend.infer(inputs[0])
        assert any(not np.array_equal(changed[name], usual[name]) for name in usual)


def test_results_belong_to_the_caller(
    machine: OrtGpu, without_rings: None, tiny_graphs: dict[str, Path]
) -> None:
    with opened(tiny_graphs["rgb8-fp16"], "rgb8") as backend:
        one, other = frames("rgb8", count=2)
        first = backend.infer(one)["rgb_x4"]
        kept = first.copy()
        backend.infer(other)
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ring", [RingOptions(), RingOptions(streams=2, slots=2, batch=2)])
def test_sessions_end_before_their_streams(
    machine: OrtGpu,
    device: Gpu,
    tiny_graphs: dict[str, Path],
    kind: type[OnnxRuntimeBackend],
    ring: RingOptions,
) -> None:
    inputs = frames("rgb8", count=3)
    expected = on_cpu(tiny_graphs["rgb8-fp32"], "rgb8", inputs)
    with opened(tiny_graphs["rgb8-fp16"], "rgb8", kind, OnnxRuntimeOptions(ring=ring)) as backend:
        for one, other in zip(inputs, expected, strict=True):
            assert_same(backend.infer(one), other)
        streams = {each["user_compute_stream"] for name, each in machine.options if name == CUDA}
        assert len(streams) == ring.streams
        assert machine.streams_in_use() == streams
        backend.infer(frames("rgb8", 20, 16)[0])  # another size: the first sessions are gone
        assert machine.streams_in_use().isdisjoint(streams)
    assert not machine.alive
    device.check()


@pytest.mark.parametrize(
    "said",
    ["CUDA failure 2: out of memory ; GPU=0", "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"],
)
def test_memory_is_free_for_another_try(
    machine: OrtGpu, device: Gpu, tiny_graphs: dict[str, Path], said: str
) -> None:
    """The second of two streams finds no memory; what the first had is back at once."""
    with opened(tiny_graphs["rgb8-fp16"], "rgb8") as backend:
        machine.no_memory = said
        seen: list[int] = []
        usual = machine.memory_left
        original = OnnxRuntimeBackend._open

        def second_fails(self: OnnxRuntimeBackend, *arguments: Any) -> Any:
            seen.append(len(machine.alive))
            machine.memory_left = 0 if len(seen) == 2 else usual
            return original(self, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OnnxRuntimeBackend, "_open", second_fails)
            with pytest.raises(DeviceMemoryError):
                backend.prepare(32, 24)
            assert not machine.alive
            backend.prepare(20, 16)
        assert seen == [0, 1, 0, 1]
        assert backend.in_flight == 4


def test_float32_goes_without_tf32_and_fp16_in_nhwc(
    machine: OrtGpu, without_rings: None, tiny_graphs: dict[str, Path]
) -> None:
    for graph, options in (
        ("rgb8-fp32", None),
        ("rgb8-fp16", None),
        ("rgb8-fp16", OnnxRuntimeOptions(prefer_nhwc=False)),
    ):
        with opened(tiny_graphs[graph], "rgb8", options=options) as backend:
            backend.prepare(32, 24)
    found = [options for _, options in machine.options]
    assert [each["prefer_nhwc"] for each in found] == [False, True, False]
    assert not any(each["use_tf32"] for each in found)
    assert all(each["cudnn_conv_use_max_workspace"] for each in found)
    assert {each["cudnn_conv_algo_search"] for each in found} == {"EXHAUSTIVE"}


def missing(*names: str) -> Any:
    return lambda machine: machine.libraries.difference_update(names)


def no_gpu(machine: OrtGpu) -> None:
    machine.facts = None


def old_driver(machine: OrtGpu) -> None:
    assert machine.facts
    machine.facts = replace(machine.facts, driver="535.1", driver_cuda="12.2")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (missing("libcublasLt.so.13"), "needs libcublasLt.so.13, which cannot be loaded"),
        (missing(CUDNN), "needs libcudnn.so.9, which cannot be loaded"),
        (no_gpu, "no NVIDIA GPU with a driver was found"),
        (old_driver, "goes up to CUDA 12.2; install a newer driver"),
    ],
)
def test_a_gpu_is_offered_only_where_its_provider_can_start(
    machine: OrtGpu,
    spoil: Any,
    says: str,
    tiny_graphs: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpu = OnnxRuntimeBackend.capabilities()[0]
    assert gpu.precisions == ("fp16", "fp32")
    assert OnnxRuntimeTensorRtBackend.capabilities()[0].precisions == ("fp16",)
    spoil(machine)
    onnxruntime_gpu.preload.cache_clear()
    gpu, cpu = OnnxRuntimeBackend.capabilities()
    assert (gpu.precisions, cpu.usable) == ((), True)
    assert says in gpu.reason
    choice = choose("auto", "auto", "fp32")
    assert choice.device == "cpu"
    assert says in choice.reasoning
    with (
        pytest.raises(BackendError, match="cannot be used") as refused,
        opened(tiny_graphs["rgb8-fp32"], "rgb8"),
    ):
        pass
    assert says in str(refused.value)
    assert capsys.readouterr() == ("", "")


def test_only_tensorrt_lacks_its_libraries(machine: OrtGpu) -> None:
    machine.libraries.remove("libnvinfer.so.10")
    (tensorrt,) = OnnxRuntimeTensorRtBackend.capabilities()
    assert not tensorrt.usable
    assert f"{TENSORRT} needs libnvinfer.so.10, which cannot be loaded" in tensorrt.reason
    assert OnnxRuntimeBackend.capabilities()[0].usable


def test_libraries_of_packages_are_loaded_once_before_the_first_session(
    machine: OrtGpu, without_rings: None, tiny_graphs: dict[str, Path]
) -> None:
    for _ in range(2):
        with opened(tiny_graphs["rgb8-fp16"], "rgb8") as backend:
            assert machine.preloads == 1
            backend.prepare(32, 24)
    assert machine.preloads == 1


def test_it_never_computes_on_the_cpu_instead(
    machine: OrtGpu,
    without_rings: None,
    tiny_graphs: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    graph = tiny_graphs["rgb8-fp16"]
    machine.left_out = {TENSORRT}
    with (
        opened(graph, "rgb8", OnnxRuntimeTensorRtBackend) as backend,
        pytest.raises(
            BackendError, match=f"asked for {TENSORRT}, and ONNX Runtime would compute on {CUDA}"
        ),
    ):
        backend.prepare(32, 24)
    machine.left_out = {CUDA}
    with (
        opened(graph, "rgb8") as backend,
        pytest.raises(
            BackendError, match=f"asked for {CUDA}, and ONNX Runtime would compute on CPUExecution"
        ),
    ):
        backend.infer(frames("rgb8")[0])
    machine.left_out = set()
    machine.leaves_convolutions = True
    with (
        opened(graph, "rgb8") as backend,
        pytest.raises(BackendError, match="would compute convolutions on the CPU"),
    ):
        backend.prepare(32, 24)
    assert capsys.readouterr() == ("", "")


def test_a_refused_option_and_a_missing_device_are_told_apart(
    machine: OrtGpu,
    without_rings: None,
    tiny_graphs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = find_model(str(tiny_graphs["rgb8-fp16"]))
    kinds = {"form": "rgb8", "precision": "fp16"}
    with (
        OnnxRuntimeBackend(model, device="cuda:3", **kinds) as backend,
        pytest.raises(  # type: ignore[arg-type]
            BackendError, match=r"there is no such device.*CUDA failure 101: invalid device ordinal"
        ),
    ):
        backend.prepare(32, 24)
    monkeypatch.setattr(
        OnnxRuntimeBackend, "_cuda_options", lambda *_: {"device_id": "0", "use_tf32": "off"}
    )
    with (
        OnnxRuntimeBackend(model, device="cuda:0", **kinds) as backend,
        pytest.raises(  # type: ignore[arg-type]
            BackendError, match=r'it refuses an option.*Failed to parse value: "off"'
        ),
    ):
        backend.prepare(32, 24)


def test_spelling_of_options_is_not_the_same_everywhere() -> None:
    assert parse_cuda({"use_tf32": "0"}) == {"use_tf32": False}
    with pytest.raises(RuntimeError, match="should be 'True' or 'False'"):
        parse_tensorrt({"trt_fp16_enable": "1"})
    with pytest.raises(RuntimeError, match="Invalid TensorRT EP option: use_tf32"):
        parse_tensorrt({"use_tf32": "0"})


def test_engines_of_two_shapes_or_graphs_are_never_shared(
    machine: OrtGpu,
    without_rings: None,
    folder: Path,
    tiny_graphs: dict[str, Path],
) -> None:
    """Its stand-in, as ONNX Runtime, takes any engine of the name, and cannot use another one."""
    graphs = [tiny_graphs["rgb8-fp16"], tiny_graphs["yuv420p8-fp16"]]
    names: dict[tuple[Any, ...], str] = {}
    for graph, form in zip(graphs, ("rgb8", "yuv420p8"), strict=True):
        for size in ((32, 24), (24, 32), (20, 16), (32, 24)):
            for count in (1, 2):
                inputs = frames(form, *size, count=count)  # type: ignore[arg-type]
                batch = {
                    name: array
                    if array.dtype != np.uint8
                    else np.concatenate([each[name] for each in inputs])
                    for name, array in inputs[0].items()
                }
                with opened(graph, form, OnnxRuntimeTensorRtBackend) as backend:  # type: ignore[arg-type]
                    backend.infer(batch)
                found = dict(machine.options[-2:])[TENSORRT]
                assert found["trt_engine_cache_path"] == str(folder)
                names.setdefault((form, size, count), found["trt_engine_cache_prefix"])
                assert names[form, size, count] == found["trt_engine_cache_prefix"]
    assert len(set(names.values())) == len(names) == len(machine.engines) == 12


@given(st.dictionaries(st.sampled_from("abcd"), st.text(max_size=3)), st.data())
def test_a_prefix_is_for_one_set_of_facts(facts: dict[str, str], data: st.DataObject) -> None:
    other = data.draw(st.dictionaries(st.sampled_from("abcd"), st.text(max_size=3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime_gpu, "gpu_facts", lambda _device: None)
        one = onnxruntime_gpu.engine_prefix(onnxruntime, "cuda:0", facts)
        two = onnxruntime_gpu.engine_prefix(onnxruntime, "cuda:0", other)
    assert (one == two) == (facts == other)
    assert one.isidentifier()


def test_engines_of_another_version_or_gpu_are_not_taken(
    machine: OrtGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prefix() -> str:
        return onnxruntime_gpu.engine_prefix(onnxruntime, "cuda:0", {})

    found = {prefix()}
    assert machine.facts
    machine.facts = replace(machine.facts, name="NVIDIA H200")
    found.add(prefix())
    machine.facts = replace(machine.facts, driver="590.1")
    found.add(prefix())
    monkeypatch.setattr(onnxruntime, "__version__", "1.40.0")
    found.add(prefix())
    monkeypatch.setattr(onnxruntime_gpu, "tensorrt_version", lambda _ort: "101400")
    found.add(prefix())
    assert len(found) == 5


def engines_kept(graph: Path) -> tuple[dict[str, Any], list[str]]:
    """What the TensorRT provider is asked to keep; said once, however many sessions there are."""
    with opened(graph, "rgb8", OnnxRuntimeTensorRtBackend) as backend:
        found = [backend._providers(InputSize(width=w, height=24), None) for w in (32, 36)]
        kept = {name: text for name, text in found[0][0][1].items() if "cache" in name}
        return kept, backend.notes


def test_engines_are_kept_where_nobody_else_comes(
    machine: OrtGpu, without_rings: None, folder: Path, tiny_graphs: dict[str, Path]
) -> None:
    folder.mkdir(parents=True, mode=0o755)
    (folder / "a.engine").touch()
    found, notes = engines_kept(tiny_graphs["rgb8-fp16"])
    assert found["trt_engine_cache_path"] == found["trt_timing_cache_path"] == str(folder)
    assert found["trt_engine_cache_enable"] == found["trt_timing_cache_enable"] == "True"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert notes == []


def loosen(folder: Path) -> None:
    folder.chmod(0o777)


def link(folder: Path) -> None:
    (folder / "b.engine").symlink_to("/dev/null")


def exchange(folder: Path) -> None:
    folder.rename(folder.with_name("other"))
    folder.symlink_to(folder.with_name("other"))


def give_away(folder: Path) -> None:
    (folder / "a.engine").touch()
    try:
        os.chown(folder / "a.engine", 12345, 12345)
    except PermissionError:
        pytest.skip("only root can give a file away")


@pytest.mark.parametrize("act", [loosen, link, exchange, give_away])
def test_what_others_could_have_written_is_not_used_and_said(
    machine: OrtGpu, without_rings: None, folder: Path, act: Any, tiny_graphs: dict[str, Path]
) -> None:
    folder.mkdir(parents=True, mode=0o700)
    act(folder)
    found, notes = engines_kept(tiny_graphs["rgb8-fp16"])
    assert found == {}
    (note,) = notes
    assert "is built anew each time: " in note
    assert str(folder) in note


@given(st.lists(st.text("abc.-+_0123", min_size=1, max_size=30), max_size=20))
def test_needed_libraries_are_read_as_written(names: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", lambda _path, _mode: io.BytesIO(elf(names)))
        assert needed_libraries(Path("any")) == names


def test_needed_libraries_of_what_is_no_library(tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    whole = elf(["libc.so.6"])
    for text in (b"", b"text", whole[:70], whole[:64], whole[:-1][:180]):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=r"no ELF file|too early"):
            needed_libraries(path)


def test_needed_libraries_of_a_real_one() -> None:
    (binary,) = (Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so")
    assert "libc.so.6" in needed_libraries(binary)
