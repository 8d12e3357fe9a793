"""The ``srtrt benchmark`` commands."""

from __future__ import annotations

import click

from srtrt.benchmarks import quality_command, speed_command


@click.group()
def benchmark() -> None:
    """Measure latency, quality and parity; results are JSON."""


for _command in (
    speed_command.engines,
    speed_command.latency,
    quality_command.quality,
    quality_command.compressed,
    quality_command.rates,
    speed_command.parity,
    speed_command.int8,
    speed_command.training,
    speed_command.precisions,
    speed_command.throughput,
    speed_command.profile,
):
    benchmark.add_command(_command)
