"""TIFF's own structure: pages, and whether its samples are of a kind that is read right.

Sources: TIFF 6.0 and its supplements (Adobe, 1992 to 2002), BigTIFF as libtiff describes it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bidiffsr.errors import ImageError
from bidiffsr.images.colours import Encoding, LabEncoding, rgb_encoding
from bidiffsr.images.contents import Contents, refuse_pages, refuse_samples

_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 254, 258, 259, 262, 277
_OLD_SUBFILE, _WHITE_POINT, _PRIMARIES, _PALETTE = 255, 318, 319, 320
_INK_SET, _EXTRA, _SAMPLE_FORMAT, _JPEG_TABLES = 332, 338, 339, 347
_REDUCED, _OLD_REDUCED = 1, 2  # bit of the one, value of the other
_JPEG = 7  # the compression under which libtiff turns YCbCr to RGB
_CMYK_INKS = 1
_UNSIGNED, _UNDEFINED = 1, 4  # sample formats; what claims nothing is whole numbers
_ASSOCIATED, _UNASSOCIATED = 1, 2

# What the samples of a page depend on, and where they are. All else is left out of `bare`.
_PIXEL_TAGS = {*range(254, 260), 262, 266, 273, 277, 278, 279, 284, 292, 293, 301, 317}
_PIXEL_TAGS |= {320, *range(322, 326), 332, 338, 339, 347, 512, 513, 514, 519, 520, 521, 529}
_PIXEL_TAGS |= {530, 531, 532, 50674}

_CUT = "damaged or cut short; expected a whole TIFF file; fetch or export it again"
_MOST_PAGES = 65536
_PLACES = ((273, 279), (324, 325))  # offsets and byte counts, of strips and of tiles
_TYPES = {1: "B", 7: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 13: "I", 16: "Q", 18: "Q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}


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
    pictures = [index for index, page in enumerate(pages) if not page.is_reduced()]
    if len(pictures) > 1:
        raise refuse_pages(len(pages))
    if not pictures:
        raise ImageError(
            "holds only a reduced copy of a picture that is elsewhere, as raw camera files do; "
            "expected the picture itself; convert it"
        )
    page = pages[pictures[0]]
    photometric, colours = _check_samples(page)
    if photometric in _LAB:
        encoding: Encoding | None = _LAB[photometric]
        return Contents(
            _rewritten(data, page, {_PHOTOMETRIC: _RGB}), encoding=encoding, obeys_profile=False
        )
    described = _described(page) if colours in (1, 3) else None
    return Contents(data, pictures[0], encoding=described, jpegs=tuple(_jpeg_tiles(page)))


def bare(data: bytes) -> bytes:
    """The one picture with nothing but the tags that its pixels depend on."""
    pages = _pages(data)
    chosen = next((page for page in pages if not page.is_reduced()), pages[0])
    return _rewritten(data, chosen, {})


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


def _rewritten(data: bytes, page: _Page, changed: dict[int, int]) -> bytes:
    """`data` with one page, of whose tags those remain that its pixels depend on.

    Args:
        data: the file; values stay where they are.
        page: of the file.
        changed: tags to be given one value of 16 bits.
    """
    layout = page.layout
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
    kind = _KINDS.get(photometric)
    depth = " and ".join(map(str, sorted(bits)))
    if kind is None or not kind.fits(page):
        raise refuse_samples(f"{samples} samples of {name} that cannot be told to be colours")
    if not formats <= {_UNSIGNED, _UNDEFINED}:
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
    if len(bits) > 1 or not bits <= set(fitting):
        raise refuse_samples(f"{samples} {name} samples of {depth} bits")
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
