"""Whether the packages that are installed do what srtrt asks of them: the checks of the doctor."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper

from srtrt.errors import BrokenPackageError, SrtrtError, install_hint
from srtrt.packages import (
    broken,
    import_openvino,
    installed,
    onnxruntime_clash,
    owners_of_cv2,
    untried,
)
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.video import pyav
from srtrt.runtime.video.codecs import CODECS, ordinary_priority, quiet_svt

LINKED_TENSORRT = 10
"""Major version that the TensorRT provider of ONNX Runtime links, up to 1.31."""

_BUILDS = {
    name: tuple(f"{name}-cu{major}" for major in (13, 12)) for name in ("tensorrt", "tensorrt-rtx")
}
"""Distributions that bring the same for one CUDA, where the first name is not installed."""


@dataclass(frozen=True, kw_only=True)
class PackageState:
    """What was found of one package."""

    name: str
    """Name of the distribution."""
    version: str | None
    """Its version; None if it is not installed."""
    problem: str | None = None
    """Why it does not work, and what to do."""
    note: str | None = None
    """What else the user should know of it."""

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.name}: not installed"
        words = [f"{self.name} {self.version}", *filter(None, [self.problem, self.note])]
        return ": ".join([words[0], " ".join(words[1:])]) if words[1:] else words[0]


def check_packages() -> Iterator[PackageState]:
    """Every package srtrt may use, each tried by a small task."""
    for name, check in _CHECKS.items():
        own = next(filter(installed, (name, *_BUILDS.get(name, ()))), name)
        version = installed(own)
        if version is None:
            yield PackageState(name=name, version=None)
            continue
        problem = note = None
        try:
            note = check(name)
        except SrtrtError as error:
            problem = str(error)
        except Exception as error:  # whatever a foreign package raises
            problem = str(broken(name, error))
        notes = " ".join(filter(None, [note, untried(own)])) or None
        yield PackageState(name=own, version=version, problem=problem, note=notes)


def _only_version(_name: str) -> None:
    """For packages without which this command would not have started."""


def _check_av(_name: str) -> str | None:
    pyav.require()
    quiet_svt()
    for codec in CODECS.values():
        try:
            with ordinary_priority():
                pyav.write_and_read_a_clip(codec.encoder, codec.options)
        except Exception as error:
            problem = f"{codec.encoder}, the encoder of --codec {codec.name}: {error}"
            raise broken("av", RuntimeError(problem)) from error
    return None


def _check_opencv(_name: str) -> str | None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    done, data = cv2.imencode(".png", picture)
    back = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    if back is None or not np.array_equal(back, picture):
        raise RuntimeError("a PNG file came back changed")
    owners = owners_of_cv2()
    if len(owners) < 2:
        return None
    return (
        f"{' and '.join(owners)} all own the module cv2; if one of them is removed or upgraded, "
        "install opencv-python-headless again."
    )


def _check_onnx(_name: str) -> None:
    onnx.checker.check_model(_doubling(), full_check=True)


def _check_onnxruntime(_name: str) -> None:
    ort = importlib.import_module("onnxruntime")
    session = ort.InferenceSession(
        _doubling().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    _compare(session.run(None, {"x": np.ones((1, 3), np.float32)})[0])
    clash = onnxruntime_clash()
    if clash:
        raise BrokenPackageError(clash)


def _check_openvino(_name: str) -> None:
    openvino = import_openvino()
    core = openvino.Core()
    model = core.read_model(_doubling().SerializeToString(), b"")
    request = core.compile_model(model, "CPU").create_infer_request()
    _compare(next(iter(request.infer({"x": np.ones((1, 3), np.float32)}).values())))


def _check_torch(_name: str) -> None:
    torch = importlib.import_module("torch")
    _compare((2 * torch.ones(1, 3)).numpy())


def _check_tensorrt(name: str) -> str | None:
    version = FLAVOURS[name].version()
    runtime = installed("onnxruntime-gpu")
    if name != "tensorrt" or runtime is None or version.startswith(f"{LINKED_TENSORRT}."):
        return None
    return (
        f"The backend onnxruntime-tensorrt cannot use it: onnxruntime-gpu {runtime} needs TensorRT "
        f"{LINKED_TENSORRT}, which {install_hint('gpu')} brings; the backend tensorrt can."
    )


def _check_import(module: str) -> Callable[[str], None]:
    def check(_name: str) -> None:
        importlib.import_module(module)

    return check


def _doubling() -> onnx.ModelProto:
    """A graph that doubles three numbers."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubling",
        [value("x", TensorProto.FLOAT, [1, 3])],
        [value("y", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _compare(result: object) -> None:
    if not np.array_equal(np.asarray(result), np.full((1, 3), 2, np.float32)):
        raise RuntimeError(f"2 x 1 came out as {result}")


_CHECKS: dict[str, Callable[[str], str | None]] = {
    "av": _check_av,
    "click": _only_version,
    "cuda-python": _check_import("cuda.bindings.runtime"),
    "numpy": _only_version,
    "onnx": _check_onnx,
    "onnxruntime": _check_onnxruntime,
    "onnxruntime-gpu": _check_onnxruntime,
    "opencv-python-headless": _check_opencv,
    "openvino": _check_openvino,
    "pillow": _only_version,
    "psutil": _only_version,
    "pycuda": _check_import("pycuda.driver"),
    "rich": _only_version,
    "tensorrt": _check_tensorrt,
    "tensorrt-rtx": _check_tensorrt,
    "torch": _check_torch,
}
