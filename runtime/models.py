"""Finding a model: a bundled name, an exported graph, or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from onnx import ModelProto

from srtrt.errors import InputError, ModelError
from srtrt.graph import REDUCED_TYPES, dress, load_graph, to_typed
from srtrt.graph_check import check_model
from srtrt.graph_spec import read_spec
from srtrt.nearest import did_you_mean
from srtrt.paths import local_path
from srtrt.spec import PRECISIONS, Form, ModelSpec, Precision

_CALIBRATED: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions that no graph can be converted to without calibration; a bundled model may have a
second file for each, such as ``srresnet-int8.onnx``."""

_PYTORCH = (".pth", ".pt", ".ckpt", ".pkl", ".tar")
"""Endings of what ``torch.save`` writes."""


def weights_folder() -> Path:
    """Where the bundled models lie."""
    return Path(str(files("srtrt.weights")))


def bundled_models() -> list[str]:
    """Names of the bundled models, sorted."""
    endings = tuple(f"-{precision}" for precision in _CALIBRATED)
    names = (path.stem for path in weights_folder().glob("*.onnx"))
    return sorted(name for name in names if not name.endswith(endings))


@dataclass(frozen=True, eq=False)
class Model:
    """A model's files. A bundled model has a graph and may have the checkpoint it came from."""

    name: str
    graph_path: Path | None
    checkpoint_path: Path | None

    loaded: ModelProto | None = None
    """A graph that is in memory already."""

    calibrated_paths: Mapping[Precision, Path] = field(default_factory=dict)
    """Further graphs of the same model, by precision."""

    @classmethod
    def from_graph(cls, name: str, graph: ModelProto) -> Model:
        """A model that exists in memory only."""
        return cls(name, graph_path=None, checkpoint_path=None, loaded=graph)

    @cached_property
    def _graph(self) -> tuple[ModelProto, ModelSpec]:
        if self.loaded is not None:
            check_model(self.loaded, self.name)
            return self.loaded, read_spec(self.loaded, self.name)
        if self.graph_path is None:
            raise ModelError(
                f"{self.checkpoint_path}: a checkpoint runs on the torch backend only; "
                f"for the others make a graph first: srtrt export {self.checkpoint_path}"
            )
        return load_graph(self.graph_path)

    @property
    def spec(self) -> ModelSpec:
        """Facts of the graph.

        Raises:
            ModelError: if there is only a checkpoint.
        """
        return self._graph[1]

    def graph(self, form: Form, precision: Precision) -> ModelProto:
        """The graph in a form, typed for a precision.

        fp16 and bf16 are made from a float32 graph; int8 and fp8 are files of their own.

        Raises:
            ModelError: if the file holds another precision and cannot be converted.
        """
        model, spec = self._graph
        if precision != spec.precision and precision in self.calibrated_paths:
            model, spec = load_graph(self.calibrated_paths[precision])
        if spec.precision == "fp32" and precision in REDUCED_TYPES:
            typed = to_typed(model, spec, precision)
            # Typed first, as export does, so that both make the same graph and share engines.
            return dress(typed, spec.with_(precision=precision), form)
        if spec.precision == precision:
            return model if spec.form == form else dress(model, spec, form)
        raise ModelError(
            f"{self.graph_path or self.name} is {spec.precision} and cannot run as {precision}; "
            f"export the precision you want: srtrt export {spec.name} --precision {precision}"
        )


def find_model(name_or_file: str) -> Model:
    """Finds a bundled model by name, or a ``.onnx`` or ``.safetensors`` file.

    Raises:
        InputError: if there is neither.
    """
    folder = weights_folder()
    if name_or_file in bundled_models():
        checkpoint = folder / f"{name_or_file}.safetensors"
        return Model(
            name_or_file,
            folder / f"{name_or_file}.onnx",
            checkpoint if checkpoint.is_file() else None,
            calibrated_paths={
                precision: path
                for precision in _CALIBRATED
                if (path := folder / f"{name_or_file}-{precision}.onnx").is_file()
            },
        )
    path = local_path(name_or_file)
    if path.suffix in (".onnx", ".safetensors"):
        if not path.is_file():
            raise InputError(f"{path}: no such model file.")
        graph = path.suffix == ".onnx"
        return Model(path.stem, path if graph else None, None if graph else path)
    if path.suffix.lower() in _PYTORCH:
        raise InputError(
            f"{path}: a PyTorch file is a program (pickle) and is not opened. Export the "
            ".safetensors checkpoint that `srtrt train` wrote, and give the .onnx file: "
            "srtrt export run/generator.safetensors"
        )
    if os.path.lexists(path):
        raise InputError(
            f"{path}: expected an .onnx graph, or a .safetensors checkpoint written by "
            "`srtrt train`."
        )
    name, _, precision = name_or_file.rpartition("-")
    if name in bundled_models() and precision in PRECISIONS:
        raise InputError(
            f"model {name_or_file!r} is {name} in {precision}: "
            f"give --model {name} --precision {precision}."
        )
    raise InputError(
        f"model {name_or_file!r} is neither a bundled model ({', '.join(bundled_models())}) "
        f"nor an .onnx or .safetensors file.{did_you_mean(name_or_file, bundled_models())}"
    )
