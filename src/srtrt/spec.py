"""ModelSpec: the facts that travel with every checkpoint, graph and engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from srtrt.errors import ModelError
from srtrt.plain_data import DataError, read_json_object, shown

Form = Literal["float", "rgb8", "yuv420p8"]
"""What an artifact takes and returns; see :mod:`srtrt.forms`."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
"""Arithmetic of the network; input and output are integers in every exported form."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""All of them, for whoever offers a choice."""

SPEC_KEY = "srtrt.spec"
"""Metadata key under which the JSON of a spec is stored."""

MAX_SPEC_BYTES = 1 << 22
"""Longest JSON of a spec that is read."""

_LONGEST_TEXT = 256
UNBOUNDED = 1 << 16
"""Receptive radius of a network of which it cannot be told; no tile is so large."""

_LARGEST_SCALE, _MOST_FEATURES = 64, 1 << 16
"""Limits beyond what any network has whose pictures fit into memory."""

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
    """How far an output pixel sees, in LR pixels; :data:`UNBOUNDED` if that cannot be told."""
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
            raise ModelError(
                f"form is {shown(self.form)}; expected one of {', '.join(get_args(Form))}."
            )
        if self.precision not in PRECISIONS:
            expected = ", ".join(PRECISIONS)
            raise ModelError(f"precision is {shown(self.precision)}; expected one of {expected}.")
        if not (1 <= self.scale <= _LARGEST_SCALE and 0 <= self.receptive_radius <= UNBOUNDED):
            raise ModelError(
                f"scale {self.scale} and receptive radius {self.receptive_radius} are impossible."
            )

    def _require_types(self) -> None:
        """Refuses values of another kind, as a file may hold them; see the fields."""
        for each in fields(self):
            value, kind = getattr(self, each.name), _KINDS.get(str(each.type).split("[")[0], str)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ModelError(f"{each.name} is {shown(value)}; expected {_KIND_NAMES[kind]}.")
            if isinstance(value, str) and not (
                value.isprintable() and 0 < len(value) <= _LONGEST_TEXT
            ):
                raise ModelError(
                    f"{each.name} is {shown(value)}; expected 1 to {_LONGEST_TEXT} characters "
                    "that can be printed."
                )
        features = self.config.get("features", 1)
        if type(features) is not int or not 1 <= features <= _MOST_FEATURES:
            raise ModelError(
                f"config has features {shown(features)}; expected a whole number from 1 to "
                f"{_MOST_FEATURES}."
            )

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
            return cls.from_values(read_json_object(text, most=MAX_SPEC_BYTES))
        except ModelError as error:
            raise ModelError(f"{source}: its spec is wrong: {error}") from error
        except DataError as error:
            raise ModelError(f"{source}: its spec is unreadable: {error}.") from error

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The spec of the values that a file holds.

        Raises:
            ModelError: if a field is unknown or missing, or a value is not one of those allowed.
        """
        known = {f.name: f for f in fields(cls)}
        for name in values:
            if name not in known:
                raise ModelError(f"unknown field {shown(name)}.")
        for name, each in known.items():
            if name not in values and each.default is MISSING and each.default_factory is MISSING:
                raise ModelError(f"the field {name!r} is missing.")
        return cls(**values)

    def with_(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed."""
        return replace(self, **changes)
