"""Typed settings of a training run, read from YAML presets and ``--set section.key=value``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from srtrt.errors import InputError, UsageError
from srtrt.nearest import did_you_mean
from srtrt.networks.generator import GeneratorConfig
from srtrt.plain_data import DataError, shown
from srtrt.reading import read_plain
from srtrt.train.degrade import DegradationConfig
from srtrt.train.sections import (
    DataConfig,
    DiscriminatorConfig,
    LossConfig,
    RunConfig,
    ScheduleConfig,
    require,
)
from srtrt.train.yaml_data import MAX_YAML_BYTES, read_yaml

_LONGEST_KEY = 100


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of one run.

    Raises:
        UsageError: if a value is out of range; the message names the setting.
    """

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    degrade: DegradationConfig = field(default_factory=DegradationConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        adversarial = self.loss.adversarial_weight > 0
        if adversarial and self.discriminator.head == "dense":
            size = 4 * self.data.patch
            require(size % 16 == 0, "data.patch", self.data.patch, "a multiple of 4 (dense head)")
        parts = self.data.batch % self.schedule.accumulate == 0
        require(parts, "data.batch", self.data.batch, "a multiple of schedule.accumulate")

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values, section by section."""
        plain = asdict(self)
        return {
            section: {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
            for section, values in plain.items()
        }

    def to_yaml(self) -> str:
        """All settings as YAML that :func:`read_config` takes back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def with_settings(self, assignments: Sequence[str]) -> TrainConfig:
        """A copy changed by texts such as ``data.batch=8``.

        Raises:
            UsageError: if a key is unknown (the nearest one is named) or a value does not fit.
        """
        values = self.to_dict()
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            section, _, name = key.partition(".")
            if not equals:
                raise UsageError(f"--set {shown(assignment)}: expected key=value: data.batch=8.")
            if name not in values.get(section, {}):
                raise UsageError(f"--set {shown(assignment)}: {_unknown(key)}")
            try:
                values[section][name] = read_yaml(text)
            except DataError as error:
                raise UsageError(f"--set {shown(assignment)}: {error}.") from error
        return config_from_dict(values, source="--set")


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(p.name[:-5] for p in _presets().iterdir() if p.name.endswith(".yaml"))


def preset(name: str) -> TrainConfig:
    """A shipped preset.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in preset_names():
        raise UsageError(
            f"--preset {shown(name)}: unknown; expected one of {', '.join(preset_names())}."
            f"{did_you_mean(name, preset_names())}"
        )
    return _parse((_presets() / f"{name}.yaml").read_bytes(), f"preset {name}")


def read_config(path: Path) -> TrainConfig:
    """Settings from a YAML file; what it leaves out has the default value.

    Raises:
        InputError: if the file cannot be read as YAML.
        UsageError: if a key is unknown or a value does not fit.
    """
    text = read_plain(path, "settings in YAML", most=MAX_YAML_BYTES)
    return _parse(text, str(path))


def config_from_dict(values: Mapping[str, Any], *, source: str) -> TrainConfig:
    """Settings from nested plain values, such as :meth:`TrainConfig.to_dict` gives.

    Raises:
        UsageError: if a key is unknown (the nearest one is named) or a value does not fit.
    """
    sections = get_type_hints(TrainConfig)
    built: dict[str, Any] = {}
    for section, entries in values.items():
        if section not in sections:
            raise UsageError(f"{source}: {_unknown(section)}")
        if not isinstance(entries, Mapping):
            raise UsageError(
                f"{source}: {section} is {shown(entries)}; expected settings below it, such as "
                f"{next(iter(get_type_hints(sections[section])))}."
            )
        types = get_type_hints(sections[section])
        for name in entries:
            if name not in types:
                raise UsageError(f"{source}: {_unknown(f'{section}.{name}')}")
        checked = {
            name: _typed(value, types[name], f"{source}: {section}.{name}")
            for name, value in entries.items()
        }
        built[section] = sections[section](**checked)
    return TrainConfig(**built)


def _presets() -> Any:
    return files("srtrt.train") / "presets"


def _parse(text: bytes, source: str) -> TrainConfig:
    try:
        values = read_yaml(text)
    except DataError as error:
        raise InputError(f"{source}: cannot be read as settings: {error}.") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f"{source}: expected sections such as 'data:' with settings below them.")
    return config_from_dict(values, source=source)


def _known_keys() -> list[str]:
    sections = get_type_hints(TrainConfig)
    assert all(is_dataclass(section) for section in sections.values())
    return [f"{name}.{f.name}" for name, section in sections.items() for f in fields(section)]


def _unknown(key: str) -> str:
    """Says that a key is unknown and names the nearest: by its whole name or its last part."""
    key, known = key[:_LONGEST_KEY], _known_keys()
    by_leaf = {k.partition(".")[2]: k for k in reversed(known)}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    leaf = difflib.get_close_matches(key.rpartition(".")[2], by_leaf, n=1)
    guess = near[0] if near else by_leaf[leaf[0]] if leaf else None
    section = [k for k in known if k.startswith(f"{key.partition('.')[0]}.")]
    names = section or [f"{name}.*" for name in get_type_hints(TrainConfig)]
    hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(names)}."
    return f"unknown setting {key!r}; {hint}"


def _typed(value: Any, wanted: Any, name: str) -> Any:
    """The value as the field's type; whole numbers serve as numbers, lists as tuples."""
    if get_origin(wanted) is Literal:
        # YAML reads a bare on or off as a truth value.
        text = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
        require(text in get_args(wanted), name, value, f"one of {', '.join(get_args(wanted))}")
        return text
    if get_origin(wanted) is tuple:
        require(isinstance(value, (list, tuple)), name, value, "a list such as [0.5, 0.8]")
        return tuple(_typed(v, get_args(wanted)[0], name) for v in value)
    if wanted is float and isinstance(value, str):
        # YAML reads 1e-4, without a point, as text.
        try:
            value = float(value)
        except ValueError:
            require(False, name, value, "a number")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    require(fits and (wanted is not float or math.isfinite(value)), name, value, words[wanted])
    return value
