"""Quality of models on low-resolution video that went through a lossy encoder."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream

from srtrt.benchmarks.quality import Picture, Upscale, mean_figures, open_upscalers
from srtrt.benchmarks.vmaf import vmaf, vmaf_available
from srtrt.datasets import list_images, read_rgb8
from srtrt.errors import InputError, UsageError, install_hint
from srtrt.metrics import mod_crop, psnr_y, ssim_y
from srtrt.reading import open_plain
from srtrt.resample import resize_bicubic
from srtrt.runtime.video.codecs import quiet_svt
from srtrt.runtime.video.pyav import METADATA
from srtrt.terminal import say

SCALE = 4
FRAME_RATE = 25
PRESET = "medium"

ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": PRESET},
    "libx265": {"preset": PRESET, "x265-params": "log-level=error"},
    "libsvtav1": {"preset": "8"},
    "libvpx-vp9": {"b": "0", "deadline": "good", "cpu-used": "4"},
}
"""FFmpeg's name of an encoder, and its options beside the quality."""

_MULTIPLE = 2 * SCALE
"""HR sides are multiples of this, so that LR has the even sides yuv420p needs."""

_LEAST_HR = 64
"""Least height and width of HR frames."""

_STEPS = (4, 5, 6, 7, 8)
"""HR pixels a window moves in one frame: whole LR pixels and fractions of them."""

_EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
"""Without these, conversion to RGB truncates and darkens a picture by more than a level."""

_PSNR_CAP_DB = 100.0
"""Counts for equal frames, such as black ones, whose PSNR is infinite."""


def panned_clip(picture: Picture, frames: int, *, step: tuple[int, int]) -> list[Picture]:
    """HR frames of a window that moves over a picture, from the top left.

    Args:
        picture: uint8 RGB ``[H, W, 3]``.
        frames: how many.
        step: HR pixels the window moves down and to the right in one frame.

    Returns:
        Frames of one size, as large as the picture allows, with sides divisible by 8.

    Raises:
        InputError: if less than 64x64 pixels would be left.
    """
    height, width = (
        (size - (frames - 1) * move) // _MULTIPLE * _MULTIPLE
        for size, move in zip(picture.shape[:2], step, strict=True)
    )
    if min(height, width) < _LEAST_HR:
        raise InputError(
            f"a picture of {picture.shape[1]}x{picture.shape[0]} pixels is too small for a pan of "
            f"{frames} frames; use larger pictures or fewer --frames."
        )
    return [
        picture[i * step[0] : i * step[0] + height, i * step[1] : i * step[1] + width]
        for i in range(frames)
    ]


def read_clip(path: Path, frames: int) -> list[Picture]:
    """The first frames of a video as uint8 RGB, cropped to sides divisible by 8.

    Raises:
        InputError: if it cannot be read, holds no frame, or is smaller than 64x64.
    """
    with open_plain(path, "a video"):
        pass
    pictures: list[Picture] = []
    try:
        with av.open(str(path), **METADATA) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video.")
            for frame in container.decode(video=0):
                pictures.append(mod_crop(_rgb(frame), _MULTIPLE))
                if len(pictures) == frames:
                    break
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path}: cannot be read as video ({error.strerror or error}).") from error
    if not pictures or min(pictures[0].shape[:2]) < _LEAST_HR:
        size = f"frames of {pictures[0].shape[1]}x{pictures[0].shape[0]}" if pictures else "nothing"
        raise InputError(f"{path}: holds {size}; expected frames of at least 64x64 pixels.")
    return pictures


def through_encoder(
    frames: Sequence[Picture], crf: int, encoder: str = "libx264"
) -> tuple[list[Picture], int]:
    """Encodes frames as yuv420p and decodes them again.

    Args:
        frames: uint8 RGB ``[H, W, 3]`` of one even size.
        crf: constant rate factor in the encoder's own scale.
        encoder: a key of :data:`ENCODERS`.

    Returns:
        The decoded frames, in order, and the size of the stream in bytes. The colours go through
        BT.601 in limited range both ways.
    """
    file, size = io.BytesIO(), 0
    if encoder == "libsvtav1":
        quiet_svt()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream(encoder, rate=FRAME_RATE)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), **ENCODERS[encoder]}
        for picture in (*frames, None):
            for packet in stream.encode(None if picture is None else _yuv(picture)):
                size += packet.size
                output.mux(packet)
    file.seek(0)
    with av.open(file, "r") as source:
        decoded = [_rgb(frame, Colorspace.ITU601) for frame in source.decode(video=0)]
    return decoded, size


def _yuv(picture: Picture) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
        interpolation=_EXACT,
    )


def _rgb(frame: av.VideoFrame, colours: Colorspace | None = None) -> Picture:
    rgb = frame.reformat(format="rgb24", src_colorspace=colours, interpolation=_EXACT).to_ndarray()
    return rgb.astype(np.uint8, copy=False)


