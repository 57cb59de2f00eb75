"""Lost pixels are never taken for a picture; damage beside the pixels harms nobody."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import textwrap
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import ImageCms

from bidiffsr.errors import ImageError
from bidiffsr.images import decode_image, read_image
from fuzz_images import damaged, verdict
from image_files import chunk, page, png, tiff

RGB = 2


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def encoded(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


JPEGS = [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 2}]


@pytest.mark.parametrize("options", JPEGS)
@pytest.mark.parametrize("kept", [0.5, 0.8, 0.95])
def test_a_jpeg_cut_short_and_closed_again_is_refused(options: dict[str, Any], kept: float) -> None:
    whole = encoded(noise(48, 64, 3), "JPEG", **options)
    decode_image(whole)
    with pytest.raises(ImageError, match="damaged or cut short"):
        decode_image(whole[: int(kept * len(whole))] + b"\xff\xd9")


def announcing(jpeg: bytes, height: int, width: int) -> bytes:
    """The same JPEG with other sides in its frame header."""
    frame = max(jpeg.find(b"\xff\xc0\0"), jpeg.find(b"\xff\xc2\0"))
    return jpeg[: frame + 5] + struct.pack(">2H", height, width) + jpeg[frame + 9 :]


@pytest.mark.parametrize("options", JPEGS)
def test_a_jpeg_that_announces_more_rows_than_it_has_is_refused(options: dict[str, Any]) -> None:
    whole = encoded(noise(48, 64, 3), "JPEG", **options)
    with pytest.raises(ImageError, match="damaged or cut short"):
        decode_image(announcing(whole, 96, 64))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("grey", [False, True])
def test_a_small_jpeg_that_announces_a_huge_picture_is_not_decoded(
    options: dict[str, Any], grey: bool
) -> None:
    whole = encoded(noise(48, 64) if grey else noise(48, 64, 3), "JPEG", **options)
    with pytest.raises(ImageError, match=r"says it is 16000x16000, for which its \d+ bytes"):
        decode_image(announcing(whole, 16000, 16000))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
@pytest.mark.parametrize("grey", [False, True])
def test_the_emptiest_jpeg_is_believed(options: dict[str, Any], grey: bool) -> None:
    empty = np.full((2048, 2048) if grey else (2048, 2048, 3), 128, np.uint8)
    data = encoded(empty, "JPEG", quality=1, optimize=True, **options)
    np.testing.assert_array_equal(decode_image(data).pixels, 128)


def test_the_emptiest_png_is_believed_and_no_emptier_one() -> None:
    data = pyvips.Image.black(20000, 3000).pngsave_buffer(bitdepth=1)
    assert decode_image(data).pixels.max() == 0
    size = data.index(b"IHDR") + 4
    header = b"IHDR" + struct.pack(">2I", 20000, 13000) + data[size + 8 : size + 13]
    liar = data[: size - 4] + header + struct.pack(">I", zlib.crc32(header)) + data[size + 17 :]
    with pytest.raises(ImageError, match="cannot be enough"):
        decode_image(liar)


@pytest.mark.parametrize("compression", ["deflate", "lzw", "jpeg"])
@pytest.mark.parametrize("tile", [False, True])
def test_a_tiff_with_lost_parts_is_refused(compression: str, tile: bool) -> None:
    picture = pyvips.Image.new_from_array(noise(64, 96, 3), interpretation="srgb")
    whole = picture.tiffsave_buffer(
        compression=compression, tile=tile, tile_width=32, tile_height=32
    )
    decode_image(whole)
    for place in (0.3, 0.6, 0.8):
        start = int(place * len(whole))
        lost = b"\xff\xd9".ljust(300, b"\xff")  # JPEG's end marker, and nothing for the others
        damaged = whole[:start] + lost + whole[start + 300 :]
        with pytest.raises(ImageError, match="damaged or cut short"):
            decode_image(damaged)


@pytest.mark.parametrize("kept", [1, 5, 12])
def test_a_gif_with_lost_codes_is_refused(kept: int) -> None:
    """libvips reads zeros in their place."""
    whole = encoded(noise(60, 60), "GIF")
    np.testing.assert_array_equal(decode_image(whole).pixels[..., 0], noise(60, 60))
    place = whole.index(struct.pack("<4H", 0, 0, 60, 60), 13) + 8
    assert whole[place : place + 2] in (b"\0\x08", b"\x40\x08")  # flags; bits of a pixel
    place += 2
    for _ in range(kept):
        place += 1 + whole[place]
    assert place < len(whole) - 2
    with pytest.raises(ImageError, match="its samples are not all there"):
        decode_image(whole[:place] + b"\0;")


def test_a_gif_whose_frame_leaves_a_part_empty_is_refused() -> None:
    whole = encoded(noise(20, 28), "GIF")
    taller = whole[:8] + struct.pack("<H", 52) + whole[10:]
    with pytest.raises(ImageError, match="leaves a part of it empty"):
        decode_image(taller)


# Harmless


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">2BH", 0xFF, marker, len(content) + 2) + content


HARMLESS_SEGMENTS = {
    "a comment": segment(0xFE, b"\xff\xff\0"),
    "EXIF": segment(0xE1, b"Exif\0\0garbage"),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<<<"),
    "a part of a profile": segment(0xE2, b"ICC_PROFILE\0\3\2garbage"),
    "MPF": segment(0xE2, b"MPF\0"),
    "Photoshop": segment(0xED, b"Photoshop 3.0\0x"),
}


@pytest.mark.parametrize("name", HARMLESS_SEGMENTS)
def test_bad_metadata_of_a_jpeg_are_harmless(name: str) -> None:
    whole = encoded(noise(16, 24, 3), "JPEG")
    damaged = whole[:2] + HARMLESS_SEGMENTS[name] + whole[2:]
    np.testing.assert_array_equal(decode_image(damaged).pixels, decode_image(whole).pixels)


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_unknown_jfif_version_is_harmless_and_metadata_stay(orientation: int) -> None:
    """libjpeg counts it among its complaints of the pixels."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    whole = encoded(noise(16, 24, 3), "JPEG", dpi=(300, 150), exif=exif, icc_profile=profile())
    damaged = whole.replace(b"JFIF\0\1", b"JFIF\0\x09")
    assert damaged != whole
    read, expected = decode_image(damaged), decode_image(whole)
    np.testing.assert_array_equal(read.pixels, expected.pixels)
    assert (read.dpi, read.icc) == (expected.dpi, expected.icc)
    assert read.icc
    for kept in (0.5, 0.9):
        with pytest.raises(ImageError, match="premature end"):
            decode_image(damaged[: int(kept * len(damaged))] + b"\xff\xd9")


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def bad_checksum(name: bytes, content: bytes) -> bytes:
    return chunk(name, content)[:-1] + b"!"


