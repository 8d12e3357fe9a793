"""What is to be shown on an NVIDIA GPU, most valuable first, and what each part needs.

Every part is a command of its own process, so that nothing of one is left for the next.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from srtrt.benchmarks.engines import Offer, survey_engines
from srtrt.benchmarks.sample_clip import make_clip
from srtrt.errors import SrtrtError, install_hint
from srtrt.runtime.backends import backend_class
from srtrt.runtime.cuda import installed_binding
from srtrt.runtime.cuda_packages import cuda_python_line
from srtrt.runtime.engines import gpu
from srtrt.runtime.nvidia import no_gpu
from srtrt.spec import PRECISIONS

CPU = "cpu"
_SRTRT = (sys.executable, "-m", "srtrt")
_BENCHMARK = (*_SRTRT, "benchmark")
_PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu")
_TOOLKIT = Path("/usr/local/cuda/bin")
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


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing to show."""

    name: str
    shows: str
    """In a few words."""
    command: Callable[[Setting], tuple[str, ...]]
    needs: tuple[Need, ...] = ()
    is_test: bool = False
    """Whether it is pytest, which fails where there is no GPU and takes the first that it sees."""
    prepare: Callable[[Setting], None] | None = None
    """Makes what it reads."""

    def lacks(self, setting: Setting) -> str | None:
        """Why it cannot run here; None if it can."""
        for need in self.needs:
            try:
                problem = need(setting)
            except SrtrtError as error:
                problem = str(error).rstrip(".")
            if problem is not None:
                return problem
        return None


def _gpu(setting: Setting) -> str | None:
    if not setting.on_gpu:
        return "it needs an NVIDIA GPU, and this is a rehearsal on the CPU"
    return None if gpu.gpu_facts(setting.device) is not None else no_gpu()


def _torch(setting: Setting) -> str | None:
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
    facts = None if installed_binding() else gpu.gpu_facts(setting.device)
    return f"cuda-python is not installed: {cuda_python_line(facts)}" if facts else None


def _tests(setting: Setting) -> str | None:
    if setting.repository is None:
        return "its tests are in a clone of srtrt; run it there"
    missing = [name for name in ("pytest", "cv2", "PIL") if not find_spec(name)]
    return f"{' and '.join(missing)} is not installed: {install_hint('test')}" if missing else None


def _video(setting: Setting) -> str | None:
    if not find_spec("av"):
        return "PyAV is not installed: pip install av"
    return None if setting.repository else "its sample is in a clone of srtrt; run it there"


def _nvenc(_: Setting) -> str | None:
    import av

    try:
        context = av.CodecContext.create("h264_nvenc", "w")
        context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.open()
    except (av.FFmpegError, ValueError) as error:
        return f"h264_nvenc cannot be opened, as on a GPU that encodes no video ({error})"
    return None


def _program(name: str) -> Need:
    def need(_: Setting) -> str | None:
        return None if _found(name) else f"{name} is not there; it comes with the CUDA toolkit"

    return need


def _found(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=str(_TOOLKIT))


def _engine(*names: str) -> Need:
    """At least one of these engines."""

    def need(setting: Setting) -> str | None:
        offers = [setting.offers[name] for name in names if name in setting.offers]
        if not offers:
            return "it needs an NVIDIA GPU, and this is a rehearsal on the CPU"
        return None if any(each.usable for each in offers) else offers[0].reason

    return need


def _latency(part: str, names: tuple[str, ...], form: str = "yuv420p8") -> Part:
    """Engines side by side, those of them that can run."""

    def command(setting: Setting) -> tuple[str, ...]:
        usable = [name for name in names if _usable(setting, name)]
        given = [option for name in usable for option in ("--engine", name)]
        return (
            *_BENCHMARK, "latency", "--model", setting.model, "--device", setting.device,
            "--size", setting.size, "--rounds", setting.rounds, "--seconds", setting.seconds,
            "--io", form, *given, "--reference", usable[0], "--out", str(setting.result(part)),
        )  # fmt: skip

    plain = tuple(name.partition(":")[0] for name in names)
    shows = f"{' and '.join(plain)}: speed and parity"
    return Part(name=part, shows=shows, command=command, needs=(_engine(*plain),))


def _usable(setting: Setting, name: str) -> bool:
    offer = setting.offers.get(name.partition(":")[0])
    return offer is not None and offer.usable


def _pytest(part: str, shows: str, *selected: str, before: tuple[str, ...] = ()) -> Part:
    """Tests that fail where there is no GPU."""

    def command(_: Setting) -> tuple[str, ...]:
        programs = tuple(_found(each) or each if each == before[0] else each for each in before)
        return (*programs, *_PYTEST, *selected)

    needs = (_gpu, _torch, _tests, *(_program(name) for name in before[:1]))
    return Part(
        name=part, shows=shows, command=command, needs=needs,
        is_test=True,
    )  # fmt: skip


