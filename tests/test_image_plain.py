"""BMP, PPM, PGM, PAM and PFM: against another program, and by hand from their descriptions."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images import Image, decode_image, encode_image
from bidiffsr.images.metadata import Comment, Metadata

ONE_LINE = r"^[^\n]+$"


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(picture: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def as_pillow_sees(data: bytes) -> PIL.Image.Image:
    with PIL.Image.open(io.BytesIO(data)) as opened:
        opened.load()
        return opened.copy()


sides = st.integers(1, 20)


@given(sides, sides, st.sampled_from(["1", "L", "P", "RGB", "RGBA"]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_bmp_files_of_another_writer(height: int, width: int, mode: str, seed: int) -> None:
    picture = PIL.Image.fromarray(noise(height, width, 4, seed=seed))
    if mode == "P":
        picture = picture.convert("RGB").quantize(2 + seed)
    picture = picture.convert(mode)
    data = encoded(picture, "BMP", dpi=(300, 150))
    read = decode_image(data)
    np.testing.assert_array_equal(read.pixels, np.asarray(as_pillow_sees(data).convert("RGB")))
    assert read.dpi == (300, 150)
    assert read.grey or mode not in ("1", "L")


@given(sides, sides, st.booleans(), st.booleans(), st.sampled_from([".bmp", ".ppm", ".pgm"]))
@settings(max_examples=60, deadline=None)
def test_another_reader_reads_what_is_written(
    height: int, width: int, grey: bool, alpha: bool, suffix: str
) -> None:
    grey |= suffix == ".pgm"
    alpha &= suffix == ".bmp"
    pixels = np.broadcast_to(noise(height, width, 1 if grey else 3), (height, width, 3))
    opacity = noise(height, width, seed=1) if alpha else None
    data = encode_image(Image(pixels, opacity, grey, dpi=(300.0, 150.0)), suffix)
    made = as_pillow_sees(data)
    grey &= not (alpha or suffix == ".ppm")
    assert made.mode == ("RGBA" if alpha else "L" if grey else "RGB")
    np.testing.assert_array_equal(np.asarray(made.convert("RGB")), pixels)
    if opacity is not None:
        np.testing.assert_array_equal(np.asarray(made)[..., 3], opacity)
    if suffix == ".bmp":
        assert [round(number) for number in made.info["dpi"]] == [300, 150]


def bmp(
    rows: bytes, size: tuple[int, int], bits: int, compression: int, masks: bytes = b""
) -> bytes:
    """A BMP by hand, its height as given: negative, the first row is the top one."""
    width, height = size
    start = 14 + 40 + len(masks)
    info = struct.pack(
        "<I2i2H2I2i2I", 40, width, height, 1, bits, compression, len(rows), 0, 0, 0, 0
    )
    return struct.pack("<2sI4xI", b"BM", start + len(rows), start) + info + masks + rows


def test_sixteen_bits_of_a_bmp_pixel() -> None:
    values = np.array([0x7FFF, 0x7C00, 0x03E0, 0x001F, 0x4210, 0], "<u2")
    for height in (1, -1):
        read = decode_image(bmp(values.tobytes(), (6, height), 16, 0))
        np.testing.assert_array_equal(read.pixels[0, :4], [[255] * 3, *np.eye(3) * 255])
        np.testing.assert_array_equal(read.pixels[0, 4], [round(16 * 255 / 31)] * 3)
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    read = decode_image(bmp(np.array([0x07E0, 0xFFFF], "<u2").tobytes(), (2, 1), 16, 3, masks))
    np.testing.assert_array_equal(read.pixels[0], [[0, 255, 0], [255, 255, 255]])


def test_rows_of_a_bmp_from_the_top() -> None:
    pixels = noise(2, 4, 3)
    rows = pixels[..., ::-1].tobytes()
    np.testing.assert_array_equal(decode_image(bmp(rows, (4, -2), 24, 0)).pixels, pixels)
    np.testing.assert_array_equal(decode_image(bmp(rows, (4, 2), 24, 0)).pixels, pixels[::-1])


def test_the_fourth_byte_of_a_plain_bmp_is_no_alpha() -> None:
    read = decode_image(bmp(bytes([1, 2, 3, 0]), (1, 1), 32, 0))
    assert read.alpha is None
    np.testing.assert_array_equal(read.pixels[0, 0], [3, 2, 1])


@pytest.mark.parametrize("compression", [1, 2, 4, 5])
def test_a_compressed_bmp_is_refused_by_that_name(compression: int) -> None:
    with pytest.raises(ImageError, match=rf"unsupported kind \(compression {compression}\)"):
        decode_image(bmp(bytes(16), (2, 2), 8, compression), name="a.bmp")


@pytest.mark.parametrize("masks", [(5, 2, 8, 0), (1 << 20, 2, 4, 0)])
def test_masks_that_are_none_are_refused(masks: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="its masks are none"):
        decode_image(bmp(bytes(4), (1, 1), 16, 6, struct.pack("<4I", *masks)))


# Netpbm's


@given(sides, sides, st.integers(1, 65535), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_largest_sample_is_white(
    height: int, width: int, white: int, grey: bool, plain: bool, seed: int
) -> None:
    shape = (height, width) if grey else (height, width, 3)
    values = np.random.default_rng(seed).integers(0, white + 1, shape)
    values.flat[0] = white
    magic = ("P2" if plain else "P5") if grey else ("P3" if plain else "P6")
    head = f"{magic} # of this size\n{width}\t{height} #\n{white}\n".encode()
    wide = values.astype(">u2" if white > 255 else np.uint8)
    body = " ".join(map(str, values.flat)).encode() if plain else wide.tobytes()
    read = decode_image(head + body)
    most = 65535 if white > 255 else 255
    expected = values.reshape(height, width, -1) / white * most
    assert np.abs(read.pixels - expected).max() <= 0.5 + 1e-3
    assert read.pixels.dtype == (np.uint16 if white > 255 else np.uint8)
    assert read.grey == grey


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_pam_by_its_description(channels: int, dtype: Any) -> None:
    samples = noise(3, 5, channels, dtype=dtype)
    kind = ["GRAYSCALE", "GRAYSCALE_ALPHA", "RGB", "RGB_ALPHA"][channels - 1]
    head = f"P7\n# a comment\nHEIGHT 3\nWIDTH 5\nMAXVAL {np.iinfo(dtype).max}\nDEPTH {channels}\n"
    data = f"{head}TUPLTYPE {kind}\nENDHDR\n".encode()
    data += samples.astype(samples.dtype.newbyteorder(">")).tobytes()
    read = decode_image(data)
    colours = 1 if channels < 3 else 3
    np.testing.assert_array_equal(read.pixels[..., :colours], samples[..., :colours])
    assert (read.alpha is None) == (channels in (1, 3))
    if read.alpha is not None:
        np.testing.assert_array_equal(read.alpha, samples[..., -1])
    again = encode_image(read, ".pam")
    assert again.endswith(data[data.index(b"ENDHDR") :])


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_pfm_is_linear_light_from_the_last_row_up(order: str) -> None:
    light = np.array([[0, 0.001], [0.2140411, 1]], f"{order}f4")
    scale = {"<": -1.0, ">": 2.5}[order]
    read = decode_image(f"Pf\n2 2\n{scale}\n".encode() + light.tobytes())
    expected = np.array([[0.5, 1], [0, 12.92 * 0.001]]) * 65535  # by the sRGB standard
    np.testing.assert_allclose(read.pixels[..., 0], expected, atol=1)
    written = encode_image(read, ".pfm")
    head, _, body = written.partition(b"-1.0\n")
    assert head == b"Pf\n2 2\n"
    np.testing.assert_allclose(np.frombuffer(body, "<f4").reshape(2, 2), light, atol=1e-5)
    with PIL.Image.open(io.BytesIO(written)) as opened:
        np.testing.assert_allclose(np.asarray(opened), light[::-1], atol=1e-5)


@pytest.mark.parametrize("value", [1.5, -0.25, float("nan"), float("inf")])
def test_light_that_is_none_of_a_picture_is_refused(value: float) -> None:
    with pytest.raises(ImageError, match="holds light from"):
        decode_image(b"Pf 1 1 -1\n" + struct.pack("<f", value))


BROKEN = [
    *(b"P5", b"P5 3", b"P6 3 3 255 ", b"P5 0 3 255\n", b"P5 3 3 0\n", b"P5 3 3 99999\n"),
    *(b"P5 -3 3 255\n", b"P5 x 3 255\n" + bytes(9), b"P5 2 1 9\n\x05\x0b", b"P2 2 1 9\n5 x"),
    *(b"P2 2 1 9\n5", b"P2 2 1 9\n5 11", b"P2 2 1 9\n-5 1", b"P7\nWIDTH 3\n", b"P7\nENDHDR\n"),
    *(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 5\nMAXVAL 9\nENDHDR\n12345", b"Pf 1 1 0\n1234"),
    *(b"Pf 1 1 nan\n1234", b"PF 1 1 -1\n1234", b"P6 99999999 99999999 255\n"),
    *(b"P6 9000000 9000000 255\n", b"BM" + bytes(12), b"BM" + bytes(60)),
    bmp(bytes(3), (4, 4), 24, 0),
    bmp(bytes(64), (4, -(2**31)), 24, 0),
    bmp(bytes(64), (4, 4), 24, 0)[:40],
    bmp(bytes(64), (4, 4), 7, 0),
]


@pytest.mark.parametrize("data", BROKEN)
def test_what_is_damaged_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ImageError, match=ONE_LINE):
        decode_image(data)


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".pgm", ".pam", ".pfm", ".exr"])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused(suffix: str, kept: float) -> None:
    whole = encode_image(Image(noise(9, 11, 3)), suffix)
    with pytest.raises(ImageError, match=r"damaged or cut short|is empty"):
        decode_image(whole[: 10 + int(kept * (len(whole) - 10))] if kept else b"")


def test_a_bomb_is_not_unpacked() -> None:
    palette = bytes(8)
    data = bytearray(bmp(bytes(20000 // 32 * 4 * 20000), (20000, 20000), 1, 0, palette))
    with pytest.raises(ImageError, match="says it is 20000x20000; expected at most 1000 pixels"):
        decode_image(bytes(data), max_pixels=1000)


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".pfm", ".exr"])
def test_what_has_no_place_gets_a_line(tmp_path: Any, suffix: str) -> None:
    from bidiffsr.images.codec import write_image

    held = Metadata(xmp=b"<x/>", comments=(Comment("Comment", "Hello"),), record={"format": 1})
    lines = write_image(tmp_path / f"a{suffix}", Image(noise(4, 4, 3), metadata=held))
    assert [line.split(" is left out")[0] for line in lines] == [
        "the record of bidiffsr",
        "XMP",
        "a comment",
    ]
