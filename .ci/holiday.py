"""Photographs as cameras and programs leave them, and what has to be left of them when upscaled.

Needs Pillow alone: python holiday.py make FOLDER, then python holiday.py check FOLDER LARGE.
"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, IptcImagePlugin

WIDTH, HEIGHT, SCALE = 48, 32, 4
DPI = 240
ON_ITS_SIDE = 6  # a quarter turn clockwise makes it upright
CAMERA = {ExifTags.Base.Make: "Example", ExifTags.Base.Model: "Camera 3"}
DATE = {ExifTags.Base.DateTimeOriginal: "2024:07:21 18:30:05"}
PLACE = {
    ExifTags.GPS.GPSLatitudeRef: "N",
    ExifTags.GPS.GPSLatitude: (52.0, 30.0, 15.5),
    ExifTags.GPS.GPSLongitudeRef: "E",
    ExifTags.GPS.GPSLongitude: (13.0, 22.0, 40.25),
}
TITLE = "Evening by the lake"
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>'
)
CAPTION = (2, 120)  # IPTC's record and data set


def picture() -> Image.Image:
    """Dark on the left, bright on the right."""
    across = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90)
    down = Image.linear_gradient("L")
    whole = Image.merge("RGB", (across, down, across))
    return whole.resize((WIDTH, HEIGHT))


def exif(orientation: int) -> Image.Exif:
    """What a camera writes."""
    made = Image.Exif()
    made.update(CAMERA)
    made[ExifTags.Base.Orientation] = orientation
    made.get_ifd(ExifTags.IFD.Exif).update(DATE)
    made.get_ifd(ExifTags.IFD.GPSInfo).update(PLACE)
    return made


def photoshop(caption: str) -> bytes:
    """A JPEG segment with IPTC."""
    text = caption.encode()
    iptc = struct.pack(">BBBH", 0x1C, *CAPTION, len(text)) + text
    padded = iptc + b"\0" * (len(iptc) % 2)
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + padded
    data = b"Photoshop 3.0\0" + block
    return b"\xff\xed" + struct.pack(">H", len(data) + 2) + data


def deep_png() -> bytes:
    """RGB of 16 bits, which Pillow does not write, with a text and a resolution."""
    rows = b"".join(
        b"\0" + b"".join(struct.pack(">3H", 1300 * x, 2000 * y, 900 * x + 5) for x in range(WIDTH))
        for y in range(HEIGHT)
    )
    per_metre = round(DPI / 0.0254)
    chunks = (
        (b"IHDR", struct.pack(">2I5B", WIDTH, HEIGHT, 16, 2, 0, 0, 0)),
        (b"pHYs", struct.pack(">2IB", per_metre, per_metre, 1)),
        (b"tEXt", b"Title\0" + TITLE.encode()),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def make(folder: Path) -> None:
    """Write the photographs."""
    folder.mkdir()
    jpeg = folder / "lake.jpg"
    dpi = (DPI, DPI)
    picture().save(jpeg, exif=exif(ON_ITS_SIDE), xmp=XMP.encode(), dpi=dpi, quality=92)
    data = jpeg.read_bytes()
    jpeg.write_bytes(data[:2] + photoshop(TITLE) + data[2:])
    (folder / "scan.png").write_bytes(deep_png())
    picture().save(folder / "phone.webp", exif=exif(1), xmp=XMP.encode())


def expect(what: str, found: Any, expected: Any) -> None:
    """End where something is not as it has to be."""
    if found != expected:
        sys.exit(f"{what}: {found!r}, expected {expected!r}")


def check_exif(name: str, made: Image.Image) -> None:
    """Make sure that camera, date and place are kept, and the picture is upright."""
    found = made.getexif()
    for kept, values in (
        (found, CAMERA),
        (found.get_ifd(ExifTags.IFD.Exif), DATE),
        (found.get_ifd(ExifTags.IFD.GPSInfo), PLACE),
    ):
        for tag, value in values.items():
            expect(f"{name}: {tag!r}", kept.get(tag), value)
    expect(f"{name}: orientation", found.get(ExifTags.Base.Orientation, 1), 1)
    xmp = str(made.info.get("xmp"))
    if 'Rating="4"' not in xmp and "Rating>4" not in xmp:
        sys.exit(f"{name}: its XMP is lost")


def check(folder: Path, large: Path) -> None:
    """Make sure that nothing is lost."""
    expected = sorted(f"{path.stem}_x{SCALE}{path.suffix}" for path in folder.iterdir())
    expect("files", sorted(path.name for path in large.iterdir()), expected)
    size = (SCALE * WIDTH, SCALE * HEIGHT)
    with Image.open(large / "lake_x4.jpg") as made:
        expect("lake: size", made.size, size[::-1])
        check_exif("lake", made)
        expect("lake: dpi", tuple(map(round, made.info["dpi"])), (DPI, DPI))
        found = (IptcImagePlugin.getiptcinfo(made) or {}).get(CAPTION)
        expect("lake: IPTC", found, TITLE.encode())
        # Turned: what was on the left is at the top.
        shown, x = made.convert("L"), SCALE * HEIGHT // 2
        top, bottom = (shown.getpixel((x, y)) for y in (2, SCALE * WIDTH - 3))
        if bottom - top < 50:
            sys.exit(f"lake: not turned upright: {top} at the top, {bottom} at the bottom")
    with Image.open(large / "phone_x4.webp") as made:
        expect("phone: size", made.size, size)
        check_exif("phone", made)
    data = (large / "scan_x4.png").read_bytes()
    expect("scan: size, bits, colours", struct.unpack_from(">2I2B", data, 16), (*size, 16, 2))
    with Image.open(large / "scan_x4.png") as made:
        made.load()
        expect("scan: text", made.info.get("Title"), TITLE)
        expect("scan: dpi", tuple(map(round, made.info["dpi"])), (DPI, DPI))
    print("camera, date, place, resolution, XMP, IPTC and texts are kept; all are upright")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](*map(Path, sys.argv[2:]))
