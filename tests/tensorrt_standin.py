"""TensorRT and TensorRT-RTX with a runtime that needs no GPU, for tests of what runs engines.

Builder and parser are the real ones of TensorRT-RTX, so engines are really built; of plain
TensorRT only what its version has is let through (see :mod:`tensorrt_api`). Only deserializing and
computing are replaced (:mod:`tensorrt_runtime`): an engine is computed by ONNX Runtime from the
graph it was built from, when its stream gets to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tensorrt_runtime
from cuda_simulator import CudaFaultError, Gpu, RefusedError
from engine_support import GPU, RTX
from numpy.typing import NDArray
from simulated_gpu import install_packages
from tensorrt_api import INSTALLED, Api, Checked, Enumeration, bare
from tensorrt_runtime import Plan, Rules

from srtrt.errors import BackendError
from srtrt.runtime import cuda
from srtrt.runtime.backends import tensorrt as backend_module
from srtrt.runtime.cuda.plain import PlainDevice
from srtrt.runtime.engines import gpu as gpu_module
from srtrt.runtime.engines import tuning
from srtrt.runtime.engines.flavour import Flavour
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.key import EngineOptions, EngineShape, InputSize
from srtrt.runtime.engines.record import BuiltEngine


class PlainMachine:
    """Plain devices, whose streams call what computes when they get to it."""

    def __init__(self) -> None:
        self.devices: list[Any] = []
        self._dead: str | None = None

    def open(self, _device: str = "cuda:0", _binding: str = "auto") -> Any:
        self.devices.append(PlainDevice())
        return self.devices[-1]

    def view(self, address: int, nbytes: int) -> NDArray[np.uint8] | None:
        for device in self.devices:
            try:
                found: NDArray[np.uint8] = device.view(address, nbytes)
                return found
            except BackendError:
                continue
        return None

    def enqueue(
        self, _stream: int, work: Callable[[], None], _uses: Sequence[tuple[int, int]]
    ) -> str | None:
        if self._dead is None:
            work()
        return self._dead

    def is_capturing(self, _stream: int) -> bool:
        return False

    def hold(self, _stream: int, _what: str) -> Callable[[], None]:
        return lambda: None

    def dead(self) -> str | None:
        return self._dead

    def fault(self, what: str) -> Exception:
        self._dead = what
        return RuntimeError(what)


class SimulatedMachine:
    """The simulated GPU, behind cuda-python or PyCUDA."""

    def __init__(self, gpu: Gpu, binding: str = "cuda-python") -> None:
        self.gpu, self._binding = gpu, binding
        self.view, self.is_capturing, self.hold = gpu.view, gpu.is_capturing, gpu.hold

    def open(self, device: str = "cuda:0", _binding: str = "auto") -> Any:
        with pytest.MonkeyPatch.context() as patch:
            install_packages(patch, self.gpu)
            return cuda.open_device(device, self._binding)  # type: ignore[arg-type]

    def enqueue(
        self, stream: int, work: Callable[[], None], uses: Sequence[tuple[int, int]]
    ) -> str | None:
        try:
            self.gpu.enqueue(stream, work, uses)
        except RefusedError as refused:
            return str(refused)
        return None

    def dead(self) -> str | None:
        return self.gpu.poisoned

    def fault(self, what: str) -> Exception:
        return CudaFaultError(what)


@dataclass
class StandIn(Rules):
    """The packages that are there, the GPUs, and what was built."""

    apis: dict[str, Api] = field(default_factory=dict)
    """What is installed: by the module's name its version."""
    gpus: dict[str, GpuFacts] = field(default_factory=dict)
    """By device."""
    modules: dict[str, Module] = field(default_factory=dict)
    """The packages, by their names."""
    opened: list[str] = field(default_factory=list)
    """Devices that were opened."""
    builds: list[str] = field(default_factory=list)
    """Shapes that were built, in order."""
    unusable: str | None = None
    """Why neither a builder nor a runtime can be made."""
    graphs: dict[str, Plan] = field(default_factory=dict)
    """What each plan is, by its hash."""
    parsed: dict[int, bytes] = field(default_factory=dict)
    """The graphs of networks, by their id."""

    @property
    def devices(self) -> list[Any]:
        """The plain devices that were opened."""
        assert isinstance(self.machine, PlainMachine)
        return self.machine.devices

    def facts(self, device: str = "cuda:0") -> GpuFacts:
        """What :func:`srtrt.runtime.engines.gpu.gpu_facts` would say."""
        if device not in self.gpus:
            raise BackendError(
                f"{device} does not exist; this machine has {len(self.gpus)} GPU(s)."
            )
        return self.gpus[device]

    def all_gpus(self) -> list[GpuFacts]:
        """What :func:`srtrt.runtime.engines.gpu.all_gpus` would say."""
        return [self.gpus[device] for device in sorted(self.gpus)]

    def find(self, plan: bytes) -> Plan | None:
        return self.graphs.get(hashlib.sha256(plan).hexdigest())


