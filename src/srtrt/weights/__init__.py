"""Bundled models: a graph, its card, and its checkpoint where that is small."""

from pathlib import Path

DEFAULT_MODEL = "srresnet"
"""The model used when none is named."""

PURPOSES = {
    "fast": "as srresnet, for large pictures and slow machines",
    "srgan": "clean pictures, sharpest to the eye; invents detail",
    "srresnet": "clean pictures, nearest to the original",
    "video": "strongly compressed footage; removes the traces",
}
"""What each bundled model is for."""

FOLDER = Path(__file__).parent


def bundled_checkpoint(name: str) -> Path | None:
    """The checkpoint of a bundled model, or None if there is none of that name."""
    path = FOLDER / f"{name}.safetensors"
    return path if name in PURPOSES and path.is_file() else None
