"""What cameras and files do to pictures after sampling: 4:2:0 chroma, JPEG, H.264 and HEVC.

Encoders and decoders run on one thread, so the same frames give the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, cast

import av
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from srtrt.colour import YuvColour
from srtrt.errors import TrainingError

Encoder = Literal["libx264", "libx265"]

DECODERS: dict[Encoder, str] = {"libx264": "h264", "libx265": "hevc"}
"""FFmpeg's decoder for what each encoder writes."""

_COLOUR = YuvColour(matrix="bt601")
_FRAME_RATE = 25
_SMALLEST_FRAME = 96
"""Least width and height of a clip: libx265 4.2 does not repeat itself in frames of one block of
64 pixels, and needs as much for one."""
_REPEATABLE: dict[Encoder, dict[str, str]] = {
    "libx264": {"mbtree": "0"},
    "libx265": {"x265-params": "pools=none:frame-threads=1:cutree=0:log-level=error"},
}
"""Without the trees that weigh a block by how often later frames use it: in small frames their
vector code goes past its buffers. libx264 then gives other bytes from call to call, and libx265
ends the process in frames narrower than 64 pixels."""


@dataclass(frozen=True, kw_only=True)
class ClipCoding:
    """How a clip is compressed."""

    encoder: Encoder
    """Encoder of FFmpeg."""
    crf: float
    """Constant rate factor; higher is coarser."""
    preset: str
    """Speed preset of the encoder, such as ``veryfast``."""


def require_encoders() -> None:
    """Sees to it that FFmpeg can encode H.264 and HEVC.

    Raises:
        TrainingError: if an encoder is missing.
    """
    missing = [name for name in DECODERS if name not in av.codecs_available]
    if missing:
        raise TrainingError(
            f"PyAV was built without {' and '.join(missing)}; expected both encoders. Install "
            "PyAV's own wheel (pip install --force-reinstall av) or set codec_share to 0."
        )


