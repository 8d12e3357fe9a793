"""ModelSpec: the facts that travel with every checkpoint, graph and engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from srtrt.errors import ModelError

Form = Literal["float", "rgb8", "yuv420p8"]
"""What an artifact takes and returns; see :mod:`srtrt.forms`."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
"""Arithmetic of the network; input and output are integers in every exported form."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""All of them, for whoever offers a choice."""

SPEC_KEY = "srtrt.spec"
"""Metadata key under which the JSON of a spec is stored."""

_KINDS: dict[str, type] = {"int": int, "Mapping": Mapping}
_KIND_NAMES = {int: "a whole number", Mapping: "a table of names and values", str: "text"}
"""Kinds of fields by how they are annotated, and what people call them."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Facts about one artifact.

    Raises:
        ModelError: if a value is not one of those allowed.
    """

    name: str
    """Short name, such as ``srresnet``."""
    architecture: str = "srgan-generator"
    """Family of the network; selects the class that rebuilds it."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of the network, as its configuration class writes them."""
    scale: int = 4
    """Enlargement in each direction."""
    colour_order: str = "RGB"
    """Order of the channels inside the network."""
    value_range: str = "0..1"
    """Range of the network's own float input; integer forms map 0..255 onto it."""
    form: Form = "float"
    """Input and output form of this artifact."""
    precision: Precision = "fp32"
    """Arithmetic of this artifact."""
    receptive_radius: int
    """How far an output pixel sees, in LR pixels."""
    weights_sha256: str
    """SHA-256 of the trained tensors this artifact was made from."""
    rewrites: int = 0
    """Version of the rewrites in a graph, see :mod:`srtrt.networks.rewrites`; 0 without any."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained: data, steps, machine, commit."""
    quality: Mapping[str, Any] = field(default_factory=dict)
    """Measured quality, for example PSNR in dB by benchmark set."""

    def __post_init__(self) -> None:
        self._require_types()
        if self.form not in get_args(Form):
            raise ModelError(f"form is {self.form!r}; expected one of {', '.join(get_args(Form))}.")
        if self.precision not in PRECISIONS:
            expected = ", ".join(PRECISIONS)
            raise ModelError(f"precision is {self.precision!r}; expected one of {expected}.")
        if self.scale < 1 or self.receptive_radius < 0:
            raise ModelError(
                f"scale {self.scale} and receptive radius {self.receptive_radius} are impossible."
            )

    def _require_types(self) -> None:
        """Refuses values of another kind, as a file may hold them; see the fields."""
        for each in fields(self):
            value, kind = getattr(self, each.name), _KINDS.get(str(each.type).split("[")[0], str)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ModelError(f"{each.name} is {value!r}; expected {_KIND_NAMES[kind]}.")
        features = self.config.get("features", 1)
        if not isinstance(features, int) or features < 1:
            raise ModelError(f"config has features {features!r}; expected a whole number above 0.")

    def to_json(self) -> str:
        """The spec as one line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> ModelSpec:
        """Reads what :meth:`to_json` wrote.

        Args:
            text: the JSON.
            source: the file it came from, for messages.

        Raises:
            ModelError: if the text is not a spec.
        """
        try:
            values = json.loads(text)
            known = {f.name for f in fields(cls)}
            unknown = sorted(set(values) - known)
            if unknown:
                raise ModelError(f"unknown field {unknown[0]!r}.")
            return cls(**values)
        except ModelError as error:
            raise ModelError(f"{source}: its spec is wrong: {error}") from error
        except (ValueError, TypeError) as error:
            raise ModelError(f"{source}: its spec is unreadable ({error}).") from error

    def with_(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed."""
        return replace(self, **changes)