def _torch_parity(setting: Setting) -> tuple[str, ...]:
    kinds = [n for n in setting.offers if n.startswith("torch-cuda") and "compiled" not in n]
    names = kinds if setting.on_gpu else ["torch-fp32:streams=2,slots=4"]
    given = [option for name in names for option in ("--engine", name)]
    return (
        *_BENCHMARK, "latency", "--model", setting.model, "--device", setting.device,
        "--size", "32x24" if setting.small else "160x90", "--rounds", setting.rounds,
        "--seconds", setting.seconds, "--reference", names[0], *given,
        "--out", str(setting.result("torch-parity")),
    )  # fmt: skip


def _throughput(setting: Setting) -> tuple[str, ...]:
    sizes = ["32x24"] if setting.small else ["480x270", "960x540"]
    ways = ["as trained", "tail folded", "with CUDA graph", "frames in flight"]
    return (
        *_BENCHMARK, "throughput", "--model", setting.model, "--device", setting.device,
        "--precision", setting.precision, "--io", "yuv420p8", "--seconds", setting.seconds,
        *(part for size in sizes for part in ("--size", size)),
        *(part for way in ways for part in ("--variant", way)),
        "--out", str(setting.result("throughput")),
    )  # fmt: skip


def _profile(part: str, *variants: str) -> Callable[[Setting], tuple[str, ...]]:
    def command(setting: Setting) -> tuple[str, ...]:
        model = "srgan" if setting.small else setting.model  # one that has a tail
        return (
            *_BENCHMARK, "profile", "--model", model, "--device", setting.device,
            "--precision", setting.precision, "--size", setting.size, "--rounds", setting.rounds,
            *(option for name in variants for option in ("--variant", name)),
            "--out", str(setting.result(part)),
        )  # fmt: skip

    return command


def _clip(setting: Setting) -> Path:
    return setting.out / "clip.mp4"


def _make_clip(setting: Setting) -> None:
    if setting.repository is not None and not _clip(setting).is_file():
        width, height = map(int, setting.size.split("x"))
        sample = setting.repository / "samples" / "rabbit.webm"
        make_clip(sample, _clip(setting), (width, height), 6 if setting.small else 200)


def _upscale(part: str, *options: str, needs: tuple[Need, ...] = ()) -> Part:
    def command(setting: Setting) -> tuple[str, ...]:
        return (
            *_SRTRT, "upscale-video", str(_clip(setting)), "--model", setting.model,
            "--device", setting.device, *options, "--overwrite", "--quiet",
            "-o", str(setting.out / f"{part}.mp4"), "--json", str(setting.result(part)),
        )  # fmt: skip

    shows = "200 frames of video, seconds of each stage"
    return Part(name=part, shows=shows, command=command, needs=(_video, *needs), prepare=_make_clip)


def _training(setting: Setting) -> tuple[str, ...]:
    tiny = ["--set", "generator.blocks=1", "--set", "generator.features=8", "--set", "data.batch=2"]
    pictures = str(files("srtrt.runtime") / "originals")
    return (
        *_BENCHMARK, "training", "--device", setting.device, "--data", pictures,
        "--steps", "2" if setting.small else "100", "--rounds", "1" if setting.small else "3",
        *(tiny if setting.small else ()), "--out", str(setting.result("training")),
    )  # fmt: skip


def _pycuda(setting: Setting) -> tuple[str, ...]:
    """Builds PyCUDA beside the results, and runs the device layer through it."""
    folder = setting.out / "pycuda"
    return (
        "bash", "-ec",
        'export PATH="$PATH:$1" PYTHONPATH="$2${PYTHONPATH:+:$PYTHONPATH}"; folder=$2; shift 2\n'
        'python=$1; "$python" -c "import pycuda" 2>/dev/null ||\n'
        '    "$python" -m pip install --quiet --target "$folder" pycuda\n"$@"',
        "-", str(_TOOLKIT), str(folder), *_PYTEST, "tests/parity/test_rings.py",
        "-k", "device_layer and pycuda",
    )  # fmt: skip


def _triton(_: Setting) -> str | None:
    return None if find_spec("triton") else "Triton is not installed: pip install triton"


def _fused(setting: Setting) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "srtrt.benchmarks.fused", "--device", setting.device,
        "--size", setting.size, "--rounds", setting.rounds, "-o", str(setting.result("fused")),
    )  # fmt: skip


def _fp8(setting: Setting) -> tuple[str, ...]:
    return (
        *_SRTRT, "export", "fast", "--precision", "fp8", "--io", "yuv420p8", "--overwrite",
        "-o", str(setting.out / "fp8"),
    )  # fmt: skip


