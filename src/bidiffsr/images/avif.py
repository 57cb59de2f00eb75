"""AVIF's and HEIC's own structure: colour description, and what stands beside the picture.

Sources: ISO/IEC 14496-12 (boxes, items), 23008-12 (HEIF, annex A for EXIF and XMP), 23091-2 (code
points of colours), the AVIF specification 1.1.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from bidiffsr.errors import ImageError
from bidiffsr.images.boxes import Box, boxes
from bidiffsr.images.colours import RgbEncoding, rgb_encoding
from bidiffsr.images.contents import Contents, damaged, refuse_pages
from bidiffsr.images.exif import with_resolution
from bidiffsr.images.libvips import libvips
from bidiffsr.images.libvips import metadata as item
from bidiffsr.images.metadata import Collector, Metadata, Resolution

if TYPE_CHECKING:
    import pyvips

_SEQUENCES = {b"avis", b"msf1", b"hevc", b"hevx"}
_UNSTATED, _LINEAR = 2, 8
# Code points of primaries: sRGB's, unstated, and Display P3's (white, red, green, blue).
_DISPLAY_P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
_PRIMARIES = {1: None, _UNSTATED: None, 12: _DISPLAY_P3}
_PROFILES = (b"prof", b"rICC")
_USUAL_CURVES = {1, _UNSTATED, 6, 13, 14, 15}  # sRGB's, and those of video, shown like it
_XMP_TYPE = b"application/rdf+xml\0"


def contents(data: bytes) -> Contents:
    """What an AVIF or HEIC file's boxes say.

    Raises:
        ImageError: it is an animation or holds several pictures, its colours are described in a way
            that cannot be followed, or its boxes are damaged.
    """
    parts = {box.name: box.content for box in boxes(data)}
    brands = parts.get(b"ftyp", b"")
    if not {brands[:4], brands[8:12]}.isdisjoint(_SEQUENCES):
        raise ImageError("is an animation; expected one picture; convert it to WebP, GIF or PNG")
    count = item(opened(data), "n-pages", 1)
    if count > 1:
        raise refuse_pages(count)
    return Contents(data, encoding=_described(parts), metadata=partial(metadata, data))


def _described(parts: dict[bytes, bytes]) -> RgbEncoding | None:
    """What the picture's colour code points say; those of its alpha have none."""
    inside = {box.name: box.content for box in boxes(parts.get(b"meta", b""), 4)}
    properties = {box.name: box.content for box in boxes(inside.get(b"iprp", b""))}
    colours = [box for box in boxes(properties.get(b"ipco", b"")) if box.name == b"colr"]
    if any(box.content[:4] in _PROFILES for box in colours):
        return None
    for box in colours:
        if box.content[:4] == b"nclx" and len(box.content) >= 10:
            primaries, curve = struct.unpack_from(">2H", box.content, 4)
            known = curve in _USUAL_CURVES or curve == _LINEAR
            if primaries in _PRIMARIES and known:
                return rgb_encoding(1.0 if curve == _LINEAR else None, _PRIMARIES[primaries])
            raise ImageError(
                f"says its colours are of kind {primaries}/{curve} (nclx); expected sRGB (1/13), "
                "Display P3 (12/13) or linear light (1/8); convert it to sRGB"
            )
    return None


def opened(data: bytes) -> pyvips.Image:
    """The picture, its header read.

    Raises:
        ImageError: this libvips was built without all that such files take.
        pyvips.Error: it is damaged.
    """
    if not libvips().type_find("VipsOperation", "heifload_buffer"):
        raise ImageError("is AVIF or HEIC, which this libvips does not know; install pyvips-binary")
    return libvips().Image.heifload_buffer(data)


def metadata(data: bytes) -> Metadata:
    """What stands beside the picture."""
    collector = Collector()
    picture = opened(data)
    collector.exif(item(picture, "exif-data", b""))
    collector.xmp(item(picture, "xmp-data", b""))
    return collector.found


def embed(file: BinaryIO, metadata: Metadata, dpi: Resolution, name: str = "AVIF") -> list[str]:
    """Put metadata into a file that has none; returns a line for each part that does not fit."""
    block = metadata.exif if dpi is None else with_resolution(metadata.exif, dpi)
    items = []
    if block:
        items.append((b"Exif", b"", bytes(4) + block))
    if metadata.xmp:
        items.append((b"mime", _XMP_TYPE, metadata.xmp))
    if items:
        file.seek(0)
        made = _with_items(file.read(), items)
        file.seek(0)
        file.write(made)
    others = [("IPTC", metadata.iptc), ("a comment", metadata.comments)]
    return [f"{what} is left out: {name} has no place for it" for what, held in others if held]


def _with_items(data: bytes, items: list[tuple[bytes, bytes, bytes]]) -> bytes:
    """A file of ours with more items, each of a type, a media type and its bytes."""
    parts = list(boxes(data))
    (meta,) = (box for box in parts if box.name == b"meta")
    inside = {box.name: box.content for box in boxes(meta.content, 4)}
    primary = inside[b"pitm"][4:6]
    known = struct.unpack_from(">H", inside[b"iinf"], 4)[0]
    numbers = range(1000, 1000 + len(items))  # libheif counts its own from 1
    infos = b"".join(
        Box(b"infe", struct.pack(">IHH4sx", 2 << 24, number, 0, kind) + media).whole
        for number, (kind, media, _) in zip(numbers, items, strict=True)
    )
    inside[b"iinf"] = bytes(4) + struct.pack(">H", known + len(items)) + inside[b"iinf"][6:] + infos
    inside[b"iref"] = inside.get(b"iref", bytes(4)) + b"".join(
        Box(b"cdsc", struct.pack(">2H", number, 1) + primary).whole for number in numbers
    )
    lengths = [len(content) for _, _, content in items]
    places = inside[b"iloc"]

    def grown(by: int) -> Box:
        inside[b"iloc"] = _moved(places, by, len(data) + by + 8, numbers, lengths)
        return Box(b"meta", meta.content[:4] + b"".join(Box(*one).whole for one in inside.items()))

    # The places are as long as what they say, whatever that is.
    whole = grown(len(grown(0).content) - len(meta.content))
    added = Box(b"mdat", b"".join(content for _, _, content in items))
    return b"".join([*((whole if box is meta else box).whole for box in parts), added.whole])


def _moved(places: bytes, by: int, start: int, numbers: range, lengths: list[int]) -> bytes:
    """Where items are (14496-12, 8.11.3), all of them further back, and some more.

    Args:
        places: the content of the box, of version 0 or 1, all places and lengths having 4 bytes.
        by: how much further back.
        start: of the first item that is added; they follow each other.
        numbers, lengths: of those.
    """
    version, sizes, count = places[0], places[4:6], struct.unpack_from(">H", places, 6)[0]
    if version > 1 or sizes != b"\x44\x40":
        raise damaged("places of another form than libheif's")
    method = b"\0\0" * version
    rows, at = [], 8
    for _ in range(count):
        head = places[at : at + 4 + len(method)]
        base, extents = struct.unpack_from(">IH", places, at + len(head))
        end = at + len(head) + 6 + 8 * extents
        in_file = not version or head[3] & 15 == 0
        rows.append(
            head + struct.pack(">I", base + by * in_file) + places[at + len(head) + 4 : end]
        )
        at = end
    for number, length in zip(numbers, lengths, strict=True):
        head = struct.pack(">H", number) + method + bytes(2)
        rows.append(head + struct.pack(">IHII", start, 1, 0, length))
        start += length
    return places[:6] + struct.pack(">H", len(rows)) + b"".join(rows)