def measure_compressed(
    models: Sequence[str],
    *,
    pictures: Path | None = None,
    clips: Sequence[Path] = (),
    engine: str | None = None,
    crf: int = 28,
    frames: int = 8,
    limit: int | None = None,
    on_clip: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """PSNR in dB and SSIM (Y, 4-pixel border) and VMAF of models on LR video through x264.

    HR frames are reduced four times, encoded, decoded, enlarged and compared with what they were
    made from; the same LR frames are also enlarged without encoding.

    Args:
        models: bundled names, or ``.onnx``, ``.safetensors`` or ``.pth`` files.
        pictures: folder of HR pictures, each made into a clip by a moving window.
        clips: videos whose first frames are the HR ones.
        engine: of all models but ``.pth``; by default the fastest float32 engine of each.
        crf: constant rate factor of x264.
        frames: frames of each clip.
        limit: how many of the pictures to use, spread evenly over the folder; all by default.
        on_clip: called with the name of each clip that is done.

    Returns:
        ``sources``: for ``panned pictures`` and ``clips`` the number of clips and frames, bits per
        LR pixel, and under ``compressed`` and ``uncompressed`` the figures of bicubic and each
        model, averaged over the frames of a clip and then over the clips: ``psnr_db``, ``ssim``,
        ``vmaf`` and ``vmaf_neg``. Without imageio-ffmpeg the last two are left out, and it is said
        what to type.

    Raises:
        UsageError: if there is neither a folder nor a clip.
        InputError, ModelError: if a picture, clip or model is unusable.
    """
    if pictures is None and not clips:
        raise UsageError("nothing to measure on; give --data DIR, --clip VIDEO, or both.")
    if not vmaf_available():
        say(
            "VMAF is left out, as imageio-ffmpeg is not installed; install it with: "
            f"{install_hint('dev')}."
        )
    with open_upscalers(models, engine, fast=True) as (upscalers, head):
        sources = {}
        if pictures is not None:
            loaders = _panned(spread(list_images([pictures]), limit), frames)
            sources["panned pictures"] = _measure(loaders, upscalers, crf, on_clip)
        if clips:
            real = [(path.name, _clip_loader(path, frames)) for path in clips]
            sources["clips"] = _measure(real, upscalers, crf, on_clip)
    codec = {"name": "libx264", "preset": PRESET, "pix_fmt": "yuv420p", "crf": crf}
    return {**head, "codec": codec, "sources": sources}


_Loader = Callable[[], list[Picture]]


def spread(paths: Sequence[Path], limit: int | None) -> list[Path]:
    """``limit`` of the paths at even distances."""
    if limit is None or limit >= len(paths):
        return list(paths)
    return [paths[i * len(paths) // limit] for i in range(limit)]


def _panned(paths: Sequence[Path], frames: int) -> list[tuple[str, _Loader]]:
    """Every picture moves in another way, so that all fractions of LR pixels occur."""
    return [
        (path.name, _pan_loader(path, frames, (turn(2 * i), turn(i))))
        for i, path in enumerate(paths)
    ]


def turn(index: int) -> int:
    """HR pixels per frame, a different number for each of the first few indices."""
    return _STEPS[index % len(_STEPS)]


def _pan_loader(path: Path, frames: int, step: tuple[int, int]) -> _Loader:
    def load() -> list[Picture]:
        try:
            return panned_clip(read_rgb8(path), frames, step=step)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    return load


def _clip_loader(path: Path, frames: int) -> _Loader:
    return lambda: read_clip(path, frames)


def _measure(
    clips: Sequence[tuple[str, _Loader]],
    upscalers: dict[str, Upscale],
    crf: int,
    on_clip: Callable[[str], None] | None,
) -> dict[str, Any]:
    totals: dict[str, dict[str, list[dict[str, float]]]] = {
        kind: {name: [] for name in upscalers} for kind in ("compressed", "uncompressed")
    }
    frames, bits, pixels = 0, 0, 0
    for label, load in clips:
        hr = load()
        height, width = (size // SCALE for size in hr[0].shape[:2])
        lr = [resize_bicubic(frame, height, width) for frame in hr]
        decoded, size = through_encoder(lr, crf)
        for kind, low in (("compressed", decoded), ("uncompressed", lr)):
            for name, upscale in upscalers.items():
                totals[kind][name].append(_clip_figures(low, hr, upscale))
        frames, bits, pixels = frames + len(hr), bits + 8 * size, pixels + len(hr) * height * width
        if on_clip is not None:
            on_clip(label)
    return {
        "clips": len(clips),
        "frames": frames,
        "bits_per_pixel": round(bits / pixels, 4),
        **{
            kind: {name: mean_figures(rows) for name, rows in by_model.items()}
            for kind, by_model in totals.items()
        },
    }


def _clip_figures(
    low: Sequence[Picture], hr: Sequence[Picture], upscale: Upscale
) -> dict[str, float]:
    sr = [upscale(lr) for lr in low]
    pairs = list(zip(sr, hr, strict=True))
    psnr = [min(psnr_y(a, b), _PSNR_CAP_DB) for a, b in pairs]
    figures = {"psnr_db": float(np.mean(psnr)), "ssim": float(np.mean([ssim_y(*p) for p in pairs]))}
    return {**figures, **(vmaf(sr, hr) if vmaf_available() else {})}
