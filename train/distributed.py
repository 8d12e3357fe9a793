"""Several processes that train one network, started with torchrun.

Every process makes its share of each batch, the sums of BatchNorm and the gradients are joined,
and the result is that of one process with the whole batch, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from srtrt.errors import TrainingError


@dataclass(frozen=True)
class World:
    """The processes of a run; a single one by default."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> World:
        """Joins the processes that torchrun started; a single process without it.

        Raises:
            TrainingError: if the others cannot be met.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise TrainingError(
                f"the {size} processes of this run could not meet ({reason}); "
                "start them with: torchrun --nproc-per-node N -m srtrt.cli train ..."
            ) from error
        return cls(rank=dist.get_rank(), size=size)

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """Which patches of a batch this process makes.

        Raises:
            TrainingError: if the batch cannot be divided.
        """
        if batch % self.size:
            raise TrainingError(
                f"data.batch is {batch}; {self.size} processes need a multiple of {self.size}."
            )
        return slice(self.rank, None, self.size)

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its mean over the processes, in one exchange."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        means = torch.split_with_sizes(flat, [g.numel() for g in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def joined_mean(self, x: Tensor) -> Tensor:
        """Mean of all elements in all processes, through which gradients flow to each of them."""
        mean = x.mean()
        if self.size > 1:
            mean = _Sum.apply(mean) / self.size  # type: ignore[no-untyped-call]
        return mean

    def agree(self, wish: bool) -> bool:
        """True everywhere as soon as one process wishes it."""
        if self.size == 1:
            return wish
        flag = torch.tensor(float(wish))
        if dist.get_backend() == "nccl":
            flag = flag.cuda()
        dist.all_reduce(flag)
        return bool(flag > 0)

    def leave(self) -> None:
        """Waits for the other processes and parts from them."""
        if self.size > 1:
            dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """Sum over the processes; its gradient is summed the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class JoinedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batch of all processes (PyTorch's own works on GPUs only)."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to the same shape; every process must call it with equal shapes."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        exact = x.float()
        count = exact.numel() // exact.shape[1] * dist.get_world_size()
        sums: Tensor = _Sum.apply(  # type: ignore[no-untyped-call]
            torch.stack([exact.sum((0, 2, 3)), (exact * exact).sum((0, 2, 3))])
        )
        mean = sums[0] / count
        variance = (sums[1] / count - mean * mean).clamp(min=0)
        with torch.no_grad():
            weight = self.momentum or 0.0
            self.running_mean.lerp_(mean.detach(), weight)
            self.running_var.lerp_(variance.detach() * count / (count - 1), weight)
        gain = self.weight * torch.rsqrt(variance + self.eps)
        offset = self.bias - mean * gain
        normalised: Tensor = exact * gain[:, None, None] + offset[:, None, None]
        return normalised.to(x.dtype)


def join_batchnorm(net: nn.Module) -> None:
    """Replaces every BatchNorm2d inside ``net`` by one over all processes; names stay."""
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            joined = JoinedBatchNorm2d(child.num_features, child.eps, child.momentum)
            joined.load_state_dict(child.state_dict())
            setattr(net, name, joined.to(child.weight.device))
        else:
            join_batchnorm(child)
