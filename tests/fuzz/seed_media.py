"""Valid pictures and clips of every kind that is read, small, made here."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin
from video_clips import make_clip, picture

_PTS = (0, 3003, 6007, 12000, 12350)
_SIZE = (64, 48)
_EXACT = (".mp4", ".mov", ".mkv", ".webm", ".ts")
"""Containers that take any times."""


def make_pictures(folder: Path) -> None:
    """Writes pictures of all formats, depths and extras."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in _pictures():
        (folder / name).write_bytes(data)
    for name, planted in _pictures_that_name_files():
        (folder / name).write_bytes(planted)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _pictures() -> Iterator[tuple[str, bytes]]:
    pixels = picture(3, 28, 21)
    rgb, gray = Image.fromarray(pixels), Image.fromarray(pixels[..., 1])
    rgba = rgb.copy()
    rgba.putalpha(gray)
    palette, bits = rgb.quantize(17), gray.convert("1")
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: "a picture", 0x011A: 72.0, 0x0132: "2024:01:01 00:00:00"})
    exif.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    facts: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": icc, "dpi": (300, 300)}
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "words")
    text.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/"/>', zip=True)

    for name, image in (("rgb", rgb), ("gray", gray), ("rgba", rgba), ("p", palette), ("1", bits)):
        yield f"{name}.png", _saved(image, "PNG")
    yield "facts.png", _saved(rgb, "PNG", pnginfo=text, **facts)
    yield "clear.png", _saved(palette, "PNG", transparency=3)
    yield "moving.png", _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)])
    yield "i.png", _saved(Image.fromarray(_deep(pixels)[..., 0]), "PNG")
    for channels in (1, 3, 4):
        for ending in ("png", "tiff"):
            yield f"deep{channels}.{ending}", _opencv(f".{ending}", _deep(pixels), channels)

    yield "plain.jpg", _saved(rgb, "JPEG")
    yield "facts.jpg", _saved(rgb, "JPEG", progressive=True, comment=b"words", **facts)
    yield "gray.jpg", _saved(gray, "JPEG", subsampling=0)
    yield "cmyk.jpg", _saved(rgb.convert("CMYK"), "JPEG")
    yield "stops.jpg", _saved(rgb, "JPEG", restart_marker_blocks=1)
    yield "two.jpg", _saved(rgb, "MPO", save_all=True, append_images=[rgb.rotate(90)])

    yield "plain.webp", _saved(rgb, "WEBP")
    yield "exact.webp", _saved(rgba, "WEBP", lossless=True)
    yield "facts.webp", _saved(rgba, "WEBP", exif=facts["exif"], icc_profile=icc)
    yield "moving.webp", _saved(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)])

    for way in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"{way}.tif", _saved(rgb, "TIFF", compression=way)
    for name, image in (("gray", gray), ("rgba", rgba), ("p", palette), ("1", bits)):
        yield f"{name}.tif", _saved(image, "TIFF")
    yield "fax.tif", _saved(bits, "TIFF", compression="group4")
    yield "cmyk.tif", _saved(rgb.convert("CMYK"), "TIFF")
    yield "lab.tif", _saved(rgb.convert("LAB"), "TIFF")
    yield "float.tif", _saved(Image.fromarray(pixels[..., 0].astype(np.float32)), "TIFF")
    yield "pages.tif", _saved(rgb, "TIFF", save_all=True, append_images=[rgb.rotate(90)])
    yield "facts.tif", _saved(rgb, "TIFF", icc_profile=icc, exif=exif, dpi=(300, 300))
    yield "big.tif", _saved(gray, "TIFF", big_tiff=True)

    for name, image in (("rgb", rgb), ("gray", gray), ("rgba", rgba), ("p", palette), ("1", bits)):
        yield f"{name}.bmp", _saved(image, "BMP")

    # What Pillow reads, too, under a name that srtrt takes.
    for kind in ("GIF", "ICO", "TGA", "PPM", "JPEG2000", "PCX", "SGI", "DDS", "AVIF", "IM", "EPS",
                 "PDF", "ICNS", "SPIDER", "MSP", "XBM"):  # fmt: skip
        with contextlib.suppress(OSError, ValueError, KeyError):
            image = bits if kind in ("MSP", "XBM") else gray if kind == "SPIDER" else rgb
            yield f"{kind.lower()}.in.png", _saved(image, kind)


