"""TIFF's own structure: pages, and whether its samples are of a kind that is read right.

Sources: TIFF 6.0 and its supplements (Adobe, 1992 to 2002), BigTIFF as libtiff describes it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError, OutputError
from bidiffsr.images import exif
from bidiffsr.images.colours import Encoding, LabEncoding, rgb_encoding
from bidiffsr.images.contents import (
    Album,
    Contents,
    Part,
    Raw,
    damaged,
    from_light,
    refuse_pages,
    refuse_samples,
)
from bidiffsr.images.image import from_float
from bidiffsr.images.libvips import libvips
from bidiffsr.images.metadata import Collector, Metadata, Resolution
from bidiffsr.images.timing import Timing

_WIDTH, _HEIGHT, _PROFILE = 256, 257, 34675
_PLACING = {exif.ORIENTATION, exif.ACROSS, exif.DOWN, exif.UNIT}
_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 254, 258, 259, 262, 277
_ROWS_PER_STRIP, _PLANAR, _PLANES = 278, 284, 2
_OLD_SUBFILE, _WHITE_POINT, _PRIMARIES, _PALETTE = 255, 318, 319, 320
_INK_SET, _EXTRA, _SAMPLE_FORMAT, _JPEG_TABLES = 332, 338, 339, 347
_REDUCED, _OLD_REDUCED = 1, 2  # bit of the one, value of the other
_JPEG = 7  # the compression under which libtiff turns YCbCr to RGB
_CMYK_INKS = 1
_UNSIGNED, _FLOAT, _UNDEFINED = 1, 3, 4  # sample formats; what claims nothing is whole numbers
_ASSOCIATED, _UNASSOCIATED = 1, 2

# What the samples of a page depend on, and where they are. All else is left out of `bare`.
_PIXEL_TAGS = {*range(254, 260), 262, 266, 273, 277, 278, 279, 284, 292, 293, 301, 317}
_PIXEL_TAGS |= {320, *range(322, 326), 332, 338, 339, 347, 512, 513, 514, 519, 520, 521, 529}
_PIXEL_TAGS |= {530, 531, 532, 50674}

# What EXIF says in the same tags: names, description, camera, software, date, artist, copyright.
_DESCRIPTION = 270
_EXIF_TAGS = {269, _DESCRIPTION, 271, 272, 285, 305, 306, 315, 316, 33432, *range(40091, 40096)}
_XMP, _IPTC = 700, 33723
_BYTE, _ASCII, _LONG, _ANY = 1, 2, 4, 7
_HEADER = b"II*\0"
_LARGEST = (1 << 32) - (1 << 26)  # before the last directory

_NOTHING: Mapping[int, int] = MappingProxyType({})
_CUT = "damaged or cut short; expected a whole TIFF file; fetch or export it again"
_MOST_PAGES = 65536
_PLACES = ((273, 279), (324, 325))  # offsets and byte counts, of strips and of tiles
_TYPES = {1: "B", 7: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 13: "I", 16: "Q", 18: "Q"}
_SIZES = exif.SIZES | {16: 8, 17: 8, 18: 8}


@dataclass(frozen=True)
class _Layout:
    """How a file writes numbers: classic TIFF, or BigTIFF, in either byte order."""

    order: str
    big: bool

    @property
    def offset(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def count(self) -> str:
        """How many entries a directory has."""
        return self.order + ("Q" if self.big else "H")

    @property
    def entry(self) -> str:
        """Tag, type, number of values, and where they are or what they are."""
        return self.order + ("HHQ8s" if self.big else "HHI4s")

    @property
    def header_end(self) -> int:
        """Where the offset of the first directory stands."""
        return 8 if self.big else 4


@dataclass(frozen=True)
class _Page:
    """One directory: its entries as they stand in the file."""

    data: bytes
    layout: _Layout
    entries: dict[int, bytes]

    def values(self, tag: int, default: Sequence[int] = ()) -> Sequence[int]:
        """A tag's numbers, those of a fraction one after the other.

        `default` where it has none, they are no numbers, or the file ends before them.
        """
        if tag not in self.entries:
            return default
        _, kind, count, field = struct.unpack(self.layout.entry, self.entries[tag])
        letters = _TYPES.get(kind, "")
        form = f"{self.layout.order}{count * len(letters)}{letters[:1]}"
        length = count * _SIZES.get(kind, 0)
        if not letters or length > len(self.data):
            return default
        if length <= len(field):
            return struct.unpack_from(form, field)
        (start,) = struct.unpack(self.layout.offset, field)
        return struct.unpack_from(form, self.data, start) if self.is_whole(tag) else default

    def is_whole(self, tag: int) -> bool:
        """Whether the file holds all values of a tag."""
        _, kind, count, field = struct.unpack(self.layout.entry, self.entries[tag])
        length = count * _SIZES.get(kind, 1)
        (start,) = struct.unpack(self.layout.offset, field)
        return length <= len(field) or start + length <= len(self.data)

    def raw(self, tag: int) -> exif.Value | None:
        """A tag's values, unless the file ends before them or EXIF has no such type."""
        if tag not in self.entries or not self.is_whole(tag):
            return None
        _, kind, count, field = struct.unpack(self.layout.entry, self.entries[tag])
        if kind not in exif.SIZES:
            return None
        length = count * exif.SIZES[kind]
        (start,) = struct.unpack(self.layout.offset, field)
        content = field[:length] if length <= len(field) else self.data[start : start + length]
        return exif.Value(kind, count, content)

    def little_endian(self) -> Iterator[tuple[int, exif.Value]]:
        """Tags and values as EXIF blocks of ours have them, as far as they are whole."""
        for tag in self.entries:
            value = self.raw(tag)
            if value is not None:
                content = exif.little_endian(value.data, value.kind, self.layout.order)
                yield tag, replace(value, data=content)

    def below(self, tag: int) -> exif.Directory | None:
        """The directory that a tag points to, less those below it; None where there is none.

        Raises:
            struct.error: it is damaged.
        """
        start = self.value(tag, 0)
        if not start:
            return None
        page = _Page(self.data, self.layout, _entries(self.data, self.layout, start)[0])
        return {key: value for key, value in page.little_endian() if key not in exif.POINTERS}

    def has_samples(self) -> bool:
        """Whether the file holds all strips or tiles, as far as it says where they are."""
        return all(
            offset + count <= len(self.data)
            for places, counts in _PLACES
            for offset, count in zip(self.values(places), self.values(counts), strict=False)
        )

    def value(self, tag: int, default: int) -> int:
        """A tag's first number."""
        return next(iter(self.values(tag)), default)

    def is_reduced(self) -> bool:
        """Whether this is a small copy of another page."""
        old = self.value(_OLD_SUBFILE, 0) == _OLD_REDUCED
        return old or bool(self.value(_SUBFILE, 0) & _REDUCED)


