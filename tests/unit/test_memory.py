"""How much memory of a GPU may be taken, asked of the driver."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from srtrt.runtime.memory import MEMORY_VARIABLE, memory_limit

FREE = (6 << 30, 40 << 30)
CALLS = (
    "cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemGetInfo_v2"
)  # fmt: skip
UNDONE_BY = {
    "cuDevicePrimaryCtxRetain": "cuDevicePrimaryCtxRelease_v2",
    "cuCtxPushCurrent_v2": "cuCtxPopCurrent_v2",
}


class Driver:
    """Two GPUs; keeps the contexts of a thread as the driver does."""

    def __init__(self, failing: str | None = None) -> None:
        self.failing = failing
        self.made: list[str] = []
        self.contexts = ["that of the caller"]

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == self.failing:
                return 999
            self.made.append(name)
            if name == "cuDeviceGet":
                arguments[0]._obj.value = 100 + arguments[1]
            elif name == "cuDevicePrimaryCtxRetain":
                arguments[0]._obj.value = arguments[1].value
            elif name == "cuCtxPushCurrent_v2":
                self.contexts.append(str(arguments[0].value))
            elif name == "cuCtxPopCurrent_v2":
                self.contexts.pop()
            elif name == "cuMemGetInfo_v2":
                arguments[0]._obj.value = FREE[int(self.contexts[-1]) - 100]
            return 0

        return call


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MEMORY_VARIABLE, raising=False)


def use(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)


@pytest.mark.parametrize(("device", "index"), [("cuda:0", 0), ("cuda:1", 1), ("cuda", 0)])
def test_the_gpu_that_computes_is_asked(
    device: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver()
    use(driver, monkeypatch)
    assert memory_limit(device) == FREE[index] // 2
    assert driver.contexts == ["that of the caller"]
    assert driver.made[-2:] == ["cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"]


@pytest.mark.parametrize("failing", CALLS)
def test_a_driver_that_fails_keeps_the_context_of_the_caller(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(failing)
    use(driver, monkeypatch)
    assert memory_limit("cuda:1") == 2 << 30
    assert driver.contexts == ["that of the caller"]
    for made, undone in UNDONE_BY.items():
        assert driver.made.count(made) == driver.made.count(undone)


def test_without_a_driver_little_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert memory_limit("cuda:0") == 2 << 30
