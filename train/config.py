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
from srtrt.train.yaml_data import MAX_YAML_BYTES, read_yaml

_LONGEST_KEY = 100


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise UsageError(f"{name} is {shown(value)}; expected {expected}.")


def _require_within(name: str, value: int, least: int, most: int) -> None:
    _require(least <= value <= most, name, value, f"{least} to {most}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a batch is made of."""

    mode: Literal["patches", "whole"] = "patches"
    """``patches``: random crops of full pictures, flipped, rotated, rescaled; ``whole``: each
    picture resized to 4 x ``patch`` pixels square with OpenCV's bicubic, in shuffled epochs."""
    batch: int = 16
    """Patches per update, over all processes and accumulation steps together."""
    patch: int = 24
    """Side of the LR patch in pixels; the HR patch is four times as large."""
    rescale: float = 0.5
    """Smallest scale to which HR is reduced before cropping, drawn for each batch from here to 1;
    1 never reduces. Reduced pictures are sharper and show more in one patch."""
    recolour: float = 0.2
    """Share of the patches whose channels are each mapped to a random range. Photographs hold few
    saturated colours, and the network shifts colours that it never saw."""
    degradation: Literal["bicubic", "video"] = "bicubic"
    """How LR is made of HR: ``bicubic``, antialiased; ``video``: see the degrade section."""

    def __post_init__(self) -> None:
        _require_within("data.batch", self.batch, 1, 1 << 16)
        _require_within("data.patch", self.patch, 4, 1 << 12)
        _require(0.1 <= self.rescale <= 1, "data.rescale", self.rescale, "0.1 to 1")
        _require(0 <= self.recolour <= 1, "data.recolour", self.recolour, "a share from 0 to 1")
        plain = self.degradation == "bicubic" or self.mode == "patches"
        _require(plain, "data.degradation", self.degradation, "'bicubic' with data.mode whole")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the generator is trained for: a weighted sum."""

    pixel: Literal["l1", "mse"] = "l1"
    """Distance of RGB in 0..1."""
    pixel_weight: float = 1.0
    """Weight of the pixel distance; 0 leaves it out."""
    content_weight: float = 0.0
    """Weight of the mean squared difference of VGG19 features; 0 leaves it out."""
    content_layer: str = "block3_conv3"
    """Layer of VGG19, in Keras' names, after its ReLU."""
    adversarial_weight: float = 0.0
    """Weight of the adversarial loss; 0 trains without a discriminator."""
    adversarial: Literal["plain", "relativistic"] = "plain"
    """``plain``: binary cross-entropy of each picture; ``relativistic``: of its difference to the
    mean of the other kind (Jolicoeur-Martineau, 2018)."""

    def __post_init__(self) -> None:
        weights = (self.pixel_weight, self.content_weight, self.adversarial_weight)
        _require(min(weights) >= 0, "a weight in loss", min(weights), "0 or more")
        _require(max(weights[:2]) > 0, "loss.pixel_weight", 0, "more than 0, or a content weight")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The discriminator, used when loss.adversarial_weight is above 0."""

    head: Literal["dense", "patch"] = "patch"
    """``dense``: the report's two dense layers, for one patch size, a multiple of 16; ``patch``:
    convolutions that judge every region, for any size."""
    features: int = 64
    """Channels of its first convolutions; the last have eight times as many."""
    learning_rate: float = 1e-4
    """Highest learning rate of its Adam."""
    label_noise: float = 0.0
    """Labels of real pictures are drawn from 1 - this to 1 (one-sided label smoothing)."""

    def __post_init__(self) -> None:
        _require_within("discriminator.features", self.features, 4, 1 << 12)
        _check_rate("discriminator.learning_rate", self.learning_rate)
        noise = self.label_noise
        _require(0 <= noise < 1, "discriminator.label_noise", noise, "0 or more and below 1")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long, and with which steps."""

    unit: Literal["steps", "epochs"] = "steps"
    """What ``length`` and every ``run.*_every`` count: updates, or passes over the pictures."""
    length: int = 1_000_000
    """The whole run."""
    learning_rate: float = 2e-4
    """Highest learning rate of the generator's Adam."""
    warmup_steps: int = 100
    """Updates over which the learning rates rise linearly from zero."""
    decay: Literal["cosine", "halves", "constant"] = "cosine"
    """``cosine``: half a cosine down to zero; ``halves``: halved at each of ``halve_at``."""
    halve_at: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)
    """Shares of the run at which the learning rate is halved."""
    ema_decay: float = 0.999
    """Decay per update of the averaged weights, the ones that are kept."""
    accumulate: int = 1
    """Parts into which a batch is cut to save memory; BatchNorm sees one part at a time."""

    def __post_init__(self) -> None:
        _require_within("schedule.length", self.length, 1, 1_000_000_000)
        _check_rate("schedule.learning_rate", self.learning_rate)
        _require(self.warmup_steps >= 0, "schedule.warmup_steps", self.warmup_steps, "0 or more")
        inside = all(0 < share < 1 for share in self.halve_at)
        _require(inside, "schedule.halve_at", self.halve_at, "shares between 0 and 1")
        decay = self.ema_decay
        _require(0 <= decay < 1, "schedule.ema_decay", decay, "0 or more and below 1")
        _require(self.accumulate >= 1, "schedule.accumulate", self.accumulate, "at least 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Saving, looking and arithmetic."""

    seed: int = 0
    """Seed of the initial weights and of every batch."""
    log_every: int = 100
    """Distance of two lines of the log."""
    validate_every: int = 1000
    """Distance of two validations; 0 validates only at the end."""
    save_every: int = 500
    """Distance of two saved states."""
    sample_every: int = 1000
    """Distance of two sample grids and redrawn plots; 0 draws them only at the end."""
    keep: int = 2
    """Saved states to keep; the averaged weights with the best validation PSNR stay, too."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the networks' forward and backward passes; losses and weights are fp32.
    ``auto`` is bf16 where the processor or GPU is fast in it, and stays what it was when a run is
    resumed elsewhere; the run folder's settings say which it is."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the networks; ``auto`` does it on CUDA, unless ``deterministic``."""
    deterministic: bool = False
    """On CUDA, lets a run that is repeated or resumed on the same kind of GPU, with the same
    versions and number of processes, end with the same weights, bit for bit; slower, and not
    compiled, as compiled kernels are chosen by measuring. The CPU does so anyway."""
    explosion: float = 10.0
    """The run stops when the generator's loss exceeds its lowest logged value this many times."""

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every", "keep"):
            _require(getattr(self, name) >= 1, f"run.{name}", getattr(self, name), "at least 1")
        for name in ("validate_every", "sample_every"):
            _require(getattr(self, name) >= 0, f"run.{name}", getattr(self, name), "0 or more")
        fixed = not (self.deterministic and self.compile == "on")
        _require(fixed, "run.compile", self.compile, "auto or off with run.deterministic")
        _require(self.explosion > 1, "run.explosion", self.explosion, "more than 1")


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
            _require(size % 16 == 0, "data.patch", self.data.patch, "a multiple of 4 (dense head)")
        parts = self.data.batch % self.schedule.accumulate == 0
        _require(parts, "data.batch", self.data.batch, "a multiple of schedule.accumulate")

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
        _require(text in get_args(wanted), name, value, f"one of {', '.join(get_args(wanted))}")
        return text
    if get_origin(wanted) is tuple:
        _require(isinstance(value, (list, tuple)), name, value, "a list such as [0.5, 0.8]")
        return tuple(_typed(v, get_args(wanted)[0], name) for v in value)
    if wanted is float and isinstance(value, str):
        # YAML reads 1e-4, without a point, as text.
        try:
            value = float(value)
        except ValueError:
            _require(False, name, value, "a number")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    _require(fits and (wanted is not float or math.isfinite(value)), name, value, words[wanted])
    return value


def _check_rate(name: str, value: float) -> None:
    _require(0 < value < 1, name, value, "a learning rate between 0 and 1")
