"""TensorRT and TensorRT-RTX: everything in which the two differ.

The builder, the parser and the engines have the same Python interface in ``tensorrt`` 10.13 and
later, in 11, and in ``tensorrt_rtx``. What differs is in :data:`FLAVOURS` and the functions here:

- TensorRT times kernels on this machine's GPU while it builds, and keeps the timings in a cache.
  The engine serves GPUs like that one.
- TensorRT-RTX builds on any machine, with or without a GPU, for several compute capabilities,
  and compiles the kernels on first use, which it keeps in a runtime cache. Timing caches and the
  optimisation level do nothing there.
- TensorRT 11 and TensorRT-RTX know strongly typed networks only; TensorRT 10 must be told.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from srtrt.errors import BackendError, MissingPackageError, UsageError, install_hint
from srtrt.locks import locked
from srtrt.packages import installed
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.stored import discard, read_blob, write_blob

FlavourName = Literal["tensorrt", "tensorrt-rtx"]

_OLDEST_GPU = (7, 5)
"""Compute capability from which TensorRT 10.13 serves a GPU (its support matrix)."""

CURRENT = "current"
"""Compute capability of this machine's GPU, as a target."""


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """One of the two products, and what it can do."""

    name: FlavourName
    """As on the command line."""
    label: str
    """As NVIDIA writes it."""
    module: str
    """Python module."""
    extra: str
    """Extra of srtrt that installs it."""
    oldest: tuple[int, int]
    """Oldest version, major and minor, that is supported."""
    builds_ahead: bool
    """Builds without a GPU, for chosen compute capabilities."""
    timing_cache: bool
    """Keeps kernel timings between builds."""
    runtime_cache: bool
    """Compiles on first use, and keeps the result."""
    levels: bool
    """The optimisation level changes the engine."""

    def load(self) -> Any:
        """Imports the package.

        Raises:
            MissingPackageError: if it is not installed.
            BackendError: if it cannot be loaded or is too old.
        """
        try:
            module = importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                self.name, self.extra, f"building or loading {self.label} engines"
            ) from error
        except (ImportError, OSError, RuntimeError) as error:  # its libraries
            raise BackendError(
                f"{self.label} is installed but cannot be loaded: {error}. Install it again: "
                f"pip install --force-reinstall '{self.name}'"
            ) from error
        if not hasattr(module, "__version__"):  # a folder of that name: type stubs, or remains
            raise MissingPackageError(
                self.name, self.extra, f"building or loading {self.label} engines"
            )
        found = tuple(int(part) for part in re.findall(r"\d+", module.__version__)[:2])
        if found < self.oldest:
            wanted = ".".join(map(str, self.oldest))
            raise BackendError(
                f"{self.label} {module.__version__} is too old; expected {wanted} or later: "
                f"pip install -U '{self.name}>={wanted}'"
            )
        return module

    def version(self) -> str:
        """Version of the installed package.

        Raises:
            MissingPackageError, BackendError: see :meth:`load`.
        """
        return str(self.load().__version__)

    def cuda(self) -> str:
        """Major version of CUDA that the installed wheel is for, or ``unknown``."""
        for major in range(19, 11, -1):
            if installed(f"{self.name}-cu{major}"):
                return str(major)
        return "unknown"

    def refusal(self, gpu: GpuFacts) -> str | None:
        """Why engines do not run on a GPU, as a clause that says what to do; None if they do.

        Raises:
            MissingPackageError, BackendError: see :meth:`load`.
        """
        trt = self.load()
        known = _known_targets(trt) if self.builds_ahead else [_OLDEST_GPU]
        found = tuple(map(int, gpu.compute_capability.split(".")))
        serves = found in known if self.builds_ahead else found >= known[0]
        if serves:
            return None
        listed = _listed(known)
        expected = listed if self.builds_ahead else f"{listed} or later"
        other = FLAVOURS["tensorrt"]
        instead = (
            f"{other.label} does: {install_hint(other.extra)}"
            if self.builds_ahead and found >= _OLDEST_GPU
            else "no supported version does; use another backend"
        )
        return (
            f"{self.label} {trt.__version__} does not serve {gpu.name} (compute capability "
            f"{gpu.compute_capability}; expected {expected}); {instead}"
        )

    def is_portable(self, compute_capabilities: Sequence[str]) -> bool:
        """Whether an engine for these targets is the same whatever GPU builds it."""
        return self.builds_ahead and CURRENT not in compute_capabilities


