"""What is replaced in a child before a command runs, where it would take long or need a GPU."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from fuzz.case import Case


def install(names: tuple[str, ...], case: Case) -> None:
    for name in names:
        _INSTALL[name](case)


def _session(_: Case) -> None:
    """Nearest-neighbour enlargement in place of the network."""
    from video_clips import NearestSession

    import srtrt.runtime.session as sessions

    class Nearest(NearestSession):
        model = "nearest"

        def close(self) -> None:
            pass

    sessions.open_session = Nearest  # type: ignore[assignment, misc]


def _steps(_: Case) -> None:
    """Training that has reached its end: everything has been read before."""
    from srtrt.train.loop import Trainer, TrainingResult

    def run(trainer: Trainer, **_: Any) -> TrainingResult:
        return TrainingResult(
            checkpoint=Path("none"), steps=trainer.step, finished=True, psnr=trainer._psnr
        )

    Trainer.run = run  # type: ignore[method-assign, assignment]


def _exporter(_: Case) -> None:
    """No graph is made of a checkpoint that was read: PyTorch's exporter takes seconds."""
    import torch.onnx

    from srtrt.errors import ModelError

    def stop(*_: Any, **__: Any) -> None:
        raise ModelError("the checkpoint was read.")

    torch.onnx.export = stop  # type: ignore[assignment]


def _verdict(_: Case) -> None:
    """Measuring a reduced precision finds that it is exact."""
    from srtrt.runtime import verified
    from srtrt.runtime.parity import Parity

    figures = Parity(psnr_db=90.0, max_abs=1, equal=0.99, pictures=3)
    verified._measure = lambda _: (figures, "its graph in fp32 on onnxruntime")


def _tensorrt(case: Case) -> None:
    """TensorRT-RTX on a GPU, with ONNX Runtime in place of what computes engines."""
    import tensorrt_standin
    from tensorrt_runtime import Plan

    from srtrt.runtime.engines import provide
    from srtrt.runtime.engines.key import EngineShape
    from srtrt.runtime.engines.record import BuiltEngine

    class Patch:
        def setattr(self, target: Any, name: Any, value: Any = None) -> None:
            if isinstance(target, str):
                import importlib

                module, _, attribute = target.rpartition(".")
                setattr(importlib.import_module(module), attribute, name)
            else:
                setattr(target, name, value)

    standin = tensorrt_standin.install(Patch())  # type: ignore[arg-type]
    graph = (case.corpus.folder / "onnx" / "tiny-rgb8-fp32.onnx").read_bytes()
    for number, side in ((0, 32), (1, 64)):
        plan = hashlib.sha256(bytes([number]) * 5000).hexdigest()
        standin.graphs[plan] = Plan(graph, EngineShape.static(side, 24))

    def build(graph: bytes, shape: EngineShape, *_: Any, **__: Any) -> BuiltEngine:
        from onnx import ModelProto

        from srtrt.graph_spec import read_spec

        plan = hashlib.sha256(graph).digest() * 100
        standin.graphs[hashlib.sha256(plan).hexdigest()] = Plan(graph, shape)
        spec = read_spec(ModelProto.FromString(graph), "graph")
        return BuiltEngine(plan=plan, spec=spec, facts={"shape": str(shape), "level": 3})

    provide.build_engine = build  # type: ignore[assignment]


_INSTALL = {
    "session": _session,
    "steps": _steps,
    "exporter": _exporter,
    "verdict": _verdict,
    "tensorrt": _tensorrt,
}
