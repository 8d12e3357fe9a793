"""What is to be shown on an NVIDIA GPU, most valuable first, and what each part needs.

Every part is a command of its own process, so that nothing of one is left for the next.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from srtrt.benchmarks import on_gpu_needs as lacking
from srtrt.benchmarks.engines import survey_engines
from srtrt.benchmarks.on_gpu_needs import Need, Setting
from srtrt.benchmarks.sample_clip import make_clip
from srtrt.errors import SrtrtError
from srtrt.spec import PRECISIONS

_SRTRT = (sys.executable, "-m", "srtrt")
_BENCHMARK = (*_SRTRT, "benchmark")
_PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu")


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
    return Part(name=part, shows=shows, command=command, needs=(lacking.engine(*plain),))


def _usable(setting: Setting, name: str) -> bool:
    offer = setting.offers.get(name.partition(":")[0])
    return offer is not None and offer.usable


def _pytest(part: str, shows: str, *selected: str, before: tuple[str, ...] = ()) -> Part:
    """Tests that fail where there is no GPU."""

    def command(_: Setting) -> tuple[str, ...]:
        programs = tuple(
            lacking.found_program(each) or each if each == before[0] else each for each in before
        )
        return (*programs, *_PYTEST, *selected)

    needs = (
        lacking.gpu,
        lacking.torch,
        lacking.tests,
        *(lacking.program(name) for name in before[:1]),
    )
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
    return Part(
        name=part, shows=shows, command=command, needs=(lacking.video, *needs), prepare=_make_clip
    )


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
        "-", str(lacking.TOOLKIT), str(folder), *_PYTEST, "tests/parity/test_rings.py",
        "-k", "device_layer and pycuda",
    )  # fmt: skip


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

    return Part(
        name=part, shows=f"{part}: speed and parity", command=command, needs=(lacking.gpu, need)
    )


def _tensorrt(precision: str) -> tuple[Part, ...]:
    products = ("tensorrt", "tensorrt-rtx")
    if precision == "fp8":
        made = Part(
            name="fp8-graph", shows="calibrating a graph for fp8", command=_fp8,
            needs=(lacking.gpu, lacking.torch, lacking.engine(*_TENSORRT_FP16)),
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
        command=_torch_parity, needs=(lacking.torch,),
    ),
    Part(
        name="throughput", shows="frames in flight against the matrix product of the same run",
        command=_throughput, needs=(lacking.torch,),
    ),
    Part(
        name="profile", shows="one frame's kernels, and other ways to compute its parts",
        needs=(lacking.torch,),
        command=_profile("profile", "6x6 tail of stride 2", "padded head", "cudnn.benchmark"),
    ),
    Part(
        name="profile-compiled", shows="the network compiled",
        needs=(lacking.torch,), command=_profile("profile-compiled", "compiled"),
    ),
    Part(
        name="profile-all", shows="the network rewritten and compiled",
        needs=(lacking.torch,), command=_profile("profile-all", "all of these"),
    ),
    _upscale("video", needs=(
        lacking.engine(*_TENSORRT_FP16, "onnxruntime-cuda-fp16", "openvino-fp32"),
    )),
    _upscale("video-torch", "--backend", "torch", needs=(lacking.torch,)),
    _upscale(
        "video-nvenc", "--encoder", "h264_nvenc",
        needs=(lacking.gpu, lacking.engine(*_FASTEST[:3]), lacking.nvenc),
    ),
    Part(
        name="training", shows="updates per second", command=_training, needs=(lacking.torch,),
    ),
    _pytest(
        "compute-sanitizer", "the device layer under NVIDIA's checker of memory",
        "tests/parity/test_rings.py", "-k", "device_layer and python",
        before=("compute-sanitizer", "--error-exitcode", "9", "--target-processes", "all"),
    ),
    Part(
        name="pycuda", shows="PyCUDA built here, and the device layer through it",
        command=_pycuda, needs=(lacking.gpu, lacking.torch, lacking.tests, lacking.program("nvcc")),
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
        needs=(lacking.engine(*_TENSORRT_FP16),),
    ),
    Part(
        name="fused", shows="a kernel of our own for shuffling, rounding and interleaving",
        command=_fused, needs=(lacking.gpu, lacking.torch, lacking.triton),
    ),
    _latency("side-by-side", _FASTEST),
    _latency("compiled", ("torch-cuda-compiled-fp16", "torch-cuda-captured-fp16")),
    _pytest(
        "tests", "all other tests for a GPU", "tests",
        "-k", "not engines_of_the_gpu and not device_layer",
    ),
)  # fmt: skip
"""All parts, in the order in which they are run."""