def install(monkeypatch: pytest.MonkeyPatch, *packages: str, machine: Any = None) -> StandIn:
    """Puts the stand-in where TensorRT, the GPU and the device layer were.

    Args:
        monkeypatch: of the test.
        packages: what is installed, such as ``tensorrt 10.13``; by default TensorRT-RTX alone.
        machine: where engines compute, see :class:`tensorrt_runtime.Machine`; it also has a
            method ``open``, in place of :func:`srtrt.runtime.cuda.open_device`.
    """
    real = RTX.load()
    machine = machine or PlainMachine()
    standin = StandIn(gpu=GPU, machine=machine, gpus={"cuda:0": GPU})
    standin.apis = {api.module: api for api in map(Api, packages or (INSTALLED,))}
    modules = {name: Module(real, standin, api) for name, api in standin.apis.items()}
    standin.modules = modules
    load = Flavour.load

    def load_module(flavour: Flavour) -> Any:
        return modules.get(flavour.module) or load(flavour)

    def open_device(device: str = "cuda:0", binding: Any = "auto") -> Any:
        standin.opened.append(device)
        standin.gpu = standin.facts(device)
        return machine.open(device, binding)

    measure = backend_module.engine_speed

    def speed(built: BuiltEngine, *arguments: Any, **named: Any) -> float:
        assert measure(built, *arguments, **named) > 0
        plan = standin.find(built.plan)
        assert plan is not None
        return standin.speed_for(plan)

    monkeypatch.setattr(Flavour, "load", load_module)
    for place in ("runtime.backends.tensorrt", "export.engines"):
        monkeypatch.setattr(f"srtrt.{place}.engine_speed", speed)
    monkeypatch.setattr(tuning, "SPEED_SECONDS", 0.0)
    for module in (backend_module, gpu_module):
        monkeypatch.setattr(module, "gpu_facts", standin.facts)
    for place in ("select", "gpu_report", "engines.command"):
        monkeypatch.setattr(f"srtrt.runtime.{place}.all_gpus", standin.all_gpus)
    monkeypatch.setattr("srtrt.export.engines.gpu_facts", standin.facts)
    monkeypatch.setattr("srtrt.export.engines.open_device", open_device)
    monkeypatch.setattr(backend_module, "open_device", open_device)
    monkeypatch.setattr("srtrt.runtime.engines.products.installed_binding", lambda: "cuda-python")
    return standin


class Module:
    """A module of TensorRT with one version's names, and another ``Runtime``."""

    def __init__(self, real: Any, standin: StandIn, api: Api) -> None:
        self._real, self._standin, self._api = real, standin, api
        plain = api.module == "tensorrt"
        self.__name__ = api.module
        self.__version__ = f"{api.version}.0" if plain else real.__version__

    def __getattr__(self, name: str) -> Any:
        if not self._api.has_class(name):
            raise AttributeError(f"module '{self._api.module}' has no attribute '{name}'")
        real = getattr(self._real, name)
        if self._api.is_enumeration(name):
            return Enumeration(self._api, name, real)
        assert name in ("ILogger", "IProgressMonitor"), f"{name} is made by something else"
        return real  # to be subclassed

    def Builder(self, *arguments: Any, **named: Any) -> Any:  # noqa: N802 - TensorRT's name
        self._api.check_call("Builder", "__init__", arguments, named)
        self._start(*arguments)
        return Checked(self._api, "Builder", Builder(self, *arguments, **named))

    def _start(self, logger: Any) -> None:
        """Fails as constructors do that cannot make anything."""
        if self._standin.unusable is not None:
            self._standin.fail(logger, self, self._standin.unusable)
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def OnnxParser(self, *arguments: Any, **named: Any) -> Any:  # noqa: N802
        self._api.check_call("OnnxParser", "__init__", arguments, named)
        return Checked(self._api, "OnnxParser", Parser(self, *map(bare, arguments), **named))

    def Runtime(self, *arguments: Any, **named: Any) -> Any:  # noqa: N802
        self._api.check_call("Runtime", "__init__", arguments, named)
        self._start(*arguments)
        standin = self._standin
        runtime = tensorrt_runtime.Runtime(self, standin, standin.find, *arguments, **named)
        return Checked(self._api, "Runtime", runtime)