@pytest.mark.parametrize(
    "bad",
    [
        bad_checksum(b"tEXt", b"a\0b"),
        bad_checksum(b"gAMA", struct.pack(">I", 100_000)),
        bad_checksum(b"cICP", bytes([12, 13, 0, 1])),
        bad_checksum(b"cHRM", bytes(32)),
        chunk(b"cHRM", bytes(7)),
        chunk(b"gAMA", b""),
        chunk(b"iCCP", b"x\0\0garbage"),
        chunk(b"eXIf", b"xx"),
        chunk(b"pHYs", b""),
        chunk(b"zTXt", b"k\0\0x"),
        chunk(b"acTL", b""),
    ],
    ids=lambda bad: bad[4:8].decode(),
)
def test_bad_metadata_of_a_png_are_harmless(bad: bytes) -> None:
    samples = noise(6, 7, 3)
    np.testing.assert_array_equal(decode_image(png(samples, bad)).pixels, samples)


def test_lost_transparency_of_a_png_is_not_harmless() -> None:
    key = struct.pack(">3H", *noise(6, 7, 3)[0, 0])
    assert decode_image(png(noise(6, 7, 3), chunk(b"tRNS", key))).alpha is not None
    with pytest.raises(ImageError, match="transparency"):
        decode_image(png(noise(6, 7, 3), bad_checksum(b"tRNS", key)))


