"""The packages srtrt stands on: which versions it was tried with, and what is wrong with one.

The versions are those that srtrt's own metadata asks for, so pyproject.toml alone says them.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from srtrt.errors import (
    BrokenPackageError,
    MissingPackageError,
    PackageError,
    first_line,
    install_hint,
)
from srtrt.signals import end_at_once, handled_by
from srtrt.terminal import say

_OWNERS_OF_CV2 = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
_OWNERS_OF_ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu")
_DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml"}
"""Module to distribution, where the names differ."""


@functools.cache
def requirements() -> dict[str, str]:
    """Distribution to the versions srtrt was tried with, such as ``>=17,<20``.

    Where extras differ it is from the oldest to the newest of them.
    """
    try:
        lines = metadata.requires("srtrt") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in lines:
        match = re.match(r"([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([<>=!~][^;)]*)?", line)
        if match:
            bounds = (match[2] or "").replace(" ", "").split(",")
            found.setdefault(_normal(match[1]), []).extend(filter(None, bounds))
    return {name: _widest(bounds) for name, bounds in found.items()}


def _widest(bounds: Sequence[str]) -> str:
    """The lowest of the lower bounds and the highest of the upper ones."""
    lower = sorted((b for b in bounds if b.startswith(">=")), key=_numbers)[:1]
    upper = sorted((b for b in bounds if b.startswith("<")), key=_numbers)[-1:]
    return ",".join(lower + upper)


def installed(distribution: str) -> str | None:
    """Version of an installed distribution; None if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def untried(distribution: str) -> str | None:
    """A sentence if the installed version is outside of what srtrt was tried with, else None."""
    version = installed(distribution)
    wanted = requirements().get(_normal(distribution), "")
    if version is None or _within(version, wanted):
        return None
    return (
        f"{distribution} {version} has not been tried with srtrt (expected {wanted}); "
        f"if something fails: {reinstall(distribution)}."
    )


def reinstall(distribution: str) -> str:
    """The pip line that brings a version srtrt was tried with; extras may follow the name."""
    name = distribution.partition("[")[0]
    return f"pip install --force-reinstall '{distribution}{requirements().get(_normal(name), '')}'"


def broken(distribution: str, error: BaseException) -> BrokenPackageError:
    """What to raise when an installed package does not work."""
    text = first_line(error) or type(error).__name__
    if distribution in _OWNERS_OF_CV2:
        advice = _advice_on_cv2(text)
    else:
        advice = f"Install it again with: {reinstall(distribution)}."
    version = installed(distribution)
    name = f"{distribution} {version}" if version else f"{distribution} (not installed)"
    wanted = requirements().get(_normal(distribution), "")
    expected = f"; srtrt was tried with {wanted}" if wanted else ""
    return BrokenPackageError(f"The package {name} does not work: {text}{expected}. {advice}")


def unusable(module: str, error: ImportError, extra: str, purpose: str) -> PackageError:
    """What to raise when an optional package cannot be imported.

    Args:
        module: name of its top-level module.
        error: what importing it raised.
        extra: extra of srtrt that installs it.
        purpose: what needs it, such as ``the openvino backend``.
    """
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        if module == "onnxruntime":
            return no_onnxruntime(purpose)
        return MissingPackageError(module, extra, purpose)
    return broken(_distribution(module), error)


def no_onnxruntime(purpose: str) -> PackageError:
    """What to raise where ONNX Runtime is needed and not installed; two distributions bring it."""
    return PackageError(
        f"{purpose} needs ONNX Runtime, which is not installed. On a machine with an NVIDIA GPU "
        f"install it with: {install_hint('gpu')}; without one with: {install_hint('cpu')}."
    )


def onnxruntime_clash() -> str | None:
    """A sentence if both distributions of ONNX Runtime are installed, else None.

    They own one module and overwrite each other's files.
    """
    if not all(map(installed, _OWNERS_OF_ONNXRUNTIME)):
        return None
    both = " ".join(_OWNERS_OF_ONNXRUNTIME)
    return (
        "onnxruntime and onnxruntime-gpu are both installed; they own one module and overwrite "
        f"each other's files. Remove both, then install one: pip uninstall {both}, then for an "
        f"NVIDIA GPU {reinstall('onnxruntime-gpu[cuda,cudnn]')}, else {reinstall('onnxruntime')}."
    )


