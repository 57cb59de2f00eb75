"""JPEG XL: files of another program; what is beside the picture, deep, and damaged."""

from __future__ import annotations

import base64
import importlib
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pyvips

from bidiffsr.errors import ImageError, OutputError
from bidiffsr.images import Image, decode_image, encode_image, jxl, read_image, write_image
from bidiffsr.images.boxes import Box, boxes
from bidiffsr.images.codec import check_output
from bidiffsr.images.compression import Compression
from bidiffsr.images.decode import image_header
from bidiffsr.images.formats import FORMAT_BY_SUFFIX
from bidiffsr.images.metadata import Metadata
from image_files import check_damage, smooth

OpenImageIO: Any = None
with suppress(ImportError):
    OpenImageIO = importlib.import_module("OpenImageIO")

needs_jxl = pytest.mark.skipif(OpenImageIO is None, reason="OpenImageIO is not installed ([jxl])")

ONE_LINE = r"^[^\n]+$"
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
P3 = pyvips.Image.profile_load("p3")

# By libjxl 0.11.2 through imagecodecs 2026.3.6, without loss: 6 rows of 8 samples.
TEN_BITS = (  # index * 1023 // 47
    "/wooMBQULQIIBAEApABLKDZG384UFCSJFbICwokQkRDnCBEJcQ4JEQnnkBCRcA6REJHmEAkREQ=="
)
TWELVE_BITS = (  # index * 4095 // 47
    "/wooMBgULQIIBAEAyABLOGgYwttdChKSYgNaBQSgzqy11lqb0lprrbXFrLXWWlvMWmuttcWstdZaW8xaa609Aw=="
)
GREY_AND_ALPHA = (  # index, and 255 - index
    "/wooMLAobgQIEBAAzABLKDXG3g4KCiYgQhmlGCTcY2xkjLExiJQucADABZD18QkyX9c/iGUue8ktAFk9TBUA4gE="
)
FLOATS = (
    "AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAAAJanhsbAoAAAAcanhsY/8KKDByQNEiCAQBABgASxiLFYIB"
)
ANIMATION = "/wooMEETAIgJCAQBABwASxiLFYIDAAgEBQAcAEsYixWCAwA="

# By libjxl 0.11.2 through pylibjxl 0.5.0, of a JPEG of 32x16 pixels: red is 8 * column, green is
# 16 * row, blue is 40, its EXIF (Brotli) and its header say that it is to be turned right.
TURNED = (
    "AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAAASanhscAAAAAD/CsMtEBMAAAAnYnJvYkV4aWYbHQAABH"
    "FjO4KYLdHULVksijTg32EkqyiADQAAAAD0anhscIAAAAHgWwIQAIQDDGQMZAxk/v8OAAAYAAgAAQAAAAAAgIAliUSI"
    "u7keAlAma3FvoFAoJSkoKNyBQ9XISDIS99BhHRERFRsdo5nNfwIA6NmaW/aP4dLRj/iRGqfhDzAjMYATQEzpqlVAyY"
    "81eiX8riJKhWjMF03x7tk0vUVchIMv0MCkQzsoNBT7EobpXge47gbgLQAAAAAAgEIK5NpqrRhjdAyGYnSMilJ0AsMC"
    "gOp4GnbU0yQAi+I2rPXXOTq+1pZ6yr/mSNW6BhYxAK+pD3ay8aclWIIPrCLi3V4sPbr5CSb5kCEWPfitAScD"
)


def of(text: str) -> bytes:
    return base64.b64decode(text)


@needs_jxl
@pytest.mark.parametrize(("text", "bits"), [(TEN_BITS, 10), (TWELVE_BITS, 12)])
def test_deep_samples_are_those_that_were_written(text: str, bits: int) -> None:
    most = (1 << bits) - 1
    values = np.arange(48).reshape(6, 8) * most // 47
    read = decode_image(of(text))
    assert (read.pixels.dtype, read.grey) == (np.uint16, True)
    assert read.icc is not None  # of linear light, which is what was written
    wanted = np.floor(values / most * 65535 + 0.5)
    np.testing.assert_allclose(read.pixels[..., 1].astype(int), wanted, atol=1)
    assert read.pixels.max() == 65535