HARMLESS_TAGS: dict[str, dict[int, Any]] = {
    "a private tag": {65000: [1]},
    "a date that is none": {306: [5]},
    "a SubIFD that is none": {330: [5]},
    "EXIF that is none": {34665: [5]},
    "a ninth orientation": {274: [9]},
    "an unknown unit of length": {296: [9]},
    "a profile that is none": {34675: b"xx"},
    "XMP that is none": {700: b"<<"},
    "IPTC that is none": {33723: [5]},
}


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("name", HARMLESS_TAGS)
def test_bad_metadata_of_a_tiff_are_harmless(name: str, big_endian: bool) -> None:
    samples = noise(6, 7, 3)
    data = tiff(page(samples, RGB, {**HARMLESS_TAGS[name], 269: b"with"}), big_endian=big_endian)
    np.testing.assert_array_equal(decode_image(data).pixels, samples)


def test_a_tiff_with_bad_metadata_and_lost_pixels_is_refused() -> None:
    """What is appended to leave metadata out must not be taken for the samples that are missing."""
    samples = noise(6, 7, 3)
    tags, strip = page(samples, RGB, {306: [5]})
    whole = tiff((tags, strip))
    moved = whole.index(strip)
    # The strip begins where the file ends, less all but three bytes.
    offset = struct.pack("<HHII", 273, 4, 1, moved)
    assert offset in whole
    late = whole.replace(offset, struct.pack("<HHII", 273, 4, 1, len(whole) - 3))
    with pytest.raises(ImageError, match="damaged or cut short"):
        decode_image(late)


def test_damaged_files_are_refused_or_read_as_another_reader_does() -> None:
    """Some of what `python tests/fuzz_images.py` tries."""
    verdicts = Counter(verdict(kind, data) for kind, data in damaged(400))
    assert {name for name in verdicts if not name.startswith("unread")} <= {
        "refused",
        "equal",
        "not comparable",
    }
    assert min(verdicts["refused"], verdicts["equal"]) > 40, "both happen, or nothing is compared"


# What is no file, and what is too large


def test_what_is_no_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path, kind in ((pipe, "pipe"), (Path("/dev/zero"), "device"), (tmp_path, "folder")):
        with pytest.raises(ImageError, match=f"is a {kind}; expected a picture file"):
            read_image(path)


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    path.touch()
    os.truncate(path, 1 << 40)  # takes no room on the disk
    with pytest.raises(ImageError, match=r"has 1099511627776 bytes; expected at most"):
        read_image(path)
    os.truncate(path, 1 << 31)
    with pytest.raises(ImageError, match="expected at most"):
        read_image(path, max_pixels=1000)


def test_a_file_larger_than_the_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(noise(6, 7, 3)))
    monkeypatch.setattr("bidiffsr.system.files.available_memory", lambda: 100)
    with pytest.raises(ImageError, match="more than the 100 bytes of memory"):
        read_image(path)


def run(script: str, *arguments: object) -> str:
    """What a Python of its own prints; one that hangs fails the test."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, check=True, text=True, capture_output=True, timeout=60)
    return done.stdout


def test_a_forked_process_says_that_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(noise(6, 7, 3)))
    script = """
        import os, sys
        from bidiffsr.errors import ImageError
        from bidiffsr.images import read_image
        if sys.argv[2] == "used": read_image(sys.argv[1])
        if os.fork():
            os.wait()
        else:
            try:
                print(read_image(sys.argv[1]).width)
            except ImageError as error:
                print(error)
    """
    assert 'start processes with the method "spawn"' in run(script, path, "used")
    assert run(script, path, "not used") == "7\n"


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_too_little_memory_is_not_called_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(pyvips.Image.black(9000, 9000, bands=3).pngsave_buffer())
    script = """
        import resource, sys
        from bidiffsr.errors import MemoryEstimateError
        from bidiffsr.images import read_image
        from bidiffsr.images.libvips import libvips
        libvips()
        held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 300_000_000, held + 300_000_000))
        try:
            read_image(sys.argv[1])
        except MemoryEstimateError as error:
            print(error)
    """
    assert "of memory to be decoded, more than there is" in run(script, path)


def test_messages_of_libvips_tell_shortage_from_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Callable[..., Any]:
        raise pyvips.Error("glib: Error creating thread: Resource temporarily unavailable")

    monkeypatch.setattr(pyvips.Image, "pngload_buffer", staticmethod(fail), raising=False)
    with pytest.raises(ImageError, match="too little memory or too few threads"):
        decode_image(png(noise(6, 7, 3)))
