"""Bundled models: a graph, its card, and its checkpoint where that is small."""

from pathlib import Path

DEFAULT_MODEL = "srresnet"
"""The model used when none is named."""

FOLDER = Path(__file__).parent


def bundled_checkpoint(name: str) -> Path | None:
    """The checkpoint of a bundled model, or None if there is none of that name."""
    path = FOLDER / f"{name}.safetensors"
    return path if path.parent == FOLDER and path.is_file() else None
