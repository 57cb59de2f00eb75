"""What a program may hand in: bytes, arrays and PIL pictures of every kind, right or refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import ImageCms

from bidiffsr.errors import ConfigError, ImageError, OutputError
from bidiffsr.images import IMAGE_SUFFIXES, Image, decode_image, encode_image, read_image
from bidiffsr.images.codec import write_image
from bidiffsr.images.convert import as_image
from image_files import chunk, png
from image_suffixes import writable


def noise(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    top = int(np.iinfo(dtype).max) + 1
    return np.random.default_rng(len(shape)).integers(0, top, shape).astype(dtype)


# Bytes


@pytest.mark.parametrize("suffix", writable([*IMAGE_SUFFIXES, ".PNG"]))
def test_bytes_are_those_of_files(tmp_path: Path, suffix: str) -> None:
    picture = Image(noise(9, 7, 3), noise(9, 7), dpi=(300.0, 150.0))
    path = tmp_path / f"a{suffix}"
    write_image(path, picture, quality=80)
    data = encode_image(picture, suffix, quality=80)
    assert data == path.read_bytes()
    read, decoded = read_image(path), decode_image(data)
    np.testing.assert_array_equal(decoded.pixels, read.pixels)
    assert (decoded.alpha is None) == (read.alpha is None)
    assert decoded.dpi == read.dpi


def test_errors_of_bytes_begin_with_the_name_given() -> None:
    picture = Image(noise(9, 7, 3))
    wide = Image(np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(ImageError, match=r"^upload: is empty"):
        decode_image(b"", name="upload")
    with pytest.raises(ImageError, match=r"^upload: not a picture of a known kind"):
        decode_image(b"<svg/>", name="upload")
    with pytest.raises(OutputError, match=r"^answer: suffix '.tga' is no picture format's"):
        encode_image(picture, ".tga", name="answer")
    with pytest.raises(OutputError, match=r"^answer: the picture is 16384x1; WebP"):
        encode_image(wide, ".webp", name="answer")
    with pytest.raises(ConfigError, match="quality: got 0"):
        encode_image(picture, ".jpg", quality=0)


# Arrays


class Subclass(np.ndarray):
    """As astropy and others make them."""


ARRAYS: dict[str, NDArray[Any]] = {
    "big-endian": noise(6, 7, 3, dtype=np.uint16).astype(">u2"),
    "big-endian grey": noise(6, 7, dtype=np.uint16).astype(">u2"),
    "a matrix": noise(6, 7).view(np.matrix),
    "a subclass": noise(6, 7, 4).view(Subclass),
    "not masked anywhere": np.ma.masked_array(noise(6, 7, 3), mask=np.zeros((6, 7, 3), bool)),
    "upside down": noise(6, 7, 3)[::-1, ::-1],
    "channels reversed": noise(6, 7, 3)[..., ::-1],
    "channels first in memory": np.moveaxis(np.ascontiguousarray(noise(3, 6, 7)), 0, 2),
    "every second": noise(12, 14, 3)[::2, ::2],
    "read-only": np.broadcast_to(noise(1, 1, 3), (6, 7, 3)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_every_make_are_read_right_and_given_back(name: str) -> None:
    array = ARRAYS[name]
    values = np.array(array.tolist(), array.dtype.newbyteorder("="))
    picture, restore = as_image(array)
    colours = values[..., :3] if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    np.testing.assert_array_equal(picture.pixels, colours)
    assert type(picture.pixels) is np.ndarray
    back = restore(picture)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize(
    "array",
    [
        np.ma.masked_array(noise(6, 7, 3), mask=noise(6, 7, 3) < 9),
        np.zeros((0, 7, 3), np.uint8),
        np.zeros((6, 0), np.uint8),
        np.zeros((6, 7, 3), bool),
        np.zeros((6, 7, 3), np.float32),
        np.zeros((6, 7, 3), np.int16),
        np.zeros((6, 7, 3), object),
        np.zeros((6, 7), [("r", "u1"), ("g", "u1")]),
        np.array("text"),
        np.zeros(7, np.uint8),
        np.zeros((6, 7, 2), np.uint8),
        np.zeros((1, 6, 7, 3), np.uint8),
    ],
    ids=lambda array: f"{type(array).__name__}-{array.dtype}-{array.shape}",
)
def test_other_arrays_are_refused_in_one_line(array: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"^[^\n]+; ?[^\n]+$|^[^\n]+expected[^\n]+$"):
        as_image(array)


@pytest.mark.parametrize("thing", [None, 3, [[1, 2]], b"bytes", np.uint8(3)])
def test_other_things_are_refused_in_one_line(thing: object) -> None:
    with pytest.raises(ImageError, match="expected a path"):
        as_image(thing)


# PIL pictures, against the same picture by its file


def by_file(picture: PIL.Image.Image, kind: str, **options: Any) -> tuple[Image, Any]:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return decode_image(stream.getvalue()), PIL.Image.open(stream)


@pytest.mark.parametrize(
    ("mode", "transparency"),
    [
        ("1", None), ("L", None), ("LA", None), ("RGB", None), ("RGBA", None), ("P", None),
        ("I;16", None), ("1", 255), ("L", 90), ("RGB", (220, 40, 30)), ("P", 3), ("I;16", 5000),
    ],
)  # fmt: skip
def test_pil_pictures_are_what_their_files_are(mode: str, transparency: Any) -> None:
    pixels = noise(6, 7, 3)
    pixels[2:4, 2:5] = (220, 40, 30)
    if mode == "I;16":
        wide = noise(6, 7, dtype=np.uint16)
        wide[2:4] = 5000
        picture = PIL.Image.fromarray(wide)
    else:
        picture = PIL.Image.fromarray(pixels).convert("L" if mode in ("1", "L") else "RGBA")
        if mode == "L":
            picture.paste(90, (2, 2, 5, 4))
        if mode == "RGBA":
            picture.putalpha(PIL.Image.fromarray(noise(6, 7)))
        picture = picture.convert("RGB").quantize(16) if mode == "P" else picture.convert(mode)
    options = {} if transparency is None else {"transparency": transparency}
    expected, opened = by_file(picture, "PNG", **options)
    read, restore = as_image(opened)
    assert (read.alpha is None) == (expected.alpha is None)
    if transparency is not None:
        assert read.alpha is not None
    visible = np.ones((6, 7), bool) if expected.alpha is None else expected.alpha > 0
    np.testing.assert_array_equal(read.pixels[visible], expected.pixels[visible])
    np.testing.assert_array_equal(read.alpha, expected.alpha)  # type: ignore[arg-type]
    if mode != "I;16" or transparency is None:
        assert restore(read).size == picture.size


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_weighted_pil_pictures_are_undone(mode: str) -> None:
    straight = PIL.Image.fromarray(np.full((6, 7, 4), (100, 100, 100, 128), np.uint8))
    weighted = straight.convert("LA").convert("La") if mode == "La" else straight.convert("RGBa")
    read, _ = as_image(weighted)
    np.testing.assert_allclose(read.pixels, 100, atol=1)
    np.testing.assert_array_equal(read.alpha, 128)  # type: ignore[arg-type]


def test_cmyk_pil_pictures_are_read_by_their_own_profile() -> None:
    pixels = np.full((16, 16, 3), (200, 90, 40), np.uint8)
    inks = pyvips.Image.new_from_array(pixels, interpretation="srgb")
    inks = inks.icc_transform("cmyk", input_profile="srgb")
    for data in (inks.jpegsave_buffer(Q=100), inks.jpegsave_buffer(Q=100, keep=0)):
        opened = PIL.Image.open(io.BytesIO(data))
        assert opened.mode == "CMYK"
        read, restore = as_image(opened)
        np.testing.assert_allclose(read.pixels, decode_image(data).pixels, atol=2)
        np.testing.assert_allclose(read.pixels, pixels, atol=12)
        assert "icc_profile" not in restore(read).info


def test_lab_pil_pictures() -> None:
    pixels = noise(20, 30, 3)
    profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    lab = ImageCms.applyTransform(PIL.Image.fromarray(pixels), transform)
    assert lab is not None
    expected, _ = by_file(lab, "TIFF")
    read, _ = as_image(lab)
    np.testing.assert_array_equal(read.pixels, expected.pixels)
    assert np.abs(read.pixels.astype(int) - pixels).mean() < 1


@pytest.mark.parametrize("mode", ["HSV", "YCbCr", "RGBX"])
def test_other_colour_models_of_pil(mode: str) -> None:
    picture = PIL.Image.fromarray(noise(6, 7, 3)).convert(mode)
    np.testing.assert_array_equal(as_image(picture)[0].pixels, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pil_pictures_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match="states no range"):
        as_image(PIL.Image.new(mode, (4, 4)))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_gamma_of_a_png_holds_for_its_pil_picture(mode: str) -> None:
    samples = noise(6, 7, len(mode)) if mode != "LA" else noise(6, 7, 2)
    data = png(samples, chunk(b"gAMA", (100_000).to_bytes(4, "big")))
    opened = PIL.Image.open(io.BytesIO(data))
    read, expected = as_image(opened)[0], decode_image(data)
    np.testing.assert_array_equal(read.pixels, expected.pixels)
    np.testing.assert_array_equal(read.alpha, expected.alpha)  # type: ignore[arg-type]
    assert (read.pixels[..., 0] != samples[..., 0]).any()
