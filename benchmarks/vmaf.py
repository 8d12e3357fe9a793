"""VMAF and VMAF-NEG of frames in memory, by the ffmpeg of the package imageio-ffmpeg."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srtrt.errors import BackendError, MissingPackageError
from srtrt.metrics import luma_bt601
from srtrt.packages import installed

_MODELS = {"vmaf": "vmaf_v0.6.1", "vmaf_neg": "vmaf_v0.6.1neg"}
"""Key of the figure, and the model's name in libvmaf."""


def vmaf_available() -> bool:
    """Whether the package imageio-ffmpeg is installed."""
    return installed("imageio-ffmpeg") is not None


def vmaf(
    frames: Sequence[NDArray[np.uint8]], truth: Sequence[NDArray[np.uint8]]
) -> dict[str, float]:
    """Mean VMAF and VMAF-NEG of frames against their originals, each 0 to 100.

    The models are vmaf_v0.6.1 and vmaf_v0.6.1neg (Z. Li, "Toward a better quality metric for the
    video community", 2020), which has no reward for detail that is stronger than in the original:
    sharpening raises VMAF and hardly VMAF-NEG. Only luma counts, BT.601 in limited range. The
    models were made for 1080p at three times the height's distance; on smaller frames the figures
    serve to compare, not as absolute ones.

    Args:
        frames: uint8 RGB ``[H, W, 3]`` of one even size.
        truth: as many, of the same size.

    Returns:
        ``vmaf`` and ``vmaf_neg``.

    Raises:
        MissingPackageError: if imageio-ffmpeg is missing.
        BackendError: if its ffmpeg fails, such as one without libvmaf.
    """
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError as error:
        raise MissingPackageError("imageio-ffmpeg", "dev", "VMAF") from error
    height, width = frames[0].shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{width}x{height}"]
        inputs: list[str] = []
        for name, pictures in (("sr", frames), ("hr", truth)):
            path = Path(folder, name)
            path.write_bytes(b"".join(_luma(p).tobytes() for p in pictures))
            inputs += [*raw, "-i", str(path)]
        log = Path(folder, "log.json")
        planes = "[0:v]format=yuv420p[a];[1:v]format=yuv420p[b]"
        models = "|".join(f"version={name}\\\\:name={key}" for key, name in _MODELS.items())
        graph = f"{planes};[a][b]libvmaf=log_fmt=json:log_path={log}:model={models}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *inputs]
        command += ["-lavfi", graph, "-f", "null", "-"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if result.returncode != 0:
            raise BackendError(f"ffmpeg cannot measure VMAF: {result.stderr.strip()[-300:]}")
        pooled = json.loads(log.read_text())["pooled_metrics"]
        return {key: float(pooled[key]["mean"]) for key in _MODELS}


def _luma(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.clip(np.rint(luma_bt601(picture)), 0, 255).astype(np.uint8)