def contents(data: bytes) -> Contents:
    """What a TIFF file's directories say.

    Raises:
        ImageError: there is not one page that is a picture of its own, or its samples are of a
            kind that is not read.
    """
    pages = _pages(data)
    pictures = _pictures(pages)
    if len(pictures) > 1:
        raise refuse_pages(len(pages))
    return _contents(pages[pictures[0]], pictures[0])


def album(data: bytes) -> Album | None:
    """The pages that are no reduced copies; None: there is but one.

    Raises:
        ImageError: there is none.
    """
    pages = _pages(data)
    pictures = _pictures(pages)

    def parts() -> Iterator[Part]:
        for index in pictures:
            yield Part(_contents(pages[index], index))

    return Album(len(pictures), parts) if len(pictures) > 1 else None


def _pictures(pages: Sequence[_Page]) -> list[int]:
    """Which of the pages are pictures of their own."""
    pictures = [index for index, page in enumerate(pages) if not page.is_reduced()]
    if not pictures:
        raise ImageError(
            "holds only a reduced copy of a picture that is elsewhere, as raw camera files do; "
            "expected the picture itself; convert it"
        )
    return pictures


def _contents(page: _Page, index: int) -> Contents:
    photometric, colours = _check_samples(page)
    if page.value(_SAMPLE_FORMAT, _UNSIGNED) == _FLOAT:
        raw = _light(page, colours)
        return Contents(page.data, raw=raw, metadata=partial(_metadata, page))
    found = Contents(page.data, metadata=partial(_metadata, page), bare=partial(_rewritten, page))
    if photometric in _LAB:
        rewritten = _rewritten(page, {_PHOTOMETRIC: _RGB})
        bare = partial(_rewritten, page, {_PHOTOMETRIC: _RGB})
        encoding: Encoding | None = _LAB[photometric]
        return replace(found, data=rewritten, bare=bare, encoding=encoding, obeys_profile=False)
    described = _described(page) if colours in (1, 3) else None
    return replace(found, page=index, encoding=described, jpegs=tuple(_jpeg_tiles(page)))


