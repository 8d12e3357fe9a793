"""A GPU in host memory for the rings of backends, with threads for streams."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from srtrt.runtime.cuda.device import Stream
from srtrt.runtime.cuda.plain import PlainDevice


class HostDevice(PlainDevice):
    """A device whose streams must outlive what computes on them."""

    def __init__(self, in_use: Callable[[], set[int]]) -> None:
        super().__init__()
        self.in_use = in_use

    def stream(self) -> Stream:
        stream = super().stream()
        close = stream.close

        def checked() -> None:
            assert stream.handle not in self.in_use(), "something outlives its stream"
            close()

        stream.close = checked  # type: ignore[method-assign]
        return stream


def install(monkeypatch: pytest.MonkeyPatch, in_use: Callable[[], set[int]]) -> HostDevice:
    """Makes it the GPU that rings open.

    Args:
        monkeypatch: undoes it.
        in_use: the handles of streams that must not be closed.
    """
    opened = HostDevice(in_use)
    monkeypatch.setattr("srtrt.runtime.rings.open_device", lambda _device: opened)
    monkeypatch.setattr("srtrt.runtime.rings.installed_binding", lambda: "cuda-python")
    return opened
