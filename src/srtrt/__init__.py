"""srtrt: SRGAN generators trained, exported with proof, and run on images and video.

The names below are imported when they are first used, so that ``import srtrt`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srtrt.export.api import export_model as export_model
    from srtrt.runtime.images import upscale_images as upscale_images
    from srtrt.runtime.upscaler import Upscaler as Upscaler
    from srtrt.runtime.video.api import upscale_video as upscale_video
    from srtrt.runtime.video.plan import VideoWatcher as VideoWatcher
    from srtrt.spec import ModelSpec as ModelSpec

__version__ = "0.1.0"

_PUBLIC = {
    "ModelSpec": "srtrt.spec",
    "Upscaler": "srtrt.runtime.upscaler",
    "VideoWatcher": "srtrt.runtime.video.plan",
    "export_model": "srtrt.export.api",
    "upscale_images": "srtrt.runtime.images",
    "upscale_video": "srtrt.runtime.video.api",
}

__all__ = [
    "ModelSpec",
    "Upscaler",
    "VideoWatcher",
    "__version__",
    "export_model",
    "upscale_images",
    "upscale_video",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'srtrt' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    except ImportError as error:
        from srtrt.packages import broken_import

        raise broken_import(error) or error from error
