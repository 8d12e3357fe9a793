"""Helpers for the tests of TensorRT engines."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from srtrt.errors import ParityError
from srtrt.graph import load_graph
from srtrt.runtime.engines.build import build_engine
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.identity import EngineKey, engine_key
from srtrt.runtime.engines.key import EngineOptions, EngineShape
from srtrt.runtime.engines.record import BuiltEngine

RTX = FLAVOURS["tensorrt-rtx"]
SMALL = EngineShape.static(32, 24)
GPU = GpuFacts(
    name="NVIDIA Test",
    compute_capability="8.9",
    memory_bytes=8 << 30,
    driver="580.12",
    driver_cuda="13.0",
)
FIGURES = {"psnr_db": 71.5, "max_abs": 1, "equal": 0.99, "pictures": 3}


def small_key(graph: Path) -> EngineKey:
    """The key of a portable engine for 32x24 pixels."""
    return engine_key(load_graph(graph)[0], SMALL, EngineOptions(), flavour=RTX, gpu=None)


@cache
def small_engine(graph: Path) -> BuiltEngine:
    """The engine of that key, really built, once."""
    return build_engine(graph.read_bytes(), SMALL, flavour=RTX)


class Builder:
    """Gives out the small engine, and counts how often."""

    def __init__(self, graph: Path) -> None:
        self.engine, self.count = small_engine(graph), 0

    def __call__(self, _options: EngineOptions | None = None) -> BuiltEngine:
        self.count += 1
        return self.engine


def accept(_built: BuiltEngine) -> dict[str, Any]:
    return FIGURES


def refuse(_built: BuiltEngine) -> dict[str, Any]:
    raise ParityError("12.0 dB")


def never(_built: BuiltEngine) -> dict[str, Any]:
    raise AssertionError("an engine with figures was judged again")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
