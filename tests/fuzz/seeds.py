"""Makes the valid files that are damaged afterwards: ``python tests/fuzz/seeds.py FOLDER``.

In a process of its own, because making them starts threads, and a process with threads cannot be
forked safely.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import seed_media, seed_models


def make_all(folder: Path) -> None:
    """Writes the seeds of all kinds into a folder; graphs that are there already are taken."""
    for kind in ("run", "cache", "engine", "verified"):
        shutil.rmtree(folder / kind, ignore_errors=True)
    seed_media.make_pictures(folder / "image")
    seed_media.make_clips(folder / "video")
    seed_models.make_settings(folder / "yaml")
    seed_models.make_training_pictures(folder / "pictures")
    seed_models.make_checkpoints(folder / "safetensors")
    seed_models.make_pickles(folder / "pth")
    seed_models.make_graphs(folder / "onnx", folder / "safetensors" / "tiny.safetensors")
    seed_models.make_run(
        folder / "run", folder / "pictures", folder / "yaml" / "tiny.yaml", folder / "cache"
    )
    graph = sorted((folder / "onnx").glob("tiny-rgb8-fp32.onnx"))[0]
    seed_models.make_engines(folder / "engine", graph)
    seed_models.make_verified(folder / "verified", graph, folder / "pictures" / "0.png")
    (folder / "complete").touch()


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