def require_onnxruntime(purpose: str) -> None:
    """Makes sure, before work that needs it begins, that exactly one ONNX Runtime is installed.

    Args:
        purpose: what needs it, such as ```srtrt export```.

    Raises:
        PackageError: if there is none, or there are two, with the lines to type.
    """
    if not any(map(installed, _OWNERS_OF_ONNXRUNTIME)) and find_spec("onnxruntime") is None:
        raise no_onnxruntime(purpose)
    clash = onnxruntime_clash()
    if clash:
        raise BrokenPackageError(clash)


def import_openvino() -> Any:
    """The module ``openvino``, without its telemetry.

    When it is imported, that forks this process in a thread to report the import to a server, and
    writes to the home folder; the fork can hang, and the process then never ends.

    Raises:
        PackageError: if it is not installed or does not work.
    """
    quiet = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if quiet:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise unusable("openvino", error, "cpu", "the openvino backend") from error
    finally:
        if quiet:
            del sys.modules["openvino_telemetry"]


def load(modules: Sequence[str], *, extra: str, purpose: str, quiet: bool = False) -> None:
    """Imports modules that stand on PyTorch, which takes seconds, and says so.

    Nothing else may be going on: Ctrl-C ends the process at once.

    Args:
        modules: their names.
        extra: extra of srtrt that installs what they need.
        purpose: what needs them, such as ``training``.
        quiet: say nothing.

    Raises:
        MissingPackageError: if a package is not installed.
    """
    if not quiet and "torch" not in sys.modules:
        say("loading PyTorch ...")
    try:
        with handled_by(end_at_once):
            for module in modules:
                importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", extra, purpose) from error


def broken_import(error: ImportError) -> BrokenPackageError | None:
    """What to raise when a package that srtrt always needs cannot be imported.

    None if the fault is in srtrt itself.
    """
    module = (error.name or _raised_in(error)).partition(".")[0]
    return None if module in ("", "srtrt") else broken(_distribution(module), error)


def all_untried() -> list[str]:
    """A sentence for every installed package of a version srtrt was not tried with."""
    return [note for name in requirements() if (note := untried(name))]


def _raised_in(error: BaseException) -> str:
    """The module that raised an error."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        found = found if name.startswith("importlib") else name
        trace = trace.tb_next
    return found


def _distribution(module: str) -> str:
    if module == "onnxruntime" and installed("onnxruntime-gpu"):
        return "onnxruntime-gpu"
    return _DISTRIBUTIONS.get(module, module)


def owners_of_cv2() -> list[str]:
    """Installed distributions that each bring the module ``cv2`` into the same folder."""
    return [name for name in _OWNERS_OF_CV2 if installed(name)]


def _advice_on_cv2(problem: str) -> str:
    owners = owners_of_cv2()
    install = f"pip install 'opencv-python-headless{requirements().get(_OWNERS_OF_CV2[1], '')}'"
    if len(owners) > 1:
        return (
            f"{' and '.join(owners)} all own the module cv2 and overwrite each other's files: "
            f"pip uninstall {' '.join(owners)}, then {install}."
        )
    if "libGL" in problem or "libgthread" in problem:
        return (
            f"{owners[0] if owners else 'opencv-python'} needs a desktop's libraries; the headless "
            f"package needs none: pip uninstall {' '.join(owners)}, then {install}."
        )
    return f"Install it again with: {reinstall(_OWNERS_OF_CV2[1])}."


def _within(version: str, bounds: str) -> bool:
    """Whether a version meets bounds of the kinds ``>=`` and ``<``, by its numbers alone."""
    for bound in filter(None, bounds.split(",")):
        sign, limit = re.match(r"([<>=!~]+)(.*)", bound).groups()  # type: ignore[union-attr]
        if sign == ">=" and _numbers(version) < _numbers(limit):
            return False
        if sign == "<" and _numbers(version) >= _numbers(limit):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.findall(r"\d+", version.partition("+")[0])]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
