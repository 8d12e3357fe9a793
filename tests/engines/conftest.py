"""What the tests of engines share; all of them build engines with TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engine_support import Builder, small_key

from srtrt.runtime.engines.cache import EngineCache
from srtrt.runtime.engines.identity import EngineKey

if TYPE_CHECKING:
    from tensorrt_standin import StandIn


@pytest.fixture(autouse=True)
def builder_is_installed(request: pytest.FixtureRequest) -> None:
    """Tests on a GPU say themselves which product they need."""
    if request.node.get_closest_marker("gpu") is None:
        pytest.importorskip(
            "tensorrt_rtx", reason="needs tensorrt-rtx to build engines: pip install '.[rtx]'"
        )


@pytest.fixture
def graph(tiny_graphs: dict[str, Path]) -> Path:
    return tiny_graphs["rgb8-fp32"]


@pytest.fixture
def key(graph: Path) -> EngineKey:
    return small_key(graph)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def user_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EngineCache:
    """The one that commands use, empty."""
    monkeypatch.setenv("SRTRT_CACHE", str(tmp_path / "cache"))
    return EngineCache()


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[StandIn]:
    """TensorRT on a GPU, as far as tests need it; it computes with ONNX Runtime.

    A parameter names what is installed. What the stand-in calls undefined fails the test.
    """
    pytest.importorskip("onnxruntime")
    from tensorrt_standin import install

    packages = getattr(request, "param", ())
    made = install(monkeypatch, *([packages] if isinstance(packages, str) else packages))
    yield made
    assert made.violations == []


@pytest.fixture
def build(graph: Path) -> Builder:
    return Builder(graph)
