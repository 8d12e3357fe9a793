"""Finding a model: a bundled name, an exported graph, or a checkpoint."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from onnx import ModelProto

from srtrt.errors import InputError, ModelError
from srtrt.graph import dress, load_graph, read_spec, to_half
from srtrt.spec import Form, ModelSpec, Precision


def weights_folder() -> Path:
    """Where the bundled models lie."""
    return Path(str(files("srtrt.weights")))


def bundled_models() -> list[str]:
    """Names of the bundled models, sorted."""
    return sorted(path.stem for path in weights_folder().glob("*.onnx"))


@dataclass(frozen=True, eq=False)
class Model:
    """A model's files. A bundled model has a graph and may have the checkpoint it came from."""

    name: str
    graph_path: Path | None
    checkpoint_path: Path | None

    loaded: ModelProto | None = None
    """A graph that is in memory already."""

    @classmethod
    def from_graph(cls, name: str, graph: ModelProto) -> Model:
        """A model that exists in memory only."""
        return cls(name, graph_path=None, checkpoint_path=None, loaded=graph)

    @cached_property
    def _graph(self) -> tuple[ModelProto, ModelSpec]:
        if self.loaded is not None:
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

        fp32 and bf16 are the float32 graph (an engine computes it in bfloat16 when asked to).

        Raises:
            ModelError: if the file holds another precision and cannot be converted.
        """
        model, spec = self._graph
        if spec.form != form:
            model = dress(model, spec, form)
            spec = spec.with_(form=form)
        if precision == "fp16" and spec.precision == "fp32":
            return to_half(model, spec)
        if spec.precision == precision or (spec.precision, precision) == ("fp32", "bf16"):
            return model
        raise ModelError(
            f"{self.graph_path} is {spec.precision} and cannot run as {precision}; "
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
        )
    path = Path(name_or_file)
    if path.suffix in (".onnx", ".safetensors"):
        if not path.is_file():
            raise InputError(f"{path}: no such model file.")
        graph = path.suffix == ".onnx"
        return Model(path.stem, path if graph else None, None if graph else path)
    near = difflib.get_close_matches(name_or_file, bundled_models(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"model {name_or_file!r} is neither a bundled model ({', '.join(bundled_models())}) "
        f"nor an .onnx or .safetensors file.{hint}"
    )