class Builder:
    """A real builder that remembers what its plans are."""

    def __init__(self, module: Module, logger: Any) -> None:
        self._module, self._real = module, module._real.Builder(logger)
        self._profile: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_optimization_profile(self) -> Any:
        self._profile = self._real.create_optimization_profile()
        return self._profile

    def create_builder_config(self) -> Any:
        config = self._real.create_builder_config()
        return IBuilderConfig(config) if self._module._api.module == "tensorrt" else config

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        plain = isinstance(config, IBuilderConfig)
        plan = self._real.build_serialized_network(network, config.real if plain else config)
        if plan is None:
            return None
        if plain:  # which TensorRT chooses by the way and by what it timed, and TensorRT-RTX not
            way = repr(_way(network, config))
            timed = config.timed(way, len(self._module._standin.builds))
            plan = bytes(plan) + f"{way} {timed}".encode()
        self._remember(bytes(plan), network, config)
        return plan

    def _remember(self, plan: bytes, network: Any, config: Any) -> None:
        real, standin = self._module._real, self._module._standin
        rtx = self._module._api.module != "tensorrt"
        takes = _takes(network, self._profile)
        flag = getattr(real.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
        count = config.num_compute_capabilities if rtx else 0
        found = [config.get_compute_capability(index).name for index in range(count)]
        targets = tuple(
            standin.gpu.compute_capability if name == "CURRENT" else f"{name[2:-1]}.{name[-1]}"
            for name in found
        )
        standin.builds.append(str(takes))
        standin.graphs[hashlib.sha256(plan).hexdigest()] = Plan(
            graph=standin.parsed.pop(id(network)),
            takes=takes,
            targets=targets,
            gpu=None if rtx else standin.gpu,
            own_memory=rtx and not config.get_flag(flag),
            way=_way(network, config),
        )


class IBuilderConfig:
    """A configuration of TensorRT: a real one of TensorRT-RTX that keeps timings besides."""

    def __init__(self, real: Any) -> None:
        vars(self).update(real=real, cache=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        try:
            return ITimingCache(json.loads(serialized_timing_cache or b"{}"))
        except ValueError:
            return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        vars(self).update(cache=cache)
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        found: ITimingCache | None = self.cache
        return found

    def timed(self, way: str, now: int) -> int:
        """What timing kernels gives: what it gave before, where that is known."""
        return now if self.cache is None else int(self.cache.entries.setdefault(way, now))


class ITimingCache:
    """Timings as JSON."""

    def __init__(self, entries: dict[str, int]) -> None:
        self.entries = entries

    def serialize(self) -> IHostMemory:
        return IHostMemory(json.dumps(self.entries).encode())

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self.entries = {**input_cache.entries, **self.entries}
        return True


class IHostMemory:
    """A buffer of TensorRT."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __bytes__(self) -> bytes:
        return self.data


class Parser:
    """A real parser that remembers what it read."""

    def __init__(self, module: Module, network: Any, logger: Any) -> None:
        self._standin, self._network = module._standin, network
        self._real = module._real.OnnxParser(network, logger)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def parse(self, model: bytes, path: str | None = None) -> bool:
        self._standin.parsed[id(self._network)] = bytes(model)
        return bool(self._real.parse(model, path))


def _way(network: Any, config: Any) -> EngineOptions:
    """How a network is to be built, as the builder is told."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    tensors = [layer.get_output(index) for layer in layers for index in range(layer.num_outputs)]
    return EngineOptions(
        level=config.builder_optimization_level,
        tactics="plain" if config.get_tactic_sources() == 0 else "all",
        fusion=not any(network.is_debug_tensor(tensor) for tensor in tensors),
    )


def _takes(network: Any, profile: Any) -> EngineShape:
    """The sizes of the images that a network takes."""
    first = next(
        tensor
        for tensor in map(network.get_input, range(network.num_inputs))
        if tensor.name in ("rgb", "y")
    )
    shape = tuple(first.shape)
    shapes = [shape] * 3 if min(shape) > 0 else profile.get_shape(first.name)
    sizes = []
    for each in map(tuple, shapes):
        height, width = each[1:3] if first.name == "rgb" else each[2:]
        sizes.append(InputSize(width=width, height=height, batch=each[0]))
    return EngineShape(least=sizes[0], best=sizes[1], most=sizes[2])
