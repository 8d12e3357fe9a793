"""The network of a video job: opening it, and what others would take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from srtrt.errors import SrtrtError
from srtrt.runtime.cost import seconds_per_pixel
from srtrt.runtime.models import bundled_models, find_model
from srtrt.runtime.parity import GATES
from srtrt.runtime.ring import Pending
from srtrt.runtime.video.choice import COMPRESSED_MODEL, ModelChoice
from srtrt.runtime.video.plan import Alternative, Estimate, VideoWatcher
from srtrt.spec import Form

_QUICK_MODEL = "fast"
_HELPS = 0.9
"""An alternative is worth telling if it takes at most this share of the time."""


class VideoSession(Protocol):
    """What the pipeline needs of a network; see :class:`srtrt.runtime.session.Session`."""

    description: str
    reason: str
    notes: list[str]
    backend_options: Mapping[str, Any]

    @property
    def in_flight(self) -> int:
        """How many frames may be submitted before one must be collected."""

    @property
    def builds_engines(self) -> bool:
        """Whether :meth:`prepare` may take minutes."""

    def prepare(self, width: int, height: int) -> None:
        """Makes ready for frames of a size in source pixels."""

    def submit(self, inputs: Mapping[str, NDArray[Any]]) -> Pending:
        """Starts one frame; what it returns waits for it."""


SessionFactory = Callable[..., AbstractContextManager[VideoSession]]
"""Called as :func:`srtrt.runtime.session.open_session` is."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Opens the network that was chosen, and others to compare it with."""

    factory: SessionFactory
    """Opens a network."""
    options: Mapping[str, Any]
    """What was asked for, as the factory takes it; without ``model`` and ``form``."""
    choice: ModelChoice
    """The model."""

    def open(self, form: Form, watcher: VideoWatcher) -> AbstractContextManager[VideoSession]:
        """Opens the chosen network; the watcher is told of what takes long."""
        options = {**self.options, "model": self.choice.name, "form": form}
        return self.factory(**options, on_build=watcher.building, on_note=watcher.noted)

    def estimate(
        self, session: VideoSession, inputs: Mapping[str, NDArray[Any]], first: float, frames: int
    ) -> Estimate:
        """How long a job will take, and where that is long, what would be quicker.

        Args:
            session: the opened network, idle.
            inputs: those of the first frame.
            first: seconds that the first frame took.
            frames: how many there are.
        """
        plain = Estimate(seconds_per_frame=first, frames=frames, alternatives=())
        if not plain.is_long:
            return plain
        # The first one warms up, so it must not be multiplied by thousands.
        started = time.perf_counter()
        session.submit(inputs)()
        again = min(first, time.perf_counter() - started)
        measured = Estimate(seconds_per_frame=again, frames=frames, alternatives=())
        if not measured.is_long or session.builds_engines:
            return measured
        found = self._alternatives(measured.seconds)
        return Estimate(seconds_per_frame=again, frames=frames, alternatives=found)

    def _alternatives(self, seconds: float) -> tuple[Alternative, ...]:
        """What takes less, measured beside the chosen network on one small picture each."""
        usual = self._seconds_per_pixel({})
        found = []
        for option, changes, quality in self._candidates():
            cost = self._seconds_per_pixel(changes)
            if usual is not None and cost is not None and cost <= _HELPS * usual:
                found.append(
                    Alternative(option=option, seconds=seconds * cost / usual, quality=quality)
                )
        return tuple(sorted(found, key=lambda alternative: alternative.seconds))

    def _candidates(self) -> list[tuple[str, dict[str, str], str]]:
        """Options, what they change, and what they cost."""
        name = self.choice.name
        candidates = []
        if name != _QUICK_MODEL:
            changes = {"model": _QUICK_MODEL}
            candidates.append((f"--model {_QUICK_MODEL}", changes, _quality_beside(name)))
        if self.options.get("precision") != "int8":
            less = f"up to {GATES['int8'].lost_db:.2f} dB less"
            candidates.append(("--precision int8", {"precision": "int8"}, less))
        return candidates

    def _seconds_per_pixel(self, changes: Mapping[str, str]) -> float | None:
        options = {**self.options, "model": self.choice.name, "form": "rgb8", **changes}
        try:
            with self.factory(**options, on_build=None) as session:
                return seconds_per_pixel(session)
        except SrtrtError:
            return None  # It is not to be had here, so it is no alternative.


def _quality_beside(name: str) -> str:
    """What the quick model costs beside another one."""
    if name == COMPRESSED_MODEL:
        return "it sharpens the traces of compression, too"
    if name in bundled_models():
        quick, other = (
            find_model(model).spec.quality.get("psnr_y_db") for model in (_QUICK_MODEL, name)
        )
        if isinstance(quick, dict) and isinstance(other, dict):
            common = sorted(set(quick) & set(other))
            if common:
                key = common[0]
                return f"{key} {quick[key]:.2f} dB instead of {other[key]:.2f}"
    return "a smaller network"
