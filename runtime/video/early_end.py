"""What is said of a video that ends before all of its frames were read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av

from srtrt.runtime.video.unopenable import encrypted
from srtrt.runtime.words import counted


@dataclass(frozen=True)
class End:
    """The place where a video ended, and why."""

    good: int
    """Frames before it."""
    what: str
    """What was found there."""
    change: str | None
    """What happened to the file meanwhile."""
    scheme: str | None
    """How the video is encrypted."""

    @property
    def damage(self) -> str:
        """One sentence on a video of which the good frames are kept."""
        if self.change is not None:
            return f"After {counted(self.good, 'frame')}, {self.change}."
        if self.scheme is not None:
            clear = counted(self.good, "clear frame")
            return f"It is encrypted (DRM, scheme {self.scheme}) after {clear}."
        return f"It breaks after {counted(self.good, 'good frame')}: {self.what}."

    def problem(self, path: Path) -> str:
        """One sentence or two on a file, with what to do."""
        hint = ""
        if self.good:
            hint = f" Use --keep-going to write the {counted(self.good, 'frame')} before that."
        if self.change is not None:
            return f"{path}: {self.change}; run again when it is complete.{hint}"
        if self.scheme is not None:
            where = f" after {counted(self.good, 'clear frame')}" if self.good else ""
            return encrypted(path, "its video", self.scheme, where) + hint
        if not self.good:
            return f"{path} is damaged before its first whole frame: {self.what}."
        return f"{path} is damaged. {self.damage}{hint}"


def why(error: av.FFmpegError) -> str:
    """What FFmpeg says beyond that data are invalid, in brackets."""
    return "" if isinstance(error, av.InvalidDataError) else f" ({error.strerror})"
