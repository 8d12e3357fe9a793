"""Where the parts of the first run on an NVIDIA GPU are shown, and what they need there.

A need is a function of the setting: why it is not met, as a clause that says what to do, or None.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from srtrt.benchmarks.engines import Offer, survey_engines
from srtrt.errors import install_hint
from srtrt.runtime.backends import backend_class
from srtrt.runtime.cuda import installed_binding
from srtrt.runtime.cuda_packages import cuda_python_line
from srtrt.runtime.engines import gpu as gpus
from srtrt.runtime.nvidia import no_gpu

CPU = "cpu"
TOOLKIT = Path("/usr/local/cuda/bin")
"""Programs of the CUDA toolkit, where they are not on the path."""
_SOURCES = Path(__file__).resolve().parents[1]
"""A clone, unless srtrt is installed away from it."""


def is_clone(folder: Path) -> bool:
    """Whether a folder is a clone of srtrt, with its tests and its sample."""
    return (folder / "tests" / "conftest.py").is_file() and (folder / "samples").is_dir()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how much is measured.

    On the CPU, and in small, it is a rehearsal: what needs no GPU runs, and nothing of it counts.
    """

    device: str
    """``cuda:N``, or ``cpu`` for a rehearsal."""
    out: Path
    """Folder of the results of this device."""
    small: bool = False
    """Tiny frames, so that a rehearsal takes seconds."""
    repository: Path | None = _SOURCES if is_clone(_SOURCES) else None
    """The clone whose tests and sample are used; None if there is none."""

    @property
    def on_gpu(self) -> bool:
        """Whether it counts."""
        return self.device != CPU

    @property
    def model(self) -> str:
        """What is measured."""
        return "fast" if self.small else "srresnet"

    @property
    def precision(self) -> str:
        """What PyTorch computes in."""
        return "fp16" if self.on_gpu else "fp32"

    @property
    def size(self) -> str:
        """LR frames of most parts."""
        return "32x24" if self.small else "480x270"

    @property
    def rounds(self) -> str:
        """How often each engine is timed."""
        return "1" if self.small else "20"

    @property
    def seconds(self) -> str:
        """How long frames in flight are measured."""
        return "0.05" if self.small else "2"

    @cached_property
    def offers(self) -> Mapping[str, Offer]:
        """Every engine with whether it can run."""
        found = survey_engines(self.model, self.device)
        return {offer.engine: offer for offer in found}

    def result(self, part: str) -> Path:
        """Where a part writes its JSON."""
        return self.out / f"{part}.json"


Need = Callable[[Setting], str | None]
"""Why a part cannot run, as a clause that says what to do; None if it can."""


def gpu(setting: Setting) -> str | None:
    """An NVIDIA GPU."""
    if not setting.on_gpu:
        return "it needs an NVIDIA GPU, and this is a rehearsal on the CPU"
    return None if gpus.gpu_facts(setting.device) is not None else no_gpu()


def torch(setting: Setting) -> str | None:
    """PyTorch on the device, and on a GPU a package to call CUDA."""
    if not find_spec("torch") or not find_spec("safetensors"):
        return f"PyTorch and safetensors are not installed: {install_hint('train')}"
    if not setting.on_gpu:
        return None
    (cuda,) = (
        each
        for each in backend_class("torch").capabilities(setting.device)
        if each.device == setting.device
    )
    if not cuda.usable:
        return cuda.reason.rstrip(".")
    facts = None if installed_binding() else gpus.gpu_facts(setting.device)
    return f"cuda-python is not installed: {cuda_python_line(facts)}" if facts else None


def tests(setting: Setting) -> str | None:
    """The tests, and what runs them."""
    if setting.repository is None:
        return "its tests are in a clone of srtrt; run it there"
    missing = [name for name in ("pytest", "cv2", "PIL") if not find_spec(name)]
    return f"{' and '.join(missing)} is not installed: {install_hint('test')}" if missing else None


def video(setting: Setting) -> str | None:
    """PyAV, and a clip to make one from."""
    if not find_spec("av"):
        return "PyAV is not installed: pip install av"
    return None if setting.repository else "its sample is in a clone of srtrt; run it there"


def nvenc(_: Setting) -> str | None:
    """An encoder of video on the GPU."""
    import av

    try:
        context = av.CodecContext.create("h264_nvenc", "w")
        context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.open()
    except (av.FFmpegError, ValueError) as error:
        return f"h264_nvenc cannot be opened, as on a GPU that encodes no video ({error})"
    return None


def program(name: str) -> Need:
    """A program of the CUDA toolkit."""

    def need(_: Setting) -> str | None:
        return (
            None if found_program(name) else f"{name} is not there; it comes with the CUDA toolkit"
        )

    return need


def found_program(name: str) -> str | None:
    """Path of a program of the CUDA toolkit; None if it is not there."""
    return shutil.which(name) or shutil.which(name, path=str(TOOLKIT))


def engine(*names: str) -> Need:
    """At least one of these engines."""

    def need(setting: Setting) -> str | None:
        offers = [setting.offers[name] for name in names if name in setting.offers]
        if not offers:
            return "it needs an NVIDIA GPU, and this is a rehearsal on the CPU"
        return None if any(each.usable for each in offers) else offers[0].reason

    return need


def triton(_: Setting) -> str | None:
    """Triton."""
    return None if find_spec("triton") else "Triton is not installed: pip install triton"
