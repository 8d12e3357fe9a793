"""The same weights again from the same run, on a GPU as well.

There sums are taken in whatever order their parts are ready, convolutions by whatever algorithm was
fastest, and rounding differs with the order. PyTorch can be told to do neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from srtrt.errors import TrainingError, UsageError, first_line

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED = (":4096:8", ":16:8")
"""What cuBLAS needs to give the same sums again; the first is the faster."""


def fix_workspace() -> None:
    """Sets what cuBLAS reads when it starts; call it before anything is computed on a GPU.

    Raises:
        UsageError: if the user has set something else.
    """
    found = os.environ.setdefault(_WORKSPACE, _FIXED[0])
    if found not in _FIXED:
        raise UsageError(
            f"{_WORKSPACE} is {found!r}, and run.deterministic needs {' or '.join(_FIXED)}; "
            "unset it, or leave run.deterministic out."
        )


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Within it PyTorch computes the same again, if wanted; its settings come back after it.

    Raises:
        TrainingError: if something was to be computed for which PyTorch has no such way.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    strict, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    before = cudnn.deterministic, cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise TrainingError(
            f"run.deterministic cannot be kept with these settings ({first_line(error)}). "
            "Saved states stay usable; leave it out to train without."
        ) from error
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        cudnn.deterministic, cudnn.benchmark = before


def resuming(device: torch.device, deterministic: bool) -> str | None:
    """What to know before a run is resumed; None if it goes on to the very same weights."""
    if device.type != "cuda" or deterministic:
        return None
    return (
        "on a GPU a resumed run sees the same batches, but its weights differ in rounding from "
        "those of a run that was not stopped (run.deterministic=true, from the start, prevents it)"
    )