FLAVOURS: dict[str, Flavour] = {
    "tensorrt": Flavour(
        name="tensorrt",
        label="TensorRT",
        module="tensorrt",
        extra="tensorrt",
        oldest=(10, 13),
        builds_ahead=False,
        timing_cache=True,
        runtime_cache=False,
        levels=True,
    ),
    "tensorrt-rtx": Flavour(
        name="tensorrt-rtx",
        label="TensorRT-RTX",
        module="tensorrt_rtx",
        extra="rtx",
        oldest=(1, 4),
        builds_ahead=True,
        timing_cache=False,
        runtime_cache=True,
        levels=False,
    ),
}
"""Every flavour by name."""


def flavour_of(name: str) -> Flavour:
    """The flavour of a name; its package is not imported.

    Raises:
        UsageError: if there is none.
    """
    if name not in FLAVOURS:
        raise UsageError(f"engine kind {name!r} is unknown; expected {' or '.join(FLAVOURS)}.")
    return FLAVOURS[name]


def typed_network_flags(trt: Any) -> int:
    """Flags with which a network keeps the types of its graph."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def require_user_memory(trt: Any, config: Any) -> None:
    """Lets an engine use no memory but what it is given, where a builder can be told so.

    TensorRT-RTX from 1.2 allocates by itself otherwise, which cannot be recorded.
    """
    flag = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if flag is not None:
        config.set_flag(flag)


def set_targets(
    flavour: Flavour, trt: Any, config: Any, compute_capabilities: Sequence[str]
) -> None:
    """Tells a builder which GPUs the engine is for.

    Args:
        flavour: what builds.
        trt: its module.
        config: its builder configuration.
        compute_capabilities: such as ``8.9``, or :data:`CURRENT`; empty for the flavour's default:
            this machine's GPU, or for TensorRT-RTX all from 8.0.

    Raises:
        UsageError: if the flavour cannot choose, or does not know one.
    """
    if not compute_capabilities:
        return
    if not flavour.builds_ahead:
        raise UsageError(
            f"{flavour.label} builds for this machine's GPU and cannot target compute capability "
            f"{', '.join(compute_capabilities)}; use tensorrt-rtx or leave it out."
        )
    config.num_compute_capabilities = len(compute_capabilities)
    for index, text in enumerate(compute_capabilities):
        config.set_compute_capability(_target(flavour, trt, text), index)


def _target(flavour: Flavour, trt: Any, text: str) -> Any:
    members = trt.ComputeCapability.__members__
    name = "CURRENT" if text == CURRENT else f"SM{text.replace('.', '')}"
    if name not in members or (text != CURRENT and "." not in text):
        raise UsageError(
            f"compute capability {text!r} is not one that {flavour.label} "
            f"{trt.__version__} can target; expected {_listed(_known_targets(trt))} or {CURRENT}."
        )
    return members[name]


def _known_targets(trt: Any) -> list[tuple[int, int]]:
    """The compute capabilities that TensorRT-RTX can build for, in order."""
    names = (m for m in trt.ComputeCapability.__members__ if re.fullmatch(r"SM\d+", m))
    return sorted((int(name[2:-1]), int(name[-1])) for name in names)


def _listed(capabilities: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{major}.{minor}" for major, minor in capabilities)


_NO_MEMORY = re.compile(
    r"out of memory|out_?of_?memory|insuff?icient memory|memory is insufficient"
    r"|gpu memory \(\d+ bytes\) could not be allocated",
    re.IGNORECASE,
)
"""How TensorRT, its allocator and CUDA say that memory ran out."""

_NO_KERNEL = re.compile(
    r"could not find any implementation|insufficient workspace|within workspace limit"
    r"|requires workspace memory|no (valid |\w+ )?tactics? (found|for)",
    re.IGNORECASE,
)
"""How a builder says that no kernel computes a layer within the workspace."""


def is_out_of_memory(message: str) -> bool:
    """Whether a message of TensorRT says that memory ran out; it reports that in words only.

    An address that is not valid is no lack of memory: nothing smaller helps then.
    """
    return bool(_NO_MEMORY.search(message))


def wants_less(message: str) -> bool:
    """Whether a builder's message says that less could be built: no memory, or no kernel fits."""
    return is_out_of_memory(message) or bool(_NO_KERNEL.search(message))


