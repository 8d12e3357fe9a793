"""One update: the discriminator first, where there is one, then the generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrt.networks.generator import Generator
from srtrt.networks.rewrites import forward_with_folded_tail
from srtrt.train.config import TrainConfig
from srtrt.train.data import Batch
from srtrt.train.distributed import World, join_batchnorm
from srtrt.train.sections import in_last_share

Losses = dict[str, Tensor]


def learning_rate(config: TrainConfig, highest: float, step: int, steps: int) -> float:
    """Linear warm-up, then the schedule's decay.

    ``cosine`` is half a cosine down to zero (Loshchilov and Hutter, "SGDR", 2017); ``tail`` stays
    constant, so that a run can be cut anywhere, until it falls linearly to zero.
    """
    schedule = config.schedule
    rate = highest * min(1.0, (step + 1) / max(1, schedule.warmup_steps))
    if schedule.decay == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * step / steps))
    if schedule.decay == "halves":
        return rate * 0.5 ** sum(step >= share * steps for share in schedule.halve_at)
    if schedule.decay == "tail":
        return rate * min(1.0, (steps - step) / max(1.0, schedule.tail * steps))
    return rate


Mean = Callable[[Tensor], Tensor]
"""Mean of the logits of all pictures, those of other processes too."""


def discriminator_loss(
    real: Tensor, fake: Tensor, *, labels: Tensor, relative_to: Mean | None
) -> Tensor:
    """Binary cross-entropy of logits ``[N, ...]`` of real and generated pictures, mean of both.

    Plain: real against ``labels`` ``[N]`` near 1, generated against 0 (Goodfellow et al., 2014).
    With ``relative_to``: each against the mean of the other kind (Jolicoeur-Martineau, "The
    relativistic discriminator", 2018, equations 16 and 17).
    """
    if relative_to is not None:
        real, fake = real - relative_to(fake), fake - relative_to(real)
    loss = functional.binary_cross_entropy_with_logits
    wanted = labels.view(-1, *[1] * (real.dim() - 1)).expand_as(real)
    return 0.5 * (loss(real, wanted) + loss(fake, torch.zeros_like(fake)))


def adversarial_loss(real: Tensor | None, fake: Tensor, *, relative_to: Mean | None) -> Tensor:
    """What the generator wants: generated pictures judged real.

    With ``real`` and ``relative_to`` the loss is relativistic, and wants real judged less so too.
    """
    loss = functional.binary_cross_entropy_with_logits
    if real is None or relative_to is None:
        return loss(fake, torch.ones_like(fake))
    ours, theirs = fake - relative_to(real), real - relative_to(fake)
    return 0.5 * (loss(ours, torch.ones_like(ours)) + loss(theirs, torch.zeros_like(theirs)))


class Update:
    """The networks of a run with their optimisers, and what one step does to them.

    ``content`` gives the features of a picture or, where the settings say ``lpips``, the distance
    ``[N]`` of two pictures.

    Attributes:
        networks: ``generator`` and, in an adversarial run, ``discriminator``.
        optimisers: the Adam of each, by the same names.
        config: the settings, with ``run.precision`` decided.
    """

    def __init__(
        self,
        config: TrainConfig,
        generator: Generator,
        discriminator: nn.Module | None,
        content: nn.Module | None,
        *,
        device: torch.device,
        world: World,
    ) -> None:
        assert config.run.precision != "auto", "decided by Arithmetic.choose"
        self.config, self.device, self.world = config, device, world
        self.networks: dict[str, nn.Module] = {"generator": generator}
        if discriminator is not None:
            self.networks["discriminator"] = discriminator
        for net in self.networks.values():
            if world.size > 1:
                join_batchnorm(net)
            # Module.to accepts a memory format, which its annotations leave out.
            net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.highest = {
            "generator": config.schedule.learning_rate,
            "discriminator": config.discriminator.learning_rate,
        }
        self.optimisers = {
            name: torch.optim.Adam(net.parameters(), lr=self.highest[name])
            for name, net in self.networks.items()
        }
        if content is not None:
            content.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        relativistic = config.loss.adversarial == "relativistic"
        self._relative_to = world.joined_mean if relativistic else None
        self._generate = self._compiled(lambda x: forward_with_folded_tail(generator, x))
        self._judge = self._compiled(discriminator)
        self._content = self._compiled(content)

    def _compiled(self, function: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        """The function under autocast, compiled where the settings say so; float32 results."""
        run_config = self.config.run
        wanted = run_config.compile
        by_default = self.device.type == "cuda" and not run_config.deterministic
        if function is not None and (wanted == "on" or (wanted == "auto" and by_default)):
            function = torch.compile(function, dynamic=False)

        def run(*pictures: Tensor) -> Tensor:
            assert function is not None
            pictures = tuple(p.contiguous(memory_format=torch.channels_last) for p in pictures)
            bf16 = self.config.run.precision == "bf16"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                return function(*pictures).float()

        return run

    def __call__(self, batch: Batch, step: int, steps: int) -> Losses:
        """Updates the networks with this process's share of a batch.

        Returns:
            The losses by name, detached scalars on the device: ``generator`` (the weighted sum),
            its parts, and ``discriminator``.
        """
        for name, net in self.networks.items():
            net.train()
            for group in self.optimisers[name].param_groups:
                group["lr"] = learning_rate(self.config, self.highest[name], step, steps)
        if in_last_share(self.config.schedule.freeze_batchnorm_share, step, steps):
            freeze_batchnorm(self.networks["generator"])
        late = in_last_share(self.config.loss.final_mse_share, step, steps)
        parts = batch.parts(self.config.schedule.accumulate)
        totals: Losses = {}
        output: Tensor | None = None
        if "discriminator" in self.networks:
            labels = self._labels(step).chunk(len(parts))
            for part, label in zip(parts, labels, strict=True):
                # One part's output serves both networks; several are made again to save memory.
                with torch.set_grad_enabled(len(parts) == 1):
                    output = self._generate(part.lr)
                loss = self._discriminator_loss(part, output, label)
                (loss / len(parts)).backward()  # type: ignore[no-untyped-call]
                _add(totals, {"discriminator": loss}, len(parts))
            self._apply("discriminator")
        for part in parts:
            if output is None or len(parts) > 1:
                output = self._generate(part.lr)
            losses = self._generator_losses(part, output, late=late)
            (losses["generator"] / len(parts)).backward()  # type: ignore[no-untyped-call]
            _add(totals, losses, len(parts))
        self._apply("generator")
        return totals

    def _apply(self, name: str) -> None:
        self.world.mean_gradients(self.networks[name].parameters())
        self.optimisers[name].step()
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)

    def _labels(self, step: int) -> Tensor:
        """Labels of this process's real pictures of one step, from 1 - label_noise to 1."""
        draws = torch.Generator().manual_seed(self.config.run.seed * 1_000_003 + step)
        noise = torch.rand(self.config.data.batch, generator=draws)
        share = self.world.share(self.config.data.batch)
        return (1 - self.config.discriminator.label_noise * noise[share]).to(self.device)

    def _discriminator_loss(self, batch: Batch, output: Tensor, labels: Tensor) -> Tensor:
        real, fake = self._judge(batch.hr), self._judge(output.detach())
        return discriminator_loss(real, fake, labels=labels, relative_to=self._relative_to)

    def _generator_losses(self, batch: Batch, output: Tensor, *, late: bool) -> Losses:
        weights = self.config.loss
        losses: Losses = {}
        total = torch.zeros((), device=self.device)
        squared = late or weights.pixel == "mse"
        measure = functional.mse_loss if squared else functional.l1_loss
        losses["pixel"] = measure(output, batch.hr) * (weights.final_mse_weight if late else 1.0)
        if weights.pixel_weight:
            total = total + weights.pixel_weight * losses["pixel"]
        if weights.content_weight:
            losses["content"] = self._content_distance(output, batch.hr)
            total = total + weights.content_weight * losses["content"]
        if weights.adversarial_weight:
            losses["adversarial"] = self._adversarial(batch, output)
            total = total + weights.adversarial_weight * losses["adversarial"]
        losses["generator"] = total
        return losses

    def _content_distance(self, output: Tensor, hr: Tensor) -> Tensor:
        if self.config.loss.content_network == "lpips":
            return self._content(output, hr).mean()
        with torch.no_grad():
            wanted = self._content(hr)
        return functional.mse_loss(self._content(output), wanted)

    def _adversarial(self, batch: Batch, output: Tensor) -> Tensor:
        """The adversarial loss through the frozen discriminator."""
        judge: Any = self.networks["discriminator"]
        judge.requires_grad_(False)
        try:
            real = None
            if self._relative_to is not None:
                with torch.no_grad():
                    real = self._judge(batch.hr)
            return adversarial_loss(real, self._judge(output), relative_to=self._relative_to)
        finally:
            judge.requires_grad_(True)


def freeze_batchnorm(net: nn.Module) -> None:
    """Lets every BatchNorm2d normalise with its running statistics and leave them as they are.

    Gains and biases are trained on. ``net.train()`` undoes it.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _add(totals: Losses, losses: Losses, parts: int) -> None:
    for name, value in losses.items():
        totals[name] = totals.get(name, torch.zeros_like(value)) + value.detach() / parts
