"""One training of a comparison, on one thread of one process, and what its weights score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srtrt.datasets import lr_hr_pair, read_rgb8
from srtrt.metrics import near_nyquist_energy, psnr_y
from srtrt.networks.generator import Generator
from srtrt.perceptual import load_lpips
from srtrt.train.content import load_content
from srtrt.train.degrade import MARGIN, Degradation, DegradationConfig
from srtrt.train.layouts import Dataset
from srtrt.train.loop import Trainer
from srtrt.train.pictures import Pictures
from srtrt.train.validate import Validation

if TYPE_CHECKING:
    from srtrt.benchmarks.tools.side_by_side import Job, Scores

Picture = NDArray[np.uint8]
_CPU = torch.device("cpu")


def trained(job: Job) -> Generator:
    """The averaged weights of a variant after all its updates; nothing is written."""
    torch.set_num_threads(1)
    needs_vgg = job.config.loss.content_weight and job.config.loss.content_network == "vgg19"
    vgg = job.vgg if needs_vgg else None
    dataset = Dataset(name="training", files=job.training, ignored=())
    trainer = Trainer(
        job.config,
        Pictures.of(dataset, job.config),
        Path("unused"),
        init=job.init,
        content=load_content(job.config, vgg),
        device=_CPU,
    )
    for step in range(trainer.steps):
        trainer.update(trainer.batches.sample(step), step, trainer.steps)
        trainer.average.update(trainer.net, step)
    return trainer.average.network(trainer.net)


def measured(net: Generator, job: Job) -> Scores:
    """What the weights score on each private picture, with LR made in each way."""
    kinds = {"": [_middle(*lr_hr_pair(path)) for path in job.private]}
    for crf in job.crfs:
        kinds[f" crf {crf}"] = [_compressed(path, crf) for path in job.private]
    scores: Scores = {}
    for kind, pairs in kinds.items():
        enlarged = Validation(pairs, device=_CPU).enlarge(net)
        both = [(sr, hr) for sr, (_, hr) in zip(enlarged, pairs, strict=True)]
        scores |= _scores(both, kind, perceptual=job.perceptual)
        if job.sharpen:
            sharper = [(sharpened(sr, job.sharpen), hr) for sr, hr in both]
            scores |= _scores(sharper, f"{kind} sharpened", perceptual=job.perceptual)
    return scores


def _scores(pairs: list[tuple[Picture, Picture]], kind: str, *, perceptual: bool) -> Scores:
    scores = {f"PSNR{kind}": [psnr_y(sr, hr) for sr, hr in pairs]}
    if perceptual:
        scores[f"LPIPS{kind}"] = _lpips(pairs)
        scores[f"near Nyquist{kind}"] = [near_nyquist_energy(sr) for sr, _ in pairs]
    return scores


def sharpened(picture: Picture, amount: float) -> Picture:
    """uint8 RGB ``[H, W, 3]`` plus ``amount`` times what a Gaussian of one pixel takes away."""
    exact = picture.astype(np.float32)
    detail = exact - cv2.GaussianBlur(exact, (0, 0), 1.0)
    return np.asarray(np.rint(exact + amount * detail).clip(0, 255), np.uint8)


def _middle(lr: Picture, hr: Picture, side: int = 96) -> tuple[Picture, Picture]:
    """The middle of a pair, ``side`` LR pixels square or less, which is measured in less time."""
    top, left = (max(0, (size - side) // 2) for size in lr.shape[:2])
    inside = lr[top : top + side, left : left + side]
    height, width = inside.shape[:2]
    return inside, hr[4 * top : 4 * (top + height), 4 * left : 4 * (left + width)]


def _compressed(path: Path, crf: int, side: int = 96) -> tuple[Picture, Picture]:
    """A pair whose LR is a frame of a moving clip, compressed with x264 and decoded."""
    config = DegradationConfig(
        clean_share=0, blur_share=0, area_share=0, bilinear_share=0, lanczos_share=0, noise_share=0,
        codec_share=1, hevc_share=0, h264_crf=(crf, crf), jpeg_share=0, chroma_share=0,
    )  # fmt: skip
    whole = read_rgb8(path)
    size = min(side, min(whole.shape[:2]) // 4 - 2 * MARGIN)
    outer = 4 * (size + 2 * MARGIN)
    top, left = ((length - outer) // 2 for length in whole.shape[:2])
    hr = torch.tensor(whole[top : top + outer, left : left + outer]).permute(2, 0, 1)[None].float()
    degradation = Degradation(config, patch=size, margin=MARGIN, device=_CPU)
    edge = 4 * MARGIN
    return _uint8(degradation(hr, 0)), _uint8(hr[:, :, edge:-edge, edge:-edge])


def _uint8(x: Tensor) -> Picture:
    return x[0].permute(1, 2, 0).to(torch.uint8).numpy()


@torch.no_grad()
def _lpips(pairs: list[tuple[Picture, Picture]]) -> list[float]:
    measure = load_lpips("alex")

    def tensor(x: Picture) -> Tensor:
        return torch.tensor(x).permute(2, 0, 1)[None].float() / 255

    return [float(measure(tensor(sr), tensor(hr))) for sr, hr in pairs]