def _fp8_latency(product: str) -> Part:
    part = f"{product}-fp8"

    def graph(setting: Setting) -> Path | None:
        return next(iter((setting.out / "fp8").glob("*.onnx")), None)

    def need(setting: Setting) -> str | None:
        found = graph(setting)
        if found is None:
            return "there is no fp8 graph, as the part before made none"
        offers = {each.engine: each for each in survey_engines(str(found), setting.device)}
        return None if offers[part].usable else offers[part].reason

    def command(setting: Setting) -> tuple[str, ...]:
        return (
            *_BENCHMARK, "latency", "--model", str(graph(setting)), "--device", setting.device,
            "--size", setting.size, "--rounds", setting.rounds, "--seconds", setting.seconds,
            "--io", "yuv420p8", "--engine", part, "--reference", part,
            "--out", str(setting.result(part)),
        )  # fmt: skip

    return Part(name=part, shows=f"{part}: speed and parity", command=command, needs=(_gpu, need))


def _tensorrt(precision: str) -> tuple[Part, ...]:
    products = ("tensorrt", "tensorrt-rtx")
    if precision == "fp8":
        made = Part(
            name="fp8-graph", shows="calibrating a graph for fp8", command=_fp8,
            needs=(_gpu, _torch, _engine("tensorrt-fp16", "tensorrt-rtx-fp16")),
        )  # fmt: skip
        return (made, *(_fp8_latency(product) for product in products))
    return tuple(_latency(f"{p}-{precision}", (f"{p}-{precision}",)) for p in products)


_FASTEST = (
    "tensorrt-fp16",
    "tensorrt-rtx-fp16",
    "onnxruntime-cuda-fp16",
    "torch-cuda-captured-fp16",
)
_TENSORRT_FP16 = _FASTEST[:2]
_ORDER = ("fp16", *(each for each in PRECISIONS if each != "fp16"))

PARTS: tuple[Part, ...] = (
    Part(name="doctor", shows="what this machine can run", command=lambda _: (*_SRTRT, "doctor")),
    _pytest(
        "device-layer", "streams, pinned memory, events and recorded graphs through cuda-python",
        "tests/parity/test_rings.py", "-k", "device_layer and python",
    ),
    Part(
        name="torch-parity", shows="PyTorch's ring: fp32 without TF32, fp16, bf16",
        command=_torch_parity, needs=(_torch,),
    ),
    Part(
        name="throughput", shows="frames in flight against the matrix product of the same run",
        command=_throughput, needs=(_torch,),
    ),
    Part(
        name="profile", shows="one frame's kernels, and other ways to compute its parts",
        needs=(_torch,),
        command=_profile("profile", "6x6 tail of stride 2", "padded head", "cudnn.benchmark"),
    ),
    Part(
        name="profile-compiled", shows="the network compiled",
        needs=(_torch,), command=_profile("profile-compiled", "compiled"),
    ),
    Part(
        name="profile-all", shows="the network rewritten and compiled",
        needs=(_torch,), command=_profile("profile-all", "all of these"),
    ),
    _upscale("video", needs=(
        _engine("tensorrt-fp16", "tensorrt-rtx-fp16", "onnxruntime-cuda-fp16", "openvino-fp32"),
    )),
    _upscale("video-torch", "--backend", "torch", needs=(_torch,)),
    _upscale(
        "video-nvenc", "--encoder", "h264_nvenc", needs=(_gpu, _engine(*_FASTEST[:3]), _nvenc),
    ),
    Part(
        name="training", shows="updates per second", command=_training, needs=(_torch,),
    ),
    _pytest(
        "compute-sanitizer", "the device layer under NVIDIA's checker of memory",
        "tests/parity/test_rings.py", "-k", "device_layer and python",
        before=("compute-sanitizer", "--error-exitcode", "9", "--target-processes", "all"),
    ),
    Part(
        name="pycuda", shows="PyCUDA built here, and the device layer through it",
        command=_pycuda, needs=(_gpu, _torch, _tests, _program("nvcc")),
        is_test=True,
    ),
    *(part for precision in _ORDER for part in _tensorrt(precision)),
    _latency("onnxruntime-cuda", ("onnxruntime-cuda-fp16", "onnxruntime-cuda-fp32")),
    _latency("onnxruntime-tensorrt", ("onnxruntime-tensorrt-fp16",)),
    Part(
        name="tune", shows="streams, batch and recorded graphs of TensorRT",
        command=lambda setting: (
            *_SRTRT, "tune", setting.model, "--shape", setting.size, "--device", setting.device,
            "--seconds", "0" if setting.small else "0.5",
        ),
        needs=(_engine(*_TENSORRT_FP16),),
    ),
    Part(
        name="fused", shows="a kernel of our own for shuffling, rounding and interleaving",
        command=_fused, needs=(_gpu, _torch, _triton),
    ),
    _latency("side-by-side", _FASTEST),
    _latency("compiled", ("torch-cuda-compiled-fp16", "torch-cuda-captured-fp16")),
    _pytest(
        "tests", "all other tests for a GPU", "tests",
        "-k", "not engines_of_the_gpu and not device_layer",
    ),
)  # fmt: skip
"""All parts, in the order in which they are run."""
