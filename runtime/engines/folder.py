"""The folder of the engines: which files are in it, and which may go."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from srtrt.errors import InputError, system_reason
from srtrt.files import cache_folder, stale_parts
from srtrt.locks import locked
from srtrt.runtime.engines.gpu import GpuFacts
from srtrt.runtime.engines.identity import EngineKey
from srtrt.runtime.engines.record import EngineEntry, EngineRecord, read_intact, sidecar_path
from srtrt.runtime.engines.stored import UnusableError, discard

SUFFIX = ".engine"
TIMING_SUFFIX = ".timing"
RUNTIME_SUFFIX = ".runtime"
TUNE_SUFFIX = ".tune.json"
TRIED_SUFFIX = ".tried.json"
OWN_TIMING_SUFFIX = ".timings"


class EngineFolder:
    """Engines as files.

    Args:
        folder: by default ``engines`` in the user's cache folder, see
            :func:`srtrt.files.cache_folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder("engines")

    def path(self, key: EngineKey) -> Path:
        """Where the engine of a key would be built."""
        return self.folder / f"{key.stem}{SUFFIX}"

    def timing_cache_path(self, flavour: str, flavour_version: str, gpu: GpuFacts | None) -> Path:
        """The file of kernel timings, shared by all builds for one GPU and version."""
        name = gpu.name if gpu else "any"
        safe = "".join(c if c.isalnum() else "_" for c in name)
        return self.folder / f"{flavour}-{flavour_version}-{safe}{TIMING_SUFFIX}"

    def own_timings_path(self, key: EngineKey) -> Path:
        """The file of the timings that led to the engine of a key, and will lead to it again."""
        return self.path(key).with_suffix(OWN_TIMING_SUFFIX)

    def runtime_cache_path(self, engine: Path, gpu: GpuFacts) -> Path:
        """The file of kernels that TensorRT-RTX compiled for an engine on a GPU."""
        facts = hashlib.sha256(json.dumps(asdict(gpu), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{engine.stem}-{facts[:8]}{RUNTIME_SUFFIX}"

    def entries(self, *, trust_engine: bool = False) -> list[EngineEntry]:
        """All engines of the folder, by name; each is read and checked."""
        found = []
        for path in self._files(f"*{SUFFIX}"):
            record, problem = None, None
            try:
                record = EngineRecord.read(path, trust=trust_engine)
                read_intact(path, trust_engine)
            except UnusableError as error:
                problem = str(error)
            found.append(EngineEntry(path=path, record=record, problem=problem))
        return found

    def remove(self, path: Path) -> bool:
        """Removes an engine with all that belongs to it; False if it is in use or cannot be."""
        stem = path.name.removesuffix(SUFFIX)
        lock = self.folder / f"{stem}.lock"
        with locked(lock, wait=False) as free:
            if not free:
                return False
            others = [
                *self._files(f"{stem}-*{RUNTIME_SUFFIX}"),
                *self._files(f"{stem}-*{RUNTIME_SUFFIX}.lock"),
            ]
            choice = self.folder / f"{stem}{TUNE_SUFFIX}"
            gone = [discard(each) for each in (sidecar_path(path), path, choice, *others)]
            gone.append(self.discard_timings(path))
            discard(lock)
        return all(gone)

    def leftovers(self, *, remove: bool = False) -> list[Path]:
        """Files of killed builds: unfinished ones, and sidecars and locks without an engine.

        What belongs to a build that is going on is left out.

        Args:
            remove: also removes them.
        """
        found = stale_parts(self.folder, remove=remove)
        for lock in self._files("*.lock"):
            stem = lock.with_suffix("")
            with locked(lock, wait=False) as free:
                if not free:
                    continue
                shared = stem.suffix in (TIMING_SUFFIX, OWN_TIMING_SUFFIX, RUNTIME_SUFFIX)
                path = stem if shared else stem.with_name(f"{stem.name}{SUFFIX}")
                if path.exists():
                    continue
                files = [each for each in (sidecar_path(path), lock) if each.exists()]
                found += [each for each in files if not remove or discard(each)]
        return found

    def forget(self, *, remove: bool = False) -> list[Path]:
        """What was tried, and timings of engines that are gone.

        Args:
            remove: also removes them.
        """
        found = self._files(f"*{TRIED_SUFFIX}")
        for timings in self._files(f"*{OWN_TIMING_SUFFIX}"):
            if not timings.with_suffix(SUFFIX).exists():
                found += [timings, *self._files(f"{timings.name}.lock")]
        return [each for each in found if not remove or discard(each)]

    def _files(self, pattern: str) -> list[Path]:
        """The files of the folder whose names fit, sorted; none where there is no folder.

        Raises:
            InputError: if it cannot be read.
        """
        try:
            names = os.listdir(self.folder)  # noqa: PTH208 - iterdir is lazy before Python 3.13
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.folder}: cannot be read ({system_reason(error)}); expected a folder of "
                "engines."
            ) from error
        return [self.folder / name for name in sorted(fnmatch.filter(names, pattern))]

    def records(self, trust: bool) -> Iterator[tuple[Path, EngineRecord]]:
        """Every engine with a sidecar that can be read."""
        for path in self._files(f"*{SUFFIX}"):
            with suppress(UnusableError):
                yield path, EngineRecord.read(path, trust=trust)

    def discard(self, path: Path) -> None:
        """Removes an engine that is wrong, with the timings that led to it."""
        for each in (sidecar_path(path), path):
            discard(each)
        self.discard_timings(path)

    def discard_timings(self, path: Path) -> bool:
        """Removes the timings that led to an engine; True if they are gone."""
        own = path.with_suffix(OWN_TIMING_SUFFIX)
        return all([discard(own), discard(own.with_name(f"{own.name}.lock"))])
