"""Small real videos made with PyAV, and a stand-in for the network, for the video tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from srtrt.runtime.video.pyav import METADATA

VFR = (0, 3003, 6007, 12000, 12350, 21021, 30030, 30900)
"""Timestamps, in 1/90000 s, of a clip whose frames come at uneven times."""

SUBTITLES = (
    "1\n00:00:00,010 --> 00:00:00,100\nOne\n\n2\n00:00:00,150 --> 00:00:00,300\n<i>Two</i>\n\n"
)


class NearestSession:
    """Has the interface of a session; repeats every pixel 4 times in both directions."""

    scale = 4
    in_flight = 1
    builds_engines = False

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.notes: list[str] = []
        self.backend_options: dict[str, Any] = {}
        self.description = "nearest neighbour"
        self.reason = "nearest neighbour on cpu: the test wants it."

    def __enter__(self) -> NearestSession:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def prepare(self, width: int, height: int) -> None:
        pass

    def submit(self, inputs: Mapping[str, NDArray[Any]]) -> Callable[[], dict[str, NDArray[Any]]]:
        outputs = self.infer(inputs)
        return lambda: outputs

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self.options["form"] == "rgb8":
            return {"rgb_x4": inputs["rgb"].repeat(4, 1).repeat(4, 2)}
        assert inputs["y"].shape[2] % 2 == 0
        assert inputs["y"].shape[3] % 2 == 0
        return {
            "y_x4": inputs["y"].repeat(4, 2).repeat(4, 3),
            "uv_x4": inputs["uv"].repeat(4, 2).repeat(4, 3),
        }


def picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A smooth RGB picture, uint8 ``[H,W,3]``, different for every index."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * 3 + index * 11) % 200 + 20, (y * 4 + index * 5) % 200 + 20, (x + y) % 160 + 40]
    return np.stack(planes, axis=-1).astype(np.uint8)


def make_clip(
    path: Path,
    *,
    pts: Sequence[int] = VFR,
    time_base: Fraction = Fraction(1, 90000),
    size: tuple[int, int] = (64, 48),
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    colour: tuple[int, int, int, int] | None = None,
    aspect: Fraction | None = None,
    rotation: int | None = None,
    audio: str | None = None,
    audio_seconds: float = 0.5,
    subtitles: bool = False,
    cover: bool = False,
    font: bool = False,
    chapters: bool = False,
    chapter_titles: tuple[str, str] = ("Opening", "End"),
    metadata: Mapping[str, str] | None = None,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
) -> Path:
    """Writes a clip and gives its path.

    Args:
        path: its extension names the container.
        pts: timestamps of the frames in ticks; one frame each.
        time_base: seconds per tick.
        size: width and height.
        pix_fmt: pixel format of the stream.
        codec: FFmpeg encoder.
        options: its options; B-frames are on by default.
        colour: matrix, range, primaries and transfer by ITU-T H.273, or None for no tags.
        aspect: sample aspect ratio.
        rotation: degrees counter-clockwise of the display matrix.
        audio: FFmpeg encoder of an audio stream, or None.
        audio_seconds: its length.
        subtitles: whether there is an SRT stream (Matroska only).
        cover: whether there is cover art (MP4 only).
        font: whether there is an attached font (Matroska only).
        chapters: whether there are two chapters.
        chapter_titles: theirs.
        metadata: of the file.
        pictures: RGB pictures to show instead of :func:`picture`.
    """
    container_options = {"avoid_negative_ts": "disabled"} if path.suffix != ".mp4" else {}
    container_options["movie_timescale"] = str(time_base.denominator)
    with av.open(str(path), "w", container_options=container_options, **METADATA) as output:
        output.metadata.update(metadata or {})
        rate = max(1, round(1 / (time_base * max(1, pts[-1] // max(1, len(pts) - 1)))))
        stream = output.add_stream(codec, rate=rate, time_base=time_base)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "ultrafast", "bf": "2", "g": "6"} if codec == "libx264" else {}
        stream.options = {**stream.options, **(options or {})}
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if colour:
            context = stream.codec_context
            context.colorspace, context.color_range = colour[:2]
            context.color_primaries, context.color_trc = colour[2:]
        extras = _add_extras(output, path, audio, subtitles=subtitles, cover=cover, font=font)
        if chapters:
            output.set_chapters(_chapters(chapter_titles))
        output.start_encoding()
        _write_extras(output, extras, audio_seconds)
        for index, ticks in enumerate(pts):
            rgb = pictures[index] if pictures else picture(index, *size)
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(
                format=pix_fmt,
                dst_colorspace={1: 1, 9: 9}.get(colour[0] if colour else 6, 5),
                dst_color_range=2 if colour and colour[1] == 2 else 1,
            )
            if colour:
                frame.colorspace, frame.color_range = colour[:2]
                frame.color_primaries, frame.color_trc = colour[2:]
            frame.pts, frame.time_base = ticks, time_base
            following = pts[index + 1] if index + 1 < len(pts) else ticks + 3000
            frame.duration = following - ticks
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def _add_extras(
    output: Any, path: Path, audio: str | None, *, subtitles: bool, cover: bool, font: bool
) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if audio:
        sound = output.add_stream(audio, rate=48000)
        sound.layout = "mono"
        sound.metadata["language"] = "nor"
        extras["audio"] = sound
    if subtitles:
        text = path.with_suffix(".srt")
        text.write_text(SUBTITLES)
        extras["srt"] = av.open(str(text))
        template = extras["srt"].streams.subtitles[0]
        extras["subtitles"] = output.add_stream_from_template(template, opaque=True)
        extras["subtitles"].metadata.update(language="fra", title="Signs")
    if cover:
        extras["cover"] = output.add_stream("mjpeg", rate=1)
        extras["cover"].width, extras["cover"].height = 32, 32
        extras["cover"].pix_fmt = "yuvj420p"
        extras["cover"].disposition = av.stream.Disposition.attached_pic
    if font:
        output.add_attachment("signs.ttf", "font/ttf", bytes(range(256)))
    return extras


def _write_extras(output: Any, extras: dict[str, Any], audio_seconds: float) -> None:
    if "cover" in extras:
        frame = av.VideoFrame.from_ndarray(picture(3, 32, 32), "rgb24").reformat(format="yuvj420p")
        output.mux(extras["cover"].encode(frame))
        output.mux(extras["cover"].encode(None))
    if "subtitles" in extras:
        for packet in extras["srt"].demux():
            if packet.dts is not None:
                packet.stream = extras["subtitles"]
                output.mux(packet)
        extras["srt"].close()
    if "audio" in extras:
        sound = extras["audio"]
        format_name = sound.format.name
        for start in range(0, round(48000 * audio_seconds), 1024):
            wave = np.sin(np.arange(start, start + 1024) * 2 * math.pi * 440 / 48000)
            samples = wave if format_name.startswith(("flt", "dbl")) else wave * 20000
            kind = {"flt": np.float32, "dbl": np.float64}.get(format_name[:3], np.int16)
            frame = av.AudioFrame.from_ndarray(samples.astype(kind)[None], format_name, "mono")
            frame.sample_rate, frame.pts = 48000, start
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))


def _chapters(titles: tuple[str, str]) -> Any:
    base, (first, second) = Fraction(1, 1000), titles
    return [
        {"id": 1, "start": 0, "end": 150, "time_base": base, "metadata": {"title": first}},
        {"id": 2, "start": 150, "end": 340, "time_base": base, "metadata": {"title": second}},
    ]


def patches(colours: Sequence[tuple[int, int, int]], size: int = 16) -> NDArray[np.uint8]:
    """Flat squares of colour side by side, RGB uint8 ``[size, size * n, 3]``."""
    row = np.repeat(np.array(colours, np.uint8), size, axis=0)
    return np.repeat(row[None], size, axis=0)