def rgb_to_i420(rgb: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pictures as planar YUV 4:2:0, BT.601 in limited range, chroma sited left.

    Args:
        rgb: float32 RGB ``[..., 3, H, W]`` in 0..255; H and W are even.

    Returns:
        uint8 ``[..., 3H/2, W]``: the rows of Y, then those of U and of V at half the width, two
        to a row. This is the layout that PyAV takes for ``yuv420p``.
    """
    *many, _, height, width = rgb.shape
    matrix = _COLOUR.rgb_to_yuv()
    weights, base = matrix[:, :3] / np.float32(255), matrix[:, 3:]
    pixels = rgb.reshape(*many, 3, -1)
    yuv = np.asarray(weights @ pixels + base, np.float32).reshape(*many, 3, height, width)
    vertical, horizontal = _COLOUR.chroma_down()
    half = _halved(_halved(yuv[..., 1:, :, :], vertical, axis=-2), horizontal, axis=-1)
    planes = (yuv[..., 0, :, :], half[..., 0, :, :], half[..., 1, :, :])
    rows = [plane.reshape(*many, -1, width) for plane in planes]
    return _bytes(np.concatenate(rows, axis=-2))


def i420_to_rgb(planes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The inverse of :func:`rgb_to_i420`, with linear interpolation of the chroma.

    Args:
        planes: uint8 ``[..., 3H/2, W]`` as :func:`rgb_to_i420` gives them.

    Returns:
        float32 RGB ``[..., 3, H, W]``, clamped to 0..255, not rounded.
    """
    *many, rows, width = planes.shape
    height = rows * 2 // 3
    luma = planes[..., :height, :].astype(np.float32)
    half = planes[..., height:, :].reshape(*many, 2, height // 2, width // 2).astype(np.float32)
    vertical, horizontal = _COLOUR.chroma_up()
    chroma = _doubled(_doubled(half, vertical, axis=-2), horizontal, axis=-1)
    yuv = np.concatenate([luma[..., None, :, :], chroma], axis=-3).reshape(*many, 3, -1)
    matrix = _COLOUR.yuv_to_rgb() * np.float32(255)
    rgb = np.asarray(matrix[:, :3] @ yuv + matrix[:, 3:], np.float32)
    return rgb.clip(0, 255).reshape(*many, 3, height, width)


def _bytes(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(samples).clip(0, 255).astype(np.uint8)


def _neighbours(x: NDArray[np.float32], axis: int) -> list[NDArray[np.float32]]:
    """``x[i - 1]``, ``x`` and ``x[i + 1]`` along an axis; the edges are repeated."""
    size = x.shape[axis]
    line = np.arange(size)
    return [
        np.take(x, np.maximum(line - 1, 0), axis=axis),
        x,
        np.take(x, np.minimum(line + 1, size - 1), axis=axis),
    ]


def _halved(x: NDArray[np.float32], taps: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Every second sample of the sum weighted by the taps of ``YuvColour.chroma_down``."""
    total = sum(tap * part for tap, part in zip(taps, _neighbours(x, axis), strict=True))
    return np.take(np.asarray(total), np.arange(0, x.shape[axis], 2), axis=axis)


def _doubled(x: NDArray[np.float32], taps: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Interleaves the two phases of ``YuvColour.chroma_up``; ``axis`` counts from the end."""
    parts = _neighbours(x, axis)
    phases = [sum(t * p for t, p in zip(row, parts, strict=True)) for row in taps]
    shape = list(x.shape)
    shape[axis] *= 2
    return np.stack([np.asarray(phase) for phase in phases], axis=x.ndim + 1 + axis).reshape(shape)


def jpeg_round_trip(
    rgb: NDArray[np.float32], quality: int, *, subsample: bool
) -> NDArray[np.float32]:
    """A picture after JPEG.

    Args:
        rgb: float32 RGB ``[3, H, W]`` in 0..255; rounded before it is encoded.
        quality: libjpeg's quality, 1..100.
        subsample: 4:2:0 chroma instead of 4:4:4.

    Returns:
        float32 RGB ``[3, H, W]``, whole numbers in 0..255.
    """
    bgr = np.ascontiguousarray(_bytes(rgb)[::-1].transpose(1, 2, 0))
    factor = (
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if subsample else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    )
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    _, data = cv2.imencode(".jpg", bgr, options)
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return decoded[..., ::-1].transpose(2, 0, 1).astype(np.float32)


def clip_round_trip(
    tiles: NDArray[np.float32], keep: int, coding: ClipCoding
) -> NDArray[np.float32]:
    """One frame of a compressed clip whose frames are mosaics of tiles.

    The mean of each channel over all tiles is kept. H.264 rounds halves up when it interpolates
    and averages predictions (ITU-T H.264, 8.4.2), which lifts moving pictures by about half a
    level; a network that learned to take that back would shift the colours of everything else.

    Args:
        tiles: float32 RGB ``[F, N, 3, T, T]`` in 0..255: N tiles in each of F frames. T is a
            multiple of 16, so that no macroblock holds two tiles.
        keep: the frame that is wanted, 0..F - 1.
        coding: encoder and its settings.

    Returns:
        float32 RGB ``[N, 3, T, T]`` in 0..255, not rounded.

    Raises:
        TrainingError: if the decoder gives another number of frames.
    """
    count, number, _, side, _ = tiles.shape
    fewest = -(-_SMALLEST_FRAME // side)
    columns = max(fewest, math.ceil(math.sqrt(number)))
    rows = max(fewest, -(-number // columns))
    mosaic = np.full((count, rows * columns, 3, side, side), 128, np.float32)
    mosaic[:, :number] = tiles
    mosaic = mosaic.reshape(count, rows, columns, 3, side, side).transpose(0, 3, 1, 4, 2, 5)
    frames = rgb_to_i420(mosaic.reshape(count, 3, rows * side, columns * side))
    decoded = _decode(_encode(frames, coding), coding)
    if len(decoded) != count:
        raise TrainingError(
            f"{coding.encoder} with crf {coding.crf:g} and preset {coding.preset} gave "
            f"{len(decoded)} frames of {count}; expected all. Set codec_share to 0 to do without."
        )
    mosaic = i420_to_rgb(decoded[keep]).reshape(3, rows, side, columns, side)
    rgb = mosaic.transpose(1, 3, 0, 2, 4).reshape(-1, 3, side, side)[:number]
    lift = (rgb - tiles[keep]).mean((0, 2, 3), keepdims=True)
    return np.asarray(rgb - lift, np.float32).clip(0, 255)


def _encode(frames: NDArray[np.uint8], coding: ClipCoding) -> list[av.Packet[Any]]:
    """Packets of ``[F, 3H/2, W]`` planes."""
    height, width = frames.shape[1] * 2 // 3, frames.shape[2]
    encoder = av.CodecContext.create(coding.encoder, "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(_FRAME_RATE), Fraction(1, _FRAME_RATE)
    encoder.thread_count = 1
    encoder.options = {
        "crf": f"{coding.crf:.2f}",
        "preset": coding.preset,
        **_REPEATABLE[coding.encoder],
    }
    packets: list[av.Packet[Any]] = []
    for index, planes in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts = index
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


def _decode(packets: list[av.Packet[Any]], coding: ClipCoding) -> list[NDArray[np.uint8]]:
    """Planes ``[3H/2, W]`` of every frame, in the order of display."""
    decoder = cast(VideoCodecContext, av.CodecContext.create(DECODERS[coding.encoder], "r"))
    decoder.thread_count = 1
    frames: list[av.VideoFrame] = []
    for packet in packets:
        frames += decoder.decode(packet)
    frames += decoder.decode(None)
    return [np.asarray(frame.to_ndarray(), np.uint8) for frame in frames]
