"""The training pictures of a run: found, cached, and ready to be cut into batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from srtrt.train.cache import PictureCache, open_cache
from srtrt.train.config import TrainConfig
from srtrt.train.data import (
    Ahead,
    Batches,
    PatchBatches,
    StagedBatches,
    WholeBatches,
    least_side,
    margin,
)
from srtrt.train.degrade import Degradation
from srtrt.train.layouts import Dataset, find_pictures
from srtrt.train.rendered.series import Series, training_series


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A dataset with its cache, which ends with the rendered pictures, if there are any."""

    dataset: Dataset
    cache: PictureCache
    rendered: Series | None = None

    @classmethod
    def open(
        cls,
        folders: Sequence[Path],
        config: TrainConfig,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Pictures:
        """Finds the pictures and opens, or builds, their cache.

        Args:
            folders: where they are; see :mod:`srtrt.train.layouts`.
            config: decides how large they must be, or to which size they are squeezed.
            on_progress: called with pictures done and in all, while a cache is built.

        Raises:
            InputError: if there are none.
            MissingPackageError: if fonts for rendered pictures are not installed.
            TrainingError: if none can be used.
            OutputError: if the cache cannot be written.
        """
        return cls.of(find_pictures(folders), config, on_progress=on_progress)

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        config: TrainConfig,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Pictures:
        """Opens, or builds, the cache of pictures that were found; see :meth:`open`."""
        whole = config.data.mode == "whole"
        rendered = None
        if config.data.rendered:
            rendered = training_series(config.data.rendered_pictures, on_progress=on_progress)
        cache = open_cache(
            (*dataset.files, *(rendered.files if rendered else ())),
            least=1 if whole else least_side(config.data),
            resize=4 * config.data.patch if whole else None,
            on_progress=on_progress,
        )
        return cls(dataset=dataset, cache=cache, rendered=rendered)

    @property
    def photographs(self) -> tuple[Path, ...]:
        """The files in use that were not rendered."""
        drawn = set(self.rendered.files) if self.rendered else set()
        return tuple(file for file in self.cache.files if file not in drawn)

    def batches(self, config: TrainConfig, *, device: torch.device, share: slice) -> Batches:
        """Where the batches of a run come from; on CUDA they are made ahead in a thread."""
        data, seed = config.data, config.run.seed
        batches: Batches

        def degradation(patch: int) -> Degradation | None:
            if data.degradation == "bicubic":
                return None
            return Degradation(config.degrade, patch=patch, margin=margin(data), device=device)

        if data.mode == "whole":
            batches = WholeBatches(self.cache, data, seed=seed, device=device, share=share)
        else:
            batches = patches = PatchBatches(
                self.cache,
                data,
                seed=seed,
                device=device,
                degradation=degradation(data.patch),
                share=share,
                rendered=len(self.cache.files) - len(self.photographs),
            )
            if data.final_patch:
                last = patches.with_patch(data.final_patch, degradation(data.final_patch))
                steps = config.schedule.updates(batches.steps_per_epoch)
                start = steps - round(data.final_patch_share * steps)
                batches = StagedBatches(batches, last, start)
        return Ahead(batches) if device.type == "cuda" else batches

    def manifest(self) -> dict[str, Any]:
        """What was trained on: the dataset's name, each file below its folder with its bytes.

        Of rendered pictures it says what they were drawn with.
        """
        # Folders are resolved, files are not: a link is what it is called, wherever it leads.
        files = {file.parent.resolve() / file.name: file for file in self.photographs}
        common = Path(os.path.commonpath([path.parent for path in files]))
        return {
            "dataset": self.dataset.name,
            "pixels_sha256": self.cache.sha256,
            "files": {str(p.relative_to(common)): f.stat().st_size for p, f in files.items()},
            "skipped": {f.name: reason for f, reason in self.cache.skipped},
            **({"rendered": self.rendered.facts} if self.rendered else {}),
        }