@needs_jxl
def test_grey_with_alpha_is_read() -> None:
    read = decode_image(of(GREY_AND_ALPHA))
    index = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert read.grey
    np.testing.assert_array_equal(read.pixels, np.repeat(index[..., None], 3, axis=2))
    np.testing.assert_array_equal(read.alpha, 255 - index)  # type: ignore[arg-type]


@needs_jxl
def test_a_picture_is_turned_as_its_header_says_and_once() -> None:
    data = of(TURNED)
    header, read = image_header(data), decode_image(data)
    y, x = np.mgrid[:16, :32]
    wanted = np.rot90(np.stack([8 * x, 16 * y, 0 * x + 40], axis=2), -1)
    assert (header.height, header.width) == read.pixels.shape[:2] == (32, 16)
    assert np.abs(read.pixels.astype(int) - wanted).mean() < 5


@needs_jxl
def test_packed_metadata_is_read_or_said_to_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode_image(of(TURNED)).metadata.exif.startswith(b"MM\0*")
    cut = of(TURNED).replace(b"brobExif", b"brobExif\xff\xff", 1)
    assert jxl.contents(of(TURNED)[:12] + cut[12:]) is not None
    damaged = [box for box in boxes(of(TURNED)) if box.name != b"brob"]
    damaged.insert(2, Box(b"brob", b"Exif\xff\xff\xff"))
    (line,) = decode_image(b"".join(box.whole for box in damaged)).metadata.left_out
    assert line.startswith("EXIF is left out (it c")
    monkeypatch.setitem(sys.modules, "brotli", None)
    (line,) = decode_image(of(TURNED)).metadata.left_out
    assert line == (
        "EXIF is left out (it is compressed; pip install 'bidiffsr[jxl]'); the picture is whole"
    )


@needs_jxl
def test_a_bomb_among_the_metadata_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    brotli: Any = pytest.importorskip("brotli", reason="Brotli is not installed ([jxl])")
    bomb = Box(b"brob", b"xml " + brotli.compress(bytes(1 << 26), quality=1))
    data = encode_image(Image(smooth()), ".jxl") + bomb.whole
    assert decode_image(data).metadata.left_out == (
        "XMP is left out (it is cut short or too large); the picture is whole",
    )


@needs_jxl
@pytest.mark.parametrize("quality", [90, 100])
def test_what_belongs_to_a_picture_comes_back(quality: int) -> None:
    exif = PIL.Image.Exif()
    exif[272], exif[274] = "Camera", 6
    beside = Metadata(exif=exif.tobytes().removeprefix(b"Exif\0\0"), xmp=XMP)
    image = Image(smooth(), smooth(4)[..., 3], icc=P3, dpi=(300.0, 150.0), metadata=beside)
    data = encode_image(image, ".jxl", quality=quality)
    names = [box.name for box in boxes(data)]
    assert names[:4] == [b"JXL ", b"ftyp", b"Exif", b"xml "]
    assert names.count(b"Exif") == 1
    assert b"brob" not in names
    again = decode_image(data)
    assert (again.metadata.xmp, again.metadata.left_out, again.dpi) == (XMP, (), (300.0, 150.0))
    assert b"Camera" in again.metadata.exif
    # Below quality 100 the profile is said in other words, which mean the same colours.
    assert (again.icc == P3) == (quality == 100)
    difference = np.abs(in_srgb(again).astype(int) - in_srgb(image))
    assert difference.mean() <= (0 if quality == 100 else 2)


def in_srgb(image: Image) -> Any:
    picture: Any = pyvips.Image.new_from_array(
        np.ascontiguousarray(image.pixels), interpretation="srgb"
    )
    picture.set_type(pyvips.GValue.blob_type, "icc-profile-data", image.icc)
    return picture.icc_transform("srgb", embedded=True).numpy()


