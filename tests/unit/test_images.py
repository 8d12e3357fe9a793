from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms
from skimage.io import imread as read_with_scikit_image

from srtrt.errors import InputError, OutputError
from srtrt.image_writing import check_output, write_image
from srtrt.images import Picture, read_image

RNG = np.random.default_rng(11)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SUFFIXES = (".png", ".webp", ".tif", ".bmp")
GPS = {1: "N", 2: (51.0, 30.0, 12.5)}


def noise(*shape: int, bits: int = 8) -> np.ndarray:
    return RNG.integers(0, 2**bits, shape, np.uint8 if bits == 8 else np.uint16)


def exif_block(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.Exif] = {0xA002: 3, 0xA003: 2, 0x829A: 0.125, 0x927C: b"private \0 note"}
    exif[ExifTags.IFD.GPSInfo] = GPS
    return exif


def png_bytes(
    rows: Sequence[bytes], width: int, depth: int, colour_type: int, extra: bytes = b""
) -> bytes:
    """A PNG made by hand."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [chunk(b"IHDR", header), extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def same(a: Picture, b: Picture) -> None:
    assert a.rgb.dtype == b.rgb.dtype
    np.testing.assert_array_equal(a.rgb, b.rgb)
    assert (a.alpha is None) == (b.alpha is None)
    if a.alpha is not None and b.alpha is not None:
        np.testing.assert_array_equal(a.alpha, b.alpha)
    assert a.gray == b.gray
    assert a.icc_profile == b.icc_profile


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".JPG"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 5)])
def test_8_bit_colour_comes_back(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    picture = Picture(rgb=np.full((*size, 3), (200, 40, 90), np.uint8))
    write_image(tmp_path / f"a{suffix}", picture)
    read = read_image(tmp_path / f"a{suffix}")
    assert not read.gray
    assert read.alpha is None
    assert read.rgb.shape == (*size, 3)
    tolerance = 3 if suffix == ".JPG" else 0
    assert np.abs(read.rgb.astype(int) - picture.rgb).max() <= tolerance


KINDS = [
    (suffix, bits, gray, transparent)
    for suffix in (".png", ".tif")
    for bits in (8, 16)
    for gray in (False, True)
    for transparent in (False, True)
    if (suffix, bits, gray, transparent) != (".tif", 16, True, True)  # the next test
]


@pytest.mark.parametrize(("suffix", "bits", "gray", "transparent"), KINDS)
def test_png_and_tiff_keep_everything(
    tmp_path: Path, suffix: str, bits: int, gray: bool, transparent: bool
) -> None:
    height, width = 203, 307
    colours = noise(height, width, 3, bits=bits)
    picture = Picture(
        rgb=np.repeat(colours[..., :1], 3, axis=2) if gray else colours,
        alpha=noise(height, width, bits=bits) if transparent else None,
        gray=gray,
        icc_profile=None if gray else ICC,
        exif=exif_block().tobytes(),
        dpi=(300.0, 150.0),
    )
    path = tmp_path / f"a{suffix}"
    write_image(path, picture)
    read = read_image(path)
    same(read, picture)
    assert read.dpi == pytest.approx((300.0, 150.0), abs=0.02)
    assert read.exif is not None
    exif = Image.Exif()
    exif.load(read.exif)
    assert exif[ExifTags.Base.Make] == "Maker"
    assert exif[ExifTags.Base.Orientation] == 1
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert details[0x829A] == 0.125
    assert details[0x927C] == b"private \0 note"
    assert (details[0xA002], details[0xA003]) == (width, height)
    assert exif.get_ifd(ExifTags.IFD.GPSInfo) == GPS
    colours = picture.rgb[..., :1] if gray else picture.rgb
    planes = [colours] if picture.alpha is None else [colours, picture.alpha]
    np.testing.assert_array_equal(read_independently(path, bits), np.dstack(planes))


def read_independently(path: Path, bits: int) -> np.ndarray:
    """Samples ``[H, W, C]`` as FFmpeg (16-bit PNG) or scikit-image (all else) read them."""
    if bits == 8 or path.suffix != ".png":
        return np.atleast_3d(read_with_scikit_image(path))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    channels = len(frame.format.components)
    samples = np.frombuffer(bytes(frame.planes[0]), ">u2").reshape(frame.height, -1)
    return samples[:, : frame.width * channels].reshape(frame.height, frame.width, channels)


def test_16_bit_gray_tiff_with_alpha_is_a_true_tiff(tmp_path: Path) -> None:
    gray, alpha = noise(9, 13, bits=16), noise(9, 13, bits=16)
    picture = Picture(rgb=np.dstack([gray] * 3), alpha=alpha, gray=True)
    write_image(tmp_path / "a.tif", picture)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.asarray(), np.dstack([gray, alpha]))
        assert file.pages[0].extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exif_and_profile_of_all_formats(tmp_path: Path, suffix: str) -> None:
    """Files written by Pillow are read, and files written here are read by Pillow."""
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(6, 8, 3)).save(path, icc_profile=ICC, exif=exif_block().tobytes())
    picture = read_image(path)
    assert picture.icc_profile == ICC
    write_image(tmp_path / f"b{suffix}", picture)
    with Image.open(tmp_path / f"b{suffix}") as written:
        assert written.info["icc_profile"] == ICC
        exif = written.getexif()
        assert exif[ExifTags.Base.Make] == "Maker"
        assert exif.get_ifd(ExifTags.IFD.Exif)[0xA002] == 8
        assert exif.get_ifd(ExifTags.IFD.Exif)[0xA003] == 6
        assert exif.get_ifd(ExifTags.IFD.GPSInfo) == GPS


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_orientation_is_applied_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    """The four corners have colours of their own, so no two orientations look alike."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24], upright[:16, 24:] = (250, 10, 10), (10, 250, 10)
    upright[16:, :24], upright[16:, 24:] = (10, 10, 250), (250, 250, 250)
    # What has to be undone: the stored picture is the upright one under the inverse operation.
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    stored = np.ascontiguousarray(undo[orientation](upright))
    options: dict[str, Any] = {"exif": exif_block(orientation).tobytes()}
    options |= {".jpg": {"subsampling": 0, "quality": 95}, ".webp": {"lossless": True}}.get(
        suffix, {}
    )
    Image.fromarray(stored).save(tmp_path / f"a{suffix}", **options)
    picture = read_image(tmp_path / f"a{suffix}")
    assert picture.rgb.shape == upright.shape
    assert np.abs(picture.rgb.astype(int) - upright).max() <= 12
    write_image(tmp_path / f"b{suffix}", picture)
    again = read_image(tmp_path / f"b{suffix}")
    assert np.abs(again.rgb.astype(int) - upright).max() <= 24


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_of_16_bit_pictures(tmp_path: Path, orientation: int) -> None:
    upright = noise(5, 7, 3, bits=16)
    stored = np.rot90(upright, {3: 2, 6: 1}[orientation])
    rows = [row.astype(">u2").tobytes() for row in stored]
    block = exif_block(orientation).tobytes().removeprefix(b"Exif\0\0")
    (tmp_path / "a.png").write_bytes(png_bytes(rows, stored.shape[1], 16, 2, chunk(b"eXIf", block)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").rgb, upright)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.ascontiguousarray(stored),
        photometric="rgb",
        metadata=None,
        extratags=[(274, 3, 1, orientation, True)],
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").rgb, upright)


def test_kinds_of_png(tmp_path: Path) -> None:
    """Palette with and without transparency, 1, 2 and 4 bits, and one colour as transparent."""
    palette = Image.fromarray(noise(6, 8, 3)).quantize(16)
    palette.save(tmp_path / "palette.png")
    read = read_image(tmp_path / "palette.png")
    np.testing.assert_array_equal(read.rgb, np.asarray(palette.convert("RGB")))
    assert (read.alpha, read.gray) == (None, False)

    palette.save(tmp_path / "see-through.png", transparency=3)
    read = read_image(tmp_path / "see-through.png")
    assert read.alpha is not None
    np.testing.assert_array_equal(read.alpha == 0, np.asarray(palette) == 3)

    (tmp_path / "bits.png").write_bytes(png_bytes([b"\xa0", b"\x50"], 4, 1, 0))
    read = read_image(tmp_path / "bits.png")
    assert read.gray
    np.testing.assert_array_equal(read.rgb[..., 0], [[255, 0, 255, 0], [0, 255, 0, 255]])

    (tmp_path / "quarter.png").write_bytes(png_bytes([b"\x1b"], 4, 2, 0))
    assert read_image(tmp_path / "quarter.png").rgb[0, :, 1].tolist() == [0, 85, 170, 255]

    row = bytes([1, 2, 3, 9, 9, 9])
    trns = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    (tmp_path / "key.png").write_bytes(png_bytes([row], 2, 8, 2, trns))
    read = read_image(tmp_path / "key.png")
    assert read.alpha is not None
    assert read.alpha.tolist() == [[0, 255]]
    trns = chunk(b"tRNS", struct.pack(">H", 7))
    (tmp_path / "gray-key.png").write_bytes(png_bytes([bytes([7, 8])], 2, 8, 0, trns))
    read = read_image(tmp_path / "gray-key.png")
    assert read.gray
    assert read.alpha is not None
    assert read.alpha.tolist() == [[0, 255]]


def test_transparent_colours_of_16_bit_png(tmp_path: Path) -> None:
    row = struct.pack(">HHHHHH", 1, 2, 3, 700, 800, 900)
    trns = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    (tmp_path / "a.png").write_bytes(png_bytes([row], 2, 16, 2, trns))
    read = read_image(tmp_path / "a.png")
    assert read.rgb[0, 1].tolist() == [700, 800, 900]
    assert read.alpha is not None
    assert read.alpha.tolist() == [[0, 65535]]
    row, trns = struct.pack(">HH", 300, 301), chunk(b"tRNS", struct.pack(">H", 300))
    (tmp_path / "b.png").write_bytes(png_bytes([row], 2, 16, 0, trns))
    read = read_image(tmp_path / "b.png")
    assert read.gray
    assert read.rgb[0, :, 2].tolist() == [300, 301]
    assert read.alpha is not None
    assert read.alpha.tolist() == [[0, 65535]]


def test_kinds_of_tiff(tmp_path: Path) -> None:
    gray = noise(5, 6, bits=16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, gray, photometric="miniswhite", byteorder="<", metadata=None)
    np.testing.assert_array_equal(read_image(path).rgb[..., 1], 65535 - gray)

    straight, alpha = noise(5, 6, 3, bits=16), noise(5, 6, bits=16) | 0x4000
    multiplied = np.rint(straight * (alpha / 65535.0)[..., None]).astype(np.uint16)
    stored = np.dstack([multiplied, alpha])
    tifffile.imwrite(path, stored, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    read = read_image(path)
    assert read.alpha is not None
    np.testing.assert_array_equal(read.alpha, alpha)
    assert np.abs(read.rgb.astype(int) - straight).max() <= 2

    planes = np.ascontiguousarray(straight.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", metadata=None)
    with pytest.raises(InputError, match="separate planes"):
        read_image(path)
    tifffile.imwrite(path, stored, photometric="rgb", extrasamples=[0], metadata=None)
    with pytest.raises(InputError, match="unknown meaning"):
        read_image(path)
    tifffile.imwrite(path, gray.astype(np.float32), photometric="minisblack", metadata=None)
    with pytest.raises(InputError, match="expected 8 or 16 bits"):
        read_image(path)
    Image.fromarray(noise(5, 6, 3)).save(
        path, save_all=True, append_images=[Image.new("L", (3, 3))]
    )
    with pytest.raises(InputError, match="2 frames or pages"):
        read_image(path)


def test_progressive_and_gray_jpeg(tmp_path: Path) -> None:
    smooth = cv2.GaussianBlur(noise(32, 32, 3), (0, 0), 4)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", progressive=True, quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").rgb.astype(int) - smooth).mean() < 3
    Image.fromarray(smooth[..., 0]).save(tmp_path / "g.jpg")
    gray = read_image(tmp_path / "g.jpg")
    assert gray.gray
    write_image(tmp_path / "h.jpg", gray)
    with Image.open(tmp_path / "h.jpg") as written:
        assert written.mode == "L"


def test_cmyk_is_refused_with_a_remedy(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"CMYK; expected RGB or grayscale\. Convert"):
        read_image(tmp_path / "a.jpg")


def test_animation_is_refused_and_the_first_of_a_camera_set_is_taken(tmp_path: Path) -> None:
    first, second = (Image.fromarray(noise(8, 8, 3)) for _ in range(2))
    for name in ("a.webp", "a.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        with pytest.raises(InputError, match="2 frames"):
            read_image(tmp_path / name)
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second], quality=95)
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    picture = read_image(tmp_path / "a.jpg")
    assert picture.notes == (
        "the first of 2 pictures in the file was taken; the others are left out",
    )


def test_jpeg_is_written_without_chroma_subsampling_and_quality_counts(tmp_path: Path) -> None:
    picture = Picture(rgb=noise(32, 32, 3))
    sizes = []
    for quality in (None, 95, 60):
        write_image(tmp_path / "a.jpg", picture, quality=quality)
        sizes.append((tmp_path / "a.jpg").stat().st_size)
        with Image.open(tmp_path / "a.jpg") as written:
            assert [(part[1], part[2]) for part in written.layer] == [(1, 1)] * 3
    assert sizes[0] == sizes[1] > sizes[2]
    write_image(tmp_path / "a.webp", picture, quality=60)
    assert (read_image(tmp_path / "a.webp").rgb != picture.rgb).any()


def test_nothing_is_lost_in_silence(tmp_path: Path) -> None:
    rgb = noise(4, 4, 3)
    see_through = Picture(rgb=rgb, alpha=np.full((4, 4), 9, np.uint8))
    opaque = Picture(rgb=rgb, alpha=np.full((4, 4), 255, np.uint8))
    deep = Picture(rgb=rgb.astype(np.uint16) * 257)
    profiled = Picture(rgb=rgb, icc_profile=ICC)
    for picture, suffix, words in (
        (see_through, ".jpg", "transparency, which JPEG cannot hold\\. Write PNG"),
        (see_through, ".bmp", "transparency, which BMP"),
        (deep, ".jpg", "16 bits per sample, which JPEG"),
        (deep, ".webp", "16 bits per sample, which WEBP"),
        (profiled, ".bmp", "ICC colour profile, which BMP"),
    ):
        with pytest.raises(OutputError, match=words):
            write_image(tmp_path / f"a{suffix}", picture)
        assert list(tmp_path.iterdir()) == []
    write_image(tmp_path / "a.jpg", opaque)
    with pytest.raises(OutputError, match=r"'\.gif' names no known format"):
        write_image(tmp_path / "a.gif", opaque)
    with pytest.raises(OutputError, match="no quality setting"):
        write_image(tmp_path / "a.png", opaque, quality=5)


def test_limits_of_formats_are_checked_for_the_enlarged_size() -> None:
    wide = Picture(rgb=np.zeros((1, 16_384, 3), np.uint8))
    with pytest.raises(OutputError, match="65536x4 pixels; JPEG holds at most 65500"):
        check_output(Path("a.jpg"), wide, scale=4)
    with pytest.raises(OutputError, match="16384x1 pixels; WEBP holds at most 16383"):
        check_output(Path("a.webp"), wide)
    assert check_output(Path("a.PNG"), wide, scale=4) == "PNG"
    huge = Picture(rgb=np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)))
    with pytest.raises(OutputError, match=r"4 GiB of TIFF\. Write PNG"):
        check_output(Path("a.tif"), huge, scale=4)


def test_a_picture_checks_itself() -> None:
    with pytest.raises(ValueError, match="float32"):
        Picture(rgb=np.zeros((2, 2, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one pixel"):
        Picture(rgb=np.zeros((0, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="alpha uint16"):
        Picture(rgb=np.zeros((2, 2, 3), np.uint8), alpha=np.zeros((2, 2), np.uint16))


def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(4, 4, 3)).save(buffer, "PNG")
    png = buffer.getvalue()
    (tmp_path / "a.png").write_bytes(png[:33] + chunk(b"eXIf", b"MM\0*garbage") + png[33:])
    picture = read_image(tmp_path / "a.png")
    assert picture.exif is None
