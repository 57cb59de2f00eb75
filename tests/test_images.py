"""Pictures in and out of files: every kind comes in, nothing goes missing, bad ones are refused."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import struct
import subprocess
import sys
import textwrap
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ImageCms

from bidiffsr.errors import ConfigError, ImageError, NumericalError, OutputError
from bidiffsr.images.codec import check_output, read_image, write_image
from bidiffsr.images.decode import decode_image
from bidiffsr.images.encode import encode_image
from bidiffsr.images.find import IMAGE_SUFFIXES, find_images
from bidiffsr.images.image import Image, from_float, premultiply, to_float, unpremultiply
from image_suffixes import writable

ONE_LINE = r"^[^\n]+$"
EXIF_ORIENTATION = 0x0112
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(height: int, width: int, dtype: Any = np.uint8) -> NDArray[Any]:
    """A gentle gradient in three colours, which lossy formats keep nearly."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return from_float(np.stack([0.2 + 0.5 * y, 0.8 - 0.5 * x, 0.3 + 0.2 * (x + y)], axis=2), dtype)


def encoded(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read_bytes(tmp_path: Path, data: bytes, **options: Any) -> Image:
    path = tmp_path / "input"
    path.write_bytes(data)
    return read_image(path, **options)


def grey_profile(gamma: float) -> bytes:
    """The smallest grey ICC profile: a white point and one gamma."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(79)
    tags, offset, body = b"", 128 + 4 + 3 * 12, b""
    for name, content in ((b"wtpt", white), (b"kTRC", curve), (b"desc", text)):
        tags += name + struct.pack(">2I", offset + len(body), len(content))
        body += content
    size = offset + len(body)
    header = struct.pack(">I4xI", size, 0x02100000) + b"mntrGRAYXYZ " + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return header.ljust(128, b"\0") + struct.pack(">I", 3) + tags + body


# Values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_sample_value_survives_the_trip_through_float(dtype: Any) -> None:
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    floats = to_float(values)
    assert floats.dtype == np.float32
    assert (floats[0], floats[-1]) == (0, 1)
    np.testing.assert_array_equal(from_float(floats, dtype), values)


def test_from_float_clips_and_rounds_half_up() -> None:
    floats = np.array([-0.5, 0.0, 0.5 / 255, 1.49 / 255, 2.5 / 255, 1.0, 7.0, np.inf])
    np.testing.assert_array_equal(from_float(floats), [0, 0, 1, 1, 3, 255, 255, 255])
    assert from_float(np.array([0.5], np.float16), np.uint16) == [32768]


def test_from_float_leaves_its_argument_alone() -> None:
    floats = np.array([0.25, 2.0], np.float32)
    from_float(floats)
    np.testing.assert_array_equal(floats, np.array([0.25, 2.0], np.float32))


def test_values_without_a_meaning_are_refused() -> None:
    with pytest.raises(NumericalError):
        from_float(np.array([0.5, np.nan], np.float32))
    for bad in (np.zeros(3, np.int32), np.zeros(3, np.float32)):
        with pytest.raises(ImageError, match="expected uint8 or uint16"):
            to_float(bad)
    with pytest.raises(ImageError):
        from_float(np.zeros(3, np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ImageError):
        from_float(np.zeros(3, np.float32), np.int16)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_premultiplication_is_undone_where_it_can_be_seen(seed: int) -> None:
    colour, alpha = to_float(noise(5, 4, 3, seed=seed)), to_float(noise(5, 4, seed=seed + 1))
    back = unpremultiply(premultiply(colour, alpha), alpha)
    np.testing.assert_allclose(back, np.where(alpha[..., None] > 0, colour, 0), atol=1e-6)
    assert back.dtype == np.float32


@pytest.mark.filterwarnings("error")
def test_transparent_pixels_divide_safely() -> None:
    colour = np.full((1, 4, 3), 0.5, np.float32)
    alpha = np.array([[0.0, -0.01, 1e-12, 0.25]], np.float32)
    result = unpremultiply(colour, alpha)
    np.testing.assert_array_equal(result[0, :, 0], [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("pixels", "alpha"),
    [
        (np.zeros((4, 4), np.uint8), None),
        (np.zeros((4, 4, 4), np.uint8), None),
        (np.zeros((0, 4, 3), np.uint8), None),
        (np.zeros((4, 4, 3), np.float32), None),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16)),
    ],
)
def test_an_image_is_what_it_says(pixels: NDArray[Any], alpha: NDArray[Any] | None) -> None:
    with pytest.raises(ImageError, match=ONE_LINE):
        Image(pixels, alpha)


# Round trips

# Whether a format holds 16 bits, alpha, grey, and a profile; and what it may lose on average.
HOLDS: dict[str, tuple[bool, bool, bool, bool, float]] = {
    ".png": (True, True, True, True, 0),
    ".jpg": (False, False, True, True, 0.01),
    ".jpeg": (False, False, True, True, 0.01),
    ".jfif": (False, False, True, True, 0.01),
    ".jpe": (False, False, True, True, 0.01),
    ".webp": (False, True, False, True, 0.01),
    ".tif": (True, True, True, True, 0),
    ".tiff": (True, True, True, True, 0),
    ".gif": (False, True, False, False, 0.02),  # of alpha, all or nothing
    ".avif": (True, True, False, True, 0.01),
    ".heic": (True, True, False, True, 0.01),
    ".heif": (True, True, False, True, 0.01),
    ".jxl": (True, True, True, True, 0.01),
    ".bmp": (False, True, True, False, 0),
    ".ppm": (True, False, False, False, 0),
    ".pnm": (True, False, False, False, 0),
    ".pgm": (True, False, True, False, 0),  # and no colours
    ".pam": (True, True, True, False, 0),
    ".pfm": (True, False, True, False, 0),  # of floats, read as 16 bits
    ".exr": (True, True, True, False, 0.0002),  # of half floats, read as 16 bits
}


def test_the_table_has_all_formats() -> None:
    assert tuple(HOLDS) == IMAGE_SUFFIXES


@pytest.mark.parametrize("suffix", writable())
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_every_format_depth_and_alpha(
    tmp_path: Path, suffix: str, dtype: Any, grey: bool, with_alpha: bool
) -> None:
    pixels = smooth(33, 21, dtype)
    if grey:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    alpha = smooth(33, 21, dtype)[..., 1] if with_alpha else None
    path = tmp_path / f"picture{suffix}"
    write_image(path, Image(pixels, alpha, grey))
    back = read_image(path)
    wide, holds_alpha, holds_grey, _, loss = HOLDS[suffix]
    assert back.pixels.dtype == (
        np.uint16 if suffix in (".pfm", ".exr") else dtype if wide else np.uint8
    )
    # Of the two, BMP and JPEG XL hold one.
    holds_grey &= not (with_alpha and suffix in (".bmp", ".jxl"))
    assert back.grey == ((grey and holds_grey) or suffix == ".pgm")
    assert (back.alpha is not None) == (with_alpha and holds_alpha)
    if loss == 0 and wide and holds_alpha >= with_alpha and (grey or suffix != ".pgm"):
        white = np.iinfo(back.pixels.dtype).max // np.iinfo(dtype).max
        np.testing.assert_array_equal(back.pixels, pixels.astype(back.pixels.dtype) * white)
        np.testing.assert_array_equal(back.alpha, alpha)  # type: ignore[arg-type]
        return
    colour = to_float(pixels)
    if suffix == ".pgm":  # luma, by libvips' way, which is near to that
        loss = 0.05
        colour = np.repeat(colour @ np.array([[0.2126], [0.7152], [0.0722]]), 3, axis=2)
    if alpha is not None and not holds_alpha:  # it is shown on white
        colour = 1 - (1 - colour) * to_float(alpha)[..., None]
    opacity = None if alpha is None else to_float(alpha)
    seen = np.ones((33, 21), bool)
    if suffix == ".gif" and opacity is not None:
        opacity = opacity.round()
        seen = opacity > 0
    rounding = 1 / np.iinfo(np.uint8 if not wide else dtype).max
    assert np.abs(to_float(back.pixels) - colour)[seen].mean() <= loss + rounding
    if opacity is not None and back.alpha is not None:
        assert np.abs(to_float(back.alpha) - opacity).mean() <= loss + rounding


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.sampled_from([np.uint8, np.uint16]),
    st.sampled_from([".png", ".tif"]),
    st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_lossless_formats_return_every_bit(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    grey: bool,
    with_alpha: bool,
    dtype: Any,
    suffix: str,
    seed: int,
) -> None:
    pixels = noise(height, width, 1 if grey else 3, dtype=dtype, seed=seed)
    alpha = noise(height, width, dtype=dtype, seed=seed + 1) if with_alpha else None
    path = tmp_path_factory.mktemp("bits") / f"picture{suffix}"
    write_image(path, Image(np.repeat(pixels, 3 // pixels.shape[2], axis=2), alpha, grey))
    back = read_image(path)
    np.testing.assert_array_equal(back.pixels, np.broadcast_to(pixels, (height, width, 3)))
    np.testing.assert_array_equal(back.alpha, alpha)  # type: ignore[arg-type]
    assert (back.grey, back.icc, back.dpi) == (grey, None, None)
    assert (back.height, back.width) == (height, width)


def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    values = np.array([0, 127, 129, 32639, 32768, 65406, 65407, 65535], np.uint16)
    pixels = np.broadcast_to(np.repeat(values, 8)[:, None, None], (64, 64, 3))
    write_image(tmp_path / "a.jpg", Image(pixels), quality=100)
    read = read_image(tmp_path / "a.jpg").pixels[4::8, 32, 0]
    np.testing.assert_allclose(read, [0, 0, 1, 127, 128, 254, 255, 255], atol=1)


def test_transparency_becomes_white_in_jpeg(tmp_path: Path) -> None:
    black = np.zeros((32, 32, 3), np.uint16)
    alpha = np.zeros((32, 32), np.uint16)
    alpha[:16] = 65535
    write_image(tmp_path / "a.jpg", Image(black, alpha))
    read = read_image(tmp_path / "a.jpg").pixels
    assert read[:12].max() < 8
    assert read[20:].min() > 247


def test_grey_is_the_mean_of_its_three_estimates(tmp_path: Path) -> None:
    pixels = np.array([[[10, 11, 12], [0, 0, 1], [0, 1, 1], [255, 255, 255]]], np.uint8)
    write_image(tmp_path / "a.png", Image(pixels, grey=True))
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read.pixels[0, :, 0], [11, 0, 1, 255])


def test_jpeg_keeps_colour_at_full_resolution_and_quality_matters(tmp_path: Path) -> None:
    picture = Image(noise(64, 64, 3))
    for quality in (95, 40):
        path = tmp_path / f"{quality}.jpg"
        write_image(path, picture, quality=quality)
        with PIL.Image.open(path) as opened:
            assert {layer[1:3] for layer in opened.layer} == {(1, 1)}  # type: ignore[attr-defined]
    assert (tmp_path / "40.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size / 2


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_resolution_is_kept(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, Image(smooth(8, 8), dpi=(300.0, 150.0)))
    assert read_image(path).dpi == (300.0, 150.0)
    write_image(path, Image(smooth(8, 8)), overwrite=True)
    assert read_image(path).dpi is None


@pytest.mark.parametrize("suffix", writable())
def test_profile_bytes_survive(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    # JPEG XL keeps them where nothing is lost.
    write_image(path, Image(smooth(16, 16), icc=SRGB_PROFILE), quality=100)
    assert read_image(path).icc == (SRGB_PROFILE if HOLDS[suffix][3] else None)


@pytest.mark.parametrize("suffix", writable(name for name in HOLDS if not HOLDS[name][3]))
def test_colours_become_srgb_where_no_profile_can_be_held(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    linear = Image(np.full((16, 16, 3), 55, np.uint8), grey=True, icc=grey_profile(1.0))
    write_image(path, linear)
    expected = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)  # the sRGB curve
    back = read_image(path)
    np.testing.assert_allclose(255 * to_float(back.pixels), expected, atol=3)
    assert back.grey == HOLDS[suffix][2]
    write_image(path, replace(linear, icc=b"not a profile"), overwrite=True)
    np.testing.assert_allclose(255 * to_float(read_image(path).pixels), 55, atol=3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_grey_profiles_survive(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    pixels = np.repeat(smooth(16, 16)[..., :1], 3, axis=2)
    write_image(path, Image(pixels, grey=True, icc=grey_profile(1.0)))
    assert read_image(path).icc == grey_profile(1.0)


def test_a_grey_profile_becomes_srgb_where_only_rgb_can_be_held(tmp_path: Path) -> None:
    linear = Image(np.full((16, 16, 3), 55, np.uint8), grey=True, icc=grey_profile(1.0))
    write_image(tmp_path / "a.webp", linear)
    back = read_image(tmp_path / "a.webp")
    expected = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)  # the sRGB curve
    assert back.icc is not None
    assert back.icc[16:20] == b"RGB "
    np.testing.assert_allclose(back.pixels, expected, atol=3)


def test_a_profile_for_other_samples_is_ignored(tmp_path: Path) -> None:
    grey = encoded(PIL.Image.fromarray(noise(8, 8)), "JPEG", icc_profile=SRGB_PROFILE)
    assert read_bytes(tmp_path, grey).icc is None


# Reading what others write


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_not_written_again(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    corners = np.repeat(np.repeat(noise(2, 3, 3, seed=5), 16, axis=0), 16, axis=1)
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    picture = PIL.Image.fromarray(corners)
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    extra = {"tiffinfo": exif} if kind == "TIFF" else {"exif": exif}
    read = read_bytes(tmp_path, encoded(picture, kind, dpi=(300, 150), **options, **extra))
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation](corners)
    assert read.pixels.shape == upright.shape
    centres = np.s_[8::16, 8::16]
    difference = read.pixels[centres].astype(int) - upright[centres]
    assert np.abs(difference).max() <= (0 if kind in ("PNG", "TIFF") else 40)
    if kind in ("JPEG", "PNG", "TIFF"):
        assert read.dpi == ((300, 150) if orientation < 5 else (150, 300))

    suffix = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif"}[kind]
    write_image(tmp_path / f"out{suffix}", read)
    with PIL.Image.open(tmp_path / f"out{suffix}") as written:
        assert written.getexif().get(EXIF_ORIENTATION, 1) == 1
        assert written.size == (read.width, read.height)


def test_a_palette_becomes_rgb(tmp_path: Path) -> None:
    indexed = PIL.Image.fromarray(noise(20, 30, 3)).quantize(16)
    read = read_bytes(tmp_path, encoded(indexed, "PNG"))
    np.testing.assert_array_equal(read.pixels, np.asarray(indexed.convert("RGB")))
    assert not read.grey


def test_a_transparent_palette_entry_becomes_alpha(tmp_path: Path) -> None:
    indexed = PIL.Image.fromarray(noise(20, 30, 3)).quantize(16)
    read = read_bytes(tmp_path, encoded(indexed, "PNG", transparency=3))
    assert read.alpha is not None
    np.testing.assert_array_equal(read.alpha == 0, np.asarray(indexed) == 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_one_bit_becomes_eight(tmp_path: Path, kind: str) -> None:
    bits = noise(9, 11) > 127
    read = read_bytes(tmp_path, encoded(PIL.Image.fromarray(bits), kind))
    np.testing.assert_array_equal(read.pixels[..., 0], bits * np.uint8(255))
    assert read.grey


def test_sixteen_bit_grey_from_elsewhere(tmp_path: Path) -> None:
    values = noise(9, 11, dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        read = read_bytes(tmp_path, encoded(PIL.Image.fromarray(values), kind))
        np.testing.assert_array_equal(read.pixels[..., 1], values)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_srgb(tmp_path: Path, kind: str) -> None:
    colours = {"red": (255, 0, 0), "white": (255, 255, 255), "black": (0, 0, 0)}
    for name, colour in colours.items():
        picture = PIL.Image.new("RGB", (16, 16), colour).convert("CMYK")
        read = read_bytes(tmp_path, encoded(picture, kind))
        assert read.pixels.shape == (16, 16, 3)
        assert np.abs(read.pixels[8, 8].astype(int) - colour).max() < 90, name
        assert read.icc is not None
        assert read.icc[16:20] == b"RGB "


def test_associated_alpha_is_undone(tmp_path: Path) -> None:
    straight, alpha = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8), 127, np.uint8)
    path = tmp_path / "a.tif"
    write_image(path, Image(straight, alpha))
    data = path.read_bytes()
    unassociated, associated = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1))
    assert data.count(unassociated) == 1
    path.write_bytes(data.replace(unassociated, associated))
    np.testing.assert_allclose(read_image(path).pixels, 100 * 255 / 127, atol=1)


def test_contents_decide_and_names_mean_nothing(tmp_path: Path) -> None:
    for name in ("a[page=3].png", "-", "a.jpg", "ü.txt", "no suffix"):
        path = tmp_path / name
        path.write_bytes(encoded(PIL.Image.fromarray(noise(4, 5, 3)), "PNG"))
        np.testing.assert_array_equal(read_image(path).pixels, noise(4, 5, 3))


# Refusals


HOSTILE_KINDS = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_deflate"}),
]


@pytest.mark.parametrize(("kind", "options"), HOSTILE_KINDS)
def test_files_cut_anywhere_are_refused_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, options: dict[str, Any]
) -> None:
    whole = encoded(PIL.Image.fromarray(noise(40, 60, 3)), kind, **options)
    read_bytes(tmp_path, whole)
    ends = {*range(64), *range(len(whole) - 14, len(whole))}
    lengths = ends | {*range(0, len(whole), len(whole) // 40)}
    for length in sorted(lengths):
        with pytest.raises(ImageError, match=ONE_LINE) as caught:
            read_bytes(tmp_path, whole[:length])
        assert "input: " in str(caught.value)
        assert "unable to call" not in str(caught.value), "which function failed helps no user"
    assert capfd.readouterr() == ("", "")


def test_a_tail_of_zeros_is_refused(tmp_path: Path) -> None:
    thumbnail = encoded(PIL.Image.fromarray(noise(8, 8, 3)), "JPEG")
    whole = encoded(PIL.Image.fromarray(noise(40, 60, 3)), "JPEG", comment=thumbnail)
    read_bytes(tmp_path, whole)
    for kept in (0.5, 0.8, 0.95):
        length = int(kept * len(whole))
        with pytest.raises(ImageError, match="end of the file is missing"):
            read_bytes(tmp_path, whole[:length] + bytes(len(whole) - length))


def test_data_after_the_picture_are_ignored(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "TIFF"):
        whole = encoded(PIL.Image.fromarray(noise(8, 9, 3)), kind)
        assert read_bytes(tmp_path, whole + b"\xff\xda video \0" * 9).pixels.shape == (8, 9, 3)


@given(st.binary(max_size=64), st.integers(0, 600), st.sampled_from(HOSTILE_KINDS))
@settings(max_examples=150, deadline=None)
def test_damaged_files_yield_a_picture_or_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    patch: bytes,
    position: int,
    kind: tuple[str, dict[str, Any]],
) -> None:
    whole = bytearray(encoded(PIL.Image.fromarray(noise(12, 9, 3)), kind[0], **kind[1]))
    whole[position : position + len(patch)] = patch
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(whole)
    try:
        read_image(path, max_pixels=10_000)
    except ImageError as error:
        assert "\n" not in str(error)


def test_warnings_of_libvips_go_to_the_log_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []  # as in a program that set up no logging
    try:
        whole = encoded(PIL.Image.fromarray(noise(40, 60, 3)), "JPEG")
        read_bytes(tmp_path, whole[:-2] + b"\0\0 stray \xff\xd9")
        logging.getLogger("pyvips").warning("a warning of libvips")
    finally:
        root.handlers = handlers
    assert capfd.readouterr() == ("", "")


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    # A header that promises 60000 x 60000 pixels: decoding would find one row, and say so instead.
    bomb = b"\x89PNG\r\n\x1a\n"
    for chunk in (
        b"IHDR" + struct.pack(">2I5B", 60_000, 60_000, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(bytes(180_001)),
        b"IEND",
    ):
        bomb += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(ImageError, match=r"60000x60000.*at most 268435456 pixels"):
        read_bytes(tmp_path, bomb)
    small = encoded(PIL.Image.fromarray(noise(10, 10)), "PNG")
    assert read_bytes(tmp_path, small, max_pixels=100).width == 10
    with pytest.raises(ImageError, match="10x10"):
        read_bytes(tmp_path, small, max_pixels=99)


@pytest.mark.parametrize("kind", ["TIFF", "WEBP"])
def test_several_pages_are_refused(tmp_path: Path, kind: str) -> None:
    first, second = (PIL.Image.fromarray(noise(8, 9, 3, seed=seed)) for seed in (1, 2))
    data = encoded(first, kind, save_all=True, append_images=[second])
    with pytest.raises(ImageError, match="2 pages or frames"):
        read_bytes(tmp_path, data)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_other_sample_types_are_refused(tmp_path: Path, mode: str) -> None:
    picture = PIL.Image.fromarray(noise(8, 9)).convert(mode)
    with pytest.raises(ImageError, match="expected grey or RGB of 8 or 16 bits"):
        read_bytes(tmp_path, encoded(picture, "TIFF"))


def test_what_is_no_picture_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("<svg/>")
    (tmp_path / "two\nlines.png").touch()
    psd = b"8BPS\0\1" + bytes(20)
    (tmp_path / "layers.psd").write_bytes(psd)
    cases = {
        "missing.png": "no such file",
        "": "is a folder",
        "empty.png": "is empty",
        "text.png": "expected PNG, JPEG, WebP, TIFF",
        "layers.psd": "expected PNG, JPEG, WebP, TIFF",
        "two\nlines.png": r"two\\nlines.png.*is empty",
        "nul\0.png": "cannot be read",
        "x" * 300: "cannot be read",
    }
    for name, message in cases.items():
        with pytest.raises(ImageError, match=ONE_LINE) as caught:
            read_image(tmp_path / name)
        caught.match(message)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.touch(mode=0)
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(path)


# Writing: all or nothing


PICTURE = Image(smooth(12, 12))


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        write_image(path, PICTURE)
    assert path.read_bytes() == b"precious"
    write_image(path, PICTURE, overwrite=True)
    np.testing.assert_array_equal(read_image(path).pixels, PICTURE.pixels)
    assert os.listdir(tmp_path) == ["a.png"]  # noqa: PTH208 (names are the point)


def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    monkeypatch.setattr(os, "fsync", lambda _: path.write_bytes(b"another's"))
    with pytest.raises(OutputError, match="File exists"):
        write_image(path, PICTURE)
    assert path.read_bytes() == b"another's"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failing_write_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        assert len(list(tmp_path.iterdir())) == 2, "the temporary file lies in the same folder"
        raise failure

    monkeypatch.setattr(*((os, step) if step == "fsync" else (Path, step)), fail)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_image(path, PICTURE, overwrite=True)
    if expected is OutputError:
        caught.match(r"a\.png: cannot be written \(No space left\)")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_disk_that_is_full_is_no_fault_of_the_format(suffix: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    path = tmp_path / f"a[x]{suffix}"  # libvips takes options in brackets
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be written \(File too large\); nothing was"):
            write_image(path, Image(noise))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    write_image(path, Image(noise))
    assert path.read_bytes() == encode_image(Image(noise), suffix)


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    script = textwrap.dedent("""
        import os, signal, sys
        import numpy as np
        from bidiffsr.images.image import Image
        from bidiffsr.images.codec import write_image
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        write_image(sys.argv[1], Image(np.zeros((9, 9, 3), np.uint8)), overwrite=True)
    """)
    process = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert find_images(tmp_path) == [path], "what is left over is no picture to find"


def test_the_usual_permissions_apply_and_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "real" / "a.png")
    old = os.umask(0o027)
    try:
        write_image(link, PICTURE)
    finally:
        os.umask(old)
    assert link.is_symlink()
    assert (tmp_path / "real" / "a.png").stat().st_mode & 0o777 == 0o640


def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    cases = {
        "a.tga": "suffix '.tga' is no picture format's; expected one of .png",
        "a": "suffix ''",
        "folder.png": "no regular file",
        "missing/a.png": "its folder does not exist",
        f"{'x' * 300}.png": "cannot be a file",
        "nul\0.png": "cannot be a file",
    }
    for name, message in cases.items():
        for attempt in (check_output, lambda path: write_image(path, PICTURE, overwrite=True)):
            with pytest.raises(OutputError, match=ONE_LINE) as caught:
                attempt(tmp_path / name)
            caught.match(message)
    with pytest.raises(OutputError, match="no regular file"):
        (tmp_path / "null.png").symlink_to(os.devnull)
        write_image(tmp_path / "null.png", PICTURE, overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="cannot be written to"):
        write_image(tmp_path / "a.png", PICTURE)


def test_limits_of_a_format_are_named(tmp_path: Path) -> None:
    wide = Image(np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(OutputError, match=r"16384x1; WebP holds at most 16383"):
        write_image(tmp_path / "a.webp", wide)
    wider = Image(np.zeros((65501, 1, 3), np.uint8))
    with pytest.raises(OutputError, match="JPEG holds at most 65500"):
        write_image(tmp_path / "a.jpg", wider)
    for quality in (0, 101):
        with pytest.raises(ConfigError, match="quality"):
            write_image(tmp_path / "a.jpg", PICTURE, quality=quality)
    for subsampling in ("4:2:2", "", [], None):
        with pytest.raises(ConfigError, match=r"subsampling: got .*, expected .4:4:4. or .4:2:0."):
            write_image(tmp_path / "a.jpg", PICTURE, subsampling=subsampling)  # type: ignore[arg-type]
    assert not (tmp_path / "a.jpg").exists()
    broken = replace(PICTURE, icc=b"not a profile")
    write_image(tmp_path / "a.png", broken)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, PICTURE.pixels)


# Finding


def test_folders_expand_to_their_pictures_in_order(tmp_path: Path) -> None:
    for name in (
        "b.PNG",
        "a.jpeg",
        "notes.txt",
        ".hidden.png",
        "in/c.webp",
        "in/.x/d.png",
        "z.png/e.tif",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    flat = [tmp_path / "a.jpeg", tmp_path / "b.PNG"]
    assert find_images([tmp_path]) == flat
    assert find_images(str(tmp_path)) == flat
    deep = find_images(tmp_path, recursive=True)
    assert deep == [*flat, tmp_path / "in" / "c.webp", tmp_path / "z.png" / "e.tif"]


def test_files_are_taken_as_given_and_once(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "scan"):
        (tmp_path / name).touch()
    given = [tmp_path / "b.png", tmp_path / "scan", tmp_path, tmp_path / "b.png"]
    assert find_images(given) == [tmp_path / "b.png", tmp_path / "scan", tmp_path / "a.png"]


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    for paths in ([tmp_path], [], [tmp_path / "missing.png"]):
        with pytest.raises(ImageError, match=ONE_LINE):
            find_images(paths)


def test_importing_images_loads_no_decoder() -> None:
    script = (
        "import sys, bidiffsr.images; sys.exit('pyvips' in sys.modules or 'PIL' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# What other programs write in kinds that are not read, and what such files begin with.
FOREIGN: list[tuple[str, bytes]] = [
    ("PBM", encoded(PIL.Image.new("1", (9, 7)), "PPM")),
    ("JPEG 2000", encoded(PIL.Image.new("RGB", (9, 7)), "JPEG2000")),
    ("Radiance HDR", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n"),
    ("Photoshop", b"8BPS\0\1" + bytes(20)),
]


@pytest.mark.parametrize(("kind", "data"), FOREIGN)
def test_kinds_that_are_not_read_are_named(tmp_path: Path, kind: str, data: bytes) -> None:
    with pytest.raises(ImageError, match=f"a.png: is {kind}, which is not read; expected PNG, .*"):
        (tmp_path / "a.png").write_bytes(data)
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("text", [b"BMW cars are fast", b"P6 is a name", b"Photo", b"\xff\x0b"])
def test_what_is_no_picture_gets_no_name(text: bytes) -> None:
    with pytest.raises(ImageError, match="picture: not a picture of a known kind"):
        decode_image(text)
