"""What the original report measured, and its two tables beside what was measured here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

METHODS = {
    "pixelshuffle": "Pixel Shuffler",
    "pixelshuffledirect": "Pixel Shuffler (direct)",
    "nearest": "Upsampling",
}
"""Upsampler of the generator and what the report calls it."""

REPORTED: dict[int, dict[str, dict[str, float]]] = {
    100: {
        "Pixel Shuffler": {"DIV2K": 25.32, "Flickr2K": 25.76, "DF2K": 26.4},
        "Upsampling": {"DIV2K": 24.85, "Flickr2K": 24.92, "DF2K": 25.88},
    },
    500: {
        "Pixel Shuffler": {"DIV2K": 25.78, "Flickr2K": 26.2, "DF2K": 26.9},
        "Upsampling": {"DIV2K": 25.0, "Flickr2K": 25.4, "DF2K": 26.3},
    },
}
"""The report's own PSNR in dB, by epochs, method and data."""

_HEAD = ("Method", "Data", "Epochs", "Updates", "PSNR", "the report's", "difference")


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """One generator as it was after some epochs."""

    method: str
    """As the report calls it."""
    data: str
    epoch: int
    updates: int
    psnr_db: float
    """Mean PSNR of RGB over the validation pictures, by the report's protocol."""

    @property
    def reported(self) -> float | None:
        """The report's own figure in dB, where it has one."""
        return REPORTED.get(self.epoch, {}).get(self.method, {}).get(self.data)


def report_tables(rows: Iterable[ReportRow], epochs: Sequence[int], bicubic_db: float) -> str:
    """A Markdown table for each number of epochs, in the report's order, with a bicubic row.

    Args:
        rows: what was measured; a table shows those of its epochs.
        epochs: of each table.
        bicubic_db: PSNR of OpenCV's bicubic by the same protocol.
    """
    rows = list(rows)
    return "\n\n".join(_table([r for r in rows if r.epoch == e], e, bicubic_db) for e in epochs)


def _table(rows: Sequence[ReportRow], epoch: int, bicubic_db: float) -> str:
    lines = [_cells(row) for row in rows]
    lines.append(("Bicubic (OpenCV)", "-", "-", "-", f"{bicubic_db:.2f} dB", "-", "-"))
    widths = [max(map(len, column)) for column in zip(_HEAD, *lines, strict=True)]
    left = 2  # columns of words; the others are numbers
    rule = [("-" * w if i < left else "-" * (w - 1) + ":") for i, w in enumerate(widths)]
    written = [
        " | ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in (_HEAD, rule, *lines))
    ]
    return "\n".join(
        [f"After {epoch} epoch{'s' * (epoch > 1)}:", "", *(f"| {line} |" for line in written)]
    )


def _cells(row: ReportRow) -> tuple[str, ...]:
    known = row.reported
    reported = (
        ("-", "-") if known is None else (f"{known:.2f} dB", f"{row.psnr_db - known:+.2f} dB")
    )
    measured = (str(row.epoch), f"{row.updates:,}", f"{row.psnr_db:.2f} dB")
    return (row.method, row.data, *measured, *reported)