def _light(page: _Page, colours: int) -> Raw:
    """Samples that are linear light.

    Raises:
        ImageError: what colours they are, a profile or primaries say.
    """
    if {_PROFILE, _WHITE_POINT, _PRIMARIES} & page.entries.keys():
        raise refuse_samples("floating-point samples whose colours a profile or primaries describe")
    placing = exif.block({tag: value for tag, value in page.little_endian() if tag in _PLACING})
    orientation = exif.orientation(placing)
    height, width = page.value(_HEIGHT, 0), page.value(_WIDTH, 0)
    if orientation >= 5:
        height, width = width, height
    channels = page.value(_SAMPLES, 1)

    def samples() -> NDArray[Any]:
        # Without metadata, of which libvips complains as it does of pixels.
        picture = libvips().Image.tiffload_buffer(_rewritten(page), fail_on="warning").copy_memory()
        picture.set_type(libvips().GValue.gint_type, "orientation", orientation)
        upright = picture.autorot()
        if (upright.height, upright.width, upright.bands) != (height, width, channels):
            raise damaged("its samples are not what it says")
        light = upright.numpy().reshape(height, width, channels)
        alpha = light[..., colours:]
        if not (alpha.size == 0 or (alpha.min() >= 0 and alpha.max() <= 1)):
            raise refuse_samples("alpha below 0 or above 1")
        return np.concatenate(
            [from_light(light[..., :colours]), from_float(alpha, np.uint16)], axis=2
        )

    return Raw(height, width, channels, 2, samples, dpi=exif.resolution(placing))


def _metadata(page: _Page) -> Metadata:
    """What stands beside the picture."""
    collector = Collector()
    for tag, take in ((_XMP, collector.xmp), (_IPTC, collector.iptc)):
        value = page.raw(tag)
        if value is not None:
            take(value.data)
    tree: dict[int, exif.Value | exif.Directory] = {
        tag: value for tag, value in page.little_endian() if tag in _EXIF_TAGS
    }
    for tag in (exif.EXIF, exif.GPS):
        try:
            below = page.below(tag)
        except struct.error:
            collector.leave_out("EXIF", "its directory is damaged")
        else:
            if below is not None:
                tree[tag] = below
    if tree:
        collector.exif(exif.block(tree))
    return collector.found


def embed(file: BinaryIO, metadata: Metadata, _: Resolution) -> list[str]:
    """Put metadata into a file that has none; returns a line for each part that does not fit.

    A new directory is put at the end, with all that the old one says.
    """
    file.seek(0)
    header = file.read(8)
    added: dict[int, exif.Value | exif.Directory] = {}
    if metadata.exif:
        known = {*_EXIF_TAGS, exif.EXIF, exif.GPS}
        tree = exif.parse(metadata.exif)
        added |= {tag: value for tag, value in tree.items() if tag in known}
    for tag, kind, content in ((_XMP, _BYTE, metadata.xmp), (_IPTC, _ANY, metadata.iptc)):
        if content:
            added[tag] = exif.Value(kind, len(content), content)
    text = "\n".join(comment.line for comment in metadata.comments).encode() + b"\0"
    left_out = []
    if metadata.comments and _DESCRIPTION in added:
        left_out.append("a comment is left out: TIFF has room for one, and there is a description")
    elif metadata.comments:
        added[_DESCRIPTION] = exif.Value(_ASCII, len(text), text)
    if header[:4] != _HEADER:
        return ["metadata are left out: this TIFF is in an unusual form"] if added else []
    if added:
        file.seek(int.from_bytes(header[4:], "little"))
        (count,) = struct.unpack("<H", file.read(2))
        for tag, kind, number, field in struct.iter_unpack("<HHI4s", file.read(12 * count)):
            added[tag] = exif.Value(kind, number, field)  # or where its values are
        end = file.seek(0, io.SEEK_END)
        place = end + end % 2
        file.write(bytes(end % 2) + exif.build(added, place))
        file.seek(4)
        file.write(struct.pack("<I", place))
    return left_out


