"""HEIC: as another program reads and writes it; what is beside the picture, deep, and damaged."""

from __future__ import annotations

import importlib
import io
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pyvips

from bidiffsr.errors import ImageError, OutputError
from bidiffsr.images import Image, decode_image, encode_image, heic, write_image
from bidiffsr.images.codec import check_output
from bidiffsr.images.decode import image_header
from bidiffsr.images.metadata import Metadata
from image_files import check_damage, opened, smooth

ONE_LINE = r"^[^\n]+$"
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
MODEL, ORIENTATION = 272, 274
P3 = pyvips.Image.profile_load("p3")

pillow_heif: Any = None
with suppress(ImportError):
    pillow_heif = importlib.import_module("pillow_heif")
    pillow_heif.register_heif_opener()

needs_heif = pytest.mark.skipif(pillow_heif is None, reason="pillow-heif is not installed ([heif])")


def made(mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = PIL.Image.fromarray(smooth(4)).convert(mode)
    picture.save(stream, "HEIF", **({"quality": 95, "chroma": 444} | options))
    return stream.getvalue()


@needs_heif
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_what_another_program_writes_is_read(mode: str) -> None:
    read = decode_image(made(mode))
    wanted = np.asarray(PIL.Image.fromarray(smooth(4)).convert(mode).convert("RGBA")).astype(int)
    seen = wanted[..., 3:] > 0
    np.testing.assert_allclose(read.pixels * seen, wanted[..., :3] * seen, atol=6)
    assert (read.alpha is not None) == (mode == "RGBA")
    if read.alpha is not None:
        np.testing.assert_allclose(read.alpha.astype(int), wanted[..., 3], atol=4)


@needs_heif
@pytest.mark.parametrize("alpha", [False, True])
def test_what_is_written_is_read_by_another_reader(alpha: bool) -> None:
    opacity = smooth(4)[..., 3] if alpha else None
    exif = PIL.Image.Exif()
    exif[MODEL], exif[ORIENTATION] = "Camera", 6
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    beside = Metadata(exif=block, xmp=XMP)
    image = Image(smooth(), opacity, icc=P3, dpi=(300.0, 150.0), metadata=beside)
    data = encode_image(image, ".heic", quality=100)
    found = opened(data)
    np.testing.assert_allclose(np.asarray(found)[..., :3].astype(int), smooth(), atol=5)
    assert found.mode == ("RGBA" if alpha else "RGB")
    assert (found.info["xmp"], found.info["icc_profile"]) == (XMP, P3)
    read = found.getexif()
    assert (read[MODEL], read[ORIENTATION], read[282], read[283]) == ("Camera", 1, 300, 150)
    again = decode_image(data)
    assert (again.metadata.xmp, again.metadata.left_out) == (XMP, ())
    assert (again.icc, again.dpi) == (P3, (300.0, 150.0))
    np.testing.assert_allclose(again.pixels.astype(int), smooth(), atol=5)


@needs_heif
def test_what_another_program_puts_beside_it_is_read_and_obeyed() -> None:
    exif = PIL.Image.Exif()
    exif[MODEL], exif[ORIENTATION] = "Camera", 6
    file, stream = pillow_heif.from_bytes("RGB", (32, 20), smooth().tobytes()), io.BytesIO()
    file.info["original_orientation"] = 6
    file.save(stream, quality=95, chroma=444, exif=exif.tobytes(), xmp=XMP, icc_profile=P3)
    data = stream.getvalue()
    assert b"irot" in data
    header, read = image_header(data), decode_image(data)
    assert (header.height, header.width) == read.pixels.shape[:2] == (32, 20)
    np.testing.assert_allclose(read.pixels.astype(int), np.rot90(smooth(), -1), atol=6)
    assert (read.metadata.xmp, read.icc) == (XMP, P3)
    assert b"Camera" in read.metadata.exif


@needs_heif
@pytest.mark.parametrize("bits", [10, 12])
def test_deep_samples_reach_white(bits: int) -> None:
    values = np.array([0, 32768, 65535], np.uint16).repeat(16)
    samples = np.ascontiguousarray(np.broadcast_to(values[None, :, None], (16, 48, 3)))
    file, stream = pillow_heif.from_bytes("RGB;16", (48, 16), samples.tobytes()), io.BytesIO()
    file.save(stream, quality=-1, chroma=444, matrix_coefficients=0, bit_depth=bits)
    read = decode_image(stream.getvalue())
    assert read.pixels.dtype == np.uint16
    np.testing.assert_allclose(read.pixels[8, 8::16, 0].astype(int), [0, 32768, 65535], atol=65)
    assert read.pixels.max() == 65535


@needs_heif
def test_sixteen_bits_are_written_as_twelve() -> None:
    levels = np.linspace(0, 65535, 48).astype(np.uint16)
    pixels = np.broadcast_to(levels[None, :, None], (16, 48, 3))
    data = encode_image(Image(pixels), ".heic", quality=100)
    assert pillow_heif.open_heif(data).info["bit_depth"] == 12
    read = decode_image(data)
    assert read.pixels.dtype == np.uint16
    assert np.abs(read.pixels.astype(int) - pixels).mean() < 150


@needs_heif
def test_quality_and_subsampling_are_obeyed() -> None:
    noise = Image(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    best, worse = (encode_image(noise, ".heic", quality=quality) for quality in (95, 40))
    assert len(worse) < len(best) / 2
    halved = encode_image(noise, ".heic", subsampling="4:2:0")
    chroma = [pillow_heif.open_heif(data).info["chroma"] for data in (best, halved)]
    assert chroma == [444, 420]


@needs_heif
def test_nothing_is_decoded_that_has_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made()
    monkeypatch.setattr(pillow_heif, "open_heif", None)
    with pytest.raises(ImageError, match=r"says it is 32x20; expected at most 639 pixels"):
        decode_image(data, max_pixels=639)


@needs_heif
def test_colours_of_code_points() -> None:
    data = made()
    place = data.index(b"nclx") + 4
    wide = data[:place] + struct.pack(">2H", 12, 13) + data[place + 4 :]
    plain, seen = decode_image(data).pixels.astype(int), decode_image(wide).pixels.astype(int)
    grey = np.abs(plain - plain.mean(axis=2, keepdims=True)).max(axis=2)
    reddest = np.unravel_index(np.argmax(plain[..., 0] - plain[..., 1]), grey.shape)
    assert seen[reddest][0] >= plain[reddest][0]  # the same numbers mean more colour
    assert np.abs(seen - plain).max() > 10
    hdr = data[:place] + struct.pack(">2H", 9, 16) + data[place + 4 :]
    with pytest.raises(ImageError, match=r"of kind 9/16 \(nclx\); expected sRGB"):
        decode_image(hdr)


@needs_heif
def test_several_pictures_are_refused() -> None:
    stream = io.BytesIO()
    frames = [PIL.Image.fromarray(smooth()[::step]) for step in (1, -1)]
    frames[0].save(stream, "HEIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"a\.heic: holds 2 pages or frames; expected one"):
        decode_image(stream.getvalue(), name="a.heic")
    moving = made().replace(b"ftypheix", b"ftypmsf1").replace(b"ftypheic", b"ftypmsf1")
    with pytest.raises(ImageError, match=r"a\.heic: is an animation; expected one picture"):
        decode_image(moving, name="a.heic")


@needs_heif
@pytest.mark.parametrize("kept", [0.02, 0.2, 0.5, 0.9, 0.995])
def test_a_file_that_is_cut_short_is_refused(kept: float) -> None:
    data = made()
    with pytest.raises(ImageError, match=ONE_LINE):
        decode_image(data[: int(kept * len(data))])


@needs_heif
def test_damaged_files_are_refused_or_read() -> None:
    check_damage(made("RGBA"), tries=40)


def test_without_the_extra_one_line_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(heic, "_in_libvips", lambda what: False)
    path, black = tmp_path / "a.heic", heic.BLACK
    with pytest.raises(ImageError, match=r"^a\.heic: is HEIC, which .* 'bidiffsr\[heif\]'") as read:
        decode_image(black, name="a.heic")
    with pytest.raises(OutputError, match=r"a\.heic: is HEIC, which .* 'bidiffsr\[heif\]'") as said:
        check_output(path)
    with pytest.raises(OutputError, match=r"'bidiffsr\[heif\]'"):
        write_image(path, Image(smooth()))
    assert "\n" not in str(read.value) + str(said.value)
    assert list(tmp_path.iterdir()) == []


def test_libvips_does_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(heic, "_in_libvips", lambda what: True)
    assert heic.contents(heic.BLACK).raw is None
    assert heic.pack() is None


def test_a_libvips_without_such_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyvips, "type_find", lambda *names: 0)
    with pytest.raises(ImageError, match=r"a\.heic: is AVIF or HEIC, which this libvips does not"):
        decode_image(heic.BLACK, name="a.heic")


def test_nothing_is_loaded_before_it_is_needed() -> None:
    script = "import sys, bidiffsr.images; sys.exit(not {'PIL', 'pillow_heif', 'brotli', "
    script += "'OpenImageIO'}.isdisjoint(sys.modules))"
    subprocess.run([sys.executable, "-c", script], check=True)
