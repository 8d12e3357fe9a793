"""The matrix product takes about as long on any machine."""

from __future__ import annotations

import pytest
import torch

from srtrt.benchmarks.ceiling import best_rate, matmul_flops


class Machine:
    """One that computes so many operations per second, and starts slowly at every new size.

    Other work delays every other batch.
    """

    def __init__(self, rate: float, delay: float = 0.0) -> None:
        self.rate, self.delay, self.now = rate, delay, 0.0
        self.known, self.calls = set[int](), 0

    def multiply(self, side: int, times: int) -> None:
        self.calls += 1
        self.now += 2.0 * side**3 * times / self.rate + self.delay * (self.calls % 2)
        if side not in self.known:
            self.now += 0.02
            self.known.add(side)


@pytest.mark.parametrize("exponent", range(8, 16))
@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_it_takes_a_few_times_the_time_it_is_given(exponent: int, seconds: float) -> None:
    """From bfloat16 that is emulated on one core to the largest GPU."""
    machine = Machine(3.0 * 10**exponent)
    found = best_rate(machine.multiply, seconds, clock=lambda: machine.now)
    assert found == pytest.approx(machine.rate, rel=1e-3)
    assert seconds <= machine.now < 4 * seconds


def test_other_work_does_not_make_the_matrices_small() -> None:
    machine = Machine(1e11, delay=0.02)
    found = best_rate(machine.multiply, 0.5, clock=lambda: machine.now)
    assert found == pytest.approx(machine.rate, rel=0.01)


def test_it_computes_in_the_precision_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    types = set()
    product = torch.Tensor.__matmul__

    def noted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        types.add((a.dtype, b.dtype))
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", noted)
    assert matmul_flops(torch.device("cpu"), "fp32", 0.01) > 0
    assert types == {(torch.float32, torch.float32)}
    types.clear()
    assert matmul_flops(torch.device("cpu"), "bf16", 0.01) > 0
    assert types == {(torch.bfloat16, torch.bfloat16)}