def join(file: BinaryIO, pictures: Iterator[bytes], timing: Timing) -> None:
    """Write a file of pages, each with all that is beside it; their timing has no place there."""
    file.write(_HEADER + bytes(4))
    link = len(_HEADER)  # where the offset of the next directory belongs
    for data in pictures:
        (page,) = _pages(data)
        tree: dict[int, exif.Value | exif.Directory] = dict(page.little_endian())
        for tag in (exif.EXIF, exif.GPS):
            below = page.below(tag)
            if below is not None:
                tree[tag] = below
        for places, counts in _PLACES:
            starts = page.values(places)
            moved = []
            for start, count in zip(starts, page.values(counts), strict=True):
                moved.append(_aligned(file))
                file.write(data[start : start + count])
            if moved:
                tree[places] = exif.Value(_LONG, len(moved), struct.pack(f"<{len(moved)}I", *moved))
        place = _aligned(file)
        file.write(exif.build(tree, place))
        file.seek(link)
        file.write(struct.pack("<I", place))
        link = place + 2 + 12 * len(tree)


def _aligned(file: BinaryIO) -> int:
    """The file's end, made even, where an offset may point to."""
    end = file.seek(0, io.SEEK_END)
    if end > _LARGEST:
        raise OutputError("the pages take more than the 4 GB that TIFF holds; write other files")
    file.write(bytes(end % 2))
    return file.tell()


def _pages(data: bytes) -> list[_Page]:
    """The chain of directories, as far as it is whole."""
    layout = _Layout("<" if data[:1] == b"I" else ">", 43 in data[2:4])
    pages: list[_Page] = []
    seen = set[int]()
    position = layout.header_end
    try:
        while len(pages) < _MOST_PAGES:
            (start,) = struct.unpack_from(layout.offset, data, position)
            if start == 0 or start in seen:
                break
            seen.add(start)
            entries, position = _entries(data, layout, start)
            pages.append(_Page(data, layout, entries))
    except struct.error:
        pass
    if not pages:
        raise ImageError(_CUT)
    return pages


def _entries(data: bytes, layout: _Layout, start: int) -> tuple[dict[int, bytes], int]:
    """A directory's entries, and where the offset of the next one stands."""
    (count,) = struct.unpack_from(layout.count, data, start)
    first, size = start + struct.calcsize(layout.count), struct.calcsize(layout.entry)
    if first + count * size > len(data):
        raise struct.error
    rows = (data[first + row * size : first + (row + 1) * size] for row in range(count))
    entries: dict[int, bytes] = {}
    for row in rows:
        entries.setdefault(struct.unpack_from(layout.order + "H", row)[0], row)
    return entries, first + count * size


def _rewritten(page: _Page, changed: Mapping[int, int] = _NOTHING) -> bytes:
    """The file with one page, of whose tags those remain that its pixels depend on.

    Args:
        page: of the file, in which values stay where they are.
        changed: tags to be given one value of 16 bits.
    """
    layout, data = page.layout, page.data
    rows = []
    if not page.has_samples():  # the directory would be taken for samples
        raise ImageError(_CUT)
    for tag, row in sorted(page.entries.items()):
        if tag in changed:
            field = struct.pack(layout.order + "H", changed[tag])
            rows.append(struct.pack(layout.entry, tag, 3, 1, field))
        elif tag in _PIXEL_TAGS:
            if not page.is_whole(tag):
                raise ImageError(_CUT)
            rows.append(row)
    directory = struct.pack(layout.count, len(rows)) + b"".join(rows)
    directory += struct.pack(layout.offset, 0)
    padding = bytes(len(data) % 2)
    start = struct.pack(layout.offset, len(data) + len(padding))
    end = layout.header_end
    return b"".join([data[:end], start, data[end + len(start) :], padding, directory])


@dataclass(frozen=True)
class _Kind:
    """Samples of one photometric interpretation that are read right.

    Attributes:
        colours: samples of a pixel, without alpha.
        bits: of a sample, without alpha.
        alpha_bits: of a sample, with alpha; empty: alpha is not read.
        extras: the kinds of alpha that are read.
        fits: whether other tags are as they have to be.
    """

    colours: int
    bits: tuple[int, ...] = (8, 16)
    alpha_bits: tuple[int, ...] = (8, 16)
    extras: tuple[int, ...] = (_ASSOCIATED, _UNASSOCIATED)
    fits: Callable[[_Page], bool] = lambda page: True


def _has_palette(page: _Page) -> bool:
    return len(page.values(_PALETTE)) == 3 << page.value(_BITS, 1)


def _has_cmyk_inks(page: _Page) -> bool:
    return page.value(_INK_SET, _CMYK_INKS) == _CMYK_INKS


def _is_jpeg(page: _Page) -> bool:
    return page.value(_COMPRESSION, 1) == _JPEG