def _deep(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    deep = pixels.astype(np.uint16) * 257
    return np.dstack([deep, 65535 - deep[..., 0]])


def _opencv(ending: str, deep: NDArray[np.uint16], channels: int) -> bytes:
    return cv2.imencode(ending, deep[..., :channels])[1].tobytes()


def _pictures_that_name_files() -> Iterator[tuple[str, bytes]]:
    """Pictures and what passes for them, that lead to another file."""
    secret = b"planted/secret"
    yield "link.svg.png", b'<svg><image href="file:planted/secret"/></svg>'
    yield (
        "run.eps.png",
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(planted/secret) run\n"),
    )
    yield "link.xpm.png", b'/* XPM */\nstatic char *x[] = {"1 1 1 1", "a c red", "a"};'
    yield "link.fli.png", struct.pack("<IHHHHHHI", 128, 0xAF11, 1, 4, 4, 8, 0, 1) + bytes(110)
    rgb = Image.fromarray(picture(1, 8, 8))
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a b="file:' + secret + b'"/></x:xmpmeta>'
    yield "xmp.jpg", _saved(rgb, "JPEG", xmp=packet)
    yield "xmp.tif", _saved(rgb, "TIFF", tiffinfo={700: packet, 269: secret.decode()})


_CLIPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("h264.mp4", {"audio": "aac", "rotation": 90, "cover": True, "chapters": True}),
    ("plain.mp4", {"metadata": {"title": "A title"}}),
    ("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=1"}}),
    ("av1.mp4", {"codec": "libsvtav1", "options": {"preset": "13"}}),
    ("prores.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "aspect": Fraction(4, 3)}),
    ("mjpeg.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "audio": "pcm_s16le"}),
    ("png.mov", {"codec": "png", "pix_fmt": "rgb24"}),
    ("raw.mov", {"codec": "rawvideo", "pix_fmt": "uyvy422"}),
    ("qtrle.mov", {"codec": "qtrle", "pix_fmt": "rgb24"}),
    ("h263.3gp", {"codec": "h263", "size": (128, 96)}),
    ("full.mkv", {"audio": "aac", "subtitles": True, "font": True, "chapters": True}),
    ("ten.mkv", {"pix_fmt": "yuv420p10le", "colour": (9, 1, 9, 16)}),
    ("ffv1.mkv", {"codec": "ffv1", "pix_fmt": "yuv444p", "audio": "flac"}),
    ("vp8.webm", {"codec": "libvpx", "audio": "libopus", "options": {"deadline": "realtime"}}),
    ("vp9.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}}),
    ("mpeg4.avi", {"codec": "mpeg4", "options": {}, "audio": "mp2"}),
    ("mjpeg.avi", {"codec": "mjpeg", "pix_fmt": "yuvj422p"}),
    ("raw.avi", {"codec": "rawvideo", "pix_fmt": "bgr24"}),
    ("huff.avi", {"codec": "huffyuv", "pix_fmt": "yuv422p"}),
    ("h264.ts", {"audio": "mp2"}),
    ("mpeg2.ts", {"codec": "mpeg2video", "pts": range(5), "time_base": Fraction(1, 25)}),
    ("mpeg1.mpg", {"codec": "mpeg1video"}),
    ("mpeg2.vob", {"codec": "mpeg2video", "audio": "ac3"}),
    ("h264.flv", {"audio": "aac"}),
    ("sorenson.flv", {"codec": "flv"}),
    ("theora.ogv", {"codec": "libtheora", "audio": "libvorbis"}),
    ("vp8.ogv", {"codec": "libvpx", "options": {"deadline": "realtime"}}),
    ("wmv2.wmv", {"codec": "wmv2"}),
    ("mpeg2.mxf", {"codec": "mpeg2video"}),
    ("vp8.ivf", {"codec": "libvpx", "options": {"deadline": "realtime"}}),
    ("mpeg4.nut", {"codec": "mpeg4", "options": {}, "audio": "aac"}),
    ("raw.y4m", {"codec": "wrapped_avframe"}),
    ("moving.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
    ("bare.h264", {}),
    ("bare.hevc", {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=1"}}),
    ("bare.m4v", {"codec": "mpeg4", "options": {}}),
    ("bare.mjpeg", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    ("dv.dv", {"codec": "dvvideo", "size": (720, 576)}),
    ("rv10.rm", {"codec": "rv10"}),
    ("h264.asf", {}),
    ("swf.swf", {"codec": "flv"}),
    ("gxf.gxf", {"codec": "mpeg2video", "size": (720, 576)}),
    ("wtv.wtv", {"codec": "mpeg2video"}),
)


def make_clips(folder: Path) -> None:
    """Writes clips of every container and codec that this FFmpeg can make."""
    folder.mkdir(parents=True, exist_ok=True)
    steady = range(0, 5 * 3600, 3600)
    for name, options in _CLIPS:
        path = folder / name
        pts = _PTS if path.suffix in (".mp4", ".mkv") else steady
        base = Fraction(1, 90000)
        if path.suffix not in _EXACT:
            pts, base = range(5), Fraction(1, 25)
        given = {"pts": pts, "time_base": base, "size": _SIZE, "audio_seconds": 0.2, **options}
        try:
            make_clip(path, **given)
        except (av.FFmpegError, ValueError, OSError, AttributeError, AssertionError):
            path.unlink(missing_ok=True)
    for leftover in folder.glob("*.srt"):
        leftover.unlink()
    _fragmented(folder / "plain.mp4", folder / "fragments.mp4")
    _plant_references(folder)


def _fragmented(source: Path, target: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(str(source)) as read, av.open(str(target), "w", options=options) as write:
        stream = write.add_stream_from_template(read.streams.video[0], opaque=True)
        for packet in read.demux(0):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)


def _plant_references(folder: Path) -> None:
    """Clips and scripts that name another file, relative to themselves."""
    secret = b"planted/secret"
    data = (folder / "plain.mp4").read_bytes()
    box = b"\0\0\0\x0curl \0\0\0\1"
    name = secret + b"\0"
    for kind, body in (("url ", name), ("urn ", name + name), ("alis", _alias(secret))):
        other = struct.pack(">I", 12 + len(body)) + kind.encode() + bytes(4) + body
        (folder / f"dref-{kind.strip()}.mov").write_bytes(_grown(data, box, other))
    scripts = {
        "list.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nplanted/secret\n",
        "concat.mkv": b"ffconcat version 1.0\nfile planted/secret\n",
        "meta.mkv": b";FFMETADATA1\ntitle=planted/secret\n",
        "dash.mp4": b'<?xml version="1.0"?><MPD><BaseURL>planted/secret</BaseURL></MPD>',
        "list.sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "list.asx": b'<asx version="3.0"><entry><ref href="planted/secret"/></entry></asx>',
        "smil.mov": b"SMIL planted/secret",
        "rtsp.mov": b"RTSPtext\nrtsp://127.0.0.1:9/planted/secret\n",
        "list.vqf": b"TWIN planted/secret",
        "imf.mxf": b'<?xml version="1.0"?><CompositionPlaylist/>',
        "sub.idx": b"# VobSub index file, v7\nid: en, index: 0\n",
        "link.mkv": (folder / "full.mkv").read_bytes(),
    }
    for name_, text in scripts.items():
        (folder / name_).write_bytes(text)


def _alias(name: bytes) -> bytes:
    """An alias record of QuickTime with an absolute and a relative path."""
    parts = b"".join(
        struct.pack(">HH", kind, len(name)) + name + bytes(len(name) % 2) for kind in (2, 18)
    )
    return bytes(4) + struct.pack(">HH", 0, 2) + bytes(142) + parts + struct.pack(">hH", -1, 0)


def _grown(data: bytes, old: bytes, new: bytes) -> bytes:
    """A box exchanged for a longer one, with the lengths of all boxes around it."""
    at, more = data.rindex(old), len(new) - len(old)
    result = bytearray(data)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = data.rindex(name, 0, at) - 4
        (length,) = struct.unpack_from(">I", data, start)
        struct.pack_into(">I", result, start, length + more)
    return bytes(result[:at]) + new + bytes(result[at + len(old) :])
