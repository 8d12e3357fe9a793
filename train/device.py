"""Where a training process computes."""

from __future__ import annotations

import os

import torch

from srtrt.errors import UsageError


def choose_device(text: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda:N`` names.

    ``auto`` is CUDA where there is one, and each of several processes' own GPU.

    Raises:
        UsageError: if the text names no device, or there is none of it here.
    """
    if text == "auto":
        text = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise UsageError(f"--device {text!r}: expected auto, cpu or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {text}: PyTorch sees no CUDA device here; use --device cpu.")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
