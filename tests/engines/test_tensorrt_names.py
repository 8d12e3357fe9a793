"""Every name and call of TensorRT that srtrt uses, against what each version has.

A whole life of an engine runs through :mod:`tensorrt_api`, which fails where the version would:
for a name that is not there, a property that cannot be set, an argument that is not taken.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tensorrt_api import INSTALLED, Api, Checked, read_module, recorded

from srtrt.runtime.backends.tensorrt import TensorRtBackend, TensorRtOptions
from srtrt.runtime.engines import attempt, build, exclusions, execution, flavour, monitor
from srtrt.runtime.engines.key import EngineOptions, EngineShape
from srtrt.runtime.engines.monitor import Listener
from srtrt.runtime.models import find_model
from srtrt.runtime.parity import form_inputs, read_pictures
from srtrt.runtime.ring import RingOptions

if TYPE_CHECKING:
    from tensorrt_standin import StandIn

VERSIONS = sorted(recorded())
SOURCES = (attempt, build, execution, exclusions, flavour, monitor)

NEVER = {
    "BuilderFlag": {"FP16", "BF16", "INT8", "FP8", "INT4", "FP4"},
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH"},
    "ICudaEngine": {
        "create_execution_context_without_device_memory",
        "device_memory_size",
        "has_implicit_batch_dimension",
    },
    "IBuilderConfig": {"int8_calibrator", "algorithm_selector", "set_calibration_profile"},
    "IExecutionContext": {"all_shape_inputs_specified"},
}
"""What TensorRT 10 has and 11 has no more."""


@pytest.mark.parametrize("standin", VERSIONS, indirect=True)
def test_a_whole_life_of_an_engine_uses_what_the_version_has(
    standin: StandIn, tiny_graphs: dict[str, Path], tmp_path: Path
) -> None:
    (api,) = standin.apis.values()
    picture = np.ascontiguousarray(read_pictures()[0][:24, :32])
    options = TensorRtOptions(
        cache_folder=tmp_path,
        ring=RingOptions(streams=1, slots=2),
        build=EngineOptions(
            level=2, workspace_bytes=1 << 30, aux_streams=0, tactics="plain", fusion=False
        ),
    )
    model = find_model(str(tiny_graphs["rgb8-fp32"]))
    for _ in range(2):  # built, then found with what was compiled and timed
        with TensorRtBackend(
            model, form="yuv420p8", device="cuda:0", precision="fp16", options=options
        ) as backend:
            backend.infer(form_inputs(picture, "yuv420p8"))
    shape = EngineShape.parse("16x16:32x24:64x48")
    product = flavour.FLAVOURS["tensorrt-rtx" if api.module == "tensorrt_rtx" else "tensorrt"]
    targets = ("8.9",) if product.builds_ahead else ()
    build.build_engine(
        tiny_graphs["rgb8-fp32"].read_bytes(),
        shape,
        EngineOptions(compute_capabilities=targets, tf32=True),
        flavour=product,
    )
    used = {name for _, name in api.used} | _ELSEWHERE
    if not product.timing_cache:
        used |= set(recorded()["tensorrt 10.13"]["ITimingCache"]) | _TIMINGS
    if not product.runtime_cache:
        used |= {"create_runtime_config", *recorded()["tensorrt 10.13"]["IRuntimeConfig"]}
    missing = _names_in_sources(api) - used
    assert not missing, f"no test runs {sorted(missing)}"


_TIMINGS = {"create_timing_cache", "get_timing_cache", "set_timing_cache"}
_ELSEWHERE = {"get_error", "code", "desc", "node", "node_name", "node_operator", "combine"}
"""What is used where a graph cannot be read, and where two builds store their timings at once."""


def _names_in_sources(api: Api) -> set[str]:
    """Attributes in the sources that name a member of a recorded class and of no other thing."""
    members = {
        name for classes in recorded().values() for each in classes.values() for name in each
    }
    own = {name for each in (*SOURCES, *_OTHERS) for name in dir(each)}
    here = {name for kind in recorded()[f"{api.module} {api.version}"].values() for name in kind}
    found = set()
    for module in SOURCES:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
    return (found & members & here) - own - _PYTHON


_OTHERS = (str, list, dict, set, Path, EngineShape, EngineOptions, Listener)
_PYTHON = {"name", "ERROR", "WARNING", "INFO", "DEBUG", "INTERNAL_ERROR", "log"}
_PYTHON |= {"device_memory", "logger", "nbytes", "precision"}
"""Names that other objects in these sources have as well."""


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_used_that_tensorrt_11_has_no_more(module: object) -> None:
    removed = set().union(*NEVER.values())
    for node in ast.walk(ast.parse(inspect.getsource(module))):  # type: ignore[arg-type]
        assert not (isinstance(node, ast.Attribute) and node.attr in removed), ast.unparse(node)


def test_what_tensorrt_11_removed_is_as_recorded() -> None:
    for kind, names in NEVER.items():
        for name in names:
            assert name in recorded()["tensorrt 10.13"][kind], name
            assert name not in recorded()["tensorrt 11.1"][kind], name
            assert name not in recorded()["tensorrt 11.4"][kind], name


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_rtx"])
def test_the_record_is_that_of_the_installed_package(module: str) -> None:
    installed = pytest.importorskip(module, reason=f"{module} is not installed")
    if not hasattr(installed, "__version__"):
        pytest.skip("only type stubs of it are installed")
    version = ".".join(installed.__version__.split(".")[:2])
    if f"{module} {version}" not in recorded():
        pytest.skip(f"{module} {version} is not recorded; see tensorrt_api.py")
    assert read_module(installed) == recorded()[f"{module} {version}"]


def test_loggers_and_monitors_have_the_signatures_that_are_called() -> None:
    """TensorRT calls these by position; what it passes must fit."""
    listener = Listener(importlib.import_module("tensorrt_rtx"), lambda _share, _phase: None)
    for made, kind in ((listener.logger, "ILogger"), (listener.monitor, "IProgressMonitor")):
        for version in VERSIONS:
            functions = recorded()[version][kind]
            assert isinstance(functions, dict)
            for name, overloads in functions.items():
                if name == "__init__" or isinstance(overloads, str):
                    continue
                (arguments,) = overloads
                signature = inspect.signature(getattr(made, name))
                signature.bind(*arguments)


def test_the_checks_can_fail() -> None:
    """What the versions do not take is refused as they refuse it."""

    class IExecutionContext:
        def set_tensor_address(self, name: str, memory: int) -> bool:
            return bool(name) and bool(memory)

        execute_v2 = all_shape_inputs_specified = None

    api = Api("tensorrt 11.4")
    context = Checked(api, "IExecutionContext", IExecutionContext())
    assert context.set_tensor_address("rgb", 4096) is True
    assert context.set_tensor_address(name="rgb", memory=4096) is True
    for wrong in (("rgb",), ("rgb", "4096"), ("rgb", True), ("rgb", None), ("rgb", 1, 2), (1, 2)):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            context.set_tensor_address(*wrong)
    for name in ("all_shape_inputs_specified", "is_stream_capturable"):
        with pytest.raises(AttributeError, match=name):
            getattr(context, name)
    with pytest.raises(AttributeError, match="can't set"):
        context.engine = None
    assert INSTALLED in recorded()
