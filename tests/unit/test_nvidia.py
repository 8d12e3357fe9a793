"""Why no GPU can be used, on machines that are made up: a folder for the root, and a driver."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from driver_standin import compiled_driver

from srtrt.runtime.backends.tensorrt import TensorRtBackend
from srtrt.runtime.cuda_packages import beyond_driver, cuda_of, cuda_problems, cuda_python_line
from srtrt.runtime.engines.flavour import FLAVOURS
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.products import unusable_because
from srtrt.runtime.nvidia import NOT_FOUND, Machine, gpu_problem

ABSENT = "libcuda.so.1: cannot open shared object file: No such file or directory"
CARD = {
    "sys/bus/pci/devices/0000:65:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:65:00.0/class": "0x030200\n",
    # Its own sound device and another maker's display are no GPUs of NVIDIA.
    "sys/bus/pci/devices/0000:65:00.1/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:65:00.1/class": "0x040300\n",
    "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
    "sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n",
}
MODULE = {"sys/module/nvidia/version": "570.86.10\n"}
NODES = {"dev/nvidiactl": "", "dev/nvidia0": "", "dev/nvidia-uvm": ""}
WSL = {"proc/version": "Linux version 6.6.87.2-microsoft-standard-WSL2"}
CONTAINER = {".dockerenv": ""}
PLAIN = {"proc/version": "Linux version 6.1.0-32-amd64"}


def pointed(argument: Any) -> Any:
    return argument._obj


class Driver:
    """What libcuda.so.1 and libnvidia-ml.so.1 answer."""

    def __init__(self, init: int = 0, count: int = 0, nvml: int = 0, mig: bool = False) -> None:
        self.init, self.count, self.nvml, self.mig = init, count, nvml, mig

    def __call__(self, name: str) -> Any:
        if name == "libcuda.so.1":
            return SimpleNamespace(cuInit=lambda _: self.init, cuDeviceGetCount=self._count)
        if name == "libnvidia-ml.so.1":
            return SimpleNamespace(
                nvmlInit_v2=lambda: self.nvml,
                nvmlShutdown=lambda: 0,
                nvmlDeviceGetCount_v2=lambda count: self._set(count, 1),
                nvmlDeviceGetHandleByIndex_v2=lambda _index, _handle: 0,
                nvmlDeviceGetMigMode=lambda _handle, now, _then: self._set(now, int(self.mig)),
            )
        raise OSError(name)

    def _count(self, count: Any) -> int:
        return self._set(count, self.count)

    def _set(self, argument: Any, value: int) -> int:
        pointed(argument).value = value
        return 0


def absent(_name: str) -> Any:
    raise OSError(ABSENT)


def damaged(_name: str) -> Any:
    raise OSError("/usr/lib/libcuda.so.1: file too short")


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Machine]:
    def made(
        files: Mapping[str, str],
        load: Callable[[str], Any] = absent,
        environment: Mapping[str, str] | None = None,
        driver: str = "",
        closed: bool = False,
    ) -> Machine:
        for name, text in (PLAIN | dict(files)).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if driver:
            target = tmp_path / "sys/bus/pci/drivers" / driver
            target.mkdir(parents=True)
            (tmp_path / "sys/bus/pci/devices/0000:65:00.0/driver").symlink_to(target)
        return Machine(
            root=tmp_path,
            load=load,
            environment=environment or {},
            may_open=lambda path: not closed,
        )

    return made


WITHOUT_LIBRARY = {
    "nothing of NVIDIA": ({}, {}, NOT_FOUND, "nvidia-smi"),
    "a card without a driver": (CARD, {}, "0000:65:00.0", "sudo ubuntu-drivers install"),
    "a card with nouveau": (CARD, {"driver": "nouveau"}, "is run by nouveau", "sudo reboot"),
    "a card for a virtual machine": (
        CARD,
        {"driver": "vfio-pci"},
        "virtual machine",
        "use it there",
    ),
    "a module without libraries": (
        CARD | MODULE | NODES,
        {"driver": "nvidia"},
        "driver 570.86.10 is loaded, but its library libcuda.so.1 is not installed",
        "sudo apt install --reinstall libnvidia-compute-570",
    ),
    "a damaged library": (CARD | MODULE, {"load": damaged}, "file too short", "install the driver"),
    "a container without the toolkit": (
        CARD | MODULE | CONTAINER,
        {},
        "the host has an NVIDIA GPU that this container was not given",
        "--gpus all",
    ),
    "a container without the libraries": (
        CARD | MODULE | CONTAINER | NODES,
        {},
        "has the GPU's device files but not the driver's libraries",
        "NVIDIA_DRIVER_CAPABILITIES=all",
    ),
    "WSL, its library not on the path": (
        WSL | {"usr/lib/wsl/lib/libcuda.so.1": ""},
        {},
        "/usr/lib/wsl/lib, where it is not looked for",
        "export LD_LIBRARY_PATH=/usr/lib/wsl/lib:$LD_LIBRARY_PATH",
    ),
    "WSL without a driver in Windows": (
        WSL,
        {},
        "Windows gives it no NVIDIA driver",
        "wsl --update",
    ),
}


@pytest.mark.parametrize("case", WITHOUT_LIBRARY)
def test_what_keeps_the_library_of_the_driver_away(
    case: str, machine: Callable[..., Machine]
) -> None:
    files, more, found, advice = WITHOUT_LIBRARY[case]
    said = gpu_problem(machine(files, **more))
    assert said is not None
    assert found in said
    assert advice in said
    assert not said.endswith(".")


REAL = CARD | MODULE | NODES
STUBS, COMPAT = "/usr/local/cuda/lib64/stubs", "/usr/local/cuda-13.0/compat"
FAILING = {
    "shutting down": (Driver(3), REAL, {}, "shutting down", "start the command anew"),
    "a stub": (
        Driver(34),
        REAL,
        {"environment": {"LD_LIBRARY_PATH": f"/opt/lib:{STUBS}"}},
        "the toolkit's stub",
        f"remove {STUBS} from LD_LIBRARY_PATH",
    ),
    "a driver too old for its library": (Driver(35), REAL, {}, "570.86.10 is too old", "580"),
    "a call too new for the driver": (Driver(36), REAL, {}, "570.86.10 is too old", "580"),
    "taken by another process": (Driver(46), REAL, {}, "to itself", "nvidia-smi -c 0"),
    "links that are not ready": (Driver(802), REAL, {}, "links", "nvidia-fabricmanager"),
    "versions that CUDA finds different": (
        Driver(803),
        REAL | {"usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06": ""},
        {},
        "of different versions (kernel module 570.86.10, library 580.65.06)",
        "sudo reboot",
    ),
    "versions that NVML finds different": (
        Driver(999, nvml=18),
        REAL,
        {},
        "of different versions (kernel module 570.86.10)",
        "sudo reboot",
    ),
    "versions that differ in a container": (
        Driver(100, nvml=18),
        REAL | CONTAINER,
        {},
        "of different versions",
        "restart the container",
    ),
    "compatibility that the GPU lacks": (
        Driver(804),
        REAL,
        {"environment": {"LD_LIBRARY_PATH": COMPAT}},
        "cuda-compat",
        f"remove {COMPAT} from LD_LIBRARY_PATH",
    ),
    "no permission": (
        Driver(100),
        REAL,
        {"closed": True},
        "may not open /dev/nvidia-uvm, /dev/nvidia0, /dev/nvidiactl",
        "sudo usermod -aG video,render $USER",
    ),
    "hidden by the environment": (
        Driver(100),
        REAL,
        {"environment": {"CUDA_VISIBLE_DEVICES": ""}},
        "CUDA_VISIBLE_DEVICES='' hides every GPU",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    "hidden, by a count of none": (
        Driver(0, count=0),
        REAL,
        {"environment": {"CUDA_VISIBLE_DEVICES": "-1"}},
        "CUDA_VISIBLE_DEVICES='-1' hides every GPU",
        "nvidia-smi -L",
    ),
    "a number there is not": (
        Driver(101),
        REAL,
        {"environment": {"CUDA_VISIBLE_DEVICES": "7"}},
        "CUDA_VISIBLE_DEVICES='7'",
        "unset",
    ),
    "kept from the container": (
        Driver(100),
        REAL | CONTAINER,
        {"environment": {"NVIDIA_VISIBLE_DEVICES": "void"}},
        "NVIDIA_VISIBLE_DEVICES='void'",
        "--gpus all",
    ),
    "MIG without an instance": (Driver(100, mig=True), REAL, {}, "MIG", "nvidia-smi mig -cgi"),
    "a container that was given none": (
        Driver(100),
        CARD | MODULE | CONTAINER,
        {},
        "this container was not given",
        "Container Toolkit",
    ),
    "a library without a module": (Driver(100), CARD, {}, "has no driver", "sudo reboot"),
    "device files missing": (
        Driver(100),
        CARD | MODULE,
        {},
        "missing from /dev",
        "nvidia-modprobe",
    ),
    "a library and nothing else": (Driver(100), {}, {}, NOT_FOUND, "nvidia-smi"),
    "WSL without a GPU": (Driver(100), WSL, {}, "Windows shows this WSL no", "wsl --shutdown"),
    "a GPU that does not start": (Driver(100), REAL, {}, "runs no GPU", "sudo dmesg"),
    "memory that is not reached": (
        Driver(999),
        CARD | MODULE | {"dev/nvidiactl": "", "dev/nvidia0": ""},
        {},
        "/dev/nvidia-uvm",
        "sudo nvidia-modprobe -u -c=0",
    ),
    "an error without a name": (Driver(999), REAL, {}, "CUDA error 999", "sudo dmesg"),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_a_number_of_the_driver_comes_from(case: str, machine: Callable[..., Machine]) -> None:
    driver, files, more, found, advice = FAILING[case]
    said = gpu_problem(machine(files, load=driver, **more))
    assert said is not None
    assert found in said
    assert advice in said
    assert len(said) < 300


@pytest.mark.parametrize("code", [*range(1, 60), *range(100, 105), 200, 700, 801, 802, 803, 999])
def test_every_number_has_words(code: int, machine: Callable[..., Machine]) -> None:
    for files in ({}, CARD, REAL):
        said = gpu_problem(machine(files, load=Driver(code)))
        assert said
        assert "`" in said or "start the command" in said


def test_a_gpu_that_works_has_no_problem(machine: Callable[..., Machine]) -> None:
    made = machine(REAL, load=Driver(0, count=2))
    assert gpu_problem(made) is None
    # Without the management library all is well, too.
    plain = Driver(100)

    def without_nvml(name: str) -> Any:
        return plain(name) if name == "libcuda.so.1" else absent(name)

    assert "runs no GPU" in str(gpu_problem(replace(made, load=without_nvml)))


def test_permission_is_asked_of_the_system(machine: Callable[..., Machine]) -> None:
    made = replace(machine(REAL), may_open=Machine().may_open)
    assert made.closed_files == []
    (made.root / "dev/nvidia0").unlink()
    (made.root / "dev/nvidia0").symlink_to("nothing")
    assert made.closed_files == ["/dev/nvidia0"]


GPU_SET = {
    "cuda-python": "13.4.4",
    "onnxruntime-gpu": "1.31.1",
    "nvidia-cudnn-cu13": "9.28.1.4",
    "nvidia-cuda-runtime": "13.5.37",
    "tensorrt": "10.16.1.11",
    "tensorrt-cu13": "10.16.1.11",
    "tensorrt-cu13-libs": "10.16.1.11",
    "tensorrt-rtx-cu13": "1.7.1.116",
    "nvidia-nccl-cu13": "2.30.7",
    "torch": "2.14.1",
    "numpy": "2.4.6",
}
CU12_SET = {
    "cuda-python": "12.9.10",
    "onnxruntime-gpu": "1.26.0",
    "nvidia-cudnn-cu12": "9.28.0.42",
    "tensorrt-cu12-bindings": "10.16.1.11",
    "torch": "2.9.1+cu128",
}


def test_the_cuda_of_packages_is_known() -> None:
    assert list(cuda_of(GPU_SET)) == [13]
    assert list(cuda_of(CU12_SET)) == [12]
    assert len(cuda_of(GPU_SET)[13]) == len(GPU_SET) - 3
    assert len(cuda_of(CU12_SET)[12]) == len(CU12_SET)
    assert cuda_of({"onnxruntime": "1.32.0", "torch": "2.13.0+cpu", "cuda-core": "1.2.2"}) == {}


def test_a_driver_too_old_for_the_packages_is_told() -> None:
    (said,) = cuda_problems(GPU_SET, "550.54.15", "12.4")
    assert "The driver 550.54.15 goes up to CUDA 12.4" in said
    assert "need CUDA 13" in said
    assert "update the driver to 580 or later" in said
    assert "pip install '.[gpu-cu12]'" in said
    assert cuda_problems(GPU_SET, "unknown", "12.4")[0].startswith(
        "The driver goes up to CUDA 12.4"
    )
    assert cuda_problems(CU12_SET, "550.54.15", "12.4") == []
    assert cuda_problems(GPU_SET, "580.65.06", "13.0") == []
    assert cuda_problems(CU12_SET, "580.65.06", "13.0") == []


@pytest.mark.parametrize(("driver", "cuda"), [("580.65.06", "13.0"), (None, None)])
def test_two_versions_of_cuda_are_told(driver: str | None, cuda: str | None) -> None:
    (said,) = cuda_problems(GPU_SET | {"nvidia-cudnn-cu12": "9.1.0.70"}, driver, cuda)
    assert "CUDA 12: nvidia-cudnn-cu12 9.1.0.70, and CUDA 13: cuda-python 13.4.4" in said
    assert "pip install '.[gpu]'" in said


@pytest.fixture(scope="module")
def driver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_driver(tmp_path_factory.mktemp("driver"))


def doctor(folder: Path, **environment: str) -> str:
    """What the doctor says where a compiled stand-in is the driver."""
    done = subprocess.run(
        [sys.executable, "-c", "from srtrt.runtime.gpu_report import gpu_lines\n"
         "for line in gpu_lines(): print(line)"],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_gpu_is_listed_with_what_serves_it(driver_folder: Path) -> None:
    gpus = "NVIDIA H100 80GB HBM3:9.0:81559,NVIDIA GeForce RTX 4090:8.9:24564"
    said = doctor(driver_folder, SRTRT_CUDA_GPUS=gpus)
    first, second = said.split("  cuda:1 ")
    assert "NVIDIA GPUs in CUDA's order, which CUDA_DEVICE_ORDER=PCI_BUS_ID" in first
    assert "cuda:0 NVIDIA H100 80GB HBM3, compute capability 9.0, 79.6 GiB, driver " in first
    assert "(CUDA 13.0), PCI 0000:01:00.0" in first
    assert second.startswith("NVIDIA GeForce RTX 4090, compute capability 8.9, 24.0 GiB")
    rtx = "TensorRT-RTX 1.7.1"
    if "TensorRT-RTX is not installed" not in said:
        assert f"{rtx}.116 does not serve NVIDIA H100" in first
        assert "expected 7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in first
        assert f"{rtx}.116 serves it" in second


def test_an_old_driver_under_new_packages_is_told(driver_folder: Path) -> None:
    if 13 not in cuda_of_this_environment():
        pytest.skip("nothing for CUDA 13 is installed here")
    said = doctor(driver_folder, SRTRT_CUDA_VERSION="12040")
    assert "goes up to CUDA 12.4" in said
    assert "pip install '.[gpu-cu12]'" in said


def cuda_of_this_environment() -> dict[int, list[str]]:
    from srtrt.runtime.cuda_packages import installed_packages

    return cuda_of(installed_packages())


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"SRTRT_CUDA_INIT": "34"}, "the toolkit's stub"),
        ({"SRTRT_CUDA_INIT": "803"}, "of different versions"),
        ({"SRTRT_CUDA_INIT": "804"}, "cuda-compat"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "hides every GPU"),
    ],
)
def test_backends_give_the_reason(
    driver_folder: Path, environment: dict[str, str], found: str
) -> None:
    code = (
        "from srtrt.runtime.backends.tensorrt import TensorRtBackend\n"
        "for each in TensorRtBackend.capabilities(): print(each.usable, each.reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(driver_folder), **environment},
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("False TensorRT: "), done.stderr
    assert found in line
    assert found in doctor(driver_folder, **environment)


def test_cuda_python_sees_what_the_facts_say(driver_folder: Path) -> None:
    pytest.importorskip("cuda.bindings", reason="needs cuda-python")
    code = (
        "from cuda.bindings import driver\n"
        "from srtrt.runtime.engines.gpu import all_gpus, bus_address\n"
        "assert driver.cuInit(0)[0] == 0\n"
        "for index, gpu in enumerate(all_gpus()):\n"
        "    found = [driver.cuDeviceGetName(99, index)[1].strip(b' \\0').decode(),\n"
        "        driver.cuDeviceTotalMem(index)[1],\n"
        "        driver.cuDeviceGetPCIBusId(99, index)[1].strip(b' \\0').decode().lower()]\n"
        "    assert found == [gpu.name, gpu.memory_bytes, bus_address(index)], found\n"
        "    major, minor = (driver.cuDeviceGetAttribute(getattr(\n"
        "        driver.CUdevice_attribute, f'CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{each}'),\n"
        "        index)[1] for each in ('MAJOR', 'MINOR'))\n"
        "    assert gpu.compute_capability == f'{major}.{minor}'\n"
        "    print(gpu.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(driver_folder),
            "SRTRT_CUDA_GPUS": "NVIDIA One:8.9:8192,NVIDIA Two:12.0:32768",
        },
    )
    assert done.stdout.splitlines() == ["NVIDIA One", "NVIDIA Two"], done.stderr


@pytest.mark.parametrize(("cuda", "runs"), [("12.4", False), ("13.0", True), ("14.1", True)])
def test_engines_are_not_offered_with_a_driver_too_old_for_them(cuda: str, runs: bool) -> None:
    gpu = GpuFacts(
        name="NVIDIA L4",
        compute_capability="8.9",
        memory_bytes=24 << 30,
        driver="550.54.15",
        driver_cuda=cuda,
    )
    said = beyond_driver("TensorRT", "13", gpu)
    assert (said is None) == runs
    assert beyond_driver("TensorRT", "unknown", gpu) is None
    major = "13" if runs else "12"
    assert f"'cuda-python>={major}." in cuda_python_line(gpu)
    if said:
        assert "is built for CUDA 13, and the driver 550.54.15 of NVIDIA L4 goes up to" in said
        assert "update the driver to 580 or later" in said
        assert "pip install '.[gpu-cu12]'" in said
        pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")
        assert unusable_because(FLAVOURS["tensorrt-rtx"], gpu) == beyond_driver(
            "TensorRT-RTX", "13", gpu
        )


def test_a_device_beyond_the_last_is_told_in_the_order_of_cuda(driver_folder: Path) -> None:
    code = (
        "from srtrt.errors import BackendError\n"
        "from srtrt.runtime.engines.gpu import gpu_facts\n"
        "print(gpu_facts('cuda:1').name)\n"
        "try: gpu_facts('cuda:2')\n"
        "except BackendError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(driver_folder),
            "SRTRT_CUDA_GPUS": "One:8.9:8192,Two:9.0:8192",
            "CUDA_VISIBLE_DEVICES": "1,0",
        },
    )
    assert done.stdout.splitlines() == [
        "Two",
        "cuda:2 does not exist; this process sees cuda:0 to cuda:1, in CUDA's order "
        "(CUDA_VISIBLE_DEVICES is '1,0').",
    ], done.stderr


def test_the_reason_is_the_capability_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srtrt.runtime.backends.tensorrt.gpu_facts", lambda *_: None)
    monkeypatch.setattr("srtrt.runtime.backends.tensorrt.no_gpu", lambda: "the reason; the line")
    (capability,) = TensorRtBackend.capabilities()
    assert capability.reason == "TensorRT: the reason; the line"
    assert not capability.usable
