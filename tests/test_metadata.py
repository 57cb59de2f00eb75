"""What belongs to a picture beside its pixels: kept, put right, left out where it is damaged."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import IptcImagePlugin, PngImagePlugin

from bidiffsr.cli import main
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.decode import decode_image
from bidiffsr.images.encode import encode_image
from bidiffsr.images.image import Image
from image_files import chunk, png, xmp_of_gif
from tiny_model import save_tiny_model

MODEL, DESCRIPTION, ORIENTATION, DATE, ARTIST = 272, 270, 274, 306, 315
EXIF, GPS, TAKEN, ACROSS, DOWN = 0x8769, 0x8825, 0x9003, 0xA002, 0xA003
MAKER_NOTE = 0x927C
WHEN = "2020:01:02 03:04:05"
XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF "
    b"xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description "
    b"xmlns:tiff='http://ns.adobe.com/tiff/1.0/' xmlns:exif='http://ns.adobe.com/exif/1.0/' "
    b"tiff:Orientation='6' tiff:ImageWidth='24'><exif:PixelYDimension>16</exif:PixelYDimension>"
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)
IPTC = b"\x1c\x02\x78\0\7Caption\x1c\x02\x19\0\3sea"
SUFFIXES = (".png", ".jpg", ".webp", ".tif")


def pixels(height: int = 16, width: int = 24) -> Any:
    y, x = np.mgrid[:height, :width]
    return np.stack([5 * y, 5 * x, 99 + 0 * x], axis=2).astype(np.uint8)


def exif(orientation: int = 6) -> PIL.Image.Exif:
    block = PIL.Image.Exif()
    block[MODEL], block[DATE], block[ORIENTATION] = "Camera", WHEN, orientation
    below = block.get_ifd(EXIF)
    below[TAKEN], below[ACROSS], below[DOWN] = WHEN, 24, 16
    below[MAKER_NOTE] = b"SECRET NOTE"
    place = block.get_ifd(GPS)
    place[1], place[2] = "N", (50.0, 30.0, 12.5)
    return block


def photo(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    made = PIL.Image.fromarray(pixels())
    made.save(stream, kind, **({"exif": exif(), "xmp": XMP} | options))
    return stream.getvalue()


def photoshop(iptc: bytes) -> bytes:
    """A JPEG segment, a thumbnail before the records."""
    resources = b"8BIM\x04\x0c\0\0" + struct.pack(">I", 3) + b"jpg\0"
    resources += b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)
    content = b"Photoshop 3.0\0" + resources
    return struct.pack(">2BH", 0xFF, 0xED, len(content) + 2) + content


def with_iptc() -> bytes:
    whole = photo("JPEG", comment="Hello")
    return whole[:2] + photoshop(IPTC) + whole[2:]


def enlarged(image: Image) -> Image:
    large = image.pixels.repeat(2, axis=0).repeat(2, axis=1)
    return Image(large, dpi=image.dpi, metadata=image.metadata)


def opened(data: bytes) -> Any:
    made: Any = PIL.Image.open(io.BytesIO(data))
    made.load()  # texts of a PNG may stand behind its pixels
    return made


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_camera_date_and_place_are_kept_and_the_turn_is_not(kind: str, suffix: str) -> None:
    source = decode_image(photo(kind))
    assert source.metadata.left_out == ()
    assert (source.height, source.width) == (24, 16)
    made = opened(encode_image(enlarged(source), suffix))
    assert made.size == (32, 48)
    found = made.getexif()
    assert (found[MODEL], found[DATE], found.get(ORIENTATION)) == ("Camera", WHEN, 1)
    below = found.get_ifd(EXIF)
    assert (below[TAKEN], below[ACROSS], below[DOWN]) == (WHEN, 32, 48)
    assert below[MAKER_NOTE] == b"SECRET NOTE"
    assert found.get_ifd(GPS)[2] == (50.0, 30.0, 12.5)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".gif"])
def test_xmp_is_kept_and_put_right(suffix: str) -> None:
    data = encode_image(enlarged(decode_image(photo("JPEG"))), suffix)
    if suffix == ".gif":
        xmp = xmp_of_gif(data)
    else:
        made = opened(data)
        xmp = made.tag_v2[700] if suffix == ".tif" else made.info["xmp"]
    right = XMP.replace(b"Orientation='6'", b"Orientation='1'").replace(b"'24'", b"'32'")
    assert xmp == right.replace(b">16<", b">48<")


def test_a_tiff_tells_the_same() -> None:
    tags = {MODEL: "Camera", ARTIST: "Me", DESCRIPTION: "Sea", 700: XMP, EXIF: {TAKEN: WHEN}}
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels()).save(stream, "TIFF", tiffinfo=tags)
    for suffix in SUFFIXES:
        found = opened(encode_image(enlarged(decode_image(stream.getvalue())), suffix)).getexif()
        assert [found[tag] for tag in (MODEL, ARTIST, DESCRIPTION)] == ["Camera", "Me", "Sea"]
        assert found.get_ifd(EXIF)[TAKEN] == WHEN


@pytest.mark.parametrize("big_endian", [False, True])
def test_exif_of_either_byte_order_goes_into_a_tiff(big_endian: bool) -> None:
    block = exif()
    block.endian = ">" if big_endian else "<"
    data = encode_image(decode_image(photo("JPEG", exif=block.tobytes())), ".tif")
    found = opened(data).getexif()
    assert (found[MODEL], found.get_ifd(GPS)[2]) == ("Camera", (50.0, 30.0, 12.5))
    assert found.get_ifd(EXIF)[ACROSS] == 16


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_iptc_is_kept_where_there_is_a_place_for_it(suffix: str) -> None:
    records: Any = IptcImagePlugin.getiptcinfo(
        opened(encode_image(decode_image(with_iptc()), suffix))
    )
    assert records == {(2, 120): b"Caption", (2, 25): b"sea"}


def test_what_has_no_place_gets_a_line(tmp_path: Path) -> None:
    source = decode_image(with_iptc())
    assert write_image(tmp_path / "a.jpg", source) == ()
    assert write_image(tmp_path / "a.png", source) == ("IPTC is left out: PNG has no place for it",)
    assert len(write_image(tmp_path / "a.webp", source)) == 2
    assert len(write_image(tmp_path / "a.gif", source)) == 2
    assert opened((tmp_path / "a.gif").read_bytes()).info["comment"] == b"Hello"
    assert [one.text for one in read_image(tmp_path / "a.gif").metadata.comments] == ["Hello"]
    many = Image(pixels(), metadata=decode_image(text_png("k", "x" * 70000)).metadata)
    (line,) = write_image(tmp_path / "b.jpg", many)
    assert line.startswith("a comment is left out: 70003 bytes")


def text_png(keyword: str, text: str) -> bytes:
    return png(pixels(), chunk(b"tEXt", keyword.encode() + b"\0" + text.encode("latin-1")))


def test_texts_of_a_png_are_kept() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat\n20 steps")
    info.add_itxt("Title", "Hé 日", "de", "Titel")
    info.add_text("Long", "x" * 300, zip=True)
    source = decode_image(photo("PNG", pnginfo=info))
    for data in (encode_image(source, ".png"), encode_image(decode_image(with_iptc()), ".png")):
        made = opened(data)
        if "parameters" in made.text:
            assert made.text["parameters"] == "a cat\n20 steps"
            assert (made.text["Title"], made.text["Long"]) == ("Hé 日", "x" * 300)
        else:
            assert made.text["Comment"] == "Hello"
    made = opened(encode_image(decode_image(photo("JPEG", comment="Hé")), ".jpg"))
    assert made.info["comment"] == "Hé".encode()


def test_what_stands_behind_the_pixels_of_a_png_counts_too() -> None:
    block = exif(1).tobytes().removeprefix(b"Exif\0\0")
    after = chunk(b"eXIf", block) + chunk(b"tEXt", b"Author\0Me")
    made = opened(encode_image(decode_image(png(pixels(), after=after)), ".png"))
    assert (made.getexif()[MODEL], made.text["Author"]) == ("Camera", "Me")


def test_exif_that_imagemagick_hid_in_a_text() -> None:
    block = b"Exif\0\0" + exif(1).tobytes().removeprefix(b"Exif\0\0")
    lines = f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()
    text = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(lines))
    source = decode_image(png(pixels(), text))
    assert source.metadata.comments == ()
    assert opened(encode_image(source, ".png")).getexif()[MODEL] == "Camera"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_resolution_is_kept_with_the_picture_turned(kind: str, suffix: str) -> None:
    source = decode_image(photo(kind, dpi=(300, 150)))
    data = encode_image(enlarged(source), suffix)
    assert decode_image(data).dpi == source.dpi == (150.0, 300.0)
    made = opened(data)
    found = [made.getexif()[tag] for tag in (282, 283)] if suffix == ".webp" else made.info["dpi"]
    assert [round(float(number), 1) for number in found] == [150.0, 300.0]


def test_a_resolution_that_only_exif_states_is_turned_too() -> None:
    block = exif()
    block[282], block[283], block[296] = 300.0, 150.0, 2
    data = encode_image(decode_image(photo("WEBP", exif=block)), ".webp")
    found = opened(data).getexif()
    assert (found[282], found[283]) == (150.0, 300.0)
    assert decode_image(data).dpi == (150.0, 300.0)


@pytest.mark.parametrize("behind", [b"", b"of the maker's"])
def test_the_thumbnail_goes(behind: bytes) -> None:
    small = io.BytesIO()
    PIL.Image.fromarray(pixels(4, 6)).save(small, "JPEG")
    thumbnail = small.getvalue()
    block = bytearray(exif().tobytes().removeprefix(b"Exif\0\0"))
    order = "<" if block[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    struct.pack_into(order + "I", block, start + 2 + 12 * count, len(block))
    place = len(block) + 2 + 24 + 4
    block += struct.pack(order + "H", 2)
    for tag, value in ((513, place), (514, len(thumbnail))):
        block += struct.pack(order + "HHII", tag, 4, 1, value)
    whole = photo("JPEG", exif=b"Exif\0\0" + block + bytes(4) + thumbnail + behind)
    assert thumbnail[50:] in whole
    data = encode_image(decode_image(whole), ".jpg")
    assert thumbnail[50:] not in data
    kept = opened(data).info["exif"].removeprefix(b"Exif\0\0")
    assert kept[start + 2 + 12 * count :][:4] == bytes(4)  # no directory follows
    assert opened(data).getexif().get_ifd(EXIF)[MAKER_NOTE] == b"SECRET NOTE"


BLOCK = exif(1).tobytes().removeprefix(b"Exif\0\0")
BROKEN = {
    "EXIF": chunk(b"eXIf", BLOCK[:-9]),
    "EXIF of no kind": chunk(b"eXIf", b"garbage"),
    "EXIF in a circle": chunk(
        b"eXIf", b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", EXIF, 4, 1, 8)
    ),
    "EXIF with a wrong checksum": chunk(b"eXIf", BLOCK)[:-1] + b"!",
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<<<"),
    "XMP with entities": chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"
    ),
    "a text": chunk(b"zTXt", b"Title\0\0garbage"),
    "a text that is a bomb": chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(1 << 25))),
    "IPTC": chunk(b"tEXt", b"Raw profile type iptc\0\niptc\n 4\nffffffffffffffffffffffffff"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_left_out_and_the_picture_is_whole(name: str) -> None:
    found = decode_image(png(pixels(), after=BROKEN[name]))
    np.testing.assert_array_equal(found.pixels, pixels())
    (line,) = found.metadata.left_out
    kind = " ".join(name.split()[:2]) if name.startswith("a ") else name.split()[0]
    assert line.startswith(f"{kind} is left out (")
    assert "\n" not in line
    opened(encode_image(found, ".png"))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_to_metadata_harms_a_picture(data: Any) -> None:
    """Whatever is read is written, in every format, and then read without complaint."""
    block = bytearray(BLOCK)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(4, len(block) - 1))
        block[place] = data.draw(st.sampled_from([0, 1, 2, 7, 8, 0x7F, 0xFF]))
    source = decode_image(png(pixels(), after=chunk(b"eXIf", bytes(block))))
    for suffix in SUFFIXES:
        again = decode_image(encode_image(source, suffix))
        assert again.pixels.shape == source.pixels.shape
        assert again.metadata.left_out == ()
        assert bool(again.metadata.exif) == bool(source.metadata.exif) or suffix == ".tif"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_strip_leaves_nothing_but_the_picture(tmp_path: Path, suffix: str) -> None:
    model = str(save_tiny_model(tmp_path / "m.safetensors"))
    source, kept, bare = (tmp_path / name for name in ("a.jpg", "b" + suffix, "c" + suffix))
    whole = with_iptc()
    source.write_bytes(whole)
    command = ["upscale", str(source), "-n", model, "-o"]
    assert main([*command, str(kept)]) == 0
    assert main([*command, str(bare), "--strip"]) == 0
    with_it, without = kept.read_bytes(), bare.read_bytes()
    for secret in (b"SECRET", b"2020:01", b"Camera", b"xmpmeta", b"Caption", b"Hello"):
        assert secret in whole
        assert secret not in without
    assert b"SECRET" in with_it
    np.testing.assert_array_equal(read_image(bare).pixels, read_image(kept).pixels)
    assert not opened(without).getexif().keys() & {MODEL, DATE, EXIF, GPS}


def test_a_line_names_the_file_whose_metadata_are_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(save_tiny_model(tmp_path / "m.safetensors"))
    source = tmp_path / "a.png"
    source.write_bytes(png(pixels(), BROKEN["EXIF"]))
    assert main(["upscale", str(source), "-n", model]) == 0
    error = capsys.readouterr().err
    assert error.startswith(f"bidiffsr: {source}: EXIF is left out (it ends before")
    assert error.count("\n") == 1
