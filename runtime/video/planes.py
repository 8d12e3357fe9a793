"""Between decoded frames, the arrays of the network, and frames to encode.

8-bit 4:2:0 planes are taken as they are. Deeper 4:2:0 is rounded to 8 bits first. Everything
else goes through RGB, with the matrix and range named explicitly in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import av
import numpy as np
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from srtrt.colour import YuvColour
from srtrt.runtime.video.colour_tags import SWSCALE, StreamColour

Form = Literal["rgb8", "yuv420p8"]
Bytes = NDArray[np.uint8]

_PLANAR_8BIT = frozenset({"yuv420p", "yuvj420p", "nv12", "yuva420p"})
_DEEP_PREFIXES = ("yuv420p", "yuva420p", "p010", "p012", "p016")
_SWS_FLAGS = 0x4 | 0x40000 | 0x2000 | 0x4000
"""swscale: bicubic, accurate rounding, full chroma on both sides (PyAV 17 names only some)."""


class Converter(Protocol):
    """Turns frames into network inputs and network outputs into frames."""

    form: Form

    @property
    def network_size(self) -> tuple[int, int]:
        """Width and height of the pictures that :meth:`inputs` gives."""

    def inputs(self, frame: av.VideoFrame) -> dict[str, NDArray[Any]]:
        """Arrays of one frame, in the names and shapes of :attr:`form`, batch 1."""

    def frame(self, outputs: Mapping[str, NDArray[Any]]) -> av.VideoFrame:
        """The yuv420p frame of 4x the size; timestamps and tags are not set."""


def make_converter(pix_fmt: str, width: int, height: int, colour: StreamColour) -> Converter:
    """The converter for frames of ``pix_fmt`` (FFmpeg's name) and ``width`` x ``height``."""
    if pix_fmt in _PLANAR_8BIT or pix_fmt.startswith(_DEEP_PREFIXES):
        return PlanarConverter(width, height, colour)
    return RgbConverter(width, height, colour)


def describe_conversion(pix_fmt: str) -> str | None:
    """A sentence on what the conversion of ``pix_fmt`` gives up, or None if nothing."""
    alpha = " Its alpha channel is not carried over." if _has_alpha(pix_fmt) else ""
    if pix_fmt in _PLANAR_8BIT:
        return f"The source is {pix_fmt}.{alpha}" if alpha else None
    if pix_fmt.startswith(_DEEP_PREFIXES):
        how = "it is rounded to 8 bits and the output has 8 bits"
    else:
        how = "it is upscaled as 8-bit RGB and written as 8-bit 4:2:0"
    return f"The source is {pix_fmt}; {how}.{alpha}"


def _has_alpha(pix_fmt: str) -> bool:
    return pix_fmt.startswith(("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ya8", "ya16"))


class PlanarConverter:
    """4:2:0 planes of any depth, through the ``yuv420p8`` form."""

    form: Form = "yuv420p8"

    def __init__(self, width: int, height: int, colour: StreamColour) -> None:
        self._size = (width, height)
        self._colour = colour
        source = YuvColour(matrix=colour.matrix, full_range=colour.full_range, siting=colour.siting)
        # Decoders and players take 4:2:0 to be sited left, so the output always is.
        target = YuvColour(matrix=colour.matrix, full_range=colour.full_range, siting="left")
        self._constants = {**source.inputs(), "chroma_down": target.chroma_down()}

    @property
    def network_size(self) -> tuple[int, int]:
        """See :attr:`Converter.network_size`."""
        width, height = self._size
        return width + width % 2, height + height % 2

    def inputs(self, frame: av.VideoFrame) -> dict[str, NDArray[Any]]:
        """``y`` uint8 ``[1,1,H,W]``, ``uv`` uint8 ``[1,2,H/2,W/2]``, H and W made even."""
        (width, height), (even_width, even_height) = self._size, self.network_size
        y = np.empty((even_height, even_width), np.uint8)
        uv = np.empty((2, even_height // 2, even_width // 2), np.uint8)
        y[:height, :width], uv[0], uv[1] = self._planes(frame)
        y[:height, width:] = y[:height, width - 1 : width]
        y[height:] = y[height - 1]
        return {"y": y[None, None], "uv": uv[None], **self._constants}

    def frame(self, outputs: Mapping[str, NDArray[Any]]) -> av.VideoFrame:
        """Crops what the padding of odd sizes added; else without a copy where that can be."""
        width, height = self._size
        y, uv = outputs["y_x4"][0, 0], outputs["uv_x4"][0]
        image = one_image(y, uv) if self._size == self.network_size else None
        if image is not None:
            return av.VideoFrame.from_numpy_buffer(image, "yuv420p")
        u, v = uv[:, : 2 * height, : 2 * width]
        return make_frame(y[: 4 * height, : 4 * width], u, v)

    def _planes(self, frame: av.VideoFrame) -> tuple[Bytes, Bytes, Bytes]:
        if frame.format.name == "nv12":
            uv = plane_view(frame, 1, samples=2)
            return plane_view(frame, 0), uv[:, 0::2], uv[:, 1::2]
        if frame.format.name in _PLANAR_8BIT:
            return plane_view(frame, 0), plane_view(frame, 1), plane_view(frame, 2)
        return self._rounded_planes(frame)

    def _rounded_planes(self, frame: av.VideoFrame) -> tuple[Bytes, Bytes, Bytes]:
        matrix = SWSCALE[self._colour.matrix]
        depth = ColorRange.JPEG if self._colour.full_range else ColorRange.MPEG
        deep = frame.reformat(
            format="yuv420p16le",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=depth,
            dst_color_range=depth,
        )
        y, u, v = (plane_view(deep, i, samples=2).view("<u2") for i in range(3))
        full = self._colour.full_range
        return round_to_8_bits(y, full), round_to_8_bits(u, full), round_to_8_bits(v, full)


def round_to_8_bits(plane: NDArray[np.uint16], full_range: bool) -> Bytes:
    """16-bit samples to 8 bits, to nearest (H.273: limited range scales by 256, full by 257)."""
    wide = plane.astype(np.uint32)
    rounded = (wide * 255 + 32767) // 65535 if full_range else (wide + 128) >> 8
    return np.minimum(rounded, 255).astype(np.uint8)


class RgbConverter:
    """Every other pixel format, through the ``rgb8`` form."""

    form: Form = "rgb8"

    def __init__(self, width: int, height: int, colour: StreamColour) -> None:
        self._size = (width, height)
        self._matrix = SWSCALE[colour.matrix]
        self._range = ColorRange.JPEG if colour.full_range else ColorRange.MPEG

    @property
    def network_size(self) -> tuple[int, int]:
        """See :attr:`Converter.network_size`."""
        return self._size

    def inputs(self, frame: av.VideoFrame) -> dict[str, NDArray[Any]]:
        """``rgb`` uint8 ``[1,H,W,3]``, full range."""
        is_yuv = not (frame.format.is_rgb or frame.format.has_palette)
        rgb = frame.reformat(
            format="rgb24",
            src_colorspace=self._matrix,
            dst_colorspace=self._matrix,
            src_color_range=self._range if is_yuv else ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=_SWS_FLAGS,
        )
        width, _ = self._size
        pixels = plane_view(rgb, 0, samples=3).copy()
        return {"rgb": pixels.reshape(1, -1, width, 3)}

    def frame(self, outputs: Mapping[str, NDArray[Any]]) -> av.VideoFrame:
        """RGB to 4:4:4 with the stream's matrix and range, then to 4:2:0 sited left."""
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(outputs["rgb_x4"][0]), "rgb24")
        full = rgb.reformat(
            format="yuv444p",
            src_colorspace=self._matrix,
            dst_colorspace=self._matrix,
            src_color_range=ColorRange.JPEG,
            dst_color_range=self._range,
            interpolation=_SWS_FLAGS,
        )
        y, u, v = (plane_view(full, i) for i in range(3))
        return make_frame(y, halve_left_sited(u), halve_left_sited(v))


def halve_left_sited(chroma: Bytes) -> Bytes:
    """4:4:4 chroma to 4:2:0 sited left: weights 1 2 1 across, 1 1 down, edges repeated."""
    rows = chroma[0::2].astype(np.uint16) + chroma[1::2]
    centre, right = rows[:, 0::2], rows[:, 1::2]
    left = np.concatenate([rows[:, :1], right[:, :-1]], axis=1)
    halved: Bytes = ((left + 2 * centre + right + 4) >> 3).astype(np.uint8)
    return halved


def plane_view(frame: av.VideoFrame, index: int, samples: int = 1) -> Bytes:
    """One plane without its padding, in the frame's own memory: ``[rows, columns * samples]``.

    Args:
        frame: the frame to read; the array keeps its memory.
        index: number of the plane.
        samples: bytes that belong to one column.
    """
    plane = frame.planes[index]
    rows = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size]
    return rows.reshape(plane.height, plane.line_size)[:, : plane.width * samples]


def one_image(y: Bytes, uv: Bytes) -> Bytes | None:
    """The planes as one yuv420p image ``[3 * H / 2, W]`` in their own memory.

    Args:
        y: ``[H, W]``.
        uv: ``[2, H / 2, W / 2]``.

    Returns:
        None if they do not lie one after the other in one array of bytes.
    """
    whole = y.base
    if not isinstance(whole, np.ndarray) or whole is not uv.base:
        return None
    if whole.dtype != np.uint8 or not (whole.flags.c_contiguous and whole.flags.writeable):
        return None
    start = y.ctypes.data - whole.ctypes.data
    planes_follow = uv.ctypes.data - y.ctypes.data == y.nbytes
    if not (planes_follow and y.flags.c_contiguous and uv.flags.c_contiguous):
        return None
    image: Bytes = whole.reshape(-1)[start : start + y.nbytes + uv.nbytes]
    return image.reshape(-1, y.shape[1])


def make_frame(y: Bytes, u: Bytes, v: Bytes) -> av.VideoFrame:
    """A yuv420p frame from its planes; height and width of ``y`` are even."""
    frame = av.VideoFrame(y.shape[1], y.shape[0], "yuv420p")
    for plane, data in zip(frame.planes, (y, u, v), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        rows[: data.shape[0], : data.shape[1]] = data
    return frame