@needs_jxl
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_quality_100_loses_nothing(dtype: Any, channels: int, tmp_path: Path) -> None:
    most = int(np.iinfo(dtype).max) + 1
    noise = np.random.default_rng(0).integers(0, most, (19, 23, channels)).astype(dtype)
    colours = np.repeat(noise, 3, axis=2) if channels == 1 else noise[..., :3]
    image = Image(colours, noise[..., 3] if channels == 4 else None, grey=channels == 1)
    write_image(tmp_path / "a.jxl", image, quality=100)
    back = read_image(tmp_path / "a.jxl")
    np.testing.assert_array_equal(back.pixels, image.pixels)
    if image.alpha is not None:
        np.testing.assert_array_equal(back.alpha, image.alpha)  # type: ignore[arg-type]
    assert back.grey == image.grey
    sizes = [len(encode_image(image, ".jxl", quality=quality)) for quality in (40, 95)]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [(FLOATS, "holds floating-point samples; expected"), (ANIMATION, "is an animation; expected")],
)
def test_other_kinds_are_refused(text: str, why: str) -> None:
    with pytest.raises(ImageError, match=f"^a.jxl: {why}"):
        decode_image(of(text), name="a.jxl")


@needs_jxl
def test_nothing_is_decoded_that_has_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_image(Image(smooth()), ".jxl")
    monkeypatch.setattr(OpenImageIO, "ImageInput", None)
    with pytest.raises(ImageError, match=r"says it is 32x20; expected at most 639 pixels"):
        decode_image(data, max_pixels=639)
    assert image_header(data).width == 32


def test_all_shapes_of_the_size() -> None:
    """By hand: 18181-1, B.2; the lowest bit first."""

    def packed(*fields: tuple[int, int]) -> bytes:
        value = place = 0
        for number, count in fields:
            value |= number << place
            place += count
        return b"\xff\x0a" + value.to_bytes(place // 8 + 2, "little")

    usual = (1, 1)
    small = jxl.head_of(packed((1, 1), (2, 5), (0, 3), (4, 5), usual))
    assert (small.height, small.width) == (24, 40)
    large = jxl.head_of(packed((0, 1), (3, 2), (2**30 - 1, 30), (0, 3), (1, 2), (5000, 13), usual))
    assert (large.height, large.width) == (1 << 30, 5001)
    for ratio, width in enumerate((100, 120, 133, 150, 177, 125, 200), start=1):
        head = jxl.head_of(packed((0, 1), (0, 2), (99, 9), (ratio, 3), usual))
        assert (head.height, head.width) == (100, width)
    with pytest.raises(ImageError, match="header is cut short"):
        jxl.head_of(b"\xff\x0a\x00")


@needs_jxl
@pytest.mark.parametrize("kept", [0.02, 0.2, 0.5, 0.9, 0.995])
@pytest.mark.parametrize("text", [TWELVE_BITS, TURNED])
def test_a_file_that_is_cut_short_is_refused(kept: float, text: str) -> None:
    data = of(text)
    with pytest.raises(ImageError, match=ONE_LINE):
        decode_image(data[: int(kept * len(data))])


@needs_jxl
def test_damaged_files_are_refused_or_read(capfd: pytest.CaptureFixture[str]) -> None:
    whole = encode_image(Image(smooth(), smooth(4)[..., 3], icc=P3), ".jxl")
    check_damage(whole, tries=60)
    assert capfd.readouterr() == ("", "")


def test_without_the_extra_one_line_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "OpenImageIO", None)
    monkeypatch.setattr(jxl, "_in_libvips", lambda what: False)
    path, said = tmp_path / "a.jxl", r"a\.jxl: is JPEG XL, which .* 'bidiffsr\[jxl\]'"
    with pytest.raises(ImageError, match=f"^{said}") as read:
        decode_image(of(TEN_BITS), name="a.jxl")
    with pytest.raises(OutputError, match=said) as unwritten:
        check_output(path)
    with pytest.raises(OutputError, match=said):
        write_image(path, Image(smooth()))
    assert "\n" not in str(read.value) + str(unwritten.value)
    assert list(tmp_path.iterdir()) == []


def test_libvips_does_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenImageIO", None)
    monkeypatch.setattr(jxl, "_in_libvips", lambda what: True)
    assert jxl.contents(of(TEN_BITS)).raw is None
    assert jxl.pack() is None
    asked: list[dict[str, Any]] = []
    picture: Any = SimpleNamespace(jxlsave_buffer=lambda **options: asked.append(options))
    for quality in (90, 100):
        FORMAT_BY_SUFFIX[".jxl"].encode(picture, Compression(quality))
    assert asked == [{"keep": "icc", "Q": 90}, {"keep": "icc", "lossless": True}]