_RGB = 2
_LAB = {8: LabEncoding(), 9: LabEncoding(icc=True)}
_KINDS = {  # by photometric interpretation
    # What would be weighted by alpha, white or black, nobody says.
    0: _Kind(1, bits=(1, 2, 4, 8, 16), extras=(_UNASSOCIATED,)),
    1: _Kind(1, bits=(1, 2, 4, 8, 16)),
    _RGB: _Kind(3),
    3: _Kind(1, (1, 2, 4, 8), (8,), (_UNASSOCIATED,), _has_palette),
    5: _Kind(4, extras=(_UNASSOCIATED,), fits=_has_cmyk_inks),
    6: _Kind(3, bits=(8,), alpha_bits=(), fits=_is_jpeg),
    **dict.fromkeys(_LAB, _Kind(3, extras=(_UNASSOCIATED,))),
}
_FLOAT_KINDS = {
    photometric: replace(kind, bits=(32,), alpha_bits=(32,), extras=(_UNASSOCIATED,))
    for photometric, kind in _KINDS.items()
    if photometric in (1, _RGB)
}
_NAMES = {
    0: "grey",
    1: "grey",
    _RGB: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK or other inks",
    6: "YCbCr",
    8: "CIELAB",
    9: "ICCLAB",
    10: "ITULAB",
    32803: "raw camera",
    32844: "LogL",
    32845: "LogLuv",
    34892: "raw camera",
}


def _check_samples(page: _Page) -> tuple[int, int]:
    """The photometric interpretation of a page, and its number of samples less alpha."""
    photometric = page.value(_PHOTOMETRIC, -1)
    samples = page.value(_SAMPLES, 1)
    bits, formats = set(page.values(_BITS, (1,))), set(page.values(_SAMPLE_FORMAT, (_UNSIGNED,)))
    extras = tuple(page.values(_EXTRA))
    name = _NAMES.get(photometric, f"unknown (photometric interpretation {photometric})")
    floats = formats == {_FLOAT}
    kind = (_FLOAT_KINDS if floats else _KINDS).get(photometric)
    depth = " and ".join(map(str, sorted(bits)))
    if kind is None or not kind.fits(page):
        raise refuse_samples(f"{samples} samples of {name} that cannot be told to be colours")
    if not floats and not formats <= {_UNSIGNED, _UNDEFINED}:
        raise refuse_samples(f"{name} samples of {depth} bits that are no whole numbers from 0")
    if samples == kind.colours:
        fitting = kind.bits
    elif samples == kind.colours + 1 and len(extras) == 1 and extras[0] in kind.extras:
        fitting = kind.alpha_bits
    else:
        raise refuse_samples(
            f"{samples} samples for each pixel of {name}, of which "
            f"{max(samples - kind.colours, 0)} besides colour and not stated to be alpha"
        )
    if samples > 1 and page.value(_PLANAR, 1) == _PLANES:
        # In strips of several rows, libvips takes those of two planes for one another.
        rows = page.value(_ROWS_PER_STRIP, page.value(_HEIGHT, 0))
        if page.values(_PLACES[1][0]) or (samples == 2 and rows > 1):
            raise refuse_samples(f"{samples} samples of {name} each in a plane of its own")
    if len(bits) > 1 or not bits <= set(fitting):
        kept = " in floating point" if floats else ""
        raise refuse_samples(f"{samples} {name} samples of {depth} bits{kept}")
    return photometric, kind.colours


def _jpeg_tiles(page: _Page) -> Iterator[bytes]:
    """Each tile that is a JPEG, with the tables that all share put in front of it."""
    if not _is_jpeg(page):
        return
    start, end = b"\xff\xd8", b"\xff\xd9"
    tables = bytes(page.values(_JPEG_TABLES)).removeprefix(start).removesuffix(end)
    places, counts = _PLACES[1]
    for offset, count in zip(page.values(places), page.values(counts), strict=False):
        yield start + tables + page.data[offset : offset + count].removeprefix(start)


def _described(page: _Page) -> Encoding | None:
    """What WhitePoint and PrimaryChromaticities say."""
    white, primaries = (page.values(tag) for tag in (_WHITE_POINT, _PRIMARIES))
    if len(white) != 4 or len(primaries) != 12 or 0 in (*white[1::2], *primaries[1::2]):
        return None
    pairs = [*zip(white[::2], white[1::2], strict=True)]
    pairs += zip(primaries[::2], primaries[1::2], strict=True)
    return rgb_encoding(None, [above / below for above, below in pairs])
