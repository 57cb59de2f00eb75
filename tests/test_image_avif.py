"""AVIF: as another program reads and writes it; what is beside the picture, deep, and damaged."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pyvips

from bidiffsr.errors import ImageError
from bidiffsr.images import Image, decode_image, encode_image
from bidiffsr.images.metadata import Metadata
from image_files import check_damage, opened, smooth

ONE_LINE = r"^[^\n]+$"
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
MODEL, ORIENTATION = 272, 274


def avif(mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    made = PIL.Image.fromarray(smooth(4)).convert(mode)
    made.save(stream, "AVIF", **({"quality": 100, "subsampling": "4:4:4", "speed": 10} | options))
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_it_is_read_as_by_another_reader(mode: str) -> None:
    data = avif(mode)
    read, other = decode_image(data), np.asarray(opened(data).convert("RGBA")).astype(int)
    seen = other[..., 3:] > 0
    np.testing.assert_allclose(read.pixels * seen, other[..., :3] * seen, atol=3)
    assert (read.alpha is not None) == (mode == "RGBA")
    if read.alpha is not None:
        np.testing.assert_allclose(read.alpha, other[..., 3], atol=2)


@pytest.mark.parametrize("alpha", [False, True])
def test_what_is_written_is_read_by_another_reader(alpha: bool) -> None:
    opacity = smooth(4)[..., 3] if alpha else None
    exif = PIL.Image.Exif()
    exif[MODEL], exif[ORIENTATION] = "Camera", 6
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    image = Image(smooth(), opacity, dpi=(300.0, 150.0), metadata=Metadata(exif=block, xmp=XMP))
    data = encode_image(image, ".avif", quality=100)
    made = opened(data)
    np.testing.assert_allclose(np.asarray(made)[..., :3].astype(int), smooth(), atol=4)
    assert made.mode == ("RGBA" if alpha else "RGB")
    assert made.info["xmp"] == XMP
    found = made.getexif()
    assert (found[MODEL], found[ORIENTATION], found[282], found[283]) == ("Camera", 1, 300, 150)
    again = decode_image(data)
    assert again.metadata.xmp == XMP
    assert again.metadata.left_out == ()
    assert again.dpi == (300.0, 150.0)
    np.testing.assert_allclose(again.pixels.astype(int), smooth(), atol=4)
    plain = decode_image(encode_image(Image(smooth(), opacity), ".avif", quality=100))
    np.testing.assert_array_equal(again.pixels, plain.pixels)
    assert plain.dpi is None


def test_what_another_program_puts_beside_it_is_read() -> None:
    exif = PIL.Image.Exif()
    exif[MODEL] = "Camera"
    read = decode_image(avif(exif=exif, xmp=XMP))
    assert read.metadata.xmp == XMP
    assert b"Camera" in read.metadata.exif


@pytest.mark.parametrize("bits", [10, 12])
def test_deep_samples_reach_white(bits: int) -> None:
    values = np.array([0, 32768, 65535], np.uint16).repeat(16)
    samples = np.broadcast_to(values[None, :, None], (16, 48, 3))
    picture = pyvips.Image.new_from_array(np.ascontiguousarray(samples), interpretation="rgb16")
    data = picture.heifsave_buffer(compression="av1", bitdepth=bits, lossless=True, effort=0)
    read = decode_image(data)
    assert read.pixels.dtype == np.uint16
    np.testing.assert_allclose(read.pixels[8, 8::16, 0].astype(int), [0, 32768, 65535], atol=65)
    assert read.pixels.max() == 65535


def test_sixteen_bits_are_written_as_twelve() -> None:
    levels = np.linspace(0, 65535, 48).astype(np.uint16)
    pixels = np.broadcast_to(levels[None, :, None], (16, 48, 3))
    read = decode_image(encode_image(Image(pixels), ".avif", quality=100))
    assert read.pixels.dtype == np.uint16
    assert np.abs(read.pixels.astype(int) - pixels).mean() < 100


def test_other_colours_than_srgb_are_refused() -> None:
    data = avif()
    place = data.index(b"nclx") + 4
    wide = data[:place] + struct.pack(">2H", 9, 16) + data[place + 4 :]
    with pytest.raises(ImageError, match=r"of kind 9/16 \(nclx\); expected sRGB"):
        decode_image(wide)
    linear = data[:place] + struct.pack(">2H", 1, 8) + data[place + 4 :]
    assert decode_image(linear).pixels.mean() > decode_image(data).pixels.mean() + 10


def test_an_animation_is_refused() -> None:
    frames = [PIL.Image.fromarray(smooth()[::step]) for step in (1, -1)]
    stream = io.BytesIO()
    frames[0].save(stream, "AVIF", save_all=True, append_images=frames[1:], speed=10)
    with pytest.raises(ImageError, match=r"a\.avif: is an animation; expected one picture"):
        decode_image(stream.getvalue(), name="a.avif")


@pytest.mark.parametrize("kept", [0.02, 0.2, 0.5, 0.9, 0.995])
def test_a_file_that_is_cut_short_is_refused(kept: float) -> None:
    data = avif()
    with pytest.raises(ImageError, match=ONE_LINE):
        decode_image(data[: int(kept * len(data))])


def test_damaged_files_are_refused_or_read() -> None:
    check_damage(avif("RGBA"), tries=40, end=400)
