"""Sizes that engines take, and options of their build."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from srtrt.errors import UsageError
from srtrt.runtime.engines.flavour import CURRENT
from srtrt.spec import Form

MAX_LEVEL = 5
"""Highest optimisation level of a builder."""

USUAL_LEVEL = 3
"""Optimisation level of a build that asks for none."""

_SIZE = re.compile(r"(?:([0-9]{1,9})x)?([0-9]{1,9})x([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True)
class InputSize:
    """Size of a batch of LR frames; written ``WxH`` or ``NxWxH``.

    Raises:
        UsageError: if a side or the batch is not positive.
    """

    width: int
    """In LR pixels."""
    height: int
    """In LR pixels."""
    batch: int = 1
    """Frames computed at once."""

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.batch) < 1:
            raise UsageError(f"shape {self}: every side and the batch must be at least 1.")

    @property
    def pixels(self) -> int:
        """LR pixels of all frames."""
        return self.batch * self.height * self.width

    def __str__(self) -> str:
        batch = f"{self.batch}x" if self.batch != 1 else ""
        return f"{batch}{self.width}x{self.height}"


@dataclass(frozen=True, kw_only=True)
class EngineShape:
    """The sizes an engine takes: one, or a range with the size it is tuned for.

    Raises:
        UsageError: if the three sizes are not in order.
    """

    least: InputSize
    best: InputSize
    most: InputSize

    def __post_init__(self) -> None:
        for side in ("width", "height", "batch"):
            low, mid, high = (getattr(s, side) for s in (self.least, self.best, self.most))
            if not low <= mid <= high:
                raise UsageError(
                    f"shape {self}: {side} goes {low}, {mid}, {high}; "
                    "expected smallest, tuned and largest size in this order."
                )

    @classmethod
    def static(cls, width: int, height: int, batch: int = 1) -> EngineShape:
        """One size, in LR pixels."""
        return cls.of(InputSize(width=width, height=height, batch=batch))

    @classmethod
    def of(cls, size: InputSize) -> EngineShape:
        """One size."""
        return cls(least=size, best=size, most=size)

    @classmethod
    def parse(cls, text: str) -> EngineShape:
        """Reads ``WxH``, ``NxWxH``, or a range ``MIN:BEST:MAX`` of such sizes.

        Raises:
            UsageError: if it is none of these.
        """
        found = [_SIZE.fullmatch(part) for part in text.split(":")]
        sizes = [
            InputSize(width=int(m[2]), height=int(m[3]), batch=int(m[1] or 1)) for m in found if m
        ]
        if len(sizes) != len(found) or len(sizes) not in (1, 3):
            raise UsageError(
                f"shape {text!r} is not understood; expected WIDTHxHEIGHT such as 1920x1080, "
                "BATCHxWIDTHxHEIGHT, or a range such as 640x360:1280x720:1920x1080."
            )
        return cls(least=sizes[0], best=sizes[len(sizes) // 2], most=sizes[-1])

    @property
    def is_static(self) -> bool:
        """Whether it is one size."""
        return self.least == self.best == self.most

    def covers(self, other: EngineShape) -> bool:
        """Whether an engine of this shape takes every size of another."""
        return all(
            getattr(self.least, side) <= getattr(other.least, side)
            and getattr(other.most, side) <= getattr(self.most, side)
            for side in ("width", "height", "batch")
        )

    def require_form(self, form: Form) -> None:
        """Refuses sizes that a form cannot have.

        Raises:
            UsageError: if the form halves the chroma and a side is odd.
        """
        sides = [
            s for size in (self.least, self.best, self.most) for s in (size.width, size.height)
        ]
        odd = [side for side in sides if side % 2]
        if form == "yuv420p8" and odd:
            raise UsageError(
                f"shape {self}: side {odd[0]} is odd, and {form} has chroma of half size; "
                f"use {odd[0] + 1}."
            )

    def __str__(self) -> str:
        sizes = (self.least,) if self.is_static else (self.least, self.best, self.most)
        return ":".join(map(str, sizes))


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is built.

    What is left at its default is not asked for: any engine serves that is as good.

    Raises:
        UsageError: if a value is impossible.
    """

    level: int | None = None
    """Optimisation level 0 to 5: higher builds longer and may run faster. None takes the highest
    that was built already and is fast, else builds at 3."""
    workspace_bytes: int | None = None
    """Most memory a kernel may use besides its tensors; None is half of what is free on the GPU,
    and no limit where there is none."""
    tf32: bool = False
    """Lets float32 convolutions round their inputs to 10 bits, which changes results."""
    aux_streams: int | None = None
    """Most extra CUDA streams of the engine; None lets the builder decide."""
    tactics: Literal["all", "plain"] | None = None
    """``plain`` leaves out convolutions that are generated while building or use edge masks. None
    takes what was built already, else builds with all."""
    fusion: bool | None = None
    """``False`` computes additions apart from the convolutions before them. None takes what was
    built already, else lets the builder fuse."""
    compute_capabilities: tuple[str, ...] = ()
    """Targets of TensorRT-RTX, such as ``8.9``, or ``current``; empty for all from 8.0."""

    def __post_init__(self) -> None:
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise UsageError(
                f"optimisation level is {self.level}; expected a number from 0 to {MAX_LEVEL}."
            )
        for name, value, least, most in (
            ("workspace", self.workspace_bytes, 1, 1 << 50),
            ("number of extra streams", self.aux_streams, 0, 1 << 20),
        ):
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}; expected at least {least}.")
            if value is not None and value > most:
                raise UsageError(f"{name} is {value}; expected at most {most}.")
        targets = self.compute_capabilities
        if len(set(targets)) != len(targets) or (CURRENT in targets and len(targets) > 1):
            raise UsageError(
                f"compute capabilities are {', '.join(targets)}; "
                f"expected each once, and {CURRENT!r} alone."
            )
