"""Why this machine's NVIDIA GPU cannot be used, and what to type.

The driver says little more than a number. What is wrong follows from that number together with what
the system shows: cards on the bus, the kernel module, device files, the environment.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOT_FOUND = (
    "no NVIDIA GPU with a driver was found; with a GPU, install its driver until `nvidia-smi` "
    "lists it"
)
"""Where nothing of NVIDIA's is to be seen."""

_VENDOR, _DISPLAY = "0x10de", "0x03"
"""PCI vendor NVIDIA, and the class of display controllers, which GPUs without a monitor are too."""

_LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib")
_WSL_FOLDER = "usr/lib/wsl/lib"

_TOOLKIT = (
    "install the NVIDIA Container Toolkit on the host and start the container with `--gpus all`"
)
_RESTART = "restart the machine: `sudo reboot`"


def _may_open(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the facts about a machine come from; by default this one."""

    root: Path = Path("/")
    """Folder that has its ``sys``, ``proc``, ``dev``, ``usr`` and ``run``."""
    load: Callable[[str], Any] = ctypes.CDLL
    """Loads a shared library by its name, or raises OSError."""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    may_open: Callable[[Path], bool] = _may_open
    """Whether this user may read and write a device file."""

    def text(self, path: str) -> str:
        """A file under the root as text; empty if it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def exists(self, path: str) -> bool:
        """Whether something is there under the root."""
        return os.path.lexists(self.root / path)

    @property
    def cards(self) -> dict[str, str]:
        """NVIDIA's GPUs on the PCI bus: address to the kernel driver that has it, or ``""``."""
        found = {}
        for path in sorted(self.root.glob("sys/bus/pci/devices/*")):
            place = path.relative_to(self.root)
            vendor, kind = (self.text(f"{place}/{name}").strip() for name in ("vendor", "class"))
            if vendor == _VENDOR and kind.startswith(_DISPLAY):
                driver = path / "driver"
                found[path.name] = driver.readlink().name if driver.is_symlink() else ""
        return found

    @property
    def module_version(self) -> str:
        """Version of NVIDIA's loaded kernel module; empty if there is none."""
        version = self.text("sys/module/nvidia/version").strip()
        if not version:
            match = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", self.text("proc/driver/nvidia/version"))
            version = match[0] if match else ""
        return version

    @property
    def library_version(self) -> str:
        """Version in the name of the driver's library that is installed; empty if unknown."""
        for folder in _LIBRARY_FOLDERS:
            for path in sorted((self.root / folder).glob("libcuda.so.*.*")):
                return path.name.removeprefix("libcuda.so.")
        return ""

    @property
    def in_wsl(self) -> bool:
        """Whether this Linux runs in Windows."""
        return "microsoft" in self.text("proc/version").lower()

    @property
    def in_container(self) -> bool:
        """Whether this is a container."""
        if self.exists(".dockerenv") or self.exists("run/.containerenv"):
            return True
        return bool(re.search(r"docker|kubepods|containerd|lxc", self.text("proc/1/cgroup")))

    @property
    def device_files(self) -> list[Path]:
        """What the driver is called through: one for the control, one for each GPU."""
        return sorted(
            path
            for path in (self.root / "dev").glob("nvidia*")
            if re.fullmatch(r"nvidia(ctl|-uvm|\d+)", path.name)
        )

    @property
    def closed_files(self) -> list[str]:
        """Those of them that this user may not open."""
        return [f"/dev/{path.name}" for path in self.device_files if not self.may_open(path)]

    @property
    def shows_gpu(self) -> bool:
        """Whether anything says that there is an NVIDIA GPU."""
        signs = ("proc/driver/nvidia", "dev/nvidiactl", "dev/nvidia0")
        wsl = self.in_wsl and self.exists(f"{_WSL_FOLDER}/libcuda.so.1")
        return bool(self.cards or self.module_version or wsl or any(map(self.exists, signs)))


def gpu_problem(machine: Machine | None = None) -> str | None:
    """Why CUDA finds no GPU here, and what to do.

    Args:
        machine: this one by default.

    Returns:
        A clause without a full stop; None if CUDA works.
    """
    machine = machine or Machine()
    try:
        cuda = machine.load("libcuda.so.1")
    except OSError as error:
        return _without_library(machine, error)
    code = int(cuda.cuInit(0))
    if code == 0:
        count = ctypes.c_int()
        code = int(cuda.cuDeviceGetCount(ctypes.byref(count)))
        if code == 0 and count.value > 0:
            return None
        code = code or _NO_DEVICE
    return _of_code(code, machine)


def no_gpu(machine: Machine | None = None) -> str:
    """Why there is no GPU to compute on, as a clause, where facts about one were not to be had."""
    return gpu_problem(machine) or NOT_FOUND


def _without_library(machine: Machine, error: OSError) -> str:
    """The driver's library does not load."""
    if machine.in_wsl:
        if machine.exists(f"{_WSL_FOLDER}/libcuda.so.1"):
            return (
                "libcuda.so.1 of the Windows driver is in /usr/lib/wsl/lib, where it is not looked "
                "for; type `export LD_LIBRARY_PATH=/usr/lib/wsl/lib:$LD_LIBRARY_PATH`"
            )
        return (
            "this is WSL and Windows gives it no NVIDIA driver; install NVIDIA's driver in "
            "Windows (none in Linux), then type `wsl --update` and `wsl --shutdown` there"
        )
    if "cannot open shared object file" not in str(error):
        return f"libcuda.so.1, the driver's library, cannot be loaded ({error}); {_reinstall()}"
    if machine.in_container and machine.shows_gpu:
        given = machine.exists("dev/nvidiactl")
        return (
            "this container has the GPU's device files but not the driver's libraries; start it "
            "with `--gpus all -e NVIDIA_DRIVER_CAPABILITIES=all`"
            if given
            else f"the host has an NVIDIA GPU that this container was not given; {_TOOLKIT}"
        )
    if machine.module_version:
        return (
            f"the kernel module of NVIDIA's driver {machine.module_version} is loaded, but its "
            f"library libcuda.so.1 is not installed; {_reinstall(machine.module_version)}"
        )
    return _without_module(machine) if machine.cards else NOT_FOUND


def _without_module(machine: Machine) -> str:
    """A card is on the bus, and NVIDIA's kernel module does not run it."""
    address, driver = next(iter(machine.cards.items()))
    if driver.startswith("vfio"):
        return (
            f"the NVIDIA card {address} is reserved for a virtual machine ({driver}); use it there"
        )
    has = (
        f"the NVIDIA card {address} is run by {driver}"
        if driver
        else f"the card {address} of NVIDIA has no driver"
    )
    return (
        f"{has}; install NVIDIA's (on Ubuntu `sudo ubuntu-drivers install`, on Debian "
        "`sudo apt install nvidia-driver`), then `sudo reboot`"
    )


def _reinstall(version: str = "") -> str:
    major = version.partition(".")[0]
    package = f"libnvidia-compute-{major}" if major else "libnvidia-compute-NNN of its version"
    return f"install the driver again (on Ubuntu `sudo apt install --reinstall {package}`)"


_NO_DEVICE, _INVALID_DEVICE, _UNKNOWN = 100, 101, 999
_NVML_MISMATCH = 18


def _of_code(code: int, machine: Machine) -> str:
    """What a failure of ``cuInit`` comes from."""
    if code in _ALWAYS:
        return f"{_ALWAYS[code](machine)} (CUDA error {code})"
    if _nvml_init(machine) == _NVML_MISMATCH or _versions_differ(machine):
        return _mismatch(machine, code)
    if machine.closed_files:
        return (
            f"this user may not open {', '.join(machine.closed_files)}; type `sudo usermod -aG "
            f"video,render $USER` and log in again (CUDA error {code})"
        )
    if code in (_NO_DEVICE, _INVALID_DEVICE):
        return _no_device(machine)
    if not machine.exists("dev/nvidia-uvm") and not machine.in_wsl:
        return (
            f"/dev/nvidia-uvm, through which CUDA reaches the GPU's memory, is missing; type "
            f"`sudo nvidia-modprobe -u -c=0` (CUDA error {code})"
        )
    return (
        f"the driver does not start and does not say why (CUDA error {code}); type `sudo dmesg | "
        "grep -i nvrm`, and if that tells nothing `sudo modprobe -r nvidia_uvm && sudo modprobe "
        "nvidia_uvm`"
    )


def _mismatch(machine: Machine, code: int) -> str:
    versions = [
        f"{what} {version}"
        for what, version in (
            ("kernel module", machine.module_version),
            ("library", machine.library_version),
        )
        if version
    ]
    found = f" ({', '.join(versions)})" if versions else ""
    where = (
        "restart the container, so that it gets the host's libraries"
        if machine.in_container
        else _RESTART
    )
    return (
        f"the driver's kernel module and its libraries are of different versions{found}; "
        f"{where} (CUDA error {code})"
    )


def _versions_differ(machine: Machine) -> bool:
    module, library = machine.module_version, machine.library_version
    return bool(module and library and module != library)


def _no_device(machine: Machine) -> str:
    """CUDA starts, and finds nothing."""
    hidden = machine.environment.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return (
            f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU; type `unset CUDA_VISIBLE_DEVICES`, "
            "or give it numbers or names that `nvidia-smi -L` lists"
        )
    given = machine.environment.get("NVIDIA_VISIBLE_DEVICES", "all")
    if given in ("", "void", "none"):
        return (
            f"this container was started with NVIDIA_VISIBLE_DEVICES={given!r}; start it with "
            "`--gpus all`"
        )
    if _mig_without_instance(machine):
        return (
            "the GPU is in MIG mode and has no instance; `sudo nvidia-smi mig -lgip` lists what "
            "can be made, `sudo nvidia-smi mig -cgi ID -C` makes one, `sudo nvidia-smi -mig 0` "
            "ends the mode"
        )
    if machine.in_wsl:
        return (
            "Windows shows this WSL no NVIDIA GPU; update NVIDIA's driver in Windows, then type "
            "`wsl --update` and `wsl --shutdown` there"
        )
    if not any(re.fullmatch(r"nvidia\d+", path.name) for path in machine.device_files):
        if machine.in_container and machine.shows_gpu:
            return f"the host has an NVIDIA GPU that this container was not given; {_TOOLKIT}"
        if machine.cards and not machine.module_version:
            return _without_module(machine)
        if machine.cards:
            return (
                "the GPU's device files are missing from /dev; type `sudo nvidia-modprobe -c=0 -u`"
            )
        return NOT_FOUND
    return (
        "the driver runs no GPU (CUDA error 100); type `sudo dmesg | grep -i nvrm`: a GPU may be "
        "too old for this driver, or not have enough power"
    )


def _nvml_init(machine: Machine) -> int:
    """What NVIDIA's management library answers; 0 also where it cannot be asked."""
    try:
        nvml = machine.load("libnvidia-ml.so.1")
        code = int(nvml.nvmlInit_v2())
        if code == 0:
            nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return 0
    return code


def _mig_without_instance(machine: Machine) -> bool:
    """Whether a GPU is divided, and CUDA has nothing to compute on."""
    count, current, pending = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    handle = ctypes.c_void_p()
    try:
        nvml = machine.load("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() != 0:
            return False
        on = []
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0:
            for index in range(count.value):
                asked = (
                    nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0
                    and nvml.nvmlDeviceGetMigMode(
                        handle, ctypes.byref(current), ctypes.byref(pending)
                    )
                    == 0
                )
                on.append(asked and current.value == 1)
        nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return False
    return bool(on) and all(on)


def _on_path(machine: Machine, part: str) -> str:
    """The entry of LD_LIBRARY_PATH that has a folder of this name."""
    entries = machine.environment.get("LD_LIBRARY_PATH", "").split(":")
    return next((entry for entry in entries if part in Path(entry).parts), "")


def _stub(machine: Machine) -> str:
    entry = _on_path(machine, "stubs")
    remedy = (
        f"remove {entry} from LD_LIBRARY_PATH"
        if entry
        else "`ldconfig -p | grep libcuda` lists where it may be; remove it there"
    )
    return (
        f"libcuda.so.1 is the toolkit's stub, which is only to link with; {remedy}, so that the "
        "driver's own is found"
    )


def _too_old(machine: Machine) -> str:
    version = machine.module_version
    named = f"the driver {version}" if version else "the driver"
    return f"{named} is too old for its CUDA library; update it, from 580 on, and then {_RESTART}"


def _compatibility(machine: Machine) -> str:
    entry = _on_path(machine, "compat")
    return (
        "libcuda.so.1 is of the package cuda-compat, which this GPU does not support; "
        + (f"remove {entry} from LD_LIBRARY_PATH" if entry else "uninstall cuda-compat")
        + ", and update the driver instead"
    )


_ALWAYS: dict[int, Callable[[Machine], str]] = {
    3: lambda _: (
        "the driver is shutting down, or this process was forked from one that uses CUDA; "
        "start the command anew"
    ),
    34: _stub,
    35: _too_old,
    36: _too_old,
    46: lambda _: (
        "another process has the GPU to itself; `nvidia-smi` lists it, and `sudo "
        "nvidia-smi -c 0` lets several share it"
    ),
    802: lambda _: (
        "the GPUs' links are not ready; type `sudo systemctl start nvidia-fabricmanager`"
    ),
    803: lambda machine: _mismatch(machine, 803).rpartition(" (CUDA")[0],
    804: _compatibility,
}
"""Codes of ``cuInit`` that have one meaning."""
