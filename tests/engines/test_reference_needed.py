"""What an engine is to be compared with must be there before it is built."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorrt_standin import StandIn

from srtrt import packages
from srtrt.errors import PackageError
from srtrt.runtime.backends.tensorrt import TensorRtBackend, TensorRtOptions
from srtrt.runtime.models import find_model


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (set(), "comparing an engine with the graph it is built from needs ONNX Runtime"),
        ({"onnxruntime", "onnxruntime-gpu"}, "overwrite each other's files"),
    ],
)
def test_nothing_is_built_without_a_reference(
    there: set[str],
    said: str,
    standin: StandIn,
    tiny_graphs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = find_model(str(tiny_graphs["rgb8-fp32"]))

    def opened() -> TensorRtBackend:
        options = TensorRtOptions(cache_folder=tmp_path)
        return TensorRtBackend(
            model, form="rgb8", device="cuda:0", precision="fp32", options=options
        )

    plain = packages.installed
    with monkeypatch.context() as patch:
        names = ("onnxruntime", "onnxruntime-gpu")
        patch.setattr(
            packages,
            "installed",
            lambda name: ("1.31.1" if name in there else None) if name in names else plain(name),
        )
        patch.setattr(packages, "find_spec", lambda _: None)
        with opened() as backend, pytest.raises(PackageError, match=said) as caught:
            backend.prepare(32, 24)
        assert "pip " in str(caught.value)
        assert standin.builds == []
        assert not list(tmp_path.glob("*.engine"))
    with opened() as backend:
        backend.prepare(32, 24)
    assert standin.builds == ["32x24"]
    # One that was compared already needs nothing more.
    monkeypatch.setattr(packages, "installed", lambda _: None)
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with opened() as backend:
        backend.prepare(32, 24)
    assert standin.builds == ["32x24"]