def opened(make: Callable[[], Any]) -> Any:
    """What TensorRT makes, None where it cannot; its constructors raise TypeError instead.

    Args:
        make: calls a constructor.
    """
    try:
        return make()
    except TypeError as error:
        if "nullptr" in str(error):
            return None
        raise


def load_timing_cache(flavour: Flavour, config: Any, path: Path) -> str | None:
    """Attaches the timings of earlier builds to a builder configuration.

    Args:
        flavour: nothing is done for one without a timing cache.
        config: the builder configuration.
        path: the file of this GPU and version; it need not exist.

    Returns:
        Why the stored timings were discarded, or None.
    """
    if not flavour.timing_cache:
        return None
    stored, problem = read_blob(path)
    if stored:
        cache = config.create_timing_cache(stored)
        if cache is not None and config.set_timing_cache(cache, False):
            return None
        problem = f"{flavour.label} refuses {path.name}"
        discard(path)
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return problem


def save_timing_cache(flavour: Flavour, config: Any, path: Path) -> None:
    """Stores the timings of a build together with what other processes stored meanwhile.

    Raises:
        OutputError: if the file cannot be written.
    """
    cache = config.get_timing_cache() if flavour.timing_cache else None
    if cache is None:
        return
    with locked(path.with_name(f"{path.name}.lock")):
        stored, _ = read_blob(path)
        other = config.create_timing_cache(stored) if stored else None
        if other is not None:
            cache.combine(other, False)  # it keeps its own where both have one
        write_blob(path, bytes(cache.serialize()))


def load_runtime_cache(flavour: Flavour, runtime_config: Any, path: Path | None) -> str | None:
    """Attaches a runtime cache, with what earlier runs compiled, to an ``IRuntimeConfig``.

    TensorRT-RTX refuses by itself what another GPU, driver or version made.

    Args:
        flavour: nothing is done for one without a runtime cache.
        runtime_config: made by the engine's ``create_runtime_config``.
        path: the file, see :meth:`srtrt.runtime.engines.cache.EngineCache.runtime_cache_path`;
            None for an empty cache, which spares the second context what the first compiled.

    Returns:
        Why the stored one was discarded, or None.
    """
    if not flavour.runtime_cache:
        return None
    cache = runtime_config.create_runtime_cache()
    stored, problem = (None, None) if path is None else read_blob(path)
    if path is not None and stored and not cache.deserialize(stored):
        problem = f"{flavour.label} refuses {path.name}"
        discard(path)
    runtime_config.set_runtime_cache(cache)
    return problem


def save_runtime_cache(flavour: Flavour, runtime_config: Any, path: Path) -> None:
    """Stores what was compiled in this run, if it is not what is stored already.

    Raises:
        OutputError: if the file cannot be written.
    """
    cache = runtime_config.get_runtime_cache() if flavour.runtime_cache else None
    if cache is None:
        return
    data = bytes(cache.serialize())
    with locked(path.with_name(f"{path.name}.lock")):
        if data != read_blob(path)[0]:
            write_blob(path, data)
